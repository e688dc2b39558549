using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.Config;

namespace Evenkeel.Ghosts;

public enum PromptSource { BuiltIn, File, Sample }

/// <summary>
/// What a ghost asks, and what its answer has to be like. The name tells where it comes from, and the history of its answers goes by it.
/// </summary>
public sealed record GhostPrompt
{
    public const int MostTokens = 256;

    public required string Name { get; init; }
    public PromptSource Source { get; init; }
    /// <summary>The request without model, user, stream and max_tokens.</summary>
    public required JsonObject Request { get; init; }
    public bool Stream { get; init; } = true;
    public int MaxTokens { get; init; } = 32;
    /// <summary>The answer has to be a JSON value.</summary>
    public bool Json { get; init; }
    /// <summary>Without regard to case.</summary>
    public IReadOnlyList<string> MustContain { get; init; } = [];
    public IReadOnlyList<Regex> MustMatch { get; init; } = [];

    /// <summary>
    /// Somebody vouches that a sound model says what is asked for. Of other prompts a wrong answer says something only where earlier ones
    /// were right: not every model knows JSON mode, and a toy knows nothing.
    /// </summary>
    public bool IsVouchedFor => Source == PromptSource.File;

    public bool HasExpectations => Json || MustContain.Count > 0 || MustMatch.Count > 0;

    /// <summary>What it may cost, in tokens: a quarter of its bytes, and all that it may be answered.</summary>
    public int Estimate => (Request.ToJsonString(ConfigJson.Options).Length / 4) + MaxTokens;

    /// <summary>The body for an instance's door.</summary>
    public string Body(string model)
    {
        var body = (JsonObject)Request.DeepClone();
        body["model"] = model;
        body["user"] = "evenkeel-ghost";
        body["stream"] = Stream;
        body.Remove("max_completion_tokens");
        body["max_tokens"] = MaxTokens;
        return body.ToJsonString(ConfigJson.Options);
    }

    /// <summary>A redacted request of a client.</summary>
    public static GhostPrompt Of(long sample, JsonObject request) => new()
    {
        Name = $"sample/{sample}",
        Source = PromptSource.Sample,
        Request = request,
        MaxTokens = request["max_tokens"] is JsonValue given && given.TryGetValue<int>(out var most) && most > 0 ? Math.Min(most, 64) : 64,
        Json = request["response_format"] is JsonObject format && format["type"] is JsonValue type && type.TryGetValue<string>(out var word) && word.StartsWith("json", StringComparison.Ordinal),
    };

    /// <summary>The shapes of real traffic, small enough to be asked all day.</summary>
    public static readonly IReadOnlyList<GhostPrompt> BuiltIn =
    [
        Chat("built-in/chat", 24, ("user", "Which planet is closest to the Sun? Answer with its name only.")) with { MustContain = ["mercury"] },
        Chat("built-in/sum", 24, ("system", "You are a calculator. Answer with digits only."), ("user", "17 + 25")) with
        {
            MustMatch = [Redaction.Expression("(^|[^0-9])42($|[^0-9])")],
        },
        WithFormat(Chat("built-in/json", 48, ("system", "Answer in JSON."), ("user", "Give city and country of the Eiffel Tower as {\"city\": …, \"country\": …}."))),
        Chat("built-in/turns", 24, ("user", "My train leaves from platform nine."), ("assistant", "Noted: platform nine."), ("user", "Which platform was it? Answer with one word.")) with
        {
            MustMatch = [Redaction.Expression("nine|(^|[^0-9])9($|[^0-9])")],
        },
        Chat("built-in/code", 48, ("user", "Write a Python function add(a, b) that returns their sum. Code only.")) with { MustContain = ["def add"] },
    ];

    private static GhostPrompt Chat(string name, int maxTokens, params (string Role, string Content)[] messages) => new()
    {
        Name = name,
        MaxTokens = maxTokens,
        Request = new JsonObject { ["messages"] = new JsonArray([.. messages.Select(one => new JsonObject { ["role"] = one.Role, ["content"] = one.Content })]) },
    };

    private static GhostPrompt WithFormat(GhostPrompt prompt)
    {
        prompt.Request["response_format"] = new JsonObject { ["type"] = "json_object" };
        return prompt with { Json = true, Stream = false };
    }
}
