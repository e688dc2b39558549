using Microsoft.AspNetCore.Diagnostics;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>A request that fails because the database does not answer is told so: 503, try again.</summary>
internal sealed class DatabaseAway(IProblemDetailsService problems, ILogger<DatabaseAway> log) : IExceptionHandler
{
    public async ValueTask<bool> TryHandleAsync(HttpContext context, Exception exception, CancellationToken cancel)
    {
        if (exception is not NpgsqlException || exception is PostgresException { SqlState: not ['5', '7', ..] and not ['0', '8', ..] and not ['5', '3', ..] })
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
