using System.Text.Json.Nodes;

namespace Evenkeel.Provider;

/// <summary>How a request ended, as the provider saw it.</summary>
public enum LedgerOutcome
{
    InProgress,
    /// <summary>The answer went out as scripted to its end, error answers included.</summary>
    Completed,
    /// <summary>429, beyond the ceiling.</summary>
    Rejected,
    /// <summary>The script closed the connection (FIN) before the end of the answer.</summary>
    CutByUs,
    /// <summary>The script, or <c>down</c>, reset the connection.</summary>
    ResetByUs,
    /// <summary>The client left first.</summary>
    ClientGone,
}

/// <summary>
/// One request as the provider saw it. Times in milliseconds count from <see cref="At"/>. Credentials are kept as a
/// hash prefix only. The entry is written while the request runs; it stands still once <see cref="EndMs"/> is set.
/// </summary>
public sealed class LedgerEntry
{
    public required long Sequence { get; init; }
    public required string Instance { get; init; }
    public required DateTimeOffset At { get; init; }
    public required long ConnectionId { get; init; }
    /// <summary>1 for the first request on its connection.</summary>
    public required int RequestOnConnection { get; init; }
    public string? Sni { get; init; }
    public required string Method { get; init; }
    public required string Path { get; init; }
    /// <summary>The Host header.</summary>
    public string? Host { get; init; }
    public string Model { get; internal set; } = "";
    public bool Stream { get; internal set; }
    public string? User { get; internal set; }
    public string? RequestId { get; internal set; }
    /// <summary>First 12 hex digits of the SHA-256 of the Authorization header's value.</summary>
    public string? AuthorizationSha256 { get; internal set; }
    public string BodySha256 { get; internal set; } = "";
    public int BodyBytes { get; internal set; }
    /// <summary>null, "prefix" (marked) or "assistant_last".</summary>
    public string? Prefill { get; internal set; }
    /// <summary>The fault that was applied, as it was written; null = none.</summary>
    public string? Fault { get; internal set; }
    /// <summary>HTTP status that was sent; 0 = none.</summary>
    public int Status { get; internal set; }
    public LedgerOutcome Outcome { get; internal set; }
    /// <summary>Calls running at arrival, this one included.</summary>
    public int InFlight { get; internal set; }
    public int TokensSent { get; internal set; }
    public int PromptTokensBilled { get; internal set; }
    /// <summary>Those of the prompt that were read from the cache.</summary>
    public int PromptTokensCached { get; internal set; }
    public int CompletionTokensBilled { get; internal set; }
    /// <summary>Those of the completion that were reasoning.</summary>
    public int ReasoningTokens { get; internal set; }
    /// <summary>The client was sent a whole usage object that says these numbers.</summary>
    public bool UsageTold { get; internal set; }
    public int TokensBilled => PromptTokensBilled + CompletionTokensBilled;
    public double? HeadersMs { get; internal set; }
    public double? FirstTokenMs { get; internal set; }
    public double? EndMs { get; internal set; }
    /// <summary>When the client was noticed to have left.</summary>
    public DateTimeOffset? ClientGoneAt { get; internal set; }
    /// <summary>Only with the setting <c>record_bodies</c>.</summary>
    public string? Body { get; internal set; }
    /// <summary>Only with the setting <c>record_bodies</c>; the request head with credentials replaced by "***".</summary>
    public string? Head { get; internal set; }

    public bool Ended => EndMs is not null;

    internal JsonObject ToJson() => new()
    {
        ["sequence"] = Sequence,
        ["instance"] = Instance,
        ["at"] = At.ToString("O"),
        ["connection_id"] = ConnectionId,
        ["request_on_connection"] = RequestOnConnection,
        ["sni"] = Sni,
        ["method"] = Method,
        ["path"] = Path,
        ["host"] = Host,
        ["model"] = Model,
        ["stream"] = Stream,
        ["user"] = User,
        ["request_id"] = RequestId,
        ["authorization_sha256"] = AuthorizationSha256,
        ["body_sha256"] = BodySha256,
        ["body_bytes"] = BodyBytes,
        ["prefill"] = Prefill,
        ["fault"] = Fault,
        ["status"] = Status,
        ["outcome"] = Name(Outcome),
        ["in_flight"] = InFlight,
        ["tokens_sent"] = TokensSent,
        ["prompt_tokens_billed"] = PromptTokensBilled,
        ["prompt_tokens_cached"] = PromptTokensCached,
        ["completion_tokens_billed"] = CompletionTokensBilled,
        ["reasoning_tokens"] = ReasoningTokens,
        ["tokens_billed"] = TokensBilled,
        ["usage_told"] = UsageTold,
        ["headers_ms"] = HeadersMs,
        ["first_token_ms"] = FirstTokenMs,
        ["end_ms"] = EndMs,
        ["client_gone_at"] = ClientGoneAt?.ToString("O"),
        ["body"] = Body,
        ["head"] = Head,
    };

    private static string Name(LedgerOutcome outcome) => outcome switch
    {
        LedgerOutcome.InProgress => "in_progress",
        LedgerOutcome.Completed => "completed",
        LedgerOutcome.Rejected => "rejected",
        LedgerOutcome.CutByUs => "cut_by_us",
        LedgerOutcome.ResetByUs => "reset_by_us",
        _ => "client_gone",
    };
}

/// <summary>All requests to all instances in order of arrival, the newest <c>limit</c> of them.</summary>
public sealed class Ledger(int limit)
{
    private readonly Queue<LedgerEntry> _entries = new();
    private readonly Lock _lock = new();
    private long _sequence;

    /// <summary>Entries in order of arrival, of one instance or all, with a sequence above <paramref name="since"/>.</summary>
    public IReadOnlyList<LedgerEntry> Entries(string? instance = null, long since = 0)
    {
        lock (_lock)
        {
            return [.. _entries.Where(entry => entry.Sequence > since && (instance is null || entry.Instance == instance))];
        }
    }

    /// <summary>Forgets all entries; the sequence goes on.</summary>
    public void Clear()
    {
        lock (_lock)
        {
            _entries.Clear();
        }
    }

    /// <summary>Waits until <paramref name="condition"/> holds for the entries, and returns them.</summary>
    /// <exception cref="TimeoutException">It does not hold by the deadline (10 s unless told).</exception>
    public async Task<IReadOnlyList<LedgerEntry>> WaitAsync(
        Func<IReadOnlyList<LedgerEntry>, bool> condition, string? instance = null, TimeSpan? deadline = null)
    {
        var end = DateTime.UtcNow + (deadline ?? TimeSpan.FromSeconds(10));
        while (true)
        {
            var entries = Entries(instance);
            if (condition(entries))
            {
                return entries;
            }
            if (DateTime.UtcNow > end)
            {
                throw new TimeoutException($"the ledger did not come to the expected state; it holds {entries.Count} entries: "
                    + string.Join("; ", entries.TakeLast(5).Select(entry => entry.ToJson().ToJsonString())));
            }
            await Task.Delay(10);
        }
    }

    internal long NextSequence() => Interlocked.Increment(ref _sequence);

    internal void Add(LedgerEntry entry)
    {
        lock (_lock)
        {
            while (_entries.Count >= limit && _entries.Count > 0)
            {
                _entries.Dequeue();
            }
            if (limit > 0)
            {
                _entries.Enqueue(entry);
            }
        }
    }
}
