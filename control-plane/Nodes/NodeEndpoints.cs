using System.Text;
using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Nodes;

/// <summary>One node for the operator. What is unknown is left out.</summary>
public sealed record NodeView
{
    public required string Name { get; init; }
    /// <summary>Heard of within 15 s.</summary>
    public required bool Live { get; init; }
    /// <summary>All its workers run the newest revision, text and snapshot.</summary>
    public required bool Acknowledged { get; init; }
    /// <summary>The lowest that a worker runs; 0: none.</summary>
    public required long Revision { get; init; }
    /// <summary>Of the text that its workers run; absent while they differ.</summary>
    public string? TextDigest { get; init; }
    /// <summary>Of the text that they should run.</summary>
    public string? DesiredTextDigest { get; init; }
    /// <summary>Those that drain after a reload are among them, silent for longer than a second.</summary>
    public required IReadOnlyList<NodeWorker> Workers { get; init; }
    public required DateTime LastSeenAt { get; init; }
    /// <summary>Attempts under way at all instances.</summary>
    public long? InFlight { get; init; }
    /// <summary>How far its clock is before the control plane's.</summary>
    public long? ClockSkewMs { get; init; }
    /// <summary>Since when it has a token of its own; absent: it shows the one that all share.</summary>
    public DateTime? EnrolledAt { get; init; }
    public required string AdminUrl { get; init; }
    public string? EdgeListen { get; init; }
    public string? AdminListen { get; init; }
    /// <summary>Why its admin listener could not be asked, or did not take the snapshot.</summary>
    public string? Fault { get; init; }
    /// <summary>The newest one, of whatever revision.</summary>
    public Refusal? LastRefusal { get; init; }
}

/// <param name="Name">Only the node of this name may use it, also in place of the token it has; absent: any node that is new.</param>
/// <param name="ExpiresIn">How long it can be used, as in "1h"; 7d at most, 1h unless said.</param>
public sealed record NewEnrolment(string? Name = null, string? ExpiresIn = null);

/// <param name="Token">Shown this once.</param>
/// <param name="Name">As asked for.</param>
/// <param name="ExpiresAt">When it is worth nothing.</param>
public sealed record MadeEnrolment(string Token, string? Name, DateTime ExpiresAt);

/// <summary>Stage: test (nginx -t), load (reload), start, push (the snapshot). Words are nginx's own.</summary>
public sealed record Refusal(long Revision, string Stage, string Words, DateTime At, string TextDigest);

/// <summary>
/// Where the gateway stands. Acknowledged: there is a live node, and every live one has acknowledged the newest revision. Faults is what
/// the newest snapshot had to leave out, like an instance whose key cannot be resolved.
/// </summary>
public sealed record GatewayStatus(long Revision, bool Acknowledged, IReadOnlyList<NodeView> Nodes, IReadOnlyList<ConfigFault> Faults)
{
    /// <summary>This is told from memory, and nothing can be changed.</summary>
    public bool DatabaseAway { get; init; }
    /// <summary>Of all control planes, the one that answers is the one that deals shares and passes on what nodes find out.</summary>
    public bool Leads { get; init; }
}

