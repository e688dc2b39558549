using Dapper;
using Microsoft.AspNetCore.Http.HttpResults;
using Npgsql;
using Quartz;

namespace Evenkeel.Database;

/// <summary>/healthz: the process is up. /readyz: it can do its work (database, migrations, scheduler).</summary>
public static class HealthEndpoints
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    public static void MapHealth(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("").AllowAnonymous().WithTags("health");
        group.MapGet("/healthz", () => TypedResults.Text("ok\n")).WithName("healthz").WithSummary("The process is up.")
            .Produces<string>(StatusCodes.Status200OK, "text/plain");
        group.MapGet("/readyz", Ready).WithName("readyz").WithSummary("Database, migrations and scheduler work.")
            .Produces<string>(StatusCodes.Status200OK, "text/plain")
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
    }

    private static async Task<Results<ContentHttpResult, ProblemHttpResult>> Ready(
        NpgsqlDataSource database, DatabaseState state, ISchedulerFactory schedulers, CancellationToken cancel)
    {
        try
        {
            await state.AskAsync(async asked =>
            {
                await using var connection = await database.OpenConnectionAsync(asked);
                await connection.ExecuteScalarAsync<long>(new CommandDefinition("select count(*) from revision where number < 0", cancellationToken: asked));
            }, Patience, cancel);
        }
        catch (NpgsqlException)
        {
            return Unready("the database does not answer");
        }

        var scheduler = await schedulers.GetScheduler(cancel);
        return scheduler.Status == SchedulerStatus.Running ? TypedResults.Text("ready\n") : Unready("the scheduler does not run");
    }

    private static ProblemHttpResult Unready(string why) =>
        TypedResults.Problem(title: "Not ready", detail: why, statusCode: StatusCodes.Status503ServiceUnavailable);
}
