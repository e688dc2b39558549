using System.Globalization;
using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>
/// Puts a judgement together, statement by statement; the worst one counts, and every one that does not hold is in the
/// note. Pure. <see cref="Whole"/> and its like say what the client must see, <see cref="Conduct"/> what the provider must,
/// and <see cref="Noted"/> what is merely not as promised.
/// </summary>
internal sealed class Judge(Evidence evidence)
{
    private readonly List<string> _broken = [];
    private readonly List<string> _remarks = [];
    private Verdict _verdict = Verdict.Pass;

    public static implicit operator Judgement(Judge judge) =>
        new(judge._verdict, string.Join("; ", judge._broken.Concat(judge._remarks)));

    // ---- the client

    /// <summary>This answer (the only one, unless told) is whole.</summary>
    public Judge Whole(Exchange? exchange = null, Expected? expected = null)
    {
        var x = exchange ?? evidence.First;
        var defects = Wholeness.Defects(x, expected ?? Expected.For(x));
        if (defects.Count == 0)
        {
            return this;
        }
        var which = evidence.Exchanges.Count > 1 ? $"request {evidence.Exchanges.ToList().IndexOf(x) + 1}: " : "";
        return Found(Wholeness.IsCleanError(x) ? Verdict.Safe : Verdict.Fail, which + string.Join(", ", defects));
    }

    /// <summary>Every answer is whole.</summary>
    public Judge AllWhole()
    {
        foreach (var exchange in evidence.Exchanges)
        {
            Whole(exchange);
        }
        return this;
    }

    /// <summary>The whole answer, and this instance gave it.</summary>
    public Judge WholeFrom(string role, Exchange? exchange = null, Expected? expected = null) =>
        Whole(exchange, expected).Noted(evidence.Answered is null || evidence.Answered == role, $"answered by the {evidence.Answered}, not the {role}");

    /// <summary>The provider's own error, with status and body unchanged.</summary>
    public Judge ProvidersError(int status, string word)
    {
        var x = evidence.First;
        if (x.Status == status && x.Errors.Count == 1 && x.Body.Contains(word, StringComparison.Ordinal) && x.Break is null)
        {
            return this;
        }
        return Found(Wholeness.IsCleanError(x) ? Verdict.Safe : Verdict.Fail,
            $"wanted the provider's {status} ({word}), got {x.Status} {Wholeness.Short(x.Body)}{x.Break}");
    }

    /// <summary>An error of the gateway's own: status, OpenAI's shape as JSON, no markup of the provider.</summary>
    public Judge GatewaysError(Exchange x, params int[] statuses)
    {
        var holds = statuses.Contains(x.Status) && Wholeness.IsCleanError(x) && x.Errors[0].Length > 0
            && x.Header("content-type")?.StartsWith("application/json", StringComparison.OrdinalIgnoreCase) == true
            && !x.Body.Contains("<html", StringComparison.OrdinalIgnoreCase);
        return holds ? this : Found(Verdict.Fail, $"wanted a clean {string.Join(" or ", statuses)}, got {(x.Hung ? "a hang" : x.Status)} {Wholeness.Short(x.Body)}{x.Break}");
    }

    /// <summary>A part of the right text, then an error event, and no claim to be complete.</summary>
    public Judge BrokenOff(string expectedText)
    {
        var x = evidence.First;
        Must(Wholeness.IsCleanError(x) && x.IsEventStream, "no clean end: " + Outcome(x));
        return Must(expectedText.StartsWith(x.Text, StringComparison.Ordinal) && x.Text.Length > 0, "text: " + Wholeness.Difference(x.Text, expectedText));
    }

    /// <summary>The usage is given exactly once and is what these tries were billed.</summary>
    public Judge UsageOf(IReadOnlyList<LedgerEntry> tries, int promptTolerance = 0)
    {
        var x = evidence.First;
        if (x.Usages.Count != 1)
        {
            return Noted(false, $"usage reported {x.Usages.Count} times");
        }
        var usage = x.Usages[0];
        var (prompt, completion) = (tries.Sum(entry => entry.PromptTokensBilled), tries.Sum(entry => entry.CompletionTokensBilled));
        Noted(usage.Completion == completion, $"usage says {usage.Completion} completion tokens, billed were {completion}");
        Noted(Math.Abs(usage.Prompt - prompt) <= promptTolerance, $"usage says {usage.Prompt} prompt tokens, billed were {prompt}");
        return Noted(usage.Total == usage.Prompt + usage.Completion, $"usage: {usage.Prompt} + {usage.Completion} is not {usage.Total}");
    }

