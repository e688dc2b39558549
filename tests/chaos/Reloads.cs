using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Failover;

namespace Evenkeel.Chaos;

/// <summary>Changes of what is rendered, while streams run that outlive several of them.</summary>
/// <param name="Changes">How many.</param>
/// <param name="Every">The time from one to the next.</param>
/// <param name="Streams">How many run at any time.</param>
/// <param name="SlowestS">How long the longest of them takes; the shortest a third of it.</param>
internal sealed record Reloads(int Changes, TimeSpan Every, int Streams, double SlowestS)
{
    // What a change may take to come into force: the old workers' streams, or the time for which the agent waits for them.
    private TimeSpan Longest => TimeSpan.FromSeconds(Math.Min(SlowestS, 60) + 20);

    private const long SlackBytes = 16 << 20;

    public async Task StrikeAsync(Scene scene, CancellationToken cancel)
    {
        for (var i = 0; i < Scene.LongNames.Count; i++)
        {
            var seconds = SlowestS * (i + 1) / Scene.LongNames.Count;
            scene.Providers[Scene.LongNames[i]].Update(settings => settings with { TokensPerSecond = Scene.Tokens / seconds });
        }
        var before = Footprint.Of(scene);
        var reloadsBefore = scene.Reloads();
        var (inForce, most) = (new ConcurrentQueue<(TimeSpan At, long Revision)>(), 0);
        var clock = Stopwatch.StartNew();
        using var over = new CancellationTokenSource();
        using var watched = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var watch = WatchAsync();
        var streams = Task.WhenAll(Enumerable.Range(0, Streams).Select(_ => Task.Run(async () =>
        {
            var answers = new List<Judged>();
            while (!over.IsCancellationRequested)
            {
                answers.Add(Judged.Of(await scene.Client.AskAsync(Scene.LongModel, new Ask { KeepEvents = false, Limit = TimeSpan.FromSeconds(SlowestS + 30), Headers = [("x-request-id", Guid.NewGuid().ToString("n"))] })));
                await Task.Delay(Random.Shared.Next(20, 100));      // who asks again in the same instant is the other load
            }
            return answers;
        })));
        var changes = new List<(TimeSpan At, long Revision)>();
        IReadOnlyList<Judged> answers;
        try
        {
            await Task.Delay(Every, cancel);
            for (var i = 0; i < Changes; i++)
            {
                await ChangeAsync(scene, i);
                changes.Add((clock.Elapsed, await RevisionAsync(scene)));
                await Task.Delay(Every, cancel);
            }
        }
        finally
        {
            await over.CancelAsync();
            answers = [.. (await streams).SelectMany(list => list)];
        }
        // One more with nothing under way: the workers that carried the streams go, and with them what they kept.
        scene.Note("the last reload", await Scene.SettledAsync(() => AtRestAsync(scene), Longest, cancel));
        inForce.Enqueue((clock.Elapsed, await RevisionAsync(scene)));      // the watch may just have missed it before the next change
        await scene.Stack.ControlPlaneAsync(HttpMethod.Put, "instances/extra", Extra(scene, withAuthorities: false));
        scene.Note("after the streams", await Scene.SettledAsync(() => AtRestAsync(scene), Longest, cancel));
        await scene.Stack.ControlPlaneAsync(HttpMethod.Delete, "instances/extra");
        scene.Note("after the streams", await Scene.SettledAsync(() => AtRestAsync(scene), Longest, cancel));
        await watched.CancelAsync();
        await watch;
        var reloads = scene.Reloads() - reloadsBefore;

        var lags = changes.Select(change => inForce.Where(seen => seen.Revision >= change.Revision).Select(seen => seen.At - change.At).DefaultIfEmpty(TimeSpan.MaxValue).Min()).ToList();
        var after = Footprint.Of(scene);
        var wasRead = await scene.ReadRequestsAsync(cancel);
        answers = [.. answers.Select(judged => judged.Known(wasRead))];
        var bad = answers.Where(judged => judged.Got is not (Got.Whole or Got.Unread)).ToList();
        scene.Note("streams", bad.Count == 0 ? null : $"{bad.Count} of {answers.Count} are not whole: {string.Join(" | ", bad.DistinctBy(judged => judged.Why).Take(3).Select(judged => $"{judged.Got}: {judged.Why}"))}");
        scene.Note("streams", answers.Count >= Streams ? null : $"only {answers.Count} answers");
        scene.Note("changes", lags.Max() <= Longest ? null : $"one came into force after {(lags.Max() == TimeSpan.MaxValue ? "never" : $"{lags.Max().TotalSeconds:0} s")}");
        scene.Note("old workers", most <= 2 * OwnStack.Workers ? null : $"{most} drained at a time");
        foreach (var fault in after.Above(before, SlackBytes)) scene.Note("nginx", fault);
        Console.WriteLine($"           {changes.Count} changes, {reloads} reloads; in force after {Median(lags).TotalSeconds:0.0} s (median), {lags.Max().TotalSeconds:0.0} s (longest); "
            + $"{answers.Count} streams, {answers.Count(judged => judged.Got == Got.Unread)} unread; {most} old workers at most; memory {before.Bytes >> 20} → {after.Bytes >> 20} MiB, descriptors {before.Descriptors} → {after.Descriptors}");

        async Task WatchAsync()
        {
            while (!watched.IsCancellationRequested)
            {
                try
                {
                    var at = clock.Elapsed;
                    var status = await scene.Stack.ControlPlaneAsync(HttpMethod.Get, "status");
                    if ((bool)status["acknowledged"]!) inForce.Enqueue((at, (long)status["revision"]!));
                    most = Math.Max(most, scene.Stack.DrainingWorkers().Count);
                    await Task.Delay(200, watched.Token);
                }
                catch (Exception fault) when (fault is HttpRequestException or InvalidOperationException or JsonException or OperationCanceledException)
                {
                    // Looked at again.
                }
            }
        }
    }