/// <summary>The nodes as the operator sees them.</summary>
public static class NodeEndpoints
{
    public static void MapNodes(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1").WithTags("nodes").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("/status", Status).WithName("getStatus").WithMetadata(new AnswersFromMemory()).WithSummary("The newest revision, and whether every live node runs it.");
        group.MapGet("/nodes", List).WithName("listNodes").WithMetadata(new AnswersFromMemory()).WithSummary("The nodes and what they run.");
        group.MapGet("/nodes/{name}", Get).WithName("getNode").WithMetadata(new AnswersFromMemory()).WithSummary("One node.").ProducesProblem(StatusCodes.Status404NotFound);
        group.MapGet("/nodes/{name}/reports", Reports).WithName("listNodeReports").WithSummary("What became of each text at this node, newest first.")
            .ProducesProblem(StatusCodes.Status404NotFound);
        group.MapGet("/nodes/{name}/nginx.conf", Text).WithName("getDesiredText").WithMetadata(new AnswersFromMemory()).WithSummary("The nginx.conf that this node should run.")
            .Produces<string>(StatusCodes.Status200OK, "text/plain")
            .ProducesProblem(StatusCodes.Status404NotFound)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
        group.MapDelete("/nodes/{name}", Remove).WithName("removeNode").WithSummary("Ends the token of an enrolled node at once and forgets the node; it goes on serving what it has.")
            .ProducesProblem(StatusCodes.Status403Forbidden).ProducesProblem(StatusCodes.Status404NotFound).ProducesProblem(StatusCodes.Status409Conflict);
        group.MapPost("/nodes/enrolments", Allow).WithName("addNodeEnrolment").WithSummary("Makes a one-time token with which a node enrols, and shows it, once.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status403Forbidden).ProducesProblem(StatusCodes.Status409Conflict);
        app.MapAgents();
    }

    private static async Task<Ok<GatewayStatus>> Status(NodeViews views, ConfigStore configs, DesiredState state, DatabaseState database, NodeMemory memory, CancellationToken cancel)
    {
        var isAway = database.IsAway;
        var revision = isAway ? state.Current?.Revision ?? 0 : await configs.RevisionAsync(cancel);
        var desired = state.Current;      // one and the same for all of the answer
        var nodes = await views.ListAsync(desired, cancel);
        var live = nodes.Where(node => node.Live).ToList();
        var acknowledged = desired?.Revision == revision && live.Count > 0 && live.All(node => node.Acknowledged);
        return TypedResults.Ok(new GatewayStatus(revision, acknowledged, nodes, desired?.Snapshot.Faults ?? []) { DatabaseAway = isAway, Leads = memory.Leads });
    }

    private static async Task<Ok<IReadOnlyList<NodeView>>> List(NodeViews views, CancellationToken cancel) => TypedResults.Ok(await views.ListAsync(cancel));

    private static async Task<Results<Ok<NodeView>, ProblemHttpResult>> Get(string name, NodeViews views, CancellationToken cancel) =>
        (await views.ListAsync(cancel)).SingleOrDefault(node => node.Name == name) is { } found ? TypedResults.Ok(found) : NoSuch();

    private static async Task<Results<Ok<IReadOnlyList<NodeReport>>, ProblemHttpResult>> Reports(string name, NodeStore nodes, CancellationToken cancel, int limit = 50) =>
        await nodes.FindAsync(name, cancel) is null ? NoSuch() : TypedResults.Ok(await nodes.ReportsAsync(name, Math.Clamp(limit, 1, 200), cancel));

    private static async Task<IResult> Text(string name, NodeStore nodes, NodeMemory memory, DatabaseState database, DesiredState state, Renderer renderer, CancellationToken cancel)
    {
        if ((database.IsAway ? memory.Nodes.SingleOrDefault(node => node.Name == name) : await database.AskAsync(asked => nodes.FindAsync(name, asked), cancel)) is not { } node) return NoSuch();
        return state.Current is { } desired
            ? TypedResults.Text(desired.TextFor(node.Settings, renderer).Text, "text/plain", Encoding.UTF8)
            : TypedResults.Problem(title: "Nothing to run yet", detail: "There is no configuration.", statusCode: StatusCodes.Status503ServiceUnavailable);
    }

    private static readonly TimeSpan s_enrolIn = TimeSpan.FromHours(1);
    private static readonly TimeSpan s_enrolInAtMost = TimeSpan.FromDays(7);

    private static async Task<Results<Created<MadeEnrolment>, ProblemHttpResult>> Allow(NewEnrolment? body, HttpContext context, NodeTokens tokens, CancellationToken cancel)
    {
        if (body?.Name is { } name && !ConfigValidator.IsName(name)) return BadRequest("name: 1 to 48 of a-z 0-9 . _ -, a letter or digit at both ends");
        var lasts = s_enrolIn;
        if (body?.ExpiresIn is { } text)
        {
            if (Units.ParseDuration(text, out var reason) is not { } given) return BadRequest("expires_in: " + reason);
            if (given <= TimeSpan.Zero || given > s_enrolInAtMost) return BadRequest("expires_in: above 0s, and 7d at most");
            lasts = given;
        }

        return await tokens.AllowAsync(body?.Name, lasts, Caller.NameOf(context), cancel) is var (token, expiresAt)
            ? TypedResults.Created((string?)null, new MadeEnrolment(token, body?.Name, expiresAt))
            : TypedResults.Problem(title: "Conflict", detail: $"{NodeTokens.MostWaiting} one-time tokens wait already; they go when they expire.", statusCode: StatusCodes.Status409Conflict);
    }

    private static async Task<Results<NoContent, ProblemHttpResult>> Remove(string name, HttpContext context, NodeTokens tokens, Publisher publisher, ILogger<NodeTokens> log, CancellationToken cancel)
    {
        switch (await tokens.RemoveAsync(name, cancel))
        {
            case null:
                return NoSuch();
            case false:
                return TypedResults.Problem(title: "Conflict", statusCode: StatusCodes.Status409Conflict,
                    detail: "This node is live and shows the token that all share, which cannot be taken from one of them: end its agent first, or let it enrol.");
            default:
                NodeTokenLog.Removed(log, name, Caller.NameOf(context));
                publisher.Wake();
                return TypedResults.NoContent();
        }
    }

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);

