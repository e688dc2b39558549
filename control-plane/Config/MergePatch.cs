using System.Text.Json.Nodes;

namespace Evenkeel.Config;

/// <summary>JSON merge patch, RFC 7396: null removes a key, objects merge, everything else replaces.</summary>
internal static class MergePatch
{
    /// <summary>Changes and returns the target, or what takes its place.</summary>
    public static JsonNode? Apply(JsonNode? target, JsonNode? patch)
    {
        if (patch is not JsonObject changes)
        {
            return patch?.DeepClone();
        }

        var merged = target as JsonObject ?? [];
        foreach (var (key, value) in changes)
        {
            if (value is null)
            {
                merged.Remove(key);
            }
            else if (merged.TryGetPropertyValue(key, out var old) && old is JsonObject && value is JsonObject)
            {
                Apply(old, value);
            }
            else
            {
                merged[key] = Apply(null, value);
            }
        }

        return merged;
    }
}
