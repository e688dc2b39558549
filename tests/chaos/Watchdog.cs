namespace Evenkeel.Chaos;

/// <summary>Ends what does not end by itself, so that a run has a verdict whatever happens.</summary>
/// <param name="limit">How long it may take.</param>
/// <param name="grace">How long it may take to tidy up once it is asked to end.</param>
internal sealed class Watchdog(TimeSpan limit, TimeSpan grace)
{
    /// <summary>Where it stands, in its own words.</summary>
    public string Stage { get; set; } = "its beginning";

    /// <summary>Called when it is about to be ended, while all still stands as it does.</summary>
    public Action Hung { get; init; } = () => { };

    /// <summary>What it gave; null when it had to be ended.</summary>
    public async Task<T?> RunAsync<T>(Func<CancellationToken, Task<T>> what, CancellationToken cancel) where T : class
    {
        var ending = CancellationTokenSource.CreateLinkedTokenSource(cancel);      // not disposed of: what hangs may still look at it
        var run = Task.Run(() => what(ending.Token), CancellationToken.None);
        await Task.WhenAny(run, Task.Delay(limit, cancel));
        if (run.IsCompleted) return await run;
        var stage = Stage;
        if (!cancel.IsCancellationRequested) Hung();
        await ending.CancelAsync();
        await Task.WhenAny(run, Task.Delay(grace, CancellationToken.None));
        Stage = stage;
        _ = run.ContinueWith(ended => ended.Exception, TaskScheduler.Default);
        cancel.ThrowIfCancellationRequested();
        return null;
    }
}

/// <summary>From its end on, all has to be taken down within a time; else what is left is killed, and this process ends.</summary>
internal sealed class LastResort(Scene scene, TimeSpan limit) : IDisposable
{
    public void Dispose() => _ = Task.Run(async () =>
    {
        await Task.Delay(limit);
        await Console.Error.WriteLineAsync($"evenkeel-chaos: not all was taken down within {limit.TotalMinutes:0} minutes; it is killed");
        scene.KillAll();
        Environment.Exit(1);
    });
}
