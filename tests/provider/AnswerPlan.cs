namespace Evenkeel.Provider;

/// <summary>How a scripted end of a connection looks on the wire.</summary>
internal enum Ending
{
    Close,
    Reset,
    Resume,
}

internal enum UsageMode
{
    /// <summary>As the request's stream_options say.</summary>
    AsAsked,
    Off,
    /// <summary>An own chunk with empty <c>choices</c>, asked for or not.</summary>
    On,
    /// <summary>Inside the chunk that carries finish_reason (DeepSeek).</summary>
    Inline,
}

internal enum SseStyle
{
    Plain,
    /// <summary>"data:{…}" without the optional space.</summary>
    NoSpace,
    /// <summary>With "event:" and "id:" lines.</summary>
    Named,
    /// <summary>One event's JSON over two data: lines.</summary>
    Multiline,
    /// <summary>A byte order mark before the first event.</summary>
    Bom,
}

/// <summary>
/// The script of one answer. Faults only fill in fields here, so any of them combine; <see cref="CallAnswer"/> plays
/// the result. A time of -1 means: until the client leaves.
/// </summary>
internal sealed class AnswerPlan
{
    public const int Forever = -1;

    // Before anything is sent.
    public int DelayMs { get; set; }
    public int? HangMs { get; set; }
    public Ending HangThen { get; set; }
    public bool ResetBeforeHeaders { get; set; }
    public bool RejectPrefill { get; set; }

    // Instead of an answer.
    /// <summary>A fixed JSON body (lists of models, balances) in place of a completion.</summary>
    public string? Body { get; set; }
    public int? Status { get; set; }
    public string? RetryAfter { get; set; }
    public string BodyKind { get; set; } = "json";
    public string? Message { get; set; }
    public string? Location { get; set; }
    public bool ErrorJson200 { get; set; }
    public int? EndlessHeadersPerSecond { get; set; }
    public int? EndlessBodyPerSecond { get; set; }
    public int? BombBytes { get; set; }

    // The head.
    public string? StatusLine { get; set; }
    public int? InterimStatus { get; set; }
    public bool ResetAfterHeaders { get; set; }
    public bool HeadersAtOnce { get; set; }
    public bool Http10Close { get; set; }
    public bool Gzip { get; set; }
    public string? ContentType { get; set; }
    public string? BadFraming { get; set; }

    // The pace.
    public int? FirstTokenMs { get; set; }
    public double? TokensPerSecond { get; set; }
    public int KeepAliveMs { get; set; }
    public int KeepAliveEveryMs { get; set; } = 100;
    public string KeepAliveText { get; set; } = ": keep-alive";
    public int BlankLinesMs { get; set; }
    public int BlankLinesEveryMs { get; set; } = 100;
    public int? RoleOnlyMs { get; set; }
    public Ending RoleOnlyThen { get; set; }

    // What is said.
    public int? Tokens { get; set; }
    public int? TextSeed { get; set; }
    public string? Text { get; set; }
    public string? Model { get; set; }
    public bool Empty { get; set; }
    public bool NullContent { get; set; }
    public int ReasoningTokens { get; set; }
    public int ToolCalls { get; set; }
    public string? ToolName { get; set; }
    public string ToolArguments { get; set; } = "{\"city\":\"Zürich\",\"unit\":\"celsius\"}";
    public int? Choices { get; set; }
    public string? FinishReason { get; set; }
    public bool NoFinishReason { get; set; }
    public bool DoubleFinish { get; set; }
    public bool UnstableId { get; set; }
    public UsageMode Usage { get; set; }
    public bool OtherKind { get; set; }

    // Trouble on the way. Tokens are counted over reasoning, content and tool-call pieces of all choices.
    public int? CutAfterTokens { get; set; }
    public Ending CutHow { get; set; }
    public bool CutInsideEvent { get; set; }
    public int? StallAfterTokens { get; set; }
    public int StallMs { get; set; }
    public Ending StallThen { get; set; }
    /// <summary>How often a keep-alive comment comes during a stall or a silence; 0 = never.</summary>
    public int SilenceKeepAliveMs { get; set; }
    public int? BrokenEventAt { get; set; }
    public bool BrokenReplaces { get; set; }
    public string BrokenText { get; set; } = "{\"id\":\"chatcmpl-broken\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"bro";
    public int? ErrorEventAfterTokens { get; set; }
    public string ErrorCode { get; set; } = "server_error";
    public bool ErrorThenDone { get; set; }
    public bool NoDone { get; set; }
    public bool DoubleDone { get; set; }
    public int BigEventBytes { get; set; }
    public int BigEventAt { get; set; } = 1;
    public bool BigEventIsPadding { get; set; }
    public double? TruncateAt { get; set; }
    public bool TruncateChunked { get; set; }

    // Shape on the wire.
    public int SplitBytes { get; set; }
    public int SplitGapMs { get; set; } = 1;
    public bool SplitOnWire { get; set; }
    public int Coalesce { get; set; }
    public string LineEnd { get; set; } = "\n";
    public SseStyle SseStyle { get; set; }

    // The connection afterwards.
    public int? CloseIdleMs { get; set; }
    public bool CloseIdleResets { get; set; }
}
