using Evenkeel.Config;
using Microsoft.AspNetCore.Diagnostics;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>
/// A text that PostgreSQL cannot keep, such as one with a NUL in it, is the caller's fault: 400. In an address it is found before anybody
/// looks at it, with all other control characters but tab and line ends; in a body, at the latest, when the database refuses it.
/// </summary>
internal sealed class NoText(IProblemDetailsService problems) : IExceptionHandler
{
    public async ValueTask<bool> TryHandleAsync(HttpContext context, Exception exception, CancellationToken cancel)
    {
        if (exception is not PostgresException { SqlState: PostgresErrorCodes.CharacterNotInRepertoire or PostgresErrorCodes.UntranslatableCharacter })
        {
            return false;
        }

        context.Response.StatusCode = StatusCodes.Status400BadRequest;
        return await problems.TryWriteAsync(new ProblemDetailsContext
        {
            HttpContext = context,
            ProblemDetails = { Status = 400, Title = "Bad request", Detail = "A text of the body has a character that is none, such as NUL. Nothing was changed." },
        });
    }
}

internal static class RefusalOfControlCharacters
{
    public static void UseRefusalOfControlCharacters(this IApplicationBuilder app) => app.Use((context, next) =>
        context.GetEndpoint() is not null && WhereIn(context.Request) is { } name
            ? TypedResults.Problem(title: "Bad request", detail: $"{Units.Shown(name)}: has control characters", statusCode: StatusCodes.Status400BadRequest).ExecuteAsync(context)
            : next(context));

    // The parameter of path or query that has some.
    private static string? WhereIn(HttpRequest request) =>
        request.RouteValues.FirstOrDefault(value => HasSome(value.Value as string)).Key
        ?? request.Query.FirstOrDefault(value => value.Value.Any(HasSome)).Key;

    private static bool HasSome(string? text) => text is not null && text.Any(c => char.IsControl(c) && c is not ('\t' or '\n' or '\r'));
}
