using Evenkeel.Audit;
using Evenkeel.Database;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;

namespace Evenkeel.Auth;

/// <param name="Token">An admin token.</param>
public sealed record NewSession(string Token);

/// <summary>Who the caller is.</summary>
/// <param name="Name">The token's.</param>
/// <param name="Role">What it may do.</param>
/// <param name="By">"session" or "token".</param>
/// <param name="ExpiresAt">Absent: never.</param>
/// <param name="Areas">What the token is bound to; absent: nothing, it is for all areas.</param>
public sealed record SessionView(string Name, Role Role, string By, DateTime? ExpiresAt, IReadOnlyList<Area>? Areas);

/// <summary>
/// A browser shows a token once and gets a cookie: HttpOnly, SameSite=Strict, Secure over https, for twelve hours at most, revocable
/// here. Only its hash is stored.
/// </summary>
public static class SessionEndpoints
{
    private const int BodyMaxBytes = 16 * 1024;

    public static void MapSession(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/session").WithTags("session").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapPost("", Open).WithName("openSession").AllowAnonymous().WithMetadata(new RequestSizeLimitAttribute(BodyMaxBytes))
            .WithSummary("A token for a session cookie. Changes by cookie need the header x-evenkeel-csrf: 1.")
            .Produces<SessionView>()
            .ProducesProblem(StatusCodes.Status400BadRequest)
            .ProducesProblem(StatusCodes.Status429TooManyRequests);
        group.MapGet("", Get).WithName("getSession").WithMetadata(new AnswersFromMemory()).WithSummary("Who the caller is, and what it may do.");
        group.MapDelete("", Close).WithName("closeSession").WithMetadata(new ChangesNothing()).RequireRole(Role.Viewer).WithSummary("Ends the session.");
    }

    // Cookies know no ports: two stacks on one machine need two names.
    private static string CookieName(HttpRequest request) => $"evenkeel_session_{request.Host.Port ?? 0}";

    internal static string? CookieOf(HttpRequest request) =>
        request.Cookies[CookieName(request)] is { Length: > 0 and <= 128 } cookie ? cookie : null;

    private static async Task<IResult> Open(NewSession body, HttpContext context, AdminTokens tokens, CancellationToken cancel)
    {
        if (body.Token is not { Length: > 0 and <= 4096 })
        {
            return TypedResults.Problem(title: "Bad request", detail: "token: 1 to 4096 characters", statusCode: StatusCodes.Status400BadRequest);
        }

        if (await tokens.ByTokenAsync(BearerTokens.Hash(body.Token.Trim()), cancel) is not { } caller)
        {
            await Gate.RefuseAsync(context, "This is no admin token in force.");
            return TypedResults.Empty;
        }

        var (cookie, expiresAt) = await tokens.OpenSessionAsync(caller, cancel);
        context.Response.Cookies.Append(CookieName(context.Request), cookie, Options(context.Request, expiresAt));
        return TypedResults.Ok(new SessionView(caller.Name, caller.Role, "session", expiresAt, caller.Areas));
    }

    private static Ok<SessionView> Get(HttpContext context)
    {
        var caller = Caller.Of(context)!;
        return TypedResults.Ok(new SessionView(caller.Name, caller.Role, caller.SessionHash is null ? "token" : "session", caller.ExpiresAt, caller.Areas));
    }

    private static async Task<NoContent> Close(HttpContext context, AdminTokens tokens, CancellationToken cancel)
    {
        if (Caller.Of(context)?.SessionHash is { } session)
        {
            await tokens.CloseSessionAsync(session, cancel);
            context.Response.Cookies.Delete(CookieName(context.Request), Options(context.Request, null));
        }

        return TypedResults.NoContent();
    }

    private static CookieOptions Options(HttpRequest request, DateTime? expires) => new()
    {
        HttpOnly = true,
        SameSite = SameSiteMode.Strict,
        Secure = request.IsHttps,
        Path = "/",
        Expires = expires,
    };
}
