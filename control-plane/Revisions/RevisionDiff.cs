using System.Text.Json.Nodes;

namespace Evenkeel.Revisions;

/// <param name="Path">Where; members of named lists by name: "instances[official-1].weight".</param>
/// <param name="From">Null: it was not there.</param>
/// <param name="To">Null: it is gone.</param>
public sealed record Difference(string Path, JsonNode? From, JsonNode? To);

/// <summary>What differs between two written configurations. Pure. Members of lists are matched by their name, not their place.</summary>
public static class RevisionDiff
{
    public static IReadOnlyList<Difference> Between(JsonNode? from, JsonNode? to)
    {
        var differences = new List<Difference>();
        Compare("", from, to, differences);
        return differences;
    }

    private static void Compare(string path, JsonNode? from, JsonNode? to, List<Difference> differences)
    {
        switch (from, to)
        {
            case (JsonObject a, JsonObject b):
                foreach (var key in a.Select(e => e.Key).Union(b.Select(e => e.Key)))
                {
                    Compare(path.Length == 0 ? key : $"{path}.{key}", a[key], b[key], differences);
                }

                break;

            case (JsonArray a, JsonArray b) when Named(a) is { } before && Named(b) is { } after:
                foreach (var name in before.Keys.Union(after.Keys))
                {
                    Compare($"{path}[{name}]", before.GetValueOrDefault(name), after.GetValueOrDefault(name), differences);
                }

                CompareOrder(path, [.. before.Keys], [.. after.Keys], differences);
                break;

            default:
                if (!JsonNode.DeepEquals(from, to))
                {
                    differences.Add(new Difference(path, from?.DeepClone(), to?.DeepClone()));
                }

                break;
        }
    }

    /// <summary>Order counts (of tiers above all); told only where the same members changed places.</summary>
    private static void CompareOrder(string path, List<string> before, List<string> after, List<Difference> differences)
    {
        var kept = before.Intersect(after).ToList();
        var now = after.Intersect(before).ToList();
        if (!kept.SequenceEqual(now))
        {
            differences.Add(new Difference(path, Names(kept), Names(now)));
        }

        static JsonArray Names(List<string> names) => [.. names.Select(n => (JsonNode)n)];
    }

    /// <summary>The members by name, in order; null when not every member has one of its own.</summary>
    private static OrderedDictionary<string, JsonNode>? Named(JsonArray list)
    {
        var members = new OrderedDictionary<string, JsonNode>();
        return list.All(item => item is JsonObject o && (string?)o["name"] is { } name && members.TryAdd(name, o)) ? members : null;
    }
}
