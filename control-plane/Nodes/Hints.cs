using Evenkeel.Telemetry;

namespace Evenkeel.Nodes;

/// <summary>What one node has found out, for another. Kind: open, closed or cooldown; Id tells one finding from the next.</summary>
public sealed record Hint(string Instance, string Kind, string By, string Id, double ForS);

/// <summary>Which node is to be told what of the others' findings. Pure: only what a node found itself is passed on.</summary>
public static class Hints
{
    /// <summary>A cooldown that is over sooner is not worth telling.</summary>
    private const double ShortestCooldownS = 0.5;
    private const double LongestS = 3600;

    public static IEnumerable<(string Node, Hint Hint)> Of(IReadOnlyDictionary<string, NodeStats> nodes)
    {
        foreach (var (node, stats) in nodes)
        {
            foreach (var (name, instance) in stats.Instances)
            {
                foreach (var (other, others) in nodes)
                {
                    if (other == node || !others.Instances.TryGetValue(name, out var there)) continue;
                    if (there is { Breaker: "open", Opening: { By: null, ForS: > 0 } opening } && instance.Breaker == "closed")
                        yield return (node, new Hint(name, "open", other, opening.Id, Math.Min(opening.ForS, LongestS)));
                    if (instance.Opening is { } told && told.By == other && there.Breaker == "closed")
                        yield return (node, new Hint(name, "closed", other, told.Id, 0));
                    if (there.Cooldown is { By: null, ForS: >= ShortestCooldownS } cooldown && instance.CooldownS < cooldown.ForS - ShortestCooldownS)
                        yield return (node, new Hint(name, "cooldown", other, cooldown.Id, Math.Min(cooldown.ForS, LongestS)));
                }
            }
        }
    }
}
