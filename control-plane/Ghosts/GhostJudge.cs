using System.Text.Json;
using System.Text.RegularExpressions;

namespace Evenkeel.Ghosts;

/// <summary>
/// What came back for a ghost. Outcome is a word of the taxonomy; null when the ghost did not get as far as the instance, and then the words
/// say why. FirstTokenMs is the time to the first token of content or reasoning of a stream, and to the whole of any other answer.
/// </summary>
public sealed record GhostAnswer
{
    public string? Outcome { get; init; }
    public string Words { get; init; } = "";
    public string Content { get; init; } = "";
    public bool HasReasoning { get; init; }
    public bool HasToolCalls { get; init; }
    public string? FinishReason { get; init; }
    public int? FirstTokenMs { get; init; }
    public int TotalMs { get; init; }
    /// <summary>As the provider tells them.</summary>
    public int? InputTokens { get; init; }
    public int? OutputTokens { get; init; }

    /// <summary>Tokens per second after the first one of a stream; null where too few came to tell.</summary>
    public double? TokensPerSecond(bool stream) =>
        stream && OutputTokens is >= 8 and var tokens && FirstTokenMs is { } first && TotalMs > first ? (tokens - 1) * 1000.0 / (TotalMs - first) : null;
}

/// <summary>
/// What an instance's good answers were like, newest first: to the same model in the same mode (FirstTokenMs, TokensPerSecond), and to the
/// same prompt (Lengths in characters; Held, whether they said what was asked for). Bad ones are not among them, so that a grey period
/// does not become the measure.
/// </summary>
public sealed record GhostHistory(IReadOnlyList<int> FirstTokenMs, IReadOnlyList<double> TokensPerSecond, IReadOnlyList<int> Lengths, IReadOnlyList<bool> Held)
{
    public static readonly GhostHistory None = new([], [], [], []);
}

/// <summary>Held: whether the answer says what was asked for; null: nothing was asked for, or it was cut short.</summary>
public sealed record GhostJudgement(GhostVerdict Verdict, IReadOnlyList<string> Faults, bool? Held);

/// <summary>Whether a ghost's answer is sound. Pure.</summary>
public static class GhostJudge
{
    public const string Slow = "slow", SlowTokens = "slow_tokens", Empty = "empty", NoFinish = "no_finish_reason", Content = "content", Length = "length";

    private const int EnoughHistory = 5, EnoughHeld = 3;
    private const double Times = 3;

    /// <summary>Less is not felt, and no machine's clock is as steady as a fast provider.</summary>
    private const double FeltMs = 200;
    private const double FeltTokensMs = 500;

    // Somebody else deals with these: cooldown, block, the caller.
    private static readonly HashSet<string> s_neutral =
        ["rate_limited", "quota", "auth", "context_length", "content_filter", "client_error", "client_gone", "saturated", "circuit_open"];

    public static GhostJudgement Judge(GhostPrompt prompt, GhostAnswer answer, GhostHistory history, TimeSpan baseLatency)
    {
        if (answer.Outcome is not { } outcome || s_neutral.Contains(outcome)) return new(GhostVerdict.Neutral, [], null);
        if (outcome != "ok") return new(GhostVerdict.Bad, [outcome], null);

        var faults = new List<string>();
        var usual = history.FirstTokenMs.Count >= EnoughHistory ? Median(history.FirstTokenMs.Select(ms => (double)ms)) : baseLatency.TotalMilliseconds;
        if (answer.FirstTokenMs > Math.Max(usual * Times, usual + FeltMs)) faults.Add(Slow);
        if (answer.TokensPerSecond(prompt.Stream) is { } pace && history.TokensPerSecond.Count >= EnoughHistory
            && Median(history.TokensPerSecond) is var usualPace && pace * Times < usualPace
            && (answer.OutputTokens!.Value * 1000 / pace) - (answer.OutputTokens.Value * 1000 / usualPace) > FeltTokensMs)
        {
            faults.Add(SlowTokens);
        }

        if (answer.Content.Length == 0 && !answer.HasToolCalls && !answer.HasReasoning) return new(GhostVerdict.Bad, [.. faults, Empty], false);
        if (answer.FinishReason is null) faults.Add(NoFinish);

        // An answer that ran out of tokens, or thought until then, may well have been about to say it.
        var whole = answer.FinishReason is not "length" && answer.Content.Length > 0;
        bool? held = prompt.HasExpectations && whole ? Holds(prompt, answer.Content) : null;
        if (held == false && (prompt.IsVouchedFor || UsuallyHeld(history.Held))) faults.Add(Content);
        if (whole && history.Lengths.Count >= EnoughHistory && Median(history.Lengths.Select(length => (double)length)) is var usualLength
            && (answer.Content.Length * 4 < usualLength - 20 || answer.Content.Length > (usualLength * 4) + 200))
        {
            faults.Add(Length);
        }

        return new(faults.Count == 0 ? GhostVerdict.Good : GhostVerdict.Bad, faults, held);
    }

    private static bool Holds(GhostPrompt prompt, string content)
    {
        try
        {
            return (!prompt.Json || IsJson(content))
                && prompt.MustContain.All(text => content.Contains(text, StringComparison.OrdinalIgnoreCase))
                && prompt.MustMatch.All(expression => expression.IsMatch(content));
        }
        catch (RegexMatchTimeoutException)
        {
            return false;
        }
    }

    /// <summary>A whole JSON value, also in the code fence that many models put around it.</summary>
    private static bool IsJson(string content)
    {
        var text = content.Trim();
        if (text.StartsWith("```", StringComparison.Ordinal) && text.EndsWith("```", StringComparison.Ordinal) && text.IndexOf('\n') is > 0 and var line)
        {
            text = text[line..^3];
        }
        try
        {
            using var _ = JsonDocument.Parse(text);
            return true;
        }
        catch (JsonException)
        {
            return false;
        }
    }

    private static bool UsuallyHeld(IReadOnlyList<bool> held) => held.Count >= EnoughHeld && held.Count(one => one) * 2 > held.Count;

    private static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToList();
        return (sorted[(sorted.Count - 1) / 2] + sorted[sorted.Count / 2]) / 2;
    }
}
