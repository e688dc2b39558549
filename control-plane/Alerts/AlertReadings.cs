using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Telemetry;
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
            bool Said(string kind) => troubles.Any(trouble => trouble.Subject == pool.Name && trouble.Kind == kind);
            // None in service is none to answer. A pool of which nobody is left is not told to be degraded as well.
            var isAllDown = Said("pool_open") || tiers.SelectMany(names => names).All(out_.Contains);
            var isDegraded = !isAllDown && (Said("tier_degraded") || (tiers.FirstOrDefault() ?? []).All(out_.Contains));
            return new Reading(new AlertSubject(pool.Name), (rule.Metric.Name == "all_down" ? isAllDown : isDegraded) ? 1 : 0);
        })];
    }
}

/// <summary>What was counted at one pool or instance over a window. Quantiles in seconds; null: nothing was observed.</summary>
public sealed record Measured
{
    public string Name { get; init; } = "";
    public long Requests { get; init; }
    /// <summary>Clients let down (pool), attempts failed (instance).</summary>
    public long Bad { get; init; }
    /// <summary>JSON: outcome → count.</summary>
    public string Outcomes { get; init; } = "{}";
    public double? P50Latency { get; init; }
    public double? P90Latency { get; init; }
    public double? P99Latency { get; init; }
    public long LatencyCount { get; init; }
    public double? P50FirstToken { get; init; }
    public double? P90FirstToken { get; init; }
    public double? P99FirstToken { get; init; }
    public long FirstTokenCount { get; init; }

    /// <summary>The value of a rule's metric; null: too little to say.</summary>
    public double? ValueFor(AlertRule rule)
    {
        var (value, count) = rule.Metric.Name switch
        {
            "p50_latency" => (P50Latency, LatencyCount),
            "p90_latency" => (P90Latency, LatencyCount),
            "p99_latency" => (P99Latency, LatencyCount),
            "p50_first_token" => (P50FirstToken, FirstTokenCount),
            "p90_first_token" => (P90FirstToken, FirstTokenCount),
            "p99_first_token" => (P99FirstToken, FirstTokenCount),
            "error_rate" => ((double)(rule.Outcome is null ? Bad : CountOf(rule.Outcome)) / Requests, Requests),
            _ => (1 - ((double)Bad / Requests), Requests),
        };
        return count >= rule.MinRequests ? value : null;
    }

    private long CountOf(string outcome) => JsonSerializer.Deserialize<Dictionary<string, long>>(Outcomes)!.GetValueOrDefault(outcome);
}

/// <summary>Measures what the rules ask for: states from open incidents, numbers from the telemetry, budgets from what was spent.</summary>
public sealed class AlertReadings(NpgsqlDataSource database, Spending spending)
{
    private const string TroublesSql = """
        select distinct on (kind, subject) kind, subject, cause from incident
        where kind = any(@kinds) and (until is null or until > now()) order by kind, subject, since
        """;

    // What a node counted while nobody read it counts at the moment of its return, and would be judged as if it had just happened. So a window
    // that holds such a row says nothing, if more than a quarter of its own length in it is from before it.
    private const string BlurredSql = """
        select w from unnest(@windows::interval[]) w where exists (select from telemetry_gap where at >= now() - w and since < now() - 1.25 * w)
        """;

    private static readonly string[] s_kinds = [.. StateReadings.OutKinds, .. StateReadings.PoolKinds];