    private static ProblemHttpResult NoSuch() => TypedResults.Problem(title: "Not found", detail: "There is no such node.", statusCode: StatusCodes.Status404NotFound);
}

/// <summary>Stored nodes, with their refusals, held against what they should run.</summary>
public sealed class NodeViews(NodeStore nodes, NodeMemory memory, NodeTokens tokens, DatabaseState database, DesiredState state, Renderer renderer)
{
    private volatile IReadOnlyDictionary<string, NodeReport> refusals = new Dictionary<string, NodeReport>();

    public Task<IReadOnlyList<NodeView>> ListAsync(CancellationToken cancel) => ListAsync(state.Current, cancel);

    /// <param name="desired">What the nodes are judged against; null: nothing was published yet.</param>
    /// <param name="cancel">Up to the answer.</param>
    public async Task<IReadOnlyList<NodeView>> ListAsync(Desired? desired, CancellationToken cancel)
    {
        if (!database.IsAway) refusals = await database.AskAsync(nodes.RefusalsAsync, cancel);
        var views = new List<NodeView>();
        foreach (var node in database.IsAway ? memory.Nodes : await database.AskAsync(nodes.ListAsync, cancel))
        {
            views.Add(View(node, await tokens.EnrolledAtAsync(node.Name, cancel), desired, refusals.GetValueOrDefault(node.Name)));
        }
        return views;
    }

    private NodeView View(Node node, DateTime? enrolledAt, Desired? desired, NodeReport? refusal)
    {
        var text = desired?.TextFor(node.Settings, renderer).Digest;
        var active = node.Status?.ActiveWorkers.ToList() ?? [];
        return new NodeView
        {
            Name = node.Name,
            Live = node.Live,
            Acknowledged = desired is not null && node.Live && node.Status is { } status && status.Runs(desired.Snapshot, text),
            Revision = active.Count == 0 ? 0 : active.Min(worker => worker.Revision),
            TextDigest = active.Select(worker => worker.TextDigest).Distinct().ToList() is [var only] ? only : null,
            DesiredTextDigest = text,
            Workers = node.Status?.Workers ?? [],
            LastSeenAt = node.LastSeenAt,
            InFlight = node.Status?.InFlight,
            ClockSkewMs = node.Status?.ClockSkewMs,
            EnrolledAt = enrolledAt,
            AdminUrl = node.AdminUrl,
            EdgeListen = node.EdgeListen,
            AdminListen = node.AdminListen,
            Fault = node.Fault,
            LastRefusal = refusal is null ? null : new Refusal(refusal.Revision, refusal.Stage, refusal.Words, refusal.At, refusal.TextDigest),
        };
    }
}
