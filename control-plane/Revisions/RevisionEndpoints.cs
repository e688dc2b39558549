using Evenkeel.Config;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Revisions;

/// <summary>A <see cref="RevisionSummary"/> with the whole configuration as it was; secrets are references.</summary>
public sealed record Revision(long Number, DateTime CreatedAt, string Author, string Message, string Digest, ConfigDocument Config);

/// <summary>What was in force when, what changed, and the way back.</summary>
public static class RevisionEndpoints
{
    private const int MostPerPage = 500;

    public static RouteGroupBuilder MapRevisions(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/revisions").WithTags("revisions").ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", List).WithName("listRevisions").WithSummary("Revisions, newest first; before=N goes on below N.");
        group.MapGet("/{number:long}", Get).WithName("getRevision").WithSummary("One revision with its configuration.")
            .ProducesProblem(StatusCodes.Status404NotFound);
        group.MapGet("/{from:long}/diff/{to:long}", Diff).WithName("diffRevisions").WithSummary("What differs between two revisions.")
            .ProducesProblem(StatusCodes.Status404NotFound);
        group.MapPost("/{number:long}/rollback", Rollback).WithName("rollBack")
            .WithSummary("Brings an old configuration into force again, as a new revision.")
            .WithMetadata(new WritesConfig())
            .ProducesProblem(StatusCodes.Status404NotFound)
            .ProducesProblem(StatusCodes.Status412PreconditionFailed)
            .Produces<ConfigProblem>(StatusCodes.Status422UnprocessableEntity, "application/problem+json");
        return group;
    }

    private static async Task<Ok<IReadOnlyList<RevisionSummary>>> List(RevisionStore revisions, CancellationToken cancel, long before = long.MaxValue, int limit = 50) =>
        TypedResults.Ok(await revisions.ListAsync(before, Math.Clamp(limit, 1, MostPerPage), cancel));

    private static async Task<Results<Ok<Revision>, ProblemHttpResult>> Get(long number, RevisionStore revisions, CancellationToken cancel) =>
        await revisions.FindAsync(number, cancel) is var (summary, document)
            ? TypedResults.Ok(new Revision(summary.Number, summary.CreatedAt, summary.Author, summary.Message, summary.Digest, document))
            : NoSuch(number);

    private static async Task<Results<Ok<IReadOnlyList<Difference>>, ProblemHttpResult>> Diff(long from, long to, RevisionStore revisions, CancellationToken cancel)
    {
        if (await revisions.FindAsync(from, cancel) is not { } before)
        {
            return NoSuch(from);
        }

        return await revisions.FindAsync(to, cancel) is { } after
            ? TypedResults.Ok(RevisionDiff.Between(ConfigWriter.ToNode(before.Document), ConfigWriter.ToNode(after.Document)))
            : NoSuch(to);
    }

    private static async Task<Results<Ok<ConfigChange>, ProblemHttpResult>> Rollback(
        long number, HttpContext context, RevisionStore revisions, ConfigStore store, Renderer renderer)
    {
        if (await revisions.FindAsync(number, context.RequestAborted) is not { } old)
        {
            return NoSuch(number);
        }

        // Through the reader again: what was valid then need not be valid for this program.
        var read = ConfigApi.Read(ConfigWriter.ToNode(old.Document));
        var note = ConfigApi.Note(context.Request, $"roll back to {number}");
        var result = await store.ChangeAsync(_ => read, note, ConfigApi.IfMatch(context.Request), context.RequestAborted);
        if (result is not ChangeResult.Saved saved)
        {
            return ConfigApi.Problem(result);
        }

        ConfigApi.SetETag(context.Response, saved.Now.Revision);
        return TypedResults.Ok(new ConfigChange(saved.Now.Revision, saved.Changed, ConfigApi.NeedsReload(renderer, saved)));
    }

    private static ProblemHttpResult NoSuch(long number) => ConfigApi.NotFound($"There is no revision {number}.");
}
