using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>What an answer has to say to be whole.</summary>
internal sealed record Expected
{
    public string Text { get; init; } = "";
    /// <summary>Words of reasoning before the content; their numbers tell whether all are there, once.</summary>
    public int ReasoningWords { get; init; }
    public string? ToolArguments { get; init; }
    public int Choices { get; init; } = 1;
    public string? FinishReason { get; init; }

    /// <summary>What every healthy instance of the case says to this request.</summary>
    public static Expected For(Exchange exchange, int tokens = 60, int textSeed = 0) =>
        new() { Text = Answer.Text(exchange.RequestJson, tokens, textSeed) };
}

/// <summary>Is an answer whole? Pure.</summary>
internal static class Wholeness
{
    /// <summary>What is wrong with an answer that should be whole; nothing = it is.</summary>
    public static IReadOnlyList<string> Defects(Exchange x, Expected expected)
    {
        var defects = new List<string>();
        void Need(bool holds, string words)
        {
            if (!holds)
            {
                defects.Add(words);
            }
        }
        if (x.Hung)
        {
            return ["hung"];
        }
        if (x.Status != 200)
        {
            return [x.Status == 0 ? $"no answer ({x.Break})" : $"status {x.Status}{Code(x)}"];
        }
        Need(x.Break is null, $"transport broken ({x.Break})");
        defects.AddRange(x.Errors.Select(error => "error in the stream: " + Short(error)));
        Need(!x.Ask.Stream || x.IsEventStream, $"a stream was asked, {x.Header("content-type")} came");
        Need(x.Ask.Stream || !x.IsEventStream, "JSON was asked, a stream came");
        if (x.IsEventStream)
        {
            Need(x.Dones == 1, x.Dones == 0 ? "no [DONE]" : $"{x.Dones} × [DONE]");
        }
        Need(x.Ids.Count == 1, $"{x.Ids.Count} ids");
        Need(x.Models.Count == 1, "the model changes: " + string.Join(", ", x.Models));
        Need(x.Createds.Count == 1, "`created` changes");
        defects.AddRange(x.Oddities.Distinct());
        Need(x.Choices.Count == expected.Choices, $"{x.Choices.Count} choices");
        foreach (var (index, choice) in x.Choices)
        {
            Need(choice.FinishReasons.Count == 1, $"{choice.FinishReasons.Count} finish reasons");
            Need(expected.FinishReason is null || choice.FinishReasons.Contains(expected.FinishReason), "finish_reason " + string.Join(", ", choice.FinishReasons));
            if (expected.ToolArguments is { } arguments)
            {
                Need(choice.Arguments.ToString() == arguments, "tool call: " + Difference(choice.Arguments.ToString(), arguments));
                Need(choice.ToolIds.Count == 1, $"{choice.ToolIds.Count} tool call ids");
            }
            else if (index == 0 && expected.Choices == 1)
            {
                Need(choice.Content.ToString() == expected.Text, "text: " + Difference(choice.Content.ToString(), expected.Text));
            }
            Need(WordNumbersAreWhole(choice.Reasoning.ToString(), expected.ReasoningWords), "reasoning is not whole: " + Short(choice.Reasoning.ToString()));
        }
        return defects;
    }

    /// <summary>
    /// An error that an application can act on: an HTTP error with a JSON error object, or an in-band error event at the
    /// end of a stream that does not claim to be complete.
    /// </summary>
    public static bool IsCleanError(Exchange x)
    {
        if (x.Hung || x.Status == 0 || x.Break is not null || x.Oddities.Count > 0 || x.Errors.Count != 1)
        {
            return false;
        }
        return x.IsEventStream
            ? x.Dones == 0 && x.Choices.Values.All(choice => choice.FinishReasons.Count == 0)
            : x.Status >= 400;
    }

    /// <summary>How a text differs from what it should be.</summary>
    public static string Difference(string text, string expected)
    {
        if (text == expected)
        {
            return "the same";
        }
        if (expected.StartsWith(text, StringComparison.Ordinal))
        {
            return $"cut after {text.Length} of {expected.Length} characters";
        }
        var same = text.Zip(expected).TakeWhile(pair => pair.First == pair.Second).Count();
        var kind = same > 0 && text[same..].StartsWith(expected[..Math.Min(20, expected.Length)], StringComparison.Ordinal) ? "begins again" : "differs";
        return $"{kind} after {same} of {expected.Length} characters: '{Short(text[same..])}' instead of '{Short(expected[same..])}'";
    }

    /// <summary>The simulator's words end with their position: 0, 1, 2 … each once.</summary>
    private static bool WordNumbersAreWhole(string text, int words)
    {
        var numbers = text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(TrailingNumber).ToList();
        return numbers.SequenceEqual(Enumerable.Range(0, words));
    }

    private static int TrailingNumber(string word)
    {
        var digits = word.Length;
        while (digits > 0 && char.IsAsciiDigit(word[digits - 1]))
        {
            digits--;
        }
        return int.TryParse(word.AsSpan(digits), out var number) ? number : -1;
    }

    private static string Code(Exchange x) => x.Errors.Count > 0 ? $" ({Short(x.Errors[0])})" : "";

    public static string Short(string text) => text.Length <= 60 ? text.ReplaceLineEndings(" ") : text[..57].ReplaceLineEndings(" ") + "…";
}
