using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Ghosts;

/// <summary>An operator's prompts for one pool.</summary>
public sealed record GhostPromptsView(string Pool, string File, int Prompts, IReadOnlyList<string> Faults);

/// <summary>Ghost traffic at a glance.</summary>
public sealed record GhostOverview(IReadOnlyList<GhostView> Instances, IReadOnlyList<GhostBudget> Budgets, IReadOnlyList<GhostPromptsView> Prompts, IReadOnlyList<GhostResult> Results);

/// <param name="Pool">Its instances, or the one that is named, by its rules and tokens.</param>
/// <param name="Instance">Without a pool: by its home pool's rules.</param>
/// <param name="Count">To each instance, 1 to 20.</param>
public sealed record GhostRun(string? Pool = null, string? Instance = null, int Count = 1);

/// <param name="Sent">How many went out.</param>
/// <param name="Skipped">For want of tokens today, or of a live node.</param>
/// <param name="Results">What became of them.</param>
public sealed record GhostRunResult(int Sent, int Skipped, IReadOnlyList<GhostResult> Results);

/// <param name="Deleted">How many samples are gone.</param>
public sealed record SamplesDeleted(int Deleted);

/// <summary>Ghosts and samples for the operator.</summary>
public static class GhostEndpoints
{
    private const int MostPerPage = 500, MostCount = 20, MostAtOnce = 200;
    private static readonly TimeSpan RunLimit = TimeSpan.FromMinutes(3);
    private static readonly SemaphoreSlim s_runs = new(1, 1);

    public static void MapGhosts(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/ghosts").WithTags("ghosts").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", Overview).WithName("getGhosts")
            .WithSummary("How each instance serves by its ghosts, tokens used today, and the newest results, of one pool, instance, verdict or prompt if it is named; before=ID goes on below ID.");
        group.MapPost("/run", Run).WithName("runGhosts").RequireRole(Role.Operator).WithSummary("Sends ghosts now, answers with what became of them, and counts them like scheduled ones.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status404NotFound).ProducesProblem(StatusCodes.Status409Conflict);
        group.MapGet("/samples", Samples).WithName("listGhostSamples").RequireRole(Role.Operator).WithSummary("Redacted requests of clients that are asked again, newest first; before=ID goes on below ID.");
        group.MapDelete("/samples", DeleteAll).WithName("deleteGhostSamples").RequireRole(Role.Operator).WithSummary("Deletes all samples, or those of one pool.");
        group.MapDelete("/samples/{id:long}", DeleteOne).WithName("deleteGhostSample").RequireRole(Role.Operator).WithSummary("Deletes one sample.").ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static async Task<Ok<GhostOverview>> Overview(
        GhostStore store, PromptFiles files, DesiredState state, CancellationToken cancel,
        string? pool = null, string? instance = null, string? verdict = null, string? prompt = null, long before = long.MaxValue, int limit = 50)
    {
        var document = state.Current?.Document ?? new ConfigDocument();
        var homes = GhostTarget.Scheduled(document);
        var states = (await store.StatesAsync(cancel)).Select(one => one with { Pool = homes.GetValueOrDefault(one.Instance)?.Pool.Name })
            .Where(one => (pool is null || one.Pool == pool) && (instance is null || one.Instance == instance));
        var used = (await store.BudgetsAsync(cancel)).ToDictionary(budget => budget.Pool);
        var pools = document.Pools.Where(one => pool is null || one.Name == pool).ToList();
        return TypedResults.Ok(new GhostOverview(
            [.. states],
            [.. pools.Select(one => (used.GetValueOrDefault(one.Name) ?? new GhostBudget { Pool = one.Name }) with { MaxTokensPerDay = one.Ghost.MaxTokensPerDay })],
            [.. pools.Where(one => one.Ghost.PromptsFile is not null).Select(one => (one, Set: files.Of(one.Ghost))).Select(one => new GhostPromptsView(one.one.Name, one.one.Ghost.PromptsFile!, one.Set.Prompts.Count, one.Set.Faults))],
            await store.ResultsAsync(new GhostFilter(pool, instance, verdict, prompt, before, Math.Clamp(limit, 1, MostPerPage)), cancel)));
    }

    private static async Task<Results<Ok<GhostRunResult>, ProblemHttpResult>> Run(GhostRun body, GhostRunner runner, DesiredState state, CancellationToken cancel)
    {
        if (body.Count is < 1 or > MostCount) return BadRequest($"count: 1 to {MostCount}");
        if (state.Current is not { } desired) return ConfigApi.NotFound("There is no configuration yet.");
        var pool = desired.Document.Pools.FirstOrDefault(one => one.Name == body.Pool);
        if (body.Pool is not null && pool is null) return ConfigApi.NotFound($"There is no pool \"{Units.Shown(body.Pool)}\".");
        var targets = (pool is not null ? GhostTarget.Of(desired.Document, pool)
            : GhostTarget.Scheduled(desired.Document).Values.Concat(desired.Document.Pools.SelectMany(one => GhostTarget.Of(desired.Document, one))).DistinctBy(target => target.Instance.Name))
            .Where(target => body.Instance is null || target.Instance.Name == body.Instance)
            .Where(target => target.Instance.Enabled).ToList();
        if (targets.Count == 0) return ConfigApi.NotFound("There is no such instance that a ghost could be sent to: it must be enabled, in a pool, and asked for a model by name.");
        if (targets.Count * body.Count > MostAtOnce) return BadRequest($"{targets.Count} instances, {body.Count} ghosts each: {MostAtOnce} at most at once");

        if (!await s_runs.WaitAsync(TimeSpan.Zero, cancel)) return TypedResults.Problem(title: "Conflict", detail: "Ghosts are being run already.", statusCode: StatusCodes.Status409Conflict);
        try
        {
            using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancel);
            bounded.CancelAfter(RunLimit);
            var results = await runner.RunAsync(targets, body.Count, bounded.Token);
            return TypedResults.Ok(new GhostRunResult(results.Count, (targets.Count * body.Count) - results.Count, results));
        }
        catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
        {
            return TypedResults.Problem(title: "Too slow", detail: $"Not done within {RunLimit.TotalMinutes} minutes; GET /api/v1/ghosts has those that are.", statusCode: StatusCodes.Status409Conflict);
        }
        finally
        {
            s_runs.Release();
        }
    }

    private static async Task<Ok<IReadOnlyList<GhostSample>>> Samples(SampleStore samples, CancellationToken cancel, string? pool = null, long before = long.MaxValue, int limit = 50) =>
        TypedResults.Ok(await samples.ListAsync(pool, before, Math.Clamp(limit, 1, MostPerPage), cancel));

    private static async Task<Ok<SamplesDeleted>> DeleteAll(SampleStore samples, CancellationToken cancel, string? pool = null) =>
        TypedResults.Ok(new SamplesDeleted(await samples.DeleteAsync(pool, null, cancel)));

    private static async Task<Results<NoContent, ProblemHttpResult>> DeleteOne(long id, SampleStore samples, CancellationToken cancel) =>
        await samples.DeleteAsync(null, id, cancel) > 0 ? TypedResults.NoContent() : ConfigApi.NotFound($"There is no sample {id}.");

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);
}