    /// <summary>By rule. Without those that cannot be measured now.</summary>
    public async Task<IReadOnlyDictionary<string, IReadOnlyList<Reading>>> ReadAsync(ConfigDocument document, IReadOnlyList<AlertRule> rules, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var troubles = (await connection.QueryAsync<Trouble>(new CommandDefinition(TroublesSql, new { kinds = s_kinds }, cancellationToken: cancel))).ToList();
        var budgets = rules.Any(rule => rule.Metric.ByClient) ? await spending.BudgetsAsync(document, cancel) : [];
        var blurred = (await connection.QueryAsync<TimeSpan>(new CommandDefinition(BlurredSql, new { windows = rules.Select(rule => rule.Window).Distinct().ToArray() }, cancellationToken: cancel))).ToHashSet();
        var measured = new Dictionary<(bool, TimeSpan), IReadOnlyDictionary<string, Measured>>();
        var readings = new Dictionary<string, IReadOnlyList<Reading>>();
        foreach (var rule in rules)
        {
            if (rule.Metric.Unit == MetricUnit.Count)
            {
                readings[rule.Name] = StateReadings.Of(rule, document, troubles);
            }
            else if (rule.Metric.ByClient)
            {
                readings[rule.Name] = [.. budgets.Where(budget => rule.Client is null || rule.Client == budget.Client).Select(budget => new Reading(new AlertSubject(Client: budget.Client), budget.UsedShare))];
            }
            else if (!blurred.Contains(rule.Window))
            {
                var byInstance = rule.Instance is not null;
                if (!measured.TryGetValue((byInstance, rule.Window), out var found)) found = measured[(byInstance, rule.Window)] = await MeasureAsync(connection, byInstance, rule.Window, cancel);
                readings[rule.Name] = byInstance
                    ? [.. document.Instances.Where(instance => rule.Instance == "*" || rule.Instance == instance.Name).Select(instance => new Reading(new AlertSubject(Instance: instance.Name), found.GetValueOrDefault(instance.Name)?.ValueFor(rule)))]
                    : [.. document.Pools.Where(pool => rule.Pool is null || rule.Pool == pool.Name).Select(pool => new Reading(new AlertSubject(pool.Name), found.GetValueOrDefault(pool.Name)?.ValueFor(rule)))];
            }
        }
        return readings;
    }

    // Every rule over the same window rests on the same sums. Probes and ghosts are not what clients get.
    private static async Task<IReadOnlyDictionary<string, Measured>> MeasureAsync(NpgsqlConnection connection, bool byInstance, TimeSpan window, CancellationToken cancel)
    {
        var (name, family, isBad) = byInstance ? ("s.instance", "attempt", "outcome_is_failure") : ("s.pool", "request", "outcome_is_loss");
        var level = window <= TimeSpan.FromMinutes(15) ? "10s" : window <= TimeSpan.FromDays(1) ? "minute" : "hour";
        var sql = $"""
            with counted as (
                select {name} as name, s.outcome, sum(c.count) as count, sum_buckets(c.first_token) filter (where s.mode = 'stream') as first_token,
                    sum_buckets(case s.mode when 'stream' then c.first_token else c.total end) as latency
                from telemetry_call_by_{level} c join telemetry_series s on s.id = c.series
                where c.at >= now() - @window and s.family = @family and s.traffic not in ('probe', 'ghost') group by 1, 2),
            summed as (
                select name, sum(count)::bigint as requests, coalesce(sum(count) filter (where {isBad}(outcome)), 0)::bigint as bad, jsonb_object_agg(outcome, count)::text as outcomes,
                    sum_buckets(latency) filter (where outcome = 'ok') as latency, sum_buckets(first_token) filter (where outcome = 'ok') as first_token
                from counted group by name)
            select name, requests, bad, outcomes,
                telemetry_quantile(latency, @bounds, 0.5) as p50_latency, telemetry_quantile(latency, @bounds, 0.9) as p90_latency, telemetry_quantile(latency, @bounds, 0.99) as p99_latency,
                coalesce((select sum(b) from unnest(latency) b), 0)::bigint as latency_count,
                telemetry_quantile(first_token, @bounds, 0.5) as p50_first_token, telemetry_quantile(first_token, @bounds, 0.9) as p90_first_token,
                telemetry_quantile(first_token, @bounds, 0.99) as p99_first_token,
                coalesce((select sum(b) from unnest(first_token) b), 0)::bigint as first_token_count
            from summed
            """;
        var rows = await connection.QueryAsync<Measured>(new CommandDefinition(sql, new { window, family, bounds = Histogram.LongBounds }, commandTimeout: 20, cancellationToken: cancel));
        return rows.ToDictionary(row => row.Name);
    }
}
