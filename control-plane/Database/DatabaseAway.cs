using Evenkeel.Auth;
using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Mvc;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>
/// Whether the database is away: it refused twice in a row, or has been silent for two seconds. It is asked twice a second, by
/// <see cref="Nodes.NodeMemory"/> alone: nobody else has to wait for a server that says nothing in order to find out.
/// </summary>
public sealed class DatabaseState
{
    private volatile CancellationTokenSource away = new();

    public bool IsAway => away.IsCancellationRequested;

    /// <summary>Cancelled when the database goes away. Take it before <see cref="IsAway"/> is asked.</summary>
    public CancellationToken Away => away.Token;

    /// <summary>
    /// Asks the database, and waits until it is known to be away or the time is over, not longer: a server that is silent may keep even
    /// the cancelling of a question waiting. What was asked is left to itself then, with a token that is cancelled.
    /// </summary>
    /// <exception cref="NpgsqlException">It is away, or the time was over.</exception>
    public async Task<T> AskAsync<T>(Func<CancellationToken, Task<T>> ask, TimeSpan atMost, CancellationToken cancel)
    {
        var gone = Away;
        if (gone.IsCancellationRequested) throw IsAwayNow();
        var asked = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        using var ending = gone.Register(() => _ = patience.CancelAsync());      // each by itself: who goes on from here may have to wait for long
        patience.CancelAfter(atMost);
        var asking = ask(asked.Token);
        try
        {
            var answer = await asking.WaitAsync(patience.Token);
            asked.Dispose();
            return answer;
        }
        catch (OperationCanceledException) when (patience.IsCancellationRequested && !asking.IsCompleted)
        {
            _ = asked.CancelAsync();
            _ = asking.ContinueWith(left => left.Exception, TaskScheduler.Default);      // seen by nobody, on purpose
            cancel.ThrowIfCancellationRequested();
            throw gone.IsCancellationRequested ? IsAwayNow() : new NpgsqlException($"the database was silent for {atMost.TotalSeconds} s");
        }
    }

    /// <summary>The same, of what has no answer.</summary>
    public Task AskAsync(Func<CancellationToken, Task> ask, TimeSpan atMost, CancellationToken cancel) => AskAsync(async asked =>
    {
        await ask(asked);
        return true;
    }, atMost, cancel);

    /// <summary>As long as the database itself takes, unless it is away.</summary>
    public Task<T> AskAsync<T>(Func<CancellationToken, Task<T>> ask, CancellationToken cancel) => AskAsync(ask, Longest, cancel);

    private static readonly TimeSpan Longest = TimeSpan.FromMinutes(2);      // each of its steps has a shorter time of its own

    internal static NpgsqlException IsAwayNow() => new("the database is away");

    /// <summary>What the last question came to. For one caller only.</summary>
    public void Set(bool isAway)
    {
        if (isAway == IsAway) return;
        // Whoever waits is told by somebody else: it may take him time to let go.
        if (isAway) _ = away.CancelAsync();
        else away = new CancellationTokenSource();
    }
}

/// <summary>Marks an endpoint that answers while the database is away, from memory.</summary>
public sealed record AnswersFromMemory;

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

    internal static ProblemDetails Problem(string detail = "Nothing was changed. Traffic through the nodes is not affected.") =>
        new() { Status = 503, Title = "The database is away", Detail = detail };
}

internal static class RefusalWhileAway
{
    private const string Unknown = "It went away under way: look whether the change was made when it is back. Traffic through the nodes is not affected.";

    /// <summary>
    /// While the database is away, whatever needs it is refused at once: a caller that hangs learns nothing. What was under way when it went
    /// ends within half a minute, or begins anew where it is answered from memory.
    /// </summary>
    public static void UseRefusalWhileAway(this IApplicationBuilder app) => app.Use(async (context, next) =>
    {
        var path = context.Request.Path;
        if (!(path.StartsWithSegments("/api/v1") || path.StartsWithSegments("/node/v1")) || context.GetEndpoint() is not { } endpoint)
        {
            await next(context);
            return;
        }
        var state = context.RequestServices.GetRequiredService<DatabaseState>();
        var isFromMemory = endpoint.Metadata.GetMetadata<AnswersFromMemory>() is not null;
        var away = state.Away;
        if (away.IsCancellationRequested)
        {
            await (isFromMemory ? next(context) : RefuseAsync(context, DatabaseAway.Problem()));
            return;
        }
        var left = context.RequestAborted;
        using var over = CancellationTokenSource.CreateLinkedTokenSource(left);
        using var ending = away.Register(() => _ = over.CancelAsync());      // each by itself: the silent server keeps them waiting
        context.RequestAborted = over.Token;
        try
        {
            await next(context);
        }
        catch (Exception ended) when (away.IsCancellationRequested && !left.IsCancellationRequested && !context.Response.HasStarted && ended is OperationCanceledException or NpgsqlException)
        {
            context.RequestAborted = left;
            await (isFromMemory ? next(context) : RefuseAsync(context, Gate.IsChange(context.Request.Method) ? DatabaseAway.Problem(Unknown) : DatabaseAway.Problem()));
        }
        finally
        {
            context.RequestAborted = left;
        }
    });

    private static Task RefuseAsync(HttpContext context, ProblemDetails problem)
    {
        context.Response.Headers.RetryAfter = "2";
        return TypedResults.Problem(problem).ExecuteAsync(context);
    }
}
