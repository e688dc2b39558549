using Evenkeel.Config;

namespace Evenkeel.Ghosts;

/// <summary>An instance as a pool's ghosts see it. Model is the name that it is asked for.</summary>
public sealed record GhostTarget(InstanceConfig Instance, PoolConfig Pool, string Model)
{
    /// <summary>How long an answer may take: the instance's own budget, but nobody waits longer than a minute for the end of a short one.</summary>
    public TimeSpan Timeout => TimeSpan.FromTicks(Math.Min(Instance.Timeouts.Total.Ticks, (Instance.Timeouts.FirstToken + TimeSpan.FromMinutes(1)).Ticks));

    /// <summary>
    /// Who gets scheduled ghosts: every instance by the rules of one pool, its home: the first one that holds it and has ghosts.
    /// </summary>
    public static IReadOnlyDictionary<string, GhostTarget> Scheduled(ConfigDocument document)
    {
        var targets = new Dictionary<string, GhostTarget>();
        var instances = document.Instances.ToDictionary(instance => instance.Name);
        foreach (var target in document.Pools.Where(pool => pool.Ghost is { PerDay: > 0, MaxTokensPerDay: > 0 }).SelectMany(pool => Of(document, pool, instances)))
        {
            targets.TryAdd(target.Instance.Name, target);
        }
        return targets;
    }

    /// <summary>The instances of a pool, each once, by the first tier that holds it; without those for which no model name is known.</summary>
    public static IEnumerable<GhostTarget> Of(ConfigDocument document, PoolConfig pool) => Of(document, pool, document.Instances.ToDictionary(instance => instance.Name));

    private static IEnumerable<GhostTarget> Of(ConfigDocument document, PoolConfig pool, Dictionary<string, InstanceConfig> instances) =>
        document.EffectiveTiers(pool)
            .SelectMany(tier => tier.Instances.Select(name => (Instance: instances[name], tier.Model)))
            .DistinctBy(held => held.Instance.Name)
            .Select(held => (held.Instance, Model: held.Instance.Model ?? held.Model ?? pool.Models.FirstOrDefault(model => model != "*")))
            .Where(held => held.Model is not null)
            .Select(held => new GhostTarget(held.Instance, pool, held.Model!));
}
