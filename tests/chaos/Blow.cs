namespace Evenkeel.Chaos;

/// <summary>What a blow may cost clients at most.</summary>
internal enum Cost
{
    /// <summary>Nothing: every answer is whole.</summary>
    Nothing,
    /// <summary>Requests on kept connections that were closed before they were read.</summary>
    Unread,
    /// <summary>Errors that an application can act on.</summary>
    Errors,
    /// <summary>Those, and connections that break.</summary>
    Connections,
}

/// <summary>What becomes of the node's counters.</summary>
internal enum Counters
{
    /// <summary>They are those of the providers' ledger, at the node and in the database.</summary>
    Exact,
    /// <summary>A killed worker takes its last moments along.</summary>
    LastMomentsLost,
    /// <summary>Calls were lost on their way: node and database agree, the providers know less or more.</summary>
    LedgerDiffers,
    /// <summary>The node began anew, and what the database had not read yet is gone.</summary>
    BegunAnew,
}

/// <summary>One thing that is done to the stack while it serves.</summary>
internal sealed record Blow(string Name, string What, Cost Cost, Counters Counters, bool InShort, Func<Scene, Random, CancellationToken, Task> StrikeAsync)
{
    /// <summary>Why it cannot be dealt here; null = it can.</summary>
    public Func<Scene, string?> Impossible { get; init; } = _ => null;

    /// <summary>It takes minutes: it is dealt only when it is named.</summary>
    public bool OnlyNamed { get; init; }

    /// <summary>A round that has not ended by then never will.</summary>
    public TimeSpan Limit { get; init; } = TimeSpan.FromMinutes(8);

    /// <summary>What besides has to come true afterwards; empty = it has. The time is that of the blow.</summary>
    public Func<Scene, DateTimeOffset, Task<string>> Afterwards { get; init; } = (_, _) => Task.FromResult("");