    public Judge Within(Exchange exchange, double limitMs) =>
        Must(exchange.EndMs <= limitMs, $"took {Seconds(exchange.EndMs)}, allowed are {Seconds(limitMs)}");

    public Judge NotBefore(Exchange exchange, double ms) =>
        Noted(exchange.EndMs >= ms, $"answered after {Seconds(exchange.EndMs)}, wanted not before {Seconds(ms)}");

    // ---- the provider

    public Judge TriesAtMost(string role, int tries) =>
        Conduct(evidence.Tries(role).Count <= tries, $"{evidence.Tries(role).Count} tries at the {role}, allowed are {tries}");

    public Judge TriesExactly(string role, int tries) =>
        Conduct(evidence.Tries(role).Count == tries, $"{evidence.Tries(role).Count} tries at the {role}, wanted {tries}");

    public Judge TriesInAllAtMost(int tries) =>
        Conduct(evidence.AllTries.Count <= tries, $"{evidence.AllTries.Count} tries in all, allowed are {tries}");

    public Judge TriesWithinAtMost(string role, int tries, double windowS) =>
        Conduct(evidence.MostWithin(role, windowS) <= tries, $"{evidence.MostWithin(role, windowS)} tries within {windowS} s, allowed are {tries}");

    /// <summary>The second try comes this long after the first, or not at all.</summary>
    public Judge SecondTryNotBefore(string role, double seconds)
    {
        var tries = evidence.Tries(role);
        return tries.Count < 2 ? this
            : Conduct((tries[1].At - tries[0].At).TotalSeconds >= seconds, $"second try after {(tries[1].At - tries[0].At).TotalSeconds:0.00} s, wanted not before {seconds} s");
    }

    /// <summary>Nothing is held against the instance, and it holds nothing any more. Only where the node can be asked.</summary>
    public Judge NothingAgainst(string role)
    {
        if (!evidence.Node.TryGetValue(role, out var view))
        {
            return this;
        }
        Conduct(view.WindowFailed == 0, $"{view.WindowFailed} failures counted against the {role}");
        Conduct(view.Breaker == "closed", $"the breaker of the {role} is {view.Breaker}");
        return Conduct(view.InFlight == 0, $"the node counts {view.InFlight} in flight at the {role}");
    }

    // ---- statements

    /// <summary>Otherwise it is a failure.</summary>
    public Judge Must(bool holds, string words) => holds ? this : Found(Verdict.Fail, words);

    /// <summary>Otherwise it is bad conduct, which is a failure.</summary>
    public Judge Conduct(bool holds, string words) => Must(holds, words);

    /// <summary>Otherwise it is noted: partial.</summary>
    public Judge Noted(bool holds, string words) => holds ? this : Found(Verdict.Partial, words);

    /// <summary>Worth knowing, whatever the verdict.</summary>
    public Judge Remark(string words)
    {
        _remarks.Add(words);
        return this;
    }

    public static string Seconds(double ms) => (ms / 1000).ToString("0.0", CultureInfo.InvariantCulture) + " s";

    public static string Outcome(Exchange x) => x.Hung ? "hung"
        : $"status {x.Status}, {x.Text.Length} characters, {x.Choices.Values.Sum(choice => choice.FinishReasons.Count)} finish reasons, {x.Dones} × [DONE], {x.Errors.Count} errors"
            + (x.Break is null ? "" : $", {x.Break}") + string.Concat(x.Oddities.Distinct().Select(oddity => ", " + oddity));

    private Judge Found(Verdict verdict, string words)
    {
        _verdict = verdict > _verdict ? verdict : _verdict;
        _broken.Add(words);
        return this;
    }
}