    private static TimeSpan Median(IEnumerable<TimeSpan> spans) => spans.Order().ElementAt(spans.Count() / 2);

    private static async Task<string> AtRestAsync(Scene scene)
    {
        if (scene.Stack.DrainingWorkers() is { Count: > 0 } draining) return $"{draining.Count} old workers drain";
        return (bool)(await scene.Stack.ControlPlaneAsync(HttpMethod.Get, "status"))["acknowledged"]! ? "" : "the revision is not acknowledged";
    }

    private static async Task<long> RevisionAsync(Scene scene) => (long)(await scene.Stack.ControlPlaneAsync(HttpMethod.Get, "status"))["revision"]!;

    // An instance comes, with a door of its own; it trusts other authorities, and moves to another server; it goes.
    private static Task ChangeAsync(Scene scene, int number) => (number % 3) switch
    {
        0 => scene.Stack.ControlPlaneAsync(HttpMethod.Put, "instances/extra", Extra(scene, withAuthorities: false)),
        1 => scene.Stack.ControlPlaneAsync(HttpMethod.Put, "instances/extra", Extra(scene, withAuthorities: true)),
        _ => scene.Stack.ControlPlaneAsync(HttpMethod.Delete, "instances/extra"),
    };

    private static string Extra(Scene scene, bool withAuthorities)
    {
        var tls = new JsonObject { ["server_name"] = "extra.example" };
        if (withAuthorities) tls["ca_file"] = scene.Authorities;
        return new JsonObject { ["name"] = "extra", ["base_url"] = "https://127.0.0.1:9/v1", ["enabled"] = false, ["max_connections"] = 1, ["tls"] = tls }.ToJsonString();
    }
}

/// <summary>What nginx, all its processes together, holds: memory of their own, and descriptors.</summary>
internal sealed record Footprint(int Processes, long Bytes, int Descriptors)
{
    public static Footprint Of(Scene scene)
    {
        var pids = scene.Stack.NginxPids();
        return new Footprint(pids.Count, pids.Sum(Signals.AnonymousBytes), pids.Sum(Signals.Descriptors));
    }

    /// <summary>What is more than it was. Pure.</summary>
    public IEnumerable<string> Above(Footprint before, long slackBytes)
    {
        if (Processes > before.Processes) yield return $"{Processes} processes, {before.Processes} before";
        if (Bytes > before.Bytes + (before.Bytes / 4) + slackBytes) yield return $"{Bytes >> 20} MiB, {before.Bytes >> 20} MiB before";
        // Connections that are kept for the next request come and go.
        if (Descriptors > before.Descriptors + 64) yield return $"{Descriptors} descriptors, {before.Descriptors} before";
    }
}
