namespace Evenkeel.Provider;

/// <summary>
/// Which requests a fault is for; null = any. Without <paramref name="Path"/> only the POST calls (chat completions,
/// completions, embeddings); with it every request whose path holds it, and <c>*</c> stands for every path.
/// <paramref name="Reused"/> = true: only requests that are not the first on their connection.
/// </summary>
public sealed record FaultMatch(string? Model = null, bool? Stream = null, string? Path = null, bool? Reused = null)
{
    internal bool Fits(CallKind? kind, string path, string? model, bool? stream, int requestOnConnection) =>
        (Path is null ? kind is not null : Path == "*" || path.Contains(Path, StringComparison.Ordinal))
        && (Model is null || Model == model)
        && (Stream is null || Stream == stream)
        && (Reused is null || Reused == (requestOnConnection > 1));
}

/// <summary>A fault in an instance's queue, with how often and how long it lasts.</summary>
public sealed class ScriptedFault(Fault fault, int? times = null, int after = 0, TimeSpan? lasts = null, FaultMatch? match = null)
{
    private readonly DateTime? _until = DateTime.UtcNow + lasts;
    private int _seen;

    public Fault Fault => fault;
    /// <summary>How many requests it takes; null = all.</summary>
    public int? Times => times;
    /// <summary>How many fitting requests pass before the first it takes.</summary>
    public int After => after;
    public FaultMatch Match { get; } = match ?? new FaultMatch();
    /// <summary>How many requests it took.</summary>
    public int Used { get; private set; }

    internal bool IsSpent_NeedsLock => times <= Used || DateTime.UtcNow > _until;

    internal bool Take_NeedsLock(CallKind? kind, string path, string? model, bool? stream, int requestOnConnection)
    {
        if (IsSpent_NeedsLock || !Match.Fits(kind, path, model, stream, requestOnConnection) || _seen++ < after)
        {
            return false;
        }
        Used++;
        return true;
    }
}
