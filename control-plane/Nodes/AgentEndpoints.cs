using System.Net;
using System.Text;
using Evenkeel.Audit;
using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;
using Npgsql;

namespace Evenkeel.Nodes;

/// <summary>
/// What nginx/agent.sh calls, in plain text and headers: the text that its node should run, by long poll, and what became of it.
/// The text comes from memory, so that an agent is served while the database is away.
/// </summary>
public static class AgentEndpoints
{
    private const int WordsMaxBytes = 16 * 1024;
    private const int TokenMaxBytes = 1024;
    private const double WaitMaxS = 30;
    private static readonly TimeSpan RegisterTimeout = TimeSpan.FromSeconds(2);

    public static RouteGroupBuilder MapAgents(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/node/v1/{node}").WithTags("agents").RequireNodeToken().ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("/nginx.conf", GetText).WithName("getNodeText").WithMetadata(new AnswersFromMemory())
            .WithSummary("The nginx.conf that this node should run; 204 when it has it already.")
            .Produces<string>(StatusCodes.Status200OK, "text/plain")
            .Produces(StatusCodes.Status204NoContent)
            .ProducesProblem(StatusCodes.Status400BadRequest)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
        group.MapPost("/reports", PostReport).WithName("postNodeReport")
            .WithSummary("What became of a text, with nginx's own words as the body.")
            .Accepts<string>("text/plain")
            .ProducesProblem(StatusCodes.Status400BadRequest)
            .ProducesProblem(StatusCodes.Status404NotFound);
        app.MapPost("/node/v1/enrol", Enrol).WithTags("agents").WithName("enrolNode").AllowAnonymous().WithMetadata(new RequestSizeLimitAttribute(TokenMaxBytes))
            .WithSummary("Gives a node its own token, which is the body, by a one-time token (Bearer). Once more with the same is well.")
            .Accepts<string>("text/plain")
            .Produces(StatusCodes.Status204NoContent)
            .ProducesProblem(StatusCodes.Status400BadRequest)
            .ProducesProblem(StatusCodes.Status401Unauthorized)
            .ProducesProblem(StatusCodes.Status403Forbidden)
            .ProducesProblem(StatusCodes.Status409Conflict)
            .ProducesProblem(StatusCodes.Status429TooManyRequests)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
        return group;
    }

    // The one-time token is judged here: there is no node yet whose token the gate could ask for.
    private static async Task<IResult> Enrol([FromQuery(Name = "node")] string node, HttpContext context, NodeTokens tokens, AuditLog audit, ILogger<NodeTokens> log)
    {
        var cancel = context.RequestAborted;
        if (BearerTokens.HashOf(Gate.OnlyAuthorization(context)) is not { } hash)
        {
            await Gate.RefuseAsync(context, "This needs a one-time token: ./evenkeel node token.");
            return TypedResults.Empty;
        }
        var body = new byte[TokenMaxBytes];
        var length = await context.Request.Body.ReadAtLeastAsync(body, body.Length, throwOnEndOfStream: false, cancel);
        var token = Encoding.ASCII.GetString(body, 0, length).Trim();
        if (!ConfigValidator.IsName(node)) return BadRequest("node: 1 to 48 of a-z 0-9 . _ -, a letter or digit at both ends");
        if (!NodeTokens.IsFit(token)) return BadRequest("the body is the node's token: 256 random bits, 43 to 200 of A-Z a-z 0-9 _ -");

        var result = await tokens.EnrolAsync(hash, node, token, cancel);
        if (result == Enrolment.Unknown)
        {
            await Gate.RefuseAsync(context, "This is no one-time token in force: it has been used, or has expired.");
            return TypedResults.Empty;
        }
        IResult answer = result switch
        {
            Enrolment.Done => TypedResults.NoContent(),
            Enrolment.ForAnother => TypedResults.Problem(title: "Forbidden", detail: "This one-time token was made for another node.", statusCode: StatusCodes.Status403Forbidden),
            Enrolment.Taken => TypedResults.Problem(title: "Conflict", detail: "There is a node of this name. To let it enrol anew, make a one-time token with its name.", statusCode: StatusCodes.Status409Conflict),
            _ => BadRequest("the body: this token is in use already"),
        };
        if (result == Enrolment.Done) NodeTokenLog.Enrolled(log, node);
        else NodeTokenLog.NotEnrolled(log, node, result.ToString());
        await audit.NoteNodeAsync(context, node, (answer as IStatusCodeHttpResult)?.StatusCode ?? 0);
        return answer;
    }

    private sealed record TextQuery(
        string Node,
        [FromQuery(Name = "admin_listen")] string AdminListen,
        [FromQuery(Name = "admin_url")] string AdminUrl,
        [FromQuery(Name = "edge_listen")] string? EdgeListen,
        [FromQuery(Name = "workers")] string? Workers,
        [FromQuery(Name = "have")] string? Have,
        [FromQuery(Name = "wait_s")] double? WaitS);

