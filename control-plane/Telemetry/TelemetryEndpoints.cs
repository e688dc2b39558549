using System.Net.ServerSentEvents;
using System.Runtime.CompilerServices;
using Evenkeel.Config;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>
/// What the dashboards show. Times: from (included) to to (excluded), by default the last hour. A step that is not on offer, would make
/// more than 2,000 points, or is finer than what is kept of that time becomes the next longer one; the answer says which.
/// </summary>
public static class TelemetryEndpoints
{
    private const int MostCells = 200_000;
    private static readonly TimeSpan LiveEvery = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan LiveAtMost = TimeSpan.FromMinutes(30);    // whoever may still listen comes again

    public static void MapTelemetry(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/telemetry").WithTags("telemetry")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("/latency", Latency).WithName("getLatency")
            .WithSummary("Percentiles over time and the distribution. measure: first_token, total or per_output_token; by: pool or instance; mode: stream or json.");
        group.MapGet("/errors", Errors).WithName("getErrors")
            .WithSummary("Outcomes over time. level: attempt (what instances answered) or request (what clients got).");
        group.MapGet("/heatmap", Heatmap).WithName("getHeatmap").WithSummary("Instances × time: attempts, failures, state and incidents.");
        group.MapGet("/cost", Cost).WithName("getCost").WithSummary("Money over time and against budgets. by: instance, client, model, pool, traffic or waste.");
        group.MapGet("/roi", Roi).WithName("getRoi").WithSummary("What redundancy cost, and what it saved.");
        group.MapGet("/live", Live).WithName("getLive").WithSummary("Server-sent events: one event \"state\" every 2 s.")
            .Produces<LiveView>(StatusCodes.Status200OK, "text/event-stream").ProducesProblem(StatusCodes.Status503ServiceUnavailable);

        var traces = app.MapGroup("/api/v1/traces").WithTags("telemetry")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status401Unauthorized);
        traces.MapGet("", Traces).WithName("listTraces")
            .WithSummary("Requests, newest first; before=ID goes on below ID. since: by default a day ago; limit: 1 to 500.");
        traces.MapGet("/{request_id}", Trace).WithName("getTrace").WithSummary("Why one request went where it went.").ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static async Task<Results<Ok<LatencyView>, ProblemHttpResult>> Latency(
        TelemetryQueries queries, DesiredState state, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null,
        [FromQuery(Name = "step_s")] int? stepS = null, string? pool = null, string? instance = null, string? mode = null, string? measure = null, string? by = null)
    {
        var asked = new Question(state, time);
        var window = asked.Window(from, to, stepS);
        var (wantedMeasure, wantedBy) = (asked.Word("measure", measure, LatencyMeasure.Total), asked.Word("by", by, LatencyBy.Pool));
        asked.Names(("pool", pool), ("instance", instance), ("mode", mode));
        return asked.Fault ?? (Results<Ok<LatencyView>, ProblemHttpResult>)TypedResults.Ok(await queries.LatencyAsync(window!, wantedMeasure, wantedBy, pool, instance, mode, cancel));
    }

    private static async Task<Results<Ok<ErrorsView>, ProblemHttpResult>> Errors(
        TelemetryQueries queries, DesiredState state, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null,
        [FromQuery(Name = "step_s")] int? stepS = null, string? pool = null, string? instance = null, string? level = null)
    {
        var asked = new Question(state, time);
        var window = asked.Window(from, to, stepS);
        var wanted = asked.Word("level", level, ErrorLevel.Attempt);
        asked.Names(("pool", pool), ("instance", instance));
        if (wanted == ErrorLevel.Request && instance is not null) asked.Refuse("instance: a request is not one instance's; use level=attempt");
        return asked.Fault ?? (Results<Ok<ErrorsView>, ProblemHttpResult>)TypedResults.Ok(await queries.ErrorsAsync(window!, wanted, pool, instance, cancel));
    }

    private static async Task<Results<Ok<HeatmapView>, ProblemHttpResult>> Heatmap(
        TelemetryQueries queries, DesiredState state, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null,
        [FromQuery(Name = "step_s")] int? stepS = null)
    {
        var asked = new Question(state, time);
        var instances = Math.Max(asked.Document.Instances.Count, 1);
        var window = asked.Window(from, to, stepS, Math.Clamp(MostCells / instances, 20, TelemetryWindow.MostPoints));
        return asked.Fault ?? (Results<Ok<HeatmapView>, ProblemHttpResult>)TypedResults.Ok(await queries.HeatmapAsync(window!, asked.Now, cancel));
    }

    private static async Task<Results<Ok<CostView>, ProblemHttpResult>> Cost(
        TelemetryQueries queries, Spending spending, DesiredState state, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null,
        [FromQuery(Name = "step_s")] int? stepS = null, string? by = null)
    {
        var asked = new Question(state, time);
        var window = asked.Window(from, to, stepS);
        var wanted = asked.Word("by", by, CostBy.Instance);
        if (asked.Fault is { } fault) return fault;
        var rows = await queries.CostAsync(window!, wanted, asked.Now, cancel);
        return TypedResults.Ok(new CostView(wanted, window!.StepS, window.From, window.To, rows, await spending.BudgetsAsync(asked.Document, cancel)));
    }

    private const string Method =
        "Minutes count as prevented when a pool's first choice (the heaviest instance of its first tier; of equally heavy ones the first in the configuration) was out (probe, breaker or blocked incident) or failed at least half of its calls, " +
        "while more than half of the pool's requests were answered. A minute counts once, however many pools it was prevented in. Saved = minutes / 60 × revenue per hour. " +
        "Redundancy = attempts that failed or were cut, probes and ghosts. Net = saved − redundancy, by gateway.exchange_rates.";

