namespace Evenkeel.Provider;

/// <summary>
/// What one call is to say, word by word: reasoning first, then content or the pieces of tool calls, for each choice,
/// after what a prefill has said already and within max_tokens.
/// </summary>
internal sealed class Words
{
    private readonly Answer.Wording[] _wordings;
    private readonly Answer.Wording[] _reasoning;
    private readonly int _first;
    private readonly string? _restOfFirst;

    public Words(Call call)
    {
        var (plan, request) = (call.Plan, call.Request);
        var scripted = plan.Text is null ? null : SplitKeepingSpaces(plan.Text);
        var tokens = scripted?.Length ?? plan.Tokens ?? call.Settings.Tokens;
        var seed = Answer.Seed(request.PromptHash, plan.TextSeed ?? call.Settings.TextSeed);
        Choices = plan.Choices ?? request.Choices;
        _wordings = [.. Enumerable.Range(0, Choices).Select(c => new Answer.Wording(c == 0 ? seed : Answer.Mix(seed + (ulong)c), scripted))];
        _reasoning = [.. _wordings.Select(wording => new Answer.Wording(~wording.Seed, null))];
        Reasoning = plan.ReasoningTokens;
        if (plan.ToolCalls > 0)
        {
            ToolPieces = PiecesOf(plan.ToolArguments);
            Content = plan.ToolCalls * (1 + ToolPieces.Length);
        }
        else if (!plan.Empty)
        {
            (_first, _restOfFirst) = request.Prefill is { Length: > 0 } prefill ? _wordings[0].Continue(prefill, tokens) : (0, null);
            Content = tokens - _first;
        }
        var limit = Math.Max(0, request.MaxTokens ?? int.MaxValue);
        Shortened = Reasoning + Content > limit && ToolPieces is null;
        if (Shortened)
        {
            Reasoning = Math.Min(Reasoning, limit);
            Content = Math.Min(Content, limit - Reasoning);
        }
    }

    public int Choices { get; }
    public int Reasoning { get; }
    /// <summary>Words of content (or pieces of tool calls) per choice.</summary>
    public int Content { get; }
    public int PerChoice => Reasoning + Content;
    public int Total => PerChoice * Choices;
    public bool Shortened { get; }
    public string[]? ToolPieces { get; }

    public void AppendJson(ByteBuffer buffer, int choice, int position)
    {
        if (position < Reasoning)
        {
            _reasoning[choice].AppendJson(buffer, position);
            return;
        }
        var index = position - Reasoning;
        if (index == 0 && _restOfFirst is not null)
        {
            buffer.AppendJsonText(_restOfFirst);
            return;
        }
        _wordings[choice].AppendJson(buffer, _first + index);
    }

    private static string[] SplitKeepingSpaces(string text)
    {
        var words = new List<string>();
        var start = 0;
        for (var i = 1; i < text.Length; i++)
        {
            if (text[i] == ' ')
            {
                words.Add(text[start..i]);
                start = i;
            }
        }
        words.Add(text[start..]);
        return [.. words];
    }

    /// <summary>Four characters a piece, never through the middle of a surrogate pair.</summary>
    private static string[] PiecesOf(string arguments)
    {
        var pieces = new List<string>();
        for (var at = 0; at < arguments.Length;)
        {
            var end = Math.Min(at + 4, arguments.Length);
            end -= char.IsHighSurrogate(arguments[end - 1]) && end < arguments.Length ? 1 : 0;
            pieces.Add(arguments[at..end]);
            at = end;
        }
        return [.. pieces];
    }
}
