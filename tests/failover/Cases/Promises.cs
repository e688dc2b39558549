using Evenkeel.Provider;

namespace Evenkeel.Failover.Cases;

/// <summary>Promises about many requests at once. Their timings are real in a fast run, too; it only asks for a shorter time.</summary>
internal static class Promises
{
    public static IEnumerable<Case> All(TimeScale time) =>
    [
        Cascade("P1", time, new Setting([Primary], [Backup])),
        Cascade("P2", time, new Setting([[Primary, Backup]])),
        RandomFailures(),
        WrongCeiling(time),
        WorkerKilled(),
    ];

    private static InstanceSettings Model(double latencyMs) => new() { Tokens = 20, LatencyMs = latencyMs };

    private static Member Primary { get; } = new("primary") { Simulated = Model(400), MaxConnections = 60, ScaledTimeouts = false };

    private static Member Backup { get; } = new("fallback") { Simulated = Model(400) with { Ceiling = 5 }, MaxConnections = 5, ScaledTimeouts = false };

    /// <summary>
    /// New Year's Eve: the primary becomes slow for some seconds, with real answers still coming. Whoever throws it out sends all the
    /// traffic to a backup that bears five at a time.
    /// </summary>
    private static Case Cascade(string number, TimeScale time, Setting setting) => new()
    {
        Number = number,
        Section = Section.Promise,
        Setting = setting,
        AsksNode = true,
        Name = "New Year's Eve: the primary slow (2-5 s) for some seconds, the backup in the " + (setting.Tiers.Length > 1 ? "next tier" : "same tier"),
        Wanted = "no client error, nothing ejected, the backup never above its 5",
        Judge = e =>
        {
            var judge = AllWhole(e).Conduct(e.Counters["fallback"].PeakInFlight <= 5, $"{e.Counters["fallback"].PeakInFlight} at once at the backup")
                .Conduct(e.Counters["fallback"].Rejected == 0, $"the backup refused {e.Counters["fallback"].Rejected}")
                .Noted(e.Facts.GetValueOrDefault("ejected") == 0, "ejected: " + e.Words.GetValueOrDefault("ejected"));
            return judge.Remark($"{e.Exchanges.Count} requests, backup peak {e.Counters["fallback"].PeakInFlight}, slowest {Judge.Seconds(e.Exchanges.Max(x => x.EndMs))}");
        },
        Play = async stage =>
        {
            var (slowFrom, slowUntil, end) = time.IsFast ? (1.0, 5.0, 8.0) : (3.0, 9.0, 15.0);
            var began = DateTimeOffset.UtcNow;
            double Elapsed() => (DateTimeOffset.UtcNow - began).TotalSeconds;
            var asked = new List<Task>();
            var watching = WatchAsync();
            for (var i = 0; Elapsed() < end; i++)
            {
                if (Elapsed() >= slowFrom && Elapsed() < slowUntil && stage["primary"].Settings.LatencyMs < 1000)
                {
                    stage["primary"].Update(settings => settings with { LatencyMs = 3200, LatencySigma = 0.2 });
                }
                else if (Elapsed() >= slowUntil && stage["primary"].Settings.LatencyMs > 1000)
                {
                    stage["primary"].Update(_ => Model(400));
                }
                asked.Add(stage.AskAsync(new Ask(i % 2 == 0) { KeepEvents = false }));
                await Task.Delay(TimeSpan.FromSeconds(1.0 / 8));
            }
            await Task.WhenAll(asked);
            await watching;

            async Task WatchAsync()
            {
                while (stage.Stack is not null && Elapsed() < end)
                {
                    var stats = await stage.Stack.StatsAsync();
                    foreach (var role in new[] { "primary", "fallback" })
                    {
                        var instance = stats["instances"]![stage[role].Name]!;
                        if (NodeView.Read(instance).Breaker != "closed" || (double)instance["cooldown_s"]! > 0)
                        {
                            stage.Fact("ejected", 1);
                            stage.Note("ejected", $"{role} after {Elapsed():0.0} s ({instance["breaker"]}, cooldown {instance["cooldown_s"]} s)");
                        }
                    }
                    await Task.Delay(300);
                }
            }
        },
    };

    private static Case RandomFailures() => new()
    {
        Number = "P3",
        Section = Section.Promise,
        Phase = Phase.Load,
        Name = "1,000 requests to a pool of three, one instance failing 10 % at random",
        Wanted = "no client error, ≤ 20 % extra tries",
        Setting = new Setting([[
            new Member("primary") { Simulated = Model(60) with { ErrorRate = 0.1 } },
            new Member("second") { Simulated = Model(60) },
            new Member("third") { Simulated = Model(60) },
        ]])
        {
            UnhealthyThreshold = 10,      // three failures in a row happen by chance; then the breaker would leave nothing to see
        },
        Judge = e =>
        {
            var extra = e.AllTries.Count - e.Exchanges.Count;
            return AllWhole(e).Conduct(extra <= 0.2 * e.Exchanges.Count, $"{extra} extra tries")
                .Must(e.Tries("primary").Count(entry => entry.Status == 500) >= 5, "hardly any failure happened")
                .Remark($"{e.Exchanges.Count} requests, {e.Tries("primary").Count(entry => entry.Status == 500)} failed tries, {extra} extra tries");
        },
        Play = stage => stage.LoadAsync(20, i => i < 1000 ? new Ask(i % 2 == 0) { KeepEvents = false } : null),
    };

