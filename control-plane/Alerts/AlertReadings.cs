using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Alerts;

/// <summary>Something that is wrong now, as an open incident has it.</summary>
public sealed record Trouble(string Kind, string Subject, string? Cause);

/// <summary>What the states of instances and pools are, judged by what is wrong now. Pure.</summary>
public static class StateReadings
{
    /// <summary>Kinds of incidents during which an instance gets no traffic.</summary>
    public static readonly IReadOnlyList<string> OutKinds = ["probe", "breaker", "blocked"];

    /// <summary>Kinds that are about a pool.</summary>
    public static readonly IReadOnlyList<string> PoolKinds = ["tier_degraded", "pool_open"];

    /// <param name="rule">A rule on instance_down, pool_degraded or all_down.</param>
    /// <param name="document">In force.</param>
    /// <param name="troubles">All that is wrong now.</param>
    public static IReadOnlyList<Reading> Of(AlertRule rule, ConfigDocument document, IReadOnlyList<Trouble> troubles)
    {
        var inService = document.Instances.Where(instance => instance.Enabled && !instance.Drain).Select(instance => instance.Name).ToHashSet();
        var out_ = troubles.Where(trouble => OutKinds.Contains(trouble.Kind)).ToLookup(trouble => trouble.Subject);
        var pools = document.Pools.Where(pool => rule.Pool is null || pool.Name == rule.Pool).ToList();
        if (rule.Metric.Name == "instance_down")
        {
            var asked = rule.Pool is null ? inService : pools.SelectMany(pool => document.EffectiveTiers(pool)).SelectMany(tier => tier.Instances).Where(inService.Contains).ToHashSet();
            return [.. asked.Where(name => rule.Instance is null or "*" || rule.Instance == name).Order(StringComparer.Ordinal)
                .Select(name => new Reading(new AlertSubject(Instance: name), out_.Contains(name) ? 1 : 0, out_[name].Select(trouble => trouble.Cause).FirstOrDefault()))];
        }

        return [.. pools.Select(pool =>
        {
            var tiers = document.EffectiveTiers(pool).Select(tier => tier.Instances.Where(inService.Contains).ToList()).ToList();
            var said = troubles.Where(trouble => trouble.Subject == pool.Name && trouble.Kind == (rule.Metric.Name == "all_down" ? "pool_open" : "tier_degraded")).Select(trouble => trouble.Cause ?? trouble.Kind).FirstOrDefault();
            var judged = rule.Metric.Name == "all_down" ? tiers.SelectMany(names => names) : tiers.FirstOrDefault() ?? [];
            var isBad = said is not null || judged.All(out_.Contains);   // none in service is none to answer
            return new Reading(new AlertSubject(pool.Name), isBad ? 1 : 0, null);
        })];
    }
}

/// <summary>Measures what the rules ask for: states from open incidents, numbers from the telemetry.</summary>
public sealed class AlertReadings(NpgsqlDataSource database)
{
    private const string TroublesSql = """
        select distinct on (kind, subject) kind, subject, cause from incident
        where kind = any(@kinds) and (until is null or until > now()) order by kind, subject, since
        """;

    private static readonly string[] s_kinds = [.. StateReadings.OutKinds, .. StateReadings.PoolKinds];

    /// <summary>By rule. Without those that cannot be measured now.</summary>
    public async Task<IReadOnlyDictionary<string, IReadOnlyList<Reading>>> ReadAsync(ConfigDocument document, IReadOnlyList<AlertRule> rules, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var troubles = (await connection.QueryAsync<Trouble>(new CommandDefinition(TroublesSql, new { kinds = s_kinds }, cancellationToken: cancel))).ToList();
        return rules.Where(rule => rule.Metric.Unit == MetricUnit.Count).ToDictionary(rule => rule.Name, rule => StateReadings.Of(rule, document, troubles));
    }
}
