using System.Text.Json.Nodes;

namespace Evenkeel.Failover;

/// <summary>One request of a client.</summary>
internal sealed record Ask(bool Stream = true)
{
    /// <summary>Asks with the same topic have the same body within a run; null = a topic of its own.</summary>
    public string? Topic { get; init; }

    /// <summary>stream_options.include_usage.</summary>
    public bool IncludeUsage { get; init; }

    /// <summary>Further members of the body.</summary>
    public JsonObject? Extra { get; init; }

    public IReadOnlyList<(string Name, string Value)> Headers { get; init; } = [];

    /// <summary>The client leaves this long after it asked.</summary>
    public TimeSpan? LeaveAfter { get; init; }

    /// <summary>The client leaves after so many pieces of text.</summary>
    public int? LeaveAfterPieces { get; init; }

    /// <summary>The client leaves when this is cancelled.</summary>
    public CancellationToken Leave { get; init; }

    /// <summary>Not ended by then = hung.</summary>
    public TimeSpan Limit { get; init; } = TimeSpan.FromSeconds(100);

    /// <summary>Keeps the single events; load tests do without.</summary>
    public bool KeepEvents { get; init; } = true;
}