    public static IReadOnlyList<Blow> All { get; } =
    [
        new("control-plane-and-database-killed", "kill -9 of the control plane and of PostgreSQL", Cost.Nothing, Counters.Exact, true, async (scene, random, cancel) =>
        {
            foreach (var part in Shuffled(random, "control-plane", "postgres")) scene.Kill(scene.Pid(part));
            await Seconds(random, 1, 2, cancel);
        }),
        new("control-plane-killed", "kill -9 of the control plane", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
        {
            scene.Kill(scene.Pid("control-plane"));
            return Seconds(random, 0, 3, cancel);
        }),
        new("database-killed", "kill -9 of PostgreSQL", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
        {
            scene.Kill(scene.Pid("postgres"));
            return Seconds(random, 0, 5, cancel);
        }),
        new("backend-killed", "kill -9 of one of PostgreSQL's processes: it restarts itself", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
        {
            var family = Signals.Family(scene.Pid("postgres"));
            scene.Kill(family[random.Next(1, family.Count)]);
            return Seconds(random, 1, 3, cancel);
        }),
        new("control-plane-paused", "SIGSTOP of the control plane", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync([scene.Pid("control-plane")], Time(random, 2, 8), cancel)),
        new("database-paused", "SIGSTOP of all of PostgreSQL", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync(Signals.Family(scene.Pid("postgres")), Time(random, 2, 3), cancel)),
        new("database-paused-long", "SIGSTOP of all of PostgreSQL for half a minute", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync(Signals.Family(scene.Pid("postgres")), Time(random, 25, 35), cancel)),
        new("database-away", "PostgreSQL is silent for 10 s and gone for 10 s, and the API is asked", Cost.Nothing, Counters.Exact, true, (scene, _, cancel) =>
            DatabaseAway.StrikeAsync(scene, TimeSpan.FromSeconds(20), cancel)) { Afterwards = DatabaseAway.ToldAsync },
        new("database-away-5-minutes", "the same for 5 minutes", Cost.Nothing, Counters.Exact, false, (scene, _, cancel) =>
            DatabaseAway.StrikeAsync(scene, TimeSpan.FromMinutes(5), cancel)) { Afterwards = DatabaseAway.ToldAsync, OnlyNamed = true, Limit = TimeSpan.FromMinutes(12) },
        new("agent-killed", "kill -9 of the node's agent", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
        {
            scene.Kill(scene.Pid("agent"));
            return Seconds(random, 0, 3, cancel);
        }),
        new("agent-paused", "SIGSTOP of the node's agent", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync([scene.Pid("agent")], Time(random, 2, 8), cancel)),
        new("master-paused", "SIGSTOP of nginx's master", Cost.Nothing, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync([scene.Pid("nginx")], Time(random, 2, 8), cancel)),
        // Longer than the time that half of the attempts may wait for a token, shorter than what a caller bears.
        new("worker-paused", "SIGSTOP of a worker", Cost.Errors, Counters.Exact, false, (scene, random, cancel) =>
            scene.PauseAsync([Worker(scene, random)], Time(random, 1, 3), cancel)),
        new("worker-killed", "kill -9 of a worker", Cost.Connections, Counters.LastMomentsLost, true, (scene, random, cancel) =>
        {
            scene.Kill(Worker(scene, random));
            return Seconds(random, 1, 2, cancel);
        }),
        new("workers-killed", "kill -9 of all workers at once", Cost.Connections, Counters.LastMomentsLost, false, (scene, random, cancel) =>
        {
            foreach (var pid in scene.Stack.WorkerPids()) scene.Kill(pid);
            return Seconds(random, 1, 3, cancel);
        }),
        new("master-killed", "kill -9 of nginx's master: its workers end, the agent starts another", Cost.Connections, Counters.BegunAnew, false, (scene, random, cancel) =>
        {
            scene.Kill(scene.Pid("nginx"));
            return Seconds(random, 1, 3, cancel);
        }),
        new("nginx-and-control-plane-killed", "kill -9 of nginx's master and of the control plane: the node comes up with what it has on disk", Cost.Connections, Counters.BegunAnew, false, (scene, random, cancel) =>
        {
            scene.Kill(scene.Pid("control-plane"));
            scene.Kill(scene.Pid("nginx"));
            return Seconds(random, 5, 10, cancel);
        }),
        new("provider-resets", "a provider resets its connections and refuses new ones", Cost.Errors, Counters.LedgerDiffers, false, async (scene, random, cancel) =>
        {
            var provider = scene.Providers[$"near-{random.Next(1, 3)}"];
            provider.Down();
            await Seconds(random, 1, 4, cancel);
            provider.Up();
        }),
        new("disk-full", "the disk of the state directory is full, and changes are asked for", Cost.Nothing, Counters.Exact, true, async (scene, random, cancel) =>
        {
            scene.Disk!.Fill();
            try
            {
                for (var i = 0; i < 20; i++)
                {
                    await TryChangeAsync(scene, 1 + random.Next(100));
                    await Task.Delay(100, cancel);
                }
            }
            finally
            {
                scene.Disk.Free();
            }
        })
        { Impossible = scene => scene.Disk is null ? "needs root and unshare: a file system of its own" : null },
        // A quarter of a minute, and the five minutes that docs/operations.md tells of.
        new("reloads", "three changes of what is rendered under streams that outlive them", Cost.Unread, Counters.Exact, true, (scene, _, cancel) =>
            new Reloads(3, TimeSpan.FromSeconds(1.2), 20, 2).StrikeAsync(scene, cancel)),
        new("reloads-long", "fifty changes of what is rendered in five minutes, under 200 streams of 20 to 60 s", Cost.Unread, Counters.Exact, false, (scene, _, cancel) =>
            new Reloads(50, TimeSpan.FromSeconds(6), 200, 60).StrikeAsync(scene, cancel))
        { OnlyNamed = true, Limit = TimeSpan.FromMinutes(15) },
        Clock("clock-forward-hour", "the clock of all parts goes an hour forward, and back again", TimeSpan.FromHours(1)),
        Clock("clock-back-hour", "the clock of all parts goes an hour back, and forward again", TimeSpan.FromHours(-1)),
        Clock("clock-forward-day", "the clock of all parts goes a day forward, and back again", TimeSpan.FromDays(1)),
        new("network-silent", "every packet to a provider is lost", Cost.Errors, Counters.LedgerDiffers, true, (scene, random, cancel) => NetworkAsync(scene, network => network.Lose(1), Time(random, 2, 3), cancel)) { Impossible = NoNetwork },
        new("network-silent-long", "every packet to a provider is lost, for longer than its time-outs", Cost.Errors, Counters.LedgerDiffers, false, (scene, random, cancel) => NetworkAsync(scene, network => network.Lose(1), Time(random, 8, 15), cancel)) { Impossible = NoNetwork },
        new("network-lossy", "a tenth to a third of the packets to a provider is lost", Cost.Errors, Counters.LedgerDiffers, false, (scene, random, cancel) => NetworkAsync(scene, network => network.Lose(0.1 + random.NextDouble() / 4), Time(random, 4, 8), cancel)) { Impossible = NoNetwork },
        new("network-slow", "packets from a provider take 50 to 400 ms, give or take a half", Cost.Nothing, Counters.LedgerDiffers, false, (scene, random, cancel) => NetworkAsync(scene, network => network.Delay(random.Next(50, 400)), Time(random, 4, 8), cancel))
        { Impossible = scene => NoNetwork(scene) ?? (scene.Network!.HasDelays ? null : "this kernel has no netem") },
    ];

