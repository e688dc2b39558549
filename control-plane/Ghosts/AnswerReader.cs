using System.Text;
using System.Text.Json;
using Evenkeel.Database;

namespace Evenkeel.Ghosts;

/// <summary>Reads what an instance's door answers to a ghost: a JSON completion, or the lines of a stream as they come. Bounded. Pure.</summary>
public sealed class AnswerReader
{
    private const int MostContent = 64 * 1024;
    private const int MostWords = 300;

    private readonly StringBuilder content = new();
    private GhostAnswer answer = new() { Outcome = "truncated", Words = "the stream ended without [DONE]" };

    /// <param name="line">One line of the stream.</param>
    /// <param name="ms">Since the request went out.</param>
    /// <returns>False: nothing more of it matters.</returns>
    public bool Line(string line, int ms)
    {
        if (!line.StartsWith("data:", StringComparison.Ordinal)) return true;
        var data = line[5..].Trim();
        if (data == "[DONE]")
        {
            answer = answer with { Outcome = "ok", Words = "" };
            return false;
        }
        try
        {
            using var chunk = JsonDocument.Parse(KeptText.OfJson(data));
            return Take(chunk.RootElement, "delta", ms);
        }
        catch (JsonException)
        {
            return true;   // the adapter drops broken events; one that is left says nothing
        }
    }

    /// <summary>A whole JSON answer that came with status 200.</summary>
    public void Whole(string body, int ms)
    {
        answer = answer with { Outcome = "bad_gateway", Words = "the answer is not a completion" };
        try
        {
            using var completion = JsonDocument.Parse(KeptText.OfJson(body));
            if (completion.RootElement.ValueKind == JsonValueKind.Object && completion.RootElement.TryGetProperty("choices", out _))
            {
                answer = answer with { Outcome = "ok", Words = "" };
                Take(completion.RootElement, "message", ms);
                answer = answer with { FirstTokenMs = ms };
            }
        }
        catch (JsonException)
        {
            // Said above.
        }
    }

    public GhostAnswer Answer(int ms) => answer with { Content = content.ToString(), TotalMs = ms };

    /// <summary>An answer that was none. Outcome null: it did not get as far as the instance.</summary>
    public static GhostAnswer Failed(string? outcome, string words, int ms) => new() { Outcome = outcome, Words = KeptText.Of(words, MostWords), TotalMs = ms };

    private bool Take(JsonElement root, string part, int ms)
    {
        if (root.ValueKind != JsonValueKind.Object) return true;
        if (root.TryGetProperty("error", out var error) && error.ValueKind == JsonValueKind.Object)
        {
            // A stream that broke off ends with stream_truncated or the like.
            var code = Text(error, "code") is { Length: > 7 and <= 48 } told && told.StartsWith("stream_", StringComparison.Ordinal) ? told[7..] : "server_error";
            answer = answer with { Outcome = code, Words = KeptText.Of(Text(error, "message") ?? "", MostWords) };
            return false;
        }
        if (root.TryGetProperty("usage", out var usage) && usage.ValueKind == JsonValueKind.Object)
        {
            answer = answer with { InputTokens = Count(usage, "prompt_tokens"), OutputTokens = Count(usage, "completion_tokens") };
        }
        if (!root.TryGetProperty("choices", out var choices) || choices.ValueKind != JsonValueKind.Array || choices.GetArrayLength() == 0) return true;
        var choice = choices[0];
        if (choice.ValueKind != JsonValueKind.Object) return true;
        if (Text(choice, "finish_reason") is { Length: <= 48 } reason) answer = answer with { FinishReason = reason };
        if (!choice.TryGetProperty(part, out var said) || said.ValueKind != JsonValueKind.Object) return true;
        var text = Text(said, "content");
        if (text is not null && content.Length + text.Length <= MostContent) content.Append(text);
        var thinks = Text(said, "reasoning_content") is { Length: > 0 } || Text(said, "reasoning") is { Length: > 0 };
        var calls = said.TryGetProperty("tool_calls", out var tools) && tools.ValueKind == JsonValueKind.Array && tools.GetArrayLength() > 0;
        answer = answer with
        {
            HasReasoning = answer.HasReasoning || thinks,
            HasToolCalls = answer.HasToolCalls || calls,
            FirstTokenMs = answer.FirstTokenMs ?? (text is { Length: > 0 } || thinks || calls ? ms : null),
        };
        return true;
    }

    private static string? Text(JsonElement of, string key) =>
        of.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

    private static int? Count(JsonElement of, string key) =>
        of.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var count) && count >= 0 ? count : null;
}
