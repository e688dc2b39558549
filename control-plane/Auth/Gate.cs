using System.Globalization;
using Evenkeel.Audit;
using Evenkeel.Nodes;
using Microsoft.AspNetCore.Authorization;

namespace Evenkeel.Auth;

/// <summary>What a caller has to be for an endpoint; without it a read takes a viewer, and everything else an admin.</summary>
public sealed record NeedsRole(Role Role);

/// <summary>
/// Who may pass. Every endpoint needs a token unless it says AllowAnonymous, so that a new endpoint cannot be open by oversight: the
/// nodes' for theirs, else a bearer token or a session's cookie with the role and the area that it takes. A change by cookie needs the
/// header x-evenkeel-csrf: 1, which a foreign page cannot send.
/// </summary>
public static class Gate
{
    public const string CsrfHeader = "x-evenkeel-csrf";

    /// <summary>Put after routing: it looks at the endpoint that was chosen.</summary>
    public static void UseGate(this IApplicationBuilder app) => app.Use(async (context, next) =>
    {
        var endpoint = context.GetEndpoint();
        if (endpoint is null || endpoint.Metadata.GetMetadata<IAllowAnonymous>() is not null)
        {
            await next(context);
            return;
        }

        if (endpoint.Metadata.GetMetadata<TokenAudience>()?.Audience == Audience.Node)
        {
            var node = context.GetRouteValue("node") as string ?? "";
            if (await context.RequestServices.GetRequiredService<NodeTokens>().AcceptsAsync(node, OnlyAuthorization(context), context.RequestAborted))
            {
                await next(context);
            }
            else
            {
                await RefuseAsync(context, "This needs the bearer token of this very node.");
            }

            return;
        }

        if (await CallerOfAsync(context) is not { } caller)
        {
            await RefuseAsync(context, WhyNobody(context));
            return;
        }

        caller.SignIn(context);
        var isChange = IsChange(context.Request.Method);
        if (isChange && caller.SessionHash is not null && !IsOwnPage(context.Request))
        {
            await ForbidAsync(context, $"A change by session needs the header {CsrfHeader}: 1, sent by a page of this very address.");
            return;
        }

        var needed = endpoint.Metadata.GetMetadata<NeedsRole>()?.Role ?? (isChange ? Role.Admin : Role.Viewer);
        if (caller.Role < needed)
        {
            await ForbidAsync(context, $"This needs the role {needed.ToString().ToLowerInvariant()}; yours is {caller.Role.ToString().ToLowerInvariant()}.");
        }
        else if (!Areas.Allow(caller.Areas, endpoint))
        {
            var area = Areas.Of(endpoint) is { } one ? $"the area {Areas.Words([one])}" : "a token for all areas";
            await ForbidAsync(context, $"This needs {area}; this token is bound to {Areas.Words(caller.Areas!)}.");
        }
        else
        {
            await next(context);
        }

        await context.RequestServices.GetRequiredService<AuditLog>().NoteAsync(context, caller, needed);
    });

    /// <summary>The endpoints of this group, whose path names a {node}, take that node's token.</summary>
    public static T RequireNodeToken<T>(this T builder) where T : IEndpointConventionBuilder => builder.WithMetadata(new TokenAudience(Audience.Node));

    /// <summary>The least that a caller has to be.</summary>
    public static T RequireRole<T>(this T builder, Role role) where T : IEndpointConventionBuilder => builder.WithMetadata(new NeedsRole(role));

    /// <summary>401, or 429 when too many came from there that were refused.</summary>
    public static Task RefuseAsync(HttpContext context, string detail)
    {
        var time = context.RequestServices.GetRequiredService<TimeProvider>();
        var source = context.Connection.RemoteIpAddress;
        if (context.RequestServices.GetRequiredService<FailureLimiter>().Add(source, time.GetElapsedTime(0)) is { } wait_s)
        {
            context.Response.Headers.RetryAfter = wait_s.ToString(CultureInfo.InvariantCulture);
            return TypedResults.Problem(title: "Too many requests", statusCode: StatusCodes.Status429TooManyRequests,
                detail: "Too many calls without a valid token came from this address. A valid one is always let in.").ExecuteAsync(context);
        }

        AuthLog.Refused(context.RequestServices.GetRequiredService<ILoggerFactory>().CreateLogger("Evenkeel.Auth"),
            SourceOf(context), context.Request.Method, Config.Units.Shown(context.Request.Path));
        context.Response.Headers.WWWAuthenticate = "Bearer";
        return TypedResults.Problem(title: "Unauthorized", statusCode: StatusCodes.Status401Unauthorized, detail: detail).ExecuteAsync(context);
    }

    internal static string SourceOf(HttpContext context) => context.Connection.RemoteIpAddress?.ToString() ?? "local";

    internal static bool IsChange(string method) => !(HttpMethods.IsGet(method) || HttpMethods.IsHead(method) || HttpMethods.IsOptions(method));

    private static Task ForbidAsync(HttpContext context, string detail) =>
        TypedResults.Problem(title: "Forbidden", statusCode: StatusCodes.Status403Forbidden, detail: detail).ExecuteAsync(context);

    // A header that is there is judged, and no cookie makes up for it.
    private static async Task<Caller?> CallerOfAsync(HttpContext context)
    {
        var tokens = context.RequestServices.GetRequiredService<AdminTokens>();
        if (context.Request.Headers.Authorization.Count > 0)
        {
            return BearerTokens.HashOf(OnlyAuthorization(context)) is { } hash ? await tokens.ByTokenAsync(hash, context.RequestAborted) : null;
        }

        return SessionEndpoints.CookieOf(context.Request) is { } cookie ? await tokens.BySessionAsync(cookie, context.RequestAborted) : null;
    }

    // Which of them it was, nobody learns: a token that was in force once is no more worth than one that never was.
    private static string WhyNobody(HttpContext context) =>
        context.Request.Headers.Authorization.Count > 0
            ? BearerTokens.HashOf(OnlyAuthorization(context)) is null
                ? "The header authorization is to be: Bearer, and an admin token."
                : "This admin token is not known: revoked, expired or of another installation."
        : SessionEndpoints.CookieOf(context.Request) is not null ? "This session is over; sign in again."
        : "This needs an admin token or a session.";

    internal static string? OnlyAuthorization(HttpContext context) =>
        context.Request.Headers.Authorization is { Count: 1 } only ? only[0] : null;

    // The header makes a browser ask first (CORS), and the answer here is never yes. Sec-Fetch-Site says it once more where it is sent.
    internal static bool IsOwnPage(HttpRequest request) =>
        request.Headers[CsrfHeader] == "1" && request.Headers["Sec-Fetch-Site"].ToString() is "" or "same-origin" or "none";
}