    // A breaker is open meanwhile, and has to close in time.
    private static Blow Clock(string name, string what, TimeSpan offset) => new(name, what, Cost.Nothing, Counters.Exact, false, async (scene, random, cancel) =>
    {
        scene.Providers["near-1"].AddFault("status=500", times: 5);
        await Seconds(random, 0.3, 1, cancel);
        scene.Time!.Set(offset);
        try
        {
            await Seconds(random, 6, 10, cancel);
            await scene.Stack.ControlPlaneAsync(HttpMethod.Patch, "instances/spare", $$"""{"weight":{{1 + random.Next(100)}}}""");
            scene.Note("while the clock is wrong", await Scene.SettledAsync(
                async () => (bool)(await scene.Stack.ControlPlaneAsync(HttpMethod.Get, "status"))["acknowledged"]! ? "" : "a change is not in force", TimeSpan.FromSeconds(20), cancel));
        }
        finally
        {
            scene.Time.Set(TimeSpan.Zero);
        }
        await Seconds(random, 2, 4, cancel);
        scene.Note("incidents", await Scene.SettledAsync(scene.OpenIncidentsAsync, TimeSpan.FromSeconds(30), cancel));
    })
    { Impossible = scene => scene.Time is null ? scene.NoTime : null };

    private static string? NoNetwork(Scene scene) => scene.Network is not null ? null : scene.NoNetwork.Length > 0 ? scene.NoNetwork : "needs root and unshare: a network of its own";

    private static async Task NetworkAsync(Scene scene, Action<FarNetwork> breakIt, TimeSpan time, CancellationToken cancel)
    {
        breakIt(scene.Network!);
        try
        {
            await Task.Delay(time, cancel);
        }
        finally
        {
            scene.Network!.Heal();
        }
    }

    /// <summary>A change that may be refused: that is what is tried.</summary>
    private static async Task TryChangeAsync(Scene scene, int weight)
    {
        try
        {
            await scene.Stack.ControlPlaneAsync(HttpMethod.Patch, "instances/spare", $$"""{"weight":{{weight}}}""");
        }
        catch (Exception refused) when (refused is InvalidOperationException or HttpRequestException or TaskCanceledException)
        {
            // With its reason, or later.
        }
    }

    private static int Worker(Scene scene, Random random) => scene.Stack.WorkerPids().Order().ElementAt(random.Next(Failover.OwnStack.Workers));

    private static string[] Shuffled(Random random, params string[] words)
    {
        random.Shuffle(words);
        return words;
    }

    private static TimeSpan Time(Random random, double least, double most) => TimeSpan.FromSeconds(least + random.NextDouble() * (most - least));

    private static Task Seconds(Random random, double least, double most, CancellationToken cancel) => Task.Delay(Time(random, least, most), cancel);
}
