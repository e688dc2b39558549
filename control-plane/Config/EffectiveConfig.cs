namespace Evenkeel.Config;

/// <summary>What a document means where it leaves things out. Pure; the snapshot and the validator use the same answers.</summary>
public static class EffectiveConfig
{
    /// <summary>
    /// The pool's tiers with the implied ones made explicit. No tier at all: one, "primary", of every instance. A
    /// degraded_model that no tier names: a last tier, "degraded", of the same instances asked for that model.
    /// A tier names a model by its own <c>model</c> or when all its instances have it as theirs.
    /// </summary>
    public static IReadOnlyList<TierConfig> EffectiveTiers(this ConfigDocument document, PoolConfig pool)
    {
        IReadOnlyList<TierConfig> tiers = pool.Tiers.Count > 0
            ? pool.Tiers
            : [new TierConfig("primary", [.. document.Instances.Select(i => i.Name)])];

        if (document.FailoverOf(pool).Fallback.DegradedModel is not { } model || tiers.Any(tier => Names(document, tier, model)))
        {
            return tiers;
        }

        var name = "degraded";
        for (var n = 2; tiers.Any(tier => tier.Name == name); n++)
        {
            name = $"degraded-{n}";
        }

        return [.. tiers, new TierConfig(name, [.. tiers.SelectMany(tier => tier.Instances).Distinct()], model)];
    }

    /// <summary>The pool's own failover block, or the global one.</summary>
    public static FailoverConfig FailoverOf(this ConfigDocument document, PoolConfig pool) => pool.FailoverConfig ?? document.FailoverConfig;

    /// <summary>Instance name → the failover block that its breaker and probes obey: that of the pool with a block of its own that holds it, else the global one.</summary>
    public static IReadOnlyDictionary<string, FailoverConfig> FailoverByInstance(this ConfigDocument document)
    {
        var blocks = document.Instances.ToDictionary(i => i.Name, _ => document.FailoverConfig);
        foreach (var pool in document.Pools)
        {
            if (pool.FailoverConfig is { } own)
            {
                foreach (var name in document.EffectiveTiers(pool).SelectMany(tier => tier.Instances))
                {
                    blocks[name] = own;
                }
            }
        }

        return blocks;
    }

    /// <summary>Whether callers without a key are served: as written, else as long as there is no client.</summary>
    public static bool IsAnonymous(this ConfigDocument document) => document.Gateway.Anonymous ?? document.Clients.Count == 0;

    private static bool Names(ConfigDocument document, TierConfig tier, string model) =>
        tier.Model == model
        || (tier.Model is null && tier.Instances.All(name => document.Instances.FirstOrDefault(i => i.Name == name)?.Model == model));
}
