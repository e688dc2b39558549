using Evenkeel.Config;
using Evenkeel.Database;
using Microsoft.AspNetCore.Http.HttpResults;
using Npgsql;

namespace Evenkeel.Reports;

/// <summary>A view of the schema report.</summary>
/// <param name="Name">As in SQL: report.NAME.</param>
/// <param name="Description">What a row is.</param>
/// <param name="TimeColumn">What from and to are about; absent: the report is of all time.</param>
/// <param name="Csv">Where its rows are.</param>
public sealed record ReportView(string Name, string Description, string? TimeColumn, string Csv);

/// <summary>The views of docs/reports.md as CSV.</summary>
public static class ReportEndpoints
{
    private const int MostRows = 100_000;
    private static readonly TimeSpan Longest = TimeSpan.FromDays(400);
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(60);

    private static readonly ReportView[] All =
    [
        Of("audit", "Who changed what, when, from where; and who tried to.", "at"),
        Of("availability_daily", "The share of each UTC day that an instance was not out, and that a pool had one that was not.", "day"),
        Of("cost_daily", "Tokens and money per UTC day.", "day"),
        Of("error_timeline", "Outcomes per minute: of attempts at instances, and of requests as clients got them.", "at"),
        Of("failovers", "Each time that traffic went elsewhere.", "at"),
        Of("incidents", "What went wrong, since when, until when, why, and what it cost.", "since"),
        Of("mttr_by_instance", "How long repairs take.", null),
        Of("request_trace", "Why did request X go where: a row for each attempt.", "at"),
    ];

    public static void MapReports(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/reports").WithTags("reports").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", () => TypedResults.Ok<IReadOnlyList<ReportView>>(All)).WithName("listReports").WithMetadata(new AnswersFromMemory()).WithSummary("The reports there are.");
        group.MapGet("/{name}.csv", Export).WithName("exportReport")
            .WithSummary("One report as CSV (RFC 4180), oldest first. from and to: by default the last 30 days, 400 at most; limit: rows, 100000 at most and by default; X-Evenkeel-Row-Limit says where it ends. Four run at once; one that is not read within ten minutes is cut off.")
            .Produces<string>(StatusCodes.Status200OK, "text/csv")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status404NotFound).ProducesProblem(StatusCodes.Status503ServiceUnavailable);
    }

    private static ReportView Of(string name, string description, string? timeColumn) => new(name, description, timeColumn, $"/api/v1/reports/{name}.csv");

    private static async Task<Results<PushStreamHttpResult, ProblemHttpResult>> Export(
        string name, NpgsqlDataSource database, Exports exports, HttpContext context, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null, int limit = MostRows)
    {
        if (Array.Find(All, report => report.Name == name) is not { } found) return ConfigApi.NotFound("There is no such report; GET /api/v1/reports lists them.");
        var end = to?.UtcDateTime ?? time.GetUtcNow().UtcDateTime.AddMinutes(1);
        var begin = from?.UtcDateTime ?? end - TimeSpan.FromDays(30);
        if (begin >= end || end - begin > Longest) return BadRequest("from must lie before to, by 400 days at most");
        if (limit is < 1 or > MostRows) return BadRequest($"limit: 1 to {MostRows}");

        if (exports.TryBegin(cancel) is not { } running)
        {
            context.Response.Headers.RetryAfter = "10";
            return TypedResults.Problem(title: "Busy", detail: $"{exports.AtOnce} reports are being written, no more at once; try again in some seconds.", statusCode: StatusCodes.Status503ServiceUnavailable);
        }
        context.Response.RegisterForDispose(running);

        // Opened here, so that a database that is away is told as such and not in the middle of a file.
        var connection = await database.OpenConnectionAsync(running.Over);
        context.Response.RegisterForDisposeAsync(connection);
        var command = connection.CreateCommand();
        context.Response.RegisterForDisposeAsync(command);
        command.CommandTimeout = (int)Timeout.TotalSeconds;
        var (where, order) = found.TimeColumn switch
        {
            null => ("", "1"),
            "day" => ("where day >= ($1 at time zone 'UTC')::date and day <= (($2 - interval '1 microsecond') at time zone 'UTC')::date", "day, 2"),
            var column => ($"where {column} >= $1 and {column} < $2", column),
        };
        command.CommandText = $"select * from report.{found.Name} {where} order by {order} limit {limit}";
        if (found.TimeColumn is not null)
        {
            command.Parameters.Add(new NpgsqlParameter { Value = begin });
            command.Parameters.Add(new NpgsqlParameter { Value = end });
        }
        var reader = await command.ExecuteReaderAsync(running.Over);
        context.Response.RegisterForDisposeAsync(reader);
        context.Response.Headers["X-Evenkeel-Row-Limit"] = limit.ToString();
        return TypedResults.Stream(WriteAsync, "text/csv; charset=utf-8; header=present", $"{found.Name}.csv");

        async Task WriteAsync(Stream stream)
        {
            // What is cut off must not pass for a whole file, and a reader who does not read must not keep the connection.
            await using var breaking = running.Over.Register(() => { if (context.Response.HasStarted) context.Abort(); });
            await Csv.WriteAsync(reader, stream, running.Over);
        }
    }

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);
}