    private static async Task<Results<Ok<RoiView>, ProblemHttpResult>> Roi(
        TelemetryQueries queries, DesiredState state, TimeProvider time, CancellationToken cancel, DateTimeOffset? from = null, DateTimeOffset? to = null)
    {
        var asked = new Question(state, time);
        var window = asked.Window(from ?? (to ?? asked.Now) - TimeSpan.FromDays(30), to, null);
        if (asked.Fault is { } fault) return fault;
        var spent = await queries.SpentAsync(window!, cancel);
        var minutes = await queries.OutagePreventedMinutesAsync(window!.From, window.To, cancel);
        var gateway = asked.Document.Gateway;
        if (gateway.RevenuePerHour is not { } revenue) return TypedResults.Ok(new RoiView(window.From, window.To, spent, minutes, null, null, null, null, [], Method));
        var saved = TelemetryQueries.Money(revenue.Amount * minutes / 60);
        var (cost, unconverted) = ExchangeRates.Sum(spent.Select(row => (row.Redundancy, row.Currency)), revenue.Currency, gateway.ExchangeRates);
        return TypedResults.Ok(new RoiView(window.From, window.To, spent, minutes, revenue.Amount, revenue.Currency, saved, TelemetryQueries.Money(saved - cost), unconverted, Method));
    }

    private static Results<ServerSentEventsResult<LiveView>, ProblemHttpResult> Live(LiveFeed feed, TimeProvider time, IHostApplicationLifetime lifetime, HttpContext context)
    {
        if (!feed.Join()) return TypedResults.Problem(title: "Too many listeners", detail: "Others listen already.", statusCode: StatusCodes.Status503ServiceUnavailable);
        context.Response.OnCompleted(() =>
        {
            feed.Leave();
            return Task.CompletedTask;
        });
        context.Response.Headers["X-Accel-Buffering"] = "no";
        return TypedResults.ServerSentEvents(States(feed, time, context.RequestAborted, lifetime.ApplicationStopping));
    }

    private static async IAsyncEnumerable<SseItem<LiveView>> States(LiveFeed feed, TimeProvider time, CancellationToken gone, CancellationToken stopping, [EnumeratorCancellation] CancellationToken cancel = default)
    {
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(gone, stopping, cancel);
        ending.CancelAfter(LiveAtMost);
        while (!ending.IsCancellationRequested)
        {
            LiveView? view = null;
            try
            {
                view = await feed.CurrentAsync(ending.Token);
            }
            catch (Exception over) when (over is OperationCanceledException or NpgsqlException)
            {
                // Gone, or the database is away: who comes again is told.
            }
            if (view is null) yield break;
            yield return new SseItem<LiveView>(view, "state");
            await Task.Delay(LiveEvery, time, ending.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private static async Task<Results<Ok<IReadOnlyList<TraceView>>, ProblemHttpResult>> Traces(
        TelemetryQueries queries, DesiredState state, TimeProvider time, CancellationToken cancel, string? pool = null, string? instance = null, string? outcome = null, string? client = null,
        DateTimeOffset? since = null, long before = long.MaxValue, int limit = 50)
    {
        var asked = new Question(state, time);
        asked.Names(("pool", pool), ("instance", instance), ("outcome", outcome), ("client", client));
        if (limit is < 1 or > 500) asked.Refuse("limit: 1 to 500");
        return asked.Fault ?? (Results<Ok<IReadOnlyList<TraceView>>, ProblemHttpResult>)TypedResults.Ok(await queries.TracesAsync(
            new TraceFilter(pool, instance, outcome, client, since?.UtcDateTime ?? asked.Now.AddDays(-1), before, limit), cancel));
    }

    private static async Task<Results<Ok<TraceView>, ProblemHttpResult>> Trace([FromRoute(Name = "request_id")] string requestId, TelemetryQueries queries, CancellationToken cancel) =>
        requestId.Length <= 200 && !requestId.Contains('\0') && await queries.TraceAsync(requestId, cancel) is { } found
            ? TypedResults.Ok(found)
            : ConfigApi.NotFound("No such request is kept: requests that go well are sampled, and all are forgotten after a while.");

    /// <summary>The parameters of one call, checked; the first fault is the answer.</summary>
    private sealed class Question(DesiredState state, TimeProvider time)
    {
        private string? fault;

        public DateTime Now { get; } = time.GetUtcNow().UtcDateTime;

        public ConfigDocument Document { get; } = state.Current?.Document ?? new ConfigDocument();

        public ProblemHttpResult? Fault => fault is null ? null : TypedResults.Problem(title: "Bad request", detail: fault, statusCode: StatusCodes.Status400BadRequest);

        public void Refuse(string why) => fault ??= why;

        public TelemetryWindow? Window(DateTimeOffset? from, DateTimeOffset? to, int? stepS, int mostPoints = TelemetryWindow.MostPoints)
        {
            var window = TelemetryWindow.Of(from, to, stepS, Now, Document.Gateway.Retention ?? new RetentionConfig(), out var reason, mostPoints);
            if (window is null) Refuse(reason);
            return window;
        }

        public T Word<T>(string name, string? text, T otherwise) where T : struct, Enum
        {
            if (text is null) return otherwise;
            if (ConfigJson.Words<T>().TryGetValue(text, out var word)) return word;
            Refuse($"{name}: one of {string.Join(", ", ConfigJson.Words<T>().Keys.Order(StringComparer.Ordinal))}");
            return otherwise;
        }

        public void Names(params ReadOnlySpan<(string Key, string? Value)> names)
        {
            foreach (var (key, value) in names)
            {
                if (value is { Length: > 128 } || value?.Any(char.IsControl) == true) Refuse($"{key}: a name of at most 128 characters");
            }
        }
    }
}
