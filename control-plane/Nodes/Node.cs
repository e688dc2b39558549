using Evenkeel.Publishing;

namespace Evenkeel.Nodes;

/// <summary>What a node's admin listener says of itself.</summary>
public sealed record NodeStatus
{
    /// <summary>Of the snapshot that the node holds; 0: none.</summary>
    public long Revision { get; init; }
    /// <summary>What the probes found, as the snapshot has it.</summary>
    public long State { get; init; }
    public string Digest { get; init; } = "";
    public IReadOnlyList<NodeWorker> Workers { get; init; } = [];
    /// <summary>Its clock, in seconds since 1970.</summary>
    public double? Now { get; init; }
    /// <summary>How far its clock is before ours, give or take half of the call.</summary>
    public long? ClockSkewMs { get; init; }
    /// <summary>Attempts under way at all instances.</summary>
    public long? InFlight { get; init; }

    /// <summary>
    /// The workers that take requests. One that has been silent for longer drains after a reload (its timers have ended), or hangs;
    /// workers speak four times a second.
    /// </summary>
    public IEnumerable<NodeWorker> ActiveWorkers => Workers.Where(worker => worker.AgeS <= SilentAfterS);

    private const double SilentAfterS = 1;

    /// <summary>True when every active worker runs this snapshot and, if given, this text.</summary>
    public bool Runs(Snapshot snapshot, string? textDigest) =>
        Revision == snapshot.Revision && State == snapshot.State && Digest == snapshot.Digest && ActiveWorkers.Any()
        && ActiveWorkers.All(worker => worker.Revision == snapshot.Revision && (textDigest is null || worker.TextDigest == textDigest));
}

/// <summary>One nginx worker process; AgeS is the seconds since it last spoke.</summary>
public sealed record NodeWorker(int Pid, long Revision, string TextDigest, double AgeS);

/// <summary>Whom to call, and where its admin listener is reached.</summary>
public readonly record struct NodeAddress(string Name, string AdminUrl);

/// <summary>A node as it is stored. Fault is why its admin listener could not be asked or did not take the snapshot.</summary>
public sealed record Node
{
    public required string Name { get; init; }
    public required string AdminUrl { get; init; }
    public string? EdgeListen { get; init; }
    public string? AdminListen { get; init; }
    public string? Workers { get; init; }
    public DateTime LastSeenAt { get; init; }
    public bool Live { get; init; }
    public NodeStatus? Status { get; init; }
    public string? Fault { get; init; }

    public NodeAddress Address => new(Name, AdminUrl);

    public NodeSettings Settings => new(Name, AdminListen ?? "127.0.0.1:9145", EdgeListen, Workers, AdminUrl.StartsWith("https:", StringComparison.OrdinalIgnoreCase));
}

/// <summary>What became of a text (or of a snapshot, stage "push") at a node, in nginx's own words.</summary>
public sealed record NodeReport
{
    public long Revision { get; init; }
    public required string TextDigest { get; init; }
    public required string Result { get; init; }
    public required string Stage { get; init; }
    public required string Words { get; init; }
    public DateTime At { get; init; }
}
