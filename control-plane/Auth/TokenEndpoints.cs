using System.Text.RegularExpressions;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Auth;

/// <param name="Name">1 to 48 of a-z 0-9 . _ -, unique.</param>
/// <param name="Role">What it may do.</param>
/// <param name="ExpiresAt">In the future; absent: never.</param>
/// <param name="Areas">What it is bound to; absent: nothing, it is for all areas.</param>
public sealed record NewAdminToken(string Name, Role Role, DateTimeOffset? ExpiresAt = null, IReadOnlyList<Area>? Areas = null);

/// <param name="Token">Shown this once.</param>
/// <param name="Name">As asked for.</param>
/// <param name="Role">As asked for.</param>
/// <param name="ExpiresAt">Absent: never.</param>
/// <param name="Areas">Absent: all.</param>
public sealed record MadeAdminToken(string Token, string Name, Role Role, DateTime? ExpiresAt, IReadOnlyList<Area>? Areas);

/// <summary>Tokens for people and programs that steer the gateway. Stored hashed; the operator's first token (by file) is none of them.</summary>
public static partial class TokenEndpoints
{
    public static void MapTokens(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/tokens").WithTags("tokens").RequireRole(Role.Admin)
            .ProducesProblem(StatusCodes.Status401Unauthorized).ProducesProblem(StatusCodes.Status403Forbidden);
        group.MapGet("", List).WithName("listTokens").WithSummary("All tokens, revoked and expired ones too; never the tokens themselves.");
        group.MapPost("", Add).WithName("addToken").WithSummary("Makes a token and shows it, once.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status409Conflict);
        group.MapDelete("/{name}", Revoke).WithName("revokeToken").WithSummary("Ends a token and its sessions: here at once, at other control planes within a second.")
            .ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static async Task<Ok<IReadOnlyList<AdminToken>>> List(AdminTokens tokens, CancellationToken cancel) => TypedResults.Ok(await tokens.ListAsync(cancel));

    private static async Task<Results<Created<MadeAdminToken>, ProblemHttpResult>> Add(NewAdminToken body, HttpContext context, AdminTokens tokens, TimeProvider time, CancellationToken cancel)
    {
        if (body.Name is null || !Name().IsMatch(body.Name) || body.Name == AdminTokens.BootstrapName)
        {
            return BadRequest($"name: 1 to 48 of a-z 0-9 . _ -, a letter or digit at both ends, and not \"{AdminTokens.BootstrapName}\", which is the operator's own");
        }

        if (body.ExpiresAt <= time.GetUtcNow())
        {
            return BadRequest("expires_at: is in the past");
        }

        if (body.Areas is { Count: 0 })
        {
            return BadRequest("areas: at least one, or none of this at all for every area");
        }

        // Whoever is bound cannot free himself by a token of his own making.
        if (Caller.Of(context)?.Areas is { } own && (body.Areas is null || body.Areas.Except(own).Any()))
        {
            return TypedResults.Problem(title: "Forbidden", detail: $"areas: this token is bound to {Areas.Words(own)}, and makes tokens for these only.", statusCode: StatusCodes.Status403Forbidden);
        }

        if (await tokens.AddAsync(body.Name, body.Role, body.Areas?.Distinct().ToList(), body.ExpiresAt?.UtcDateTime, Caller.NameOf(context), cancel) is var (token, row))
        {
            return TypedResults.Created($"/api/v1/tokens/{row.Name}", new MadeAdminToken(token, row.Name, row.Role, row.ExpiresAt, row.Areas));
        }

        return TypedResults.Problem(title: "Conflict", statusCode: StatusCodes.Status409Conflict, detail: (await tokens.ListAsync(cancel)).Any(other => other.Name == body.Name)
            ? $"The name \"{body.Name}\" is taken by another token."
            : $"There are {AdminTokens.MostTokens} tokens, no more are kept; the name of one that is revoked or expired may be used anew.");
    }

    private static async Task<Results<NoContent, ProblemHttpResult>> Revoke(string name, AdminTokens tokens, CancellationToken cancel) =>
        await tokens.RevokeAsync(name, cancel) ? TypedResults.NoContent() : Config.ConfigApi.NotFound($"There is no token \"{Config.Units.Shown(name)}\".");

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);

    [GeneratedRegex(@"^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?\z")]
    private static partial Regex Name();
}
