using Microsoft.AspNetCore.Diagnostics;
using Npgsql;

namespace Evenkeel.Database;

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
        return await problems.TryWriteAsync(new ProblemDetailsContext
        {
            HttpContext = context,
            ProblemDetails = { Status = 503, Title = "The database is away", Detail = "Nothing was changed. Traffic through the nodes is not affected." },
        });
    }
}
