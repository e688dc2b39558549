using System.Text.Json.Nodes;

namespace Evenkeel.Incidents;

/// <summary>Something that happened, at a node or (Node null) in the control plane.</summary>
public sealed record Event(long Id, string? Node, DateTime At, string Kind, string Subject, JsonObject Detail)
{
    /// <summary>A word of the taxonomy, or what stands for it.</summary>
    public string? Cause => Text("outcome") ?? Text("why");

    public double? Seconds => Detail["seconds"] is JsonValue value && value.TryGetValue<double>(out var seconds) && double.IsFinite(seconds) ? Math.Clamp(seconds, 0, 86_400) : null;

    private string? Text(string key) => Detail[key] is JsonValue value && value.TryGetValue<string>(out var text) ? text : null;
}

/// <summary>What an incident rests on: its first and newest event in their own words, and how often which cause was named.</summary>
public sealed record Evidence(JsonObject First, JsonObject Last, IReadOnlyDictionary<string, int> Causes);

/// <summary>A state that something is or was in. Until: null while nobody knows its end; it may lie ahead.</summary>
public sealed record Incident
{
    public long Id { get; init; }
    public required string Kind { get; init; }
    public required string Subject { get; init; }
    public string? Node { get; init; }
    public required DateTime Since { get; init; }
    public DateTime? Until { get; init; }
    public string? Cause { get; init; }
    public required Evidence Evidence { get; init; }
    public long Events { get; init; } = 1;
    public required DateTime LastEventAt { get; init; }
}

public enum Effect
{
    /// <summary>Begins an incident that lasts until another event ends it.</summary>
    Open,
    /// <summary>Begins or prolongs an incident whose end is known.</summary>
    OpenFor,
    /// <summary>Says more of an open one.</summary>
    Note,
    Close,
}

/// <summary>What an event means for the incidents of one kind at its subject.</summary>
public sealed record Meaning(string Kind, Effect Effect);

/// <summary>How events make incidents. Pure.</summary>
public static class IncidentRules
{
    /// <summary>A cooldown or block that comes again so soon after its end is the same one: nobody asked in between.</summary>
    private static readonly TimeSpan SameWithin = TimeSpan.FromSeconds(60);

    /// <summary>Empty: the event is kept, but makes no incident.</summary>
    public static IReadOnlyList<Meaning> Of(string eventKind) => eventKind switch
    {
        "breaker_opened" => [new("breaker", Effect.Open)],
        "breaker_half_open" => [new("breaker", Effect.Note)],
        "breaker_closed" => [new("breaker", Effect.Close)],
        "cooldown" => [new("cooldown", Effect.OpenFor)],
        "blocked" => [new("blocked", Effect.OpenFor)],
        "unblocked" => [new("blocked", Effect.Close)],
        "limit_collapsed" => [new("limit_collapsed", Effect.Open)],
        "limit_recovered" => [new("limit_collapsed", Effect.Close)],
        "reset" => [new("breaker", Effect.Close), new("cooldown", Effect.Close), new("blocked", Effect.Close), new("limit_collapsed", Effect.Close)],
        "tier_degraded" => [new("tier_degraded", Effect.Open)],
        "tier_restored" => [new("tier_degraded", Effect.Close)],
        "pool_opened" => [new("pool_open", Effect.Open)],
        "pool_closed" => [new("pool_open", Effect.Close)],
        "probe_down" => [new("probe", Effect.Open)],
        "probe_up" => [new("probe", Effect.Close)],
        "grey" => [new("grey", Effect.Open)],
        "grey_step" => [new("grey", Effect.Note)],
        "grey_over" => [new("grey", Effect.Close)],
        "budget_warning" => [new("budget_warning", Effect.OpenFor)],
        "budget_exceeded" => [new("budget_exceeded", Effect.OpenFor)],
        "budget_free" => [new("budget_warning", Effect.Close), new("budget_exceeded", Effect.Close)],
        "revision_refused" => [new("revision_refused", Effect.Open)],
        "revision_runs" => [new("revision_refused", Effect.Close)],
        "node_lost" => [new("node_lost", Effect.Open)],
        "node_back" => [new("node_lost", Effect.Close)],
        "events_dropped" => [new("events_dropped", Effect.OpenFor)],
        "webhook_failed" => [new("webhook", Effect.Open)],
        "webhook_works" => [new("webhook", Effect.Close)],
        _ => [],
    };

    /// <summary>Whether the event ends an open incident whatever its kind: what it was about is gone, or began anew.</summary>
    public static bool Sweeps(Event happened, Incident open) => happened.Kind switch
    {
        "instance_removed" => open.Subject == happened.Subject && open.Kind is "probe" or "grey" or "breaker" or "cooldown" or "blocked" or "limit_collapsed",
        // A node that was restarted remembers no breaker and no cooldown.
        "node_restarted" => open.Node == happened.Subject,
        "node_removed" => open.Node == happened.Subject || (open.Subject == happened.Subject && open.Kind is "node_lost" or "revision_refused" or "events_dropped"),
        _ => false,
    };

    /// <param name="latest">The newest incident of that kind, subject and node.</param>
    /// <param name="happened">The event.</param>
    /// <param name="meaning">One of its meanings.</param>
    /// <returns>What the latest incident becomes (its id stays), or a new one (id 0); null: nothing changes.</returns>
    public static Incident? Apply(Incident? latest, Event happened, Meaning meaning)
    {
        var isOpen = latest is not null && (latest.Until is null || latest.Until > happened.At);
        switch (meaning.Effect)
        {
            case Effect.Open:
                return isOpen ? Noted(latest!, happened) with { Until = null } : New(happened, meaning.Kind, null);
            case Effect.OpenFor:
                var end = happened.At + TimeSpan.FromSeconds(happened.Seconds ?? 0);
                var isSame = isOpen || (latest is not null && happened.At >= latest.Since && happened.At <= latest.Until + SameWithin);
                if (!isSame) return New(happened, meaning.Kind, end);
                return Noted(latest!, happened) with { Until = latest!.Until is { } until && until > end ? until : end };
            case Effect.Note:
                return isOpen ? Noted(latest!, happened) : null;
            default:
                return isOpen ? Closed(latest!, happened) : null;
        }
    }

    public static Incident Closed(Incident open, Event happened) =>
        Noted(open, happened) with { Until = happened.At > open.Since ? happened.At : open.Since };

    private static Incident New(Event happened, string kind, DateTime? until) => new()
    {
        Kind = kind,
        Subject = happened.Subject,
        Node = happened.Node,
        Since = happened.At,
        Until = until,
        Cause = happened.Cause,
        Evidence = new Evidence(happened.Detail, happened.Detail, Count(new Dictionary<string, int>(), happened.Cause)),
        LastEventAt = happened.At,
    };

    private static Incident Noted(Incident incident, Event happened) => incident with
    {
        Evidence = incident.Evidence with { Last = happened.Detail, Causes = Count(incident.Evidence.Causes, happened.Cause) },
        Events = incident.Events + 1,
        LastEventAt = happened.At > incident.LastEventAt ? happened.At : incident.LastEventAt,
    };

    private static Dictionary<string, int> Count(IReadOnlyDictionary<string, int> causes, string? cause)
    {
        var counted = new Dictionary<string, int>(causes);
        if (cause is not null && (counted.ContainsKey(cause) || counted.Count < 20)) counted[cause] = counted.GetValueOrDefault(cause) + 1;
        return counted;
    }
}
