using System.Text;
using System.Text.Json;

namespace Evenkeel.Failover;

/// <summary>What a client made of the pieces of one choice.</summary>
internal sealed class SaidChoice
{
    public StringBuilder Content { get; } = new();
    public StringBuilder Reasoning { get; } = new();
    public StringBuilder Arguments { get; } = new();
    public HashSet<string> ToolIds { get; } = [];
    public HashSet<string> ToolNames { get; } = [];
    public List<string> FinishReasons { get; } = [];
}

/// <summary>Token counts as an answer states them.</summary>
internal sealed record Usage(int Prompt, int Completion, int Total);

/// <summary>
/// One request and its answer as the client saw it, event by event. Times in milliseconds count from <see cref="At"/>.
/// Nothing is repaired: what an SDK would choke on is kept in <see cref="Oddities"/>.
/// </summary>
internal sealed class Exchange(Ask ask, string requestJson)
{
    public Ask Ask => ask;
    public string RequestJson => requestJson;
    public DateTimeOffset At { get; } = DateTimeOffset.UtcNow;

    /// <summary>0 = no head came.</summary>
    public int Status { get; set; }
    public Dictionary<string, string> Headers { get; set; } = new(StringComparer.OrdinalIgnoreCase);
    public double? FirstByteMs { get; set; }
    public double? FirstTextMs { get; set; }
    public double EndMs { get; set; }

    /// <summary>What broke the transport: reset, a chunked body without its end, …</summary>
    public string? Break { get; set; }
    public bool Hung { get; set; }
    public DateTimeOffset? LeftAt { get; set; }

    /// <summary>Everything of the body that is not a stream of events.</summary>
    public string Body { get; set; } = "";

    /// <summary>The data of every event in order, with its time.</summary>
    public List<(double Ms, string Data)> Events { get; } = [];
    public int Comments { get; set; }
    public List<string> Oddities { get; } = [];

    // What the events or the body say.
    public Dictionary<int, SaidChoice> Choices { get; } = [];
    public HashSet<string> Ids { get; } = [];
    public HashSet<string> Models { get; } = [];
    public HashSet<long> Createds { get; } = [];
    public List<Usage> Usages { get; } = [];
    public int ChunksWithoutChoices { get; set; }
    public int Pieces { get; private set; }
    public int Dones { get; private set; }
    public List<string> Errors { get; } = [];

    public bool IsEventStream => Header("content-type")?.StartsWith("text/event-stream", StringComparison.OrdinalIgnoreCase) == true;
    public string Text => Choices.TryGetValue(0, out var choice) ? choice.Content.ToString() : "";
    public string Reasoning => Choices.TryGetValue(0, out var choice) ? choice.Reasoning.ToString() : "";
    public DateTimeOffset EndedAt => At.AddMilliseconds(EndMs);

    public string? Header(string name) => Headers.GetValueOrDefault(name);

    /// <summary>Takes in one event of a stream.</summary>
    public void TakeEvent(double ms, string data)
    {
        if (ask.KeepEvents)
        {
            Events.Add((ms, data));
        }
        if (data == "[DONE]")
        {
            Dones++;
            return;
        }
        if (Dones > 0)
        {
            Oddities.Add("an event after [DONE]");
        }
        TakeJson(ms, data, "delta", "an event that is no JSON");
    }

    /// <summary>Takes in a whole JSON answer.</summary>
    public void TakeBody(double ms) => TakeJson(ms, Body, "message", "a body that is no JSON");

    private void TakeJson(double ms, string json, string member, string otherwise)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            Take(ms, document.RootElement, member);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException)
        {
            Oddities.Add(otherwise);
        }
    }

    private void Take(double ms, JsonElement root, string member)
    {
        if (root.TryGetProperty("error", out var error) && error.ValueKind != JsonValueKind.Null)
        {
            Errors.Add(error.ValueKind == JsonValueKind.Object && error.TryGetProperty("message", out var message)
                && message.ValueKind == JsonValueKind.String ? message.GetString()! : "");
            return;
        }
        // A chunk with neither an id nor choices, such as Azure's of the prompt, has no identity to keep.
        if (TextOf(root, "id") != "" || !root.TryGetProperty("choices", out var any) || any.ValueKind != JsonValueKind.Array || any.GetArrayLength() > 0)
        {
            Ids.Add(TextOf(root, "id") ?? "");
            Models.Add(TextOf(root, "model") ?? "");
            Createds.Add(root.TryGetProperty("created", out var created) && created.TryGetInt64(out var at) ? at : -1);
        }
        if (root.TryGetProperty("usage", out var usage) && usage.ValueKind == JsonValueKind.Object)
        {
            Usages.Add(new Usage(Number(usage, "prompt_tokens"), Number(usage, "completion_tokens"), Number(usage, "total_tokens")));
        }
        if (!root.TryGetProperty("choices", out var choices) || choices.ValueKind != JsonValueKind.Array)
        {
            Oddities.Add("a chunk without choices");
            return;
        }
        if (choices.GetArrayLength() == 0)
        {
            ChunksWithoutChoices++;
        }
        foreach (var choice in choices.EnumerateArray())
        {
            TakeChoice(ms, choice, member);
        }
    }

    private void TakeChoice(double ms, JsonElement choice, string member)
    {
        var index = Number(choice, "index");
        if (!Choices.TryGetValue(index, out var said))
        {
            Choices[index] = said = new SaidChoice();
        }
        if (TextOf(choice, "finish_reason") is { } reason)
        {
            said.FinishReasons.Add(reason);
        }
        if (!choice.TryGetProperty(member, out var delta) || delta.ValueKind != JsonValueKind.Object)
        {
            return;
        }
        var before = said.Content.Length + said.Reasoning.Length + said.Arguments.Length + said.ToolIds.Count;
        said.Content.Append(TextOf(delta, "content"));
        said.Reasoning.Append(TextOf(delta, "reasoning_content"));
        if (delta.TryGetProperty("tool_calls", out var calls) && calls.ValueKind == JsonValueKind.Array)
        {
            foreach (var call in calls.EnumerateArray())
            {
                if (TextOf(call, "id") is { } id)
                {
                    said.ToolIds.Add(id);
                }
                if (call.TryGetProperty("function", out var function))
                {
                    said.ToolNames.Add(TextOf(function, "name") ?? "");
                    said.Arguments.Append(TextOf(function, "arguments"));
                }
            }
        }
        if (said.Content.Length + said.Reasoning.Length + said.Arguments.Length + said.ToolIds.Count > before)
        {
            Pieces++;
            FirstTextMs ??= ms;
        }
    }

    private static string? TextOf(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

    private static int Number(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var number) ? number : 0;
}
