using System.Collections.Concurrent;
using System.Text.Json.Nodes;
using Evenkeel.Config;

namespace Evenkeel.Ghosts;

/// <summary>An operator's prompts, and everything that is wrong with them ("FILE: prompts[0].messages: is required (line 3)").</summary>
public sealed record PromptSet(IReadOnlyList<GhostPrompt> Prompts, IReadOnlyList<string> Faults)
{
    public static readonly PromptSet None = new([], []);
}

/// <summary>
/// Prompts from a file, or from all .yaml, .yml and .json files of a directory, on the control plane's host. Read again when something has
/// changed there, looked at every <see cref="LookEvery"/>. A prompt with a fault is left out, the others are used.
/// </summary>
public sealed class PromptFiles(TimeProvider time, ILogger<PromptFiles> log)
{
    private const int MostFiles = 100, MostPrompts = 1000, MostBytes = 1024 * 1024, MostText = 16 * 1024;
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(10);

    private readonly ConcurrentDictionary<string, (string Stamp, long LookedAt, PromptSet Set)> known = new();

    public PromptSet Of(GhostConfig ghost)
    {
        if (ghost.PromptsFile is not { } path) return PromptSet.None;
        var isKnown = known.TryGetValue(path, out var entry);
        if (isKnown && time.GetElapsedTime(entry.LookedAt) < LookEvery) return entry.Set;
        var (files, stamp, fault) = Look(path);
        if (isKnown && entry.Stamp == stamp)
        {
            known[path] = entry with { LookedAt = time.GetTimestamp() };
            return entry.Set;
        }
        var set = fault is null ? Read(files) : new PromptSet([], [fault]);
        known[path] = (stamp, time.GetTimestamp(), set);
        foreach (var one in set.Faults) GhostLog.PromptFault(log, one);
        return set;
    }

    /// <summary>One file's prompts. Pure.</summary>
    public static PromptSet Read(string name, ReadOnlyMemory<byte> utf8)
    {
        var format = name.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? ConfigFormat.Json : ConfigFormat.Yaml;
        var faults = new FaultList();
        var prompts = new List<(GhostPrompt? Prompt, string Name)>();
        if (ConfigTree.Parse(utf8, format, faults) is { } tree)
        {
            var map = ConfigMap.Of(tree, "", faults);
            map.Require("prompts");
            prompts = [.. map.Maps("prompts").Take(MostPrompts + 1).Select(one => Prompt(one, faults))];
            map.RefuseUnknownKeys();
            if (prompts.Count > MostPrompts) faults.Add("prompts", $"more than {MostPrompts} prompts");
            foreach (var twin in prompts.GroupBy(one => one.Name).Where(group => group.Key.Length > 0 && group.Count() > 1)) faults.Add("prompts", $"two prompts are named \"{Units.Shown(twin.Key)}\"");
        }
        return new PromptSet(
            [.. prompts.Take(MostPrompts).Where(one => one.Prompt is not null).DistinctBy(one => one.Name).Select(one => one.Prompt!)],
            [.. faults.All().Select(fault => $"{name}: {fault}")]);
    }

    private static (GhostPrompt?, string) Prompt(ConfigMap map, FaultList faults)
    {
        var before = faults.Count;
        void Fault(string key, string message) => faults.Add(map.PathOf(key), message);

        var name = map.RequiredText("name");
        var messages = new JsonArray();
        foreach (var message in map.Maps("messages"))
        {
            var (role, content) = (message.RequiredText("role"), message.RequiredText("content"));
            message.RefuseUnknownKeys();
            if (role is not ("system" or "user" or "assistant" or "developer")) faults.Add(message.PathOf("role"), "expected system, user, assistant or developer");
            if (content.Length is 0 or > MostText) faults.Add(message.PathOf("content"), $"needs 1 to {MostText} characters");
            messages.Add(new JsonObject { ["role"] = role, ["content"] = content });
        }
        var (json, stream, maxTokens, temperature) = (map.Boolean("json", false), map.Boolean("stream", true), map.Integer("max_tokens", 32), map.Decimal("temperature"));
        var (contain, match) = (map.Texts("must_contain"), map.Texts("must_match"));
        map.Require("messages");
        map.RefuseUnknownKeys();

        if (!ConfigValidator.IsName(name)) Fault("name", "a name is 1 to 48 of a-z, 0-9, dot, dash and underscore, with a letter or digit at both ends");
        if (messages.Count is 0 or > 64) Fault("messages", "needs 1 to 64 messages");
        if (maxTokens is < 1 or > GhostPrompt.MostTokens) Fault("max_tokens", $"{maxTokens} is not between 1 and {GhostPrompt.MostTokens}");
        if (temperature is < 0 or > 2) Fault("temperature", $"{temperature} is not between 0 and 2");
        if (contain.Count > 20 || contain.Any(text => text.Length is 0 or > 500)) Fault("must_contain", "at most 20 texts of 1 to 500 characters");
        if (match.Count > 20) Fault("must_match", "at most 20 expressions");
        for (var i = 0; i < match.Count; i++)
        {
            if (Redaction.Fault(match[i]) is { } why) faults.Add($"{map.PathOf("must_match")}[{i}]", why);
        }
        if (faults.Count > before) return (null, name);

        var request = new JsonObject { ["messages"] = messages };
        if (temperature is { } given) request["temperature"] = given;
        if (json) request["response_format"] = new JsonObject { ["type"] = "json_object" };
        return (new GhostPrompt
        {
            Name = "file/" + name,
            Source = PromptSource.File,
            Request = request,
            Stream = stream,
            MaxTokens = maxTokens,
            Json = json,
            MustContain = contain,
            MustMatch = [.. match.Select(Redaction.Expression)],
        }, name);
    }

    private static (IReadOnlyList<string> Files, string Stamp, string? Fault) Look(string path)
    {
        try
        {
            string[] files = Directory.Exists(path)
                ? [.. Directory.EnumerateFiles(path).Where(file => Path.GetExtension(file) is ".yaml" or ".yml" or ".json").Order(StringComparer.Ordinal).Take(MostFiles + 1)]
                : [path];
            if (files.Length > MostFiles) return ([], "too many", $"{path}: more than {MostFiles} files");
            var stamp = string.Join('\n', files.Select(file => new FileInfo(file) is { Exists: true } info ? $"{file} {info.LastWriteTimeUtc.Ticks} {info.Length}" : file));
            return (files, stamp, null);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return ([], e.Message, $"{path}: cannot be read");
        }
    }

    private static PromptSet Read(IReadOnlyList<string> files)
    {
        var (prompts, faults) = (new List<GhostPrompt>(), new List<string>());
        foreach (var file in files)
        {
            try
            {
                if (!File.GetAttributes(file).HasFlag(FileAttributes.Directory) && new FileInfo(file).Length <= MostBytes)
                {
                    var set = Read(file, File.ReadAllBytes(file));
                    prompts.AddRange(set.Prompts);
                    faults.AddRange(set.Faults);
                }
                else
                {
                    faults.Add($"{file}: is no file of at most {MostBytes / (1024 * 1024)} MiB");
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                faults.Add($"{file}: cannot be read");
            }
        }
        return new PromptSet([.. prompts.DistinctBy(prompt => prompt.Name).Take(MostPrompts)], faults);
    }
}
