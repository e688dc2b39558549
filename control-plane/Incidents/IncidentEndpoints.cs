using System.Text.Json;
using Evenkeel.Auth;
using Evenkeel.Config;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Incidents;

/// <summary>One incident for the operator. What is unknown is left out.</summary>
public sealed record IncidentView
{
    public required long Id { get; init; }
    /// <summary>probe, grey, breaker, cooldown, blocked, limit_collapsed, tier_degraded, pool_open, revision_refused, node_lost, webhook or events_dropped.</summary>
    public required string Kind { get; init; }
    /// <summary>The instance, pool or node that it is about.</summary>
    public required string Subject { get; init; }
    /// <summary>Where it was seen; absent when it holds for the whole gateway.</summary>
    public string? Node { get; init; }
    public required DateTime Since { get; init; }
    /// <summary>Absent while its end is not known; it may lie ahead, as a cooldown's.</summary>
    public DateTime? Until { get; init; }
    public required bool Open { get; init; }
    /// <summary>The outcome that began it, or the stage at which a revision was refused.</summary>
    public string? Cause { get; init; }
    /// <summary>First and newest event in the words of node or provider, and how often which cause was named.</summary>
    public required JsonElement Evidence { get; init; }
    public required long Events { get; init; }
    public required DateTime LastEventAt { get; init; }
    /// <summary>In force when it began.</summary>
    public long? Revision { get; init; }
    public DateTime? AcknowledgedAt { get; init; }
    public string? AcknowledgedBy { get; init; }
    public required int CommentCount { get; init; }
    /// <summary>Requests that asked its subject in vain, or were degraded or lost in a pool of it meanwhile.</summary>
    public required long RequestsAffected { get; init; }
    /// <summary>Those of them that a later tier answered.</summary>
    public required long RequestsDegraded { get; init; }
    /// <summary>Those of them whose client was let down.</summary>
    public required long RequestsLost { get; init; }
    /// <summary>What its instance's failed attempts cost.</summary>
    public decimal? Cost { get; init; }
    public string? Currency { get; init; }
    /// <summary>Only where one incident is asked for.</summary>
    public IReadOnlyList<IncidentComment>? Comments { get; init; }
}

public sealed record IncidentComment(DateTime At, string Author, string Text);

internal sealed record IncidentViewRow
{
    public long Id { get; init; }
    public string Kind { get; init; } = "";
    public string Subject { get; init; } = "";
    public string? Node { get; init; }
    public DateTime Since { get; init; }
    public DateTime? Until { get; init; }
    public bool Open { get; init; }
    public string? Cause { get; init; }
    public string Evidence { get; init; } = "{}";
    public long Events { get; init; }
    public DateTime LastEventAt { get; init; }
    public long? Revision { get; init; }
    public DateTime? AcknowledgedAt { get; init; }
    public string? AcknowledgedBy { get; init; }
    public int Comments { get; init; }
    public long RequestsAffected { get; init; }
    public long RequestsDegraded { get; init; }
    public long RequestsLost { get; init; }
    public decimal? Cost { get; init; }
    public string? Currency { get; init; }

    public IncidentView ToView(IReadOnlyList<IncidentComment> comments) => new()
    {
        Id = Id,
        Kind = Kind,
        Subject = Subject,
        Node = Node,
        Since = Since,
        Until = Until,
        Open = Open,
        Cause = Cause,
        Evidence = JsonSerializer.Deserialize<JsonElement>(Evidence),
        Events = Events,
        LastEventAt = LastEventAt,
        Revision = Revision,
        AcknowledgedAt = AcknowledgedAt,
        AcknowledgedBy = AcknowledgedBy,
        CommentCount = Comments,
        RequestsAffected = RequestsAffected,
        RequestsDegraded = RequestsDegraded,
        RequestsLost = RequestsLost,
        Cost = Cost,
        Currency = Currency,
        Comments = comments.Count == 0 ? null : comments,
    };
}

/// <param name="By">Who has seen it; the token's name if nobody says.</param>
public sealed record Acknowledgement(string? By = null);

/// <param name="Text">1 to 4000 characters.</param>
/// <param name="Author">the token's name if nobody says.</param>
public sealed record NewComment(string Text, string? Author = null);

/// <summary>What went wrong, since when, until when and why; seen and commented by people.</summary>
public static class IncidentEndpoints
{
    private const int MostPerPage = 500;

    public static void MapIncidents(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/incidents").WithTags("incidents").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", List).WithName("listIncidents")
            .WithSummary("Incidents, newest first; before=ID goes on below ID. since and until give those that lasted into that time.");
        group.MapGet("/{id:long}", Get).WithName("getIncident").WithSummary("One incident with its comments.").ProducesProblem(StatusCodes.Status404NotFound);
        group.MapPost("/{id:long}/acknowledge", Acknowledge).WithName("acknowledgeIncident").RequireRole(Role.Operator).WithSummary("Somebody has seen it; the first one counts.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status404NotFound);
        group.MapPost("/{id:long}/comments", Comment).WithName("commentIncident").RequireRole(Role.Operator).WithSummary("Adds a comment.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static async Task<Ok<IReadOnlyList<IncidentView>>> List(
        IncidentStore incidents, CancellationToken cancel, string? kind = null, string? subject = null, string? node = null, bool? open = null,
        DateTimeOffset? since = null, DateTimeOffset? until = null, long before = long.MaxValue, int limit = 50) =>
        TypedResults.Ok(await incidents.ListAsync(
            new IncidentFilter(kind, subject, node, open, since?.UtcDateTime, until?.UtcDateTime, before, Math.Clamp(limit, 1, MostPerPage)), cancel));

    private static async Task<Results<Ok<IncidentView>, ProblemHttpResult>> Get(long id, IncidentStore incidents, CancellationToken cancel) =>
        await incidents.FindAsync(id, cancel) is { } found ? TypedResults.Ok(found) : NoSuch(id);

    private static async Task<Results<Ok<IncidentView>, ProblemHttpResult>> Acknowledge(long id, Acknowledgement? body, HttpContext context, IncidentStore incidents, CancellationToken cancel)
    {
        var by = body?.By ?? Caller.NameOf(context);
        if (!IsName(by)) return BadRequest("by: 1 to 200 printable characters");
        return await incidents.AcknowledgeAsync(id, by, cancel) ? await Found(id, incidents, cancel) : NoSuch(id);
    }

    private static async Task<Results<Ok<IncidentView>, ProblemHttpResult>> Comment(long id, NewComment body, HttpContext context, IncidentStore incidents, CancellationToken cancel)
    {
        var author = body.Author ?? Caller.NameOf(context);
        if (!IsName(author)) return BadRequest("author: 1 to 200 printable characters");
        if (body.Text is not { Length: >= 1 and <= 4000 } || body.Text.Contains('\0')) return BadRequest("text: 1 to 4000 characters");
        return await incidents.CommentAsync(id, author, body.Text, cancel) ? await Found(id, incidents, cancel) : NoSuch(id);
    }

    private static async Task<Results<Ok<IncidentView>, ProblemHttpResult>> Found(long id, IncidentStore incidents, CancellationToken cancel) =>
        await incidents.FindAsync(id, cancel) is { } found ? TypedResults.Ok(found) : NoSuch(id);

    private static bool IsName(string text) => text is { Length: >= 1 and <= 200 } && !text.Any(char.IsControl);

    private static ProblemHttpResult NoSuch(long id) => ConfigApi.NotFound($"There is no incident {id}.");

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);
}
