using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Mvc;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>Whether the database was away when it was last asked, which is twice a second.</summary>
public sealed class DatabaseState
{
    private volatile bool isAway;

    public bool IsAway { get => isAway; set => isAway = value; }
}

/// <summary>A request that fails because the database does not answer is told so: 503, try again.</summary>
internal sealed class DatabaseAway(IProblemDetailsService problems, ILogger<DatabaseAway> log) : IExceptionHandler
{
    // Classes of SQLSTATE that speak of the server or the way to it: connection, authorisation, no such database,
    // resources, not in a usable state, operator intervention.
    private static readonly string[] s_away = ["08", "28", "3D", "53", "55", "57"];

    public async ValueTask<bool> TryHandleAsync(HttpContext context, Exception exception, CancellationToken cancel)
    {
        if (exception is not NpgsqlException || exception is PostgresException { SqlState: var state } && !s_away.Contains(state[..2]))
        {
            return false;
        }

        DatabaseLog.Away(log, exception.Message);
        context.Response.StatusCode = StatusCodes.Status503ServiceUnavailable;
        context.Response.Headers.RetryAfter = "2";
        return await problems.TryWriteAsync(new ProblemDetailsContext { HttpContext = context, ProblemDetails = Problem() });
    }

    internal static ProblemDetails Problem() =>
        new() { Status = 503, Title = "The database is away", Detail = "Nothing was changed. Traffic through the nodes is not affected." };
}

internal static class WritesWhileAway
{
    /// <summary>Changes are refused at once while the database is away: one that hangs would keep its callers for as long as they have patience.</summary>
    public static void UseRefusalOfWritesWhileAway(this IApplicationBuilder app) => app.Use(async (context, next) =>
    {
        var isWrite = HttpMethods.IsPut(context.Request.Method) || HttpMethods.IsPatch(context.Request.Method) || HttpMethods.IsDelete(context.Request.Method);
        if (!isWrite || !context.Request.Path.StartsWithSegments("/api/v1") || !context.RequestServices.GetRequiredService<DatabaseState>().IsAway)
        {
            await next(context);
            return;
        }
        context.Response.Headers.RetryAfter = "2";
        await TypedResults.Problem(DatabaseAway.Problem()).ExecuteAsync(context);
    });
}