    private static Case WrongCeiling(TimeScale time) => new()
    {
        Number = "P4",
        Section = Section.Promise,
        Phase = Phase.Load,
        Name = "wrong ceiling: 50 written, 15 real, 25 callers",
        Wanted = "≤ 1 % client errors after the first 3 s; the provider's 429s die down (≤ 5 % of the calls in the last 3 s)",
        Setting = Setting.Lone.With("primary", member => member with { Simulated = Model(250) with { Ceiling = 15 } }),
        Judge = e =>
        {
            var began = e.First.At;
            var settled = e.Exchanges.Where(x => x.At > began.AddSeconds(3)).ToList();
            var failed = settled.Count(x => Wholeness.Defects(x, Expected.For(x, 20)).Count > 0);
            var early = e.Exchanges.Count(x => x.At <= began.AddSeconds(3) && x.Status != 200);
            var last = e.Tries("primary").Where(entry => entry.At > e.Last.At.AddSeconds(-3)).ToList();
            var rejected = last.Count(entry => entry.Status == 429);
            return new Judge(e).Must(settled.Count > 50, $"only {settled.Count} requests after the first seconds")
                .Must(failed <= 0.01 * settled.Count, $"{failed} of {settled.Count} failed after the first 3 s")
                .Conduct(rejected <= 0.05 * last.Count, $"{rejected} of {last.Count} calls in the last 3 s were 429")
                .Remark($"{e.Exchanges.Count} requests; errors: {early} in the first 3 s, {failed} of {settled.Count} after; 429s at the provider: {e.Counters["primary"].Rejected} in all, {rejected} of {last.Count} in the last 3 s");
        },
        Play = stage =>
        {
            var end = DateTimeOffset.UtcNow.AddSeconds(time.IsFast ? 6 : 15);
            return stage.LoadAsync(25, i => DateTimeOffset.UtcNow < end ? new Ask(i % 2 == 0) { KeepEvents = false } : null);
        },
    };

    private static Case WorkerKilled() => new()
    {
        Number = "P5",
        Section = Section.Promise,
        Phase = Phase.Alone,
        OwnStackOnly = true,
        AsksNode = true,
        Name = "kill -9 of a worker under load",
        Wanted = "in-flight counts true again within 5 s, no slot lost",
        Setting = Setting.Lone.With("primary", member => member with { MaxConnections = 24, ScaledTimeouts = false }) with { QueueSize = 1, QueueTimeoutS = 0.3 },
        Judge = e => e.Facts["cut"] < 1 ? new Judge(e).Must(false, "no worker held a stream")
            : e.Exchanges.TakeLast(24).Aggregate(
                new Judge(e).Must(e.Facts["true_s"] <= 5, $"after {e.Facts["true_s"]:0.0} s the node counted {e.Facts["counted"]}, true were {e.Facts["true"]}"), (judge, x) => judge.Whole(x))
                .NothingAgainst("primary")
                .Remark($"{e.Facts["cut"]} of 16 streams died with the worker, counts true after {e.Facts["true_s"]:0.0} s"),
        Play = async stage =>
        {
            var primary = stage["primary"];
            primary.AddFault("slow_drip=2");
            using var leave = new CancellationTokenSource();
            var streams = Enumerable.Range(0, 16).Select(_ => stage.AskAsync(new Ask { Leave = leave.Token, KeepEvents = false })).ToList();
            await Stage.UntilAsync(() => primary.Counters.InFlight == 16, TimeSpan.FromSeconds(5));
            var killed = DateTimeOffset.UtcNow;
            foreach (var worker in stage.Stack!.WorkerPids())
            {
                killed = DateTimeOffset.UtcNow;
                stage.Stack.KillWorker(worker);
                if (await Stage.UntilAsync(() => primary.Counters.InFlight < 16, TimeSpan.FromSeconds(1)))
                {
                    break;
                }
            }
            // The dead worker's connections are all closed by the kernel at once; give the simulator a moment to see it.
            await Task.Delay(200);
            stage.Fact("cut", 16 - primary.Counters.InFlight);
            while (true)
            {
                var counted = NodeView.Read((await stage.Stack.StatsAsync())["instances"]![primary.Name]!).InFlight;
                var running = primary.Counters.InFlight;
                stage.Fact("counted", counted);
                stage.Fact("true", running);
                stage.Fact("true_s", (DateTimeOffset.UtcNow - killed).TotalSeconds);
                if (counted == running || DateTimeOffset.UtcNow > killed.AddSeconds(10))
                {
                    break;
                }
                await Task.Delay(100);
            }
            await leave.CancelAsync();
            await Task.WhenAll(streams);
            primary.ClearFaults();
            primary.Update(settings => settings with { FirstTokenMs = 1500 });
            await Stage.UntilAsync(() => primary.Counters.InFlight == 0, TimeSpan.FromSeconds(3));
            await Task.Delay(500);
            await Task.WhenAll(Enumerable.Range(0, 24).Select(_ => stage.AskAsync(new Ask { KeepEvents = false })));
        },
    };

    /// <summary>Like <see cref="Judge.AllWhole"/> for twenty words, with one line for a thousand defects.</summary>
    private static Judge AllWhole(Evidence e)
    {
        var defects = e.Exchanges.Select(x => string.Join(", ", Wholeness.Defects(x, Expected.For(x, 20)))).Where(words => words.Length > 0).ToList();
        return new Judge(e).Must(defects.Count == 0, $"{defects.Count} of {e.Exchanges.Count} answers are not whole, first: {defects.FirstOrDefault()}");
    }
}
