using System.Diagnostics;

namespace Evenkeel.Chaos;

/// <summary>The database is silent for half of the time and gone for the other: what needs it is refused at once, what does not goes on.</summary>
internal static class DatabaseAway
{
    private static readonly TimeSpan KnownWithin = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan AtOnce = TimeSpan.FromSeconds(5);      // on a busy machine; who waits for the database waits for longer
    private static readonly TimeSpan Every = TimeSpan.FromSeconds(1);
    private const string Failing = "near-1";

    public static async Task StrikeAsync(Scene scene, TimeSpan time, CancellationToken cancel)
    {
        await Task.WhenAll(scene.PauseAsync(Signals.Family(scene.Pid("postgres")), time / 2, cancel), LookAsync(scene, time / 2, cancel));
        scene.Kill(scene.Pid("postgres"));
        scene.Providers[Failing].AddFault("status;code=503", lasts: TimeSpan.FromSeconds(2));
        await LookAsync(scene, time / 2, cancel);
    }

    /// <summary>What the nodes have found meanwhile is told afterwards. Empty = it is.</summary>
    public static async Task<string> ToldAsync(Scene scene, DateTimeOffset struck)
    {
        var incidents = await scene.Stack.ControlPlaneAsync(HttpMethod.Get, $"incidents?subject={Failing}&since={struck:yyyy-MM-ddTHH:mm:ssZ}");
        return incidents.AsArray().Any(one => (string?)one!["kind"] == "breaker") ? "" : $"no incident tells that the breaker of {Failing} opened";
    }

    private static async Task LookAsync(Scene scene, TimeSpan time, CancellationToken cancel)
    {
        var began = Stopwatch.StartNew();
        scene.Note("database", await Scene.SettledAsync(async () => (bool?)(await scene.Stack.ControlPlaneAsync(HttpMethod.Get, "status"))["database_away"] == true ? "" : "it is said to be there", KnownWithin, cancel));
        for (var i = 0; began.Elapsed < time - Every - AtOnce; i++)
        {
            var clock = Stopwatch.StartNew();
            var (what, refused) = (i % 6) switch
            {
                0 => ("GET status", await AskAsync(HttpMethod.Get, "status")),
                1 => ("GET health", await AskAsync(HttpMethod.Get, "health")),
                2 => ("PATCH instances/spare", await AskAsync(HttpMethod.Patch, "instances/spare", """{"weight": 7}""")),
                3 => ("POST instances", await AskAsync(HttpMethod.Post, "instances", """{"name": "late", "base_url": "http://127.0.0.1:9"}""")),
                4 => ("GET config", await AskAsync(HttpMethod.Get, "config")),
                _ => ("GET telemetry/errors", await AskAsync(HttpMethod.Get, "telemetry/errors")),
            };
            var isRefused = refused?.Contains("The database is away", StringComparison.Ordinal) == true;
            scene.Note(what, isRefused == (i % 6 is 2 or 3 or 5) ? null : $"while the database is away: {refused ?? "answered"}");
            scene.Note(what, clock.Elapsed < AtOnce ? null : $"took {clock.Elapsed.TotalSeconds:0.0} s while the database is away");
            await Task.Delay(Every, cancel);
        }
        if (time - began.Elapsed is var left && left > TimeSpan.Zero) await Task.Delay(left, cancel);

        async Task<string?> AskAsync(HttpMethod method, string path, string? json = null)
        {
            try
            {
                await scene.Stack.ControlPlaneAsync(method, path, json);
                return null;
            }
            catch (Exception fault) when (fault is InvalidOperationException or HttpRequestException or TaskCanceledException)
            {
                return fault.Message;
            }
        }
    }
}