    private static async Task<IResult> GetText(
        [AsParameters] TextQuery query, HttpContext context, DesiredState state, Renderer renderer, NodeStore nodes, NodeTokens tokens, DatabaseState database, Publisher publisher, TimeProvider time, ILogger<Publisher> log)
    {
        var cancel = context.RequestAborted;
        Node node;
        try
        {
            node = new Node
            {
                Name = NginxQuote.Identifier(query.Node),
                AdminUrl = query.AdminUrl,
                AdminListen = NginxQuote.Listen(query.AdminListen),
                EdgeListen = string.IsNullOrEmpty(query.EdgeListen) ? null : NginxQuote.Listen(query.EdgeListen),
                Workers = string.IsNullOrEmpty(query.Workers) ? null : NginxQuote.Workers(query.Workers),
            };
        }
        catch (FormatException refused)
        {
            return BadRequest($"node, admin_listen, edge_listen or workers: {refused.Message}");
        }
        if (!Uri.TryCreate(query.AdminUrl, UriKind.Absolute, out var adminUrl) || adminUrl.Scheme is not ("http" or "https") || adminUrl.UserInfo.Length > 0 || query.AdminUrl.Length > 512)
            return BadRequest("admin_url: not an absolute http or https URL");
        var settings = node.Settings;
        if (!settings.AdminTls && IsForAllToSee(settings.AdminListen, adminUrl))
            return BadRequest("admin_listen: without TLS (EVENKEEL_ADMIN_CERT_FILE), the admin listener's token and the provider keys may only go over loopback or a private address");

        await RegisterAsync(node, nodes, database, publisher, log, cancel);

        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var wait = TimeSpan.FromSeconds(Math.Clamp(query.WaitS is { } s && double.IsFinite(s) ? s : 0, 0, WaitMaxS));
        var over = Task.Delay(wait, time, patience.Token);
        while (true)
        {
            var changed = state.Changed;
            if (state.Current is { } desired && desired.TextFor(settings, renderer) is var text && text.Digest != query.Have)
            {
                patience.Cancel();
                if (!await tokens.AcceptsAsync(query.Node, Gate.OnlyAuthorization(context), cancel))      // removed while it waited
                {
                    await Gate.RefuseAsync(context, "This node was removed.");
                    return TypedResults.Empty;
                }
                context.Response.Headers["X-Evenkeel-Revision"] = desired.Revision.ToString();
                context.Response.Headers["X-Evenkeel-Text-Digest"] = text.Digest;
                return TypedResults.Text(text.Text, "text/plain", Encoding.UTF8);
            }
            if (await Task.WhenAny(changed, over) == over)
            {
                cancel.ThrowIfCancellationRequested();
                return state.Current is null
                    ? TypedResults.Problem(title: "Nothing to run yet", detail: "There is no configuration. Put one to /api/v1/config.", statusCode: StatusCodes.Status503ServiceUnavailable)
                    : TypedResults.NoContent();
            }
        }
    }

    // "*" is as private as the address by which it is called; a name is the operator's word.
    private static bool IsForAllToSee(string listen, Uri adminUrl)
    {
        static bool IsPublic(string host) => IPAddress.TryParse(host.Trim('[', ']'), out var address) && !TargetAddress.IsPrivate(address);
        var host = listen[..listen.LastIndexOf(':')];
        return host is not ("*" or "0.0.0.0" or "[::]") && IsPublic(host) || IsPublic(adminUrl.Host);
    }

    private static async Task RegisterAsync(Node node, NodeStore nodes, DatabaseState database, Publisher publisher, ILogger log, CancellationToken cancel)
    {
        if (database.IsAway) return;
        try
        {
            var isNews = false;
            await database.AskAsync(async asked => isNews = await nodes.SeenAsync(node, asked), RegisterTimeout, cancel);
            if (isNews)
            {
                PublishingLog.NodeSeen(log, node.Name, node.AdminUrl);
                publisher.Wake();
            }
        }
        catch (NpgsqlException away)
        {
            PublishingLog.NotRegistered(log, node.Name, away.Message);
        }
    }

    private sealed record ReportQuery(
        string Node,
        [FromQuery(Name = "revision")] long Revision,
        [FromQuery(Name = "text_digest")] string TextDigest,
        [FromQuery(Name = "result")] string Result,
        [FromQuery(Name = "stage")] string Stage);

    private static async Task<Results<NoContent, ProblemHttpResult>> PostReport(
        [AsParameters] ReportQuery query, HttpContext context, NodeStore nodes, Publisher publisher, ILogger<Publisher> log)
    {
        if (query.Result is not ("applied" or "refused") || query.Stage is not ("test" or "load" or "start") || query.TextDigest.Length > 64 || query.Revision < 0)
            return BadRequest("result is applied or refused, stage is test, load or start, text_digest is a sha256");
        var words = new byte[WordsMaxBytes];
        var length = await context.Request.Body.ReadAtLeastAsync(words, words.Length, throwOnEndOfStream: false, context.RequestAborted);
        var report = new NodeReport { Revision = query.Revision, TextDigest = query.TextDigest, Result = query.Result, Stage = query.Stage, Words = Encoding.UTF8.GetString(words, 0, length) };
        if (!await nodes.ReportAsync(query.Node, report, context.RequestAborted))
            return TypedResults.Problem(title: "Not found", detail: "There is no such node: it has to ask for its text first.", statusCode: StatusCodes.Status404NotFound);
        if (report.Result == "refused") PublishingLog.Refused(log, query.Node, report.Revision, report.Stage, report.Words);
        else PublishingLog.Applied(log, query.Node, report.Revision, report.Stage);
        publisher.Wake();
        return TypedResults.NoContent();
    }

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);
}
