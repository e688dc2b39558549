using System.Text.Json.Nodes;
using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>What the node says of one of the case's instances, at the end of the case.</summary>
internal sealed record NodeView(int InFlight, int Limit, string Breaker, int WindowFailed)
{
    public static NodeView Read(JsonNode instance) => new(
        (int)instance["in_flight"]!, (int)(double)instance["limit"]!, (string)instance["breaker"]!, (int)(double)instance["window"]!["failed"]!);
}

/// <summary>Everything that was seen of one case, by the clients and by the providers. It stands still: judges read it and touch nothing.</summary>
internal sealed record Evidence(Case Case, TimeScale Time)
{
    /// <summary>In the order in which they were asked.</summary>
    public IReadOnlyList<Exchange> Exchanges { get; init; } = [];

    /// <summary>Role → all requests that instance got, probes included.</summary>
    public required IReadOnlyDictionary<string, IReadOnlyList<LedgerEntry>> Ledger { get; init; }
    public required IReadOnlyDictionary<string, InstanceCounters> Counters { get; init; }

    /// <summary>Role → what the node says; empty where the kit cannot ask it.</summary>
    public IReadOnlyDictionary<string, NodeView> Node { get; init; } = new Dictionary<string, NodeView>();

    /// <summary>What a case measured besides, by name.</summary>
    public IReadOnlyDictionary<string, double> Facts { get; init; } = new Dictionary<string, double>();

    /// <summary>Words a case noted besides, by name.</summary>
    public IReadOnlyDictionary<string, string> Words { get; init; } = new Dictionary<string, string>();

    public Exchange First => Exchanges[0];
    public Exchange Last => Exchanges[^1];

    /// <summary>The POST calls an instance got; probes are no tries.</summary>
    public IReadOnlyList<LedgerEntry> Tries(string role) => [.. Ledger[role].Where(entry => entry.Method == "POST")];

    public IReadOnlyList<LedgerEntry> AllTries => [.. Ledger.Keys.SelectMany(Tries).OrderBy(entry => entry.At)];

    /// <summary>The most tries within any window of this length.</summary>
    public int MostWithin(string role, double windowS)
    {
        var times = Tries(role).Select(entry => entry.At).Order().ToList();
        return times.Count == 0 ? 0 : times.Max(from => times.Count(at => at >= from && at < from.AddSeconds(windowS)));
    }

    /// <summary>The instance that gave a whole answer last; null = none.</summary>
    public string? Answered => Ledger.Keys
        .SelectMany(role => Tries(role).Where(entry => entry is { Status: 200, Outcome: LedgerOutcome.Completed }).Select(entry => (role, entry)))
        .OrderBy(pair => pair.entry.At).LastOrDefault().role;
}
