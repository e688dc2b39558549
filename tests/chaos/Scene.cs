using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Failover;
using Evenkeel.Provider;

namespace Evenkeel.Chaos;

/// <summary>The stack, its providers and what can be done to them. Two providers are near, one is behind a network that can be broken, one stands in.</summary>
internal sealed class Scene : IAsyncDisposable
{
    public const string Model = "chaos-model";
    public const int Tokens = 30;
    private const string Pool = "chaos";
    private static readonly string[] Names = ["near-1", "near-2", "far", "spare"];

    /// <summary>A pool of its own, for streams that take long: see <see cref="Reloads"/>.</summary>
    public const string LongModel = "chaos-long-model";
    private const string LongPool = "chaos-long";
    public static readonly IReadOnlyList<string> LongNames = ["long-1", "long-2", "long-3"];

    private readonly DirectoryInfo _scratch;
    private Signals? _signals;

    private Scene(DirectoryInfo scratch, SmallDisk? disk) => (_scratch, Disk) = (scratch, disk);

    public ProviderSimulator Providers { get; private set; } = null!;
    public OwnStack Stack { get; private set; } = null!;
    public GatewayClient Client { get; private set; } = null!;
    public SmallDisk? Disk { get; }
    public FarNetwork? Network { get; private set; }

    /// <summary>Why there is no network to be broken.</summary>
    public string NoNetwork { get; private set; } = "";
    public TimeOfDay? Time { get; private set; }

    /// <summary>Why the clocks cannot be set.</summary>
    public string NoTime { get; private set; } = "needs root and unshare: a clock of its own";

    /// <summary>PEM of somebody to trust.</summary>
    public string Authorities => Path.Combine(_scratch.FullName, "authorities.pem");

    // Before and after what is counted while the clock is a day off.
    private readonly DateTimeOffset _from = DateTimeOffset.UtcNow.AddDays(-2);
    private static DateTimeOffset To => DateTimeOffset.UtcNow.AddDays(1).AddSeconds(-2);

    private readonly ConcurrentQueue<string> _notes = new();

    /// <summary>A blow has found something, or nothing (null).</summary>
    public void Note(string what, string? fault)
    {
        if (fault is not null) _notes.Enqueue($"{what}: {fault}");
    }

    /// <summary>What blows have found since this was asked last.</summary>
    public IReadOnlyList<string> TakeNotes()
    {
        var notes = new List<string>();
        while (_notes.TryDequeue(out var note)) notes.Add(note);
        return notes;
    }

    public static async Task<Scene> StartAsync(string checkout, CancellationToken cancel)
    {
        var scratch = Directory.CreateTempSubdirectory("evenkeel-chaos-");
        File.SetUnixFileMode(scratch.FullName, (UnixFileMode)Convert.ToInt32("755", 8));
        var scene = new Scene(scratch, SmallDisk.Mount(scratch.FullName));
        try
        {
            if (scene.Disk is not null)
            {
                scene.Time = TimeOfDay.Fake(checkout, scratch.FullName, out var why);
                scene.NoTime = why;
            }
            scene.Providers = await ProviderSimulator.StartAsync(new ProviderOptions { LedgerLimit = 2_000_000, CaFile = scene.Authorities });
            foreach (var name in Names) scene.AddProvider(name);
            foreach (var name in LongNames)
            {
                scene.Providers.AddInstance(new InstanceOptions(name) { Settings = new InstanceSettings { Ceiling = 200, Tokens = Tokens, FirstTokenMs = 60, TokensPerSecond = 100 } });
            }
            var config = Path.Combine(scratch.FullName, "evenkeel.json");
            await File.WriteAllTextAsync(config, scene.Config(), cancel);
            scene.Stack = await OwnStack.StartAsync(checkout, scratch.FullName, config, cancel);
            scene._signals = new Signals(scene.Stack.State);
            scene.Client = new GatewayClient(scene.Stack.Gateway, key: null);
            return scene;
        }
        catch
        {
            await scene.DisposeAsync();
            throw;
        }
    }

    private void AddProvider(string name)
    {
        InstanceOptions At(string host) => new(name, host)
        {
            Settings = new InstanceSettings { Ceiling = 100, Tokens = Tokens, FirstTokenMs = 60, TokensPerSecond = name == "near-2" ? 20 : 100 },
        };
        if (name == "far" && Environment.GetEnvironmentVariable(SmallDisk.OwnMounts) == "1")
        {
            Network = FarNetwork.Create(address => Providers.AddInstance(At(address)), out var why);
            NoNetwork = why;
            if (Network is not null) return;
        }
        Providers.AddInstance(At("127.0.0.1"));
    }

    private string Config() => new JsonObject
    {
        ["gateway"] = new JsonObject { ["listen"] = "127.0.0.1:8080" },
        ["instances"] = new JsonArray([.. Names.Concat(LongNames).Select(name => new JsonObject
        {
            ["name"] = name,
            ["base_url"] = Providers[name].BaseUrl,
            ["max_connections"] = LongNames.Contains(name) ? 200 : 40,
            ["base_latency"] = "100ms",
            ["timeouts"] = new JsonObject { ["connect"] = "1s", ["first_token"] = "5s", ["idle"] = "5s", ["total"] = LongNames.Contains(name) ? "120s" : "60s" },
        })]),
        ["pools"] = new JsonArray(new JsonObject
        {
            ["name"] = LongPool,
            ["models"] = new JsonArray(LongModel),
            ["algorithm"] = "round_robin",
            ["ghost"] = new JsonObject { ["per_day"] = 0 },
            ["tiers"] = new JsonArray(new JsonObject { ["name"] = "primary", ["instances"] = new JsonArray([.. LongNames.Select(name => JsonValue.Create(name))]) }),
        }, new JsonObject
        {
            ["name"] = Pool,
            ["models"] = new JsonArray(Model),
            ["ghost"] = new JsonObject { ["per_day"] = 0 },
            ["tiers"] = new JsonArray(
                new JsonObject { ["name"] = "primary", ["instances"] = new JsonArray("near-1", "near-2", "far") },
                new JsonObject { ["name"] = "reserve", ["instances"] = new JsonArray("spare") }),
        }),
        ["failover_config"] = new JsonObject
        {
            ["circuit_breaker"] = new JsonObject { ["recovery_timeout"] = "1s", ["sliding_window"] = "10s" },
            ["health_check"] = new JsonObject { ["interval"] = "1h", ["healthy_threshold"] = 1 },
        },
    }.ToJsonString();

    // ---- the parts

    public int Pid(string part) => int.Parse(File.ReadAllText(Stack.PathOf(part == "nginx" ? "node/run/nginx.pid" : $"run/{part}.pid")));

    public void Kill(int pid) => _signals!.Send(pid, Signals.Kill);

    /// <summary>What runs, one line each: for whoever has to find out why something did not end.</summary>
    public IEnumerable<string> Processes() => _signals!.Ours().Select(Signals.Describe);

    /// <summary>kill -9 of all there is.</summary>
    public void KillAll()
    {
        foreach (var pid in _signals!.Ours()) _signals.Send(pid, Signals.Kill);
    }

    /// <summary>Stops processes for a while. They go on however this ends.</summary>
    public async Task PauseAsync(IReadOnlyList<int> pids, TimeSpan time, CancellationToken cancel)
    {
        try
        {
            foreach (var pid in pids) _signals!.Send(pid, Signals.Stop);
            await Task.Delay(time, cancel);
        }
        finally
        {
            foreach (var pid in pids.Reverse().Where(Signals.IsAlive)) _signals!.Send(pid, Signals.Continue);
        }
    }

    // ---- what is counted where

    /// <summary>The calls that the providers have seen.</summary>
    public IReadOnlyList<LedgerEntry> Calls => [.. Providers.Ledger.Entries().Where(entry => entry.Method == "POST")];

    /// <summary>The attempts that the node has counted in its life.</summary>
    public async Task<long> NodeAttemptsAsync()
    {
        var sum = 0L;
        for (long? from = 0; from is not null;)
        {
            var page = await Stack.NodeAsync($"/telemetry?after=0&from={from}");
            sum += page["series"]!.AsArray().Where(one => (string?)one!["family"] == "attempt" && (string?)one["labels"]!["pool"] is Pool or LongPool
                && (string?)one["labels"]!["traffic"] is "client" or "resumed").Sum(one => (long)(double)one!["count"]!);
            from = (long?)(double?)page["next"];
        }
        return sum;
    }

    /// <summary>The attempts that the control plane has in its database.</summary>
    public async Task<long> StoredAttemptsAsync()
    {
        var sum = 0L;
        foreach (var pool in new[] { Pool, LongPool })
        {
            var told = await Stack.ControlPlaneAsync(HttpMethod.Get, $"telemetry/errors?pool={pool}&level=attempt&from={_from:yyyy-MM-ddTHH:mm:ssZ}&to={To:yyyy-MM-ddTHH:mm:ssZ}");
            sum += told["points"]!.AsArray().Sum(point => (long)point!["requests"]!);
        }
        return sum;
    }

    /// <summary>Whether the gateway's log or the providers' ledger has a request id.</summary>
    public async Task<Func<string, bool>> ReadRequestsAsync(CancellationToken cancel)
    {
        await Task.Delay(1_200, cancel);      // nginx writes its log once a second
        var log = string.Concat(Directory.EnumerateFiles(Stack.PathOf("node/logs"), "access.log*").Select(File.ReadAllText));
        var called = Calls.Select(call => call.RequestId).ToHashSet();
        return id => called.Contains(id) || log.Contains(id, StringComparison.Ordinal);
    }

    /// <summary>How many texts the agent has loaded into a running nginx.</summary>
    public int Reloads() => File.ReadLines(Stack.PathOf("node/logs/agent.log")).Count(line => line.Contains("applied (load)", StringComparison.Ordinal));

    /// <summary>The openings of breakers and losses of nodes that are on record without an end.</summary>
    public async Task<string> OpenIncidentsAsync()
    {
        var open = (await Stack.ControlPlaneAsync(HttpMethod.Get, "incidents?open=true")).AsArray();
        return string.Join(", ", open.Where(incident => incident!["until"] is null && (string?)incident["kind"] is "breaker" or "node_lost").Select(incident => $"incident {incident!["kind"]} of {incident["subject"]} since {incident["since"]}"));
    }

    /// <summary>What is not as it should be when nobody asks for anything; empty = all is well.</summary>
    public async Task<string> UnrestAsync(bool closed)
    {
        var unrest = new List<string>();
        var stats = await Stack.StatsAsync();
        foreach (var (name, instance) in stats["instances"]!.AsObject())
        {
            if ((int)(double)instance!["in_flight"]! != 0) unrest.Add($"{name}: {instance["in_flight"]} in flight");
            if ((int)(double)instance["trials"]! != 0) unrest.Add($"{name}: {instance["trials"]} half-open trials");
            if (closed && (string?)instance["breaker"] != "closed") unrest.Add($"{name}: breaker {instance["breaker"]}");
        }
        foreach (var (name, pool) in stats["pools"]!.AsObject())
        {
            if ((int)(double)pool!["queued"]! != 0) unrest.Add($"{name}: {pool["queued"]} queued");
        }
        if (Calls.Count(entry => !entry.Ended) is > 0 and var running) unrest.Add($"{running} calls run at the providers");
        if (Stack.WorkerPids().Count != OwnStack.Workers) unrest.Add($"{Stack.WorkerPids().Count} workers");
        var status = await Stack.ControlPlaneAsync(HttpMethod.Get, "status");
        if (!(bool)status["acknowledged"]!) unrest.Add("the revision is not acknowledged");
        return string.Join(", ", unrest);
    }

    public async Task<bool> BreakersAreClosedAsync() =>
        (await Stack.StatsAsync())["instances"]!.AsObject().All(instance => (string?)instance.Value!["breaker"] == "closed");

    /// <summary>Waits until a condition has nothing to say any more: null, or what it said last. Faults of asking are something to say.</summary>
    public static async Task<string?> SettledAsync(Func<Task<string>> unrest, TimeSpan bound, CancellationToken cancel)
    {
        var clock = Stopwatch.StartNew();
        while (true)
        {
            string said;
            try
            {
                said = await unrest();
            }
            catch (Exception fault) when (fault is HttpRequestException or InvalidOperationException or IOException or TaskCanceledException or JsonException)
            {
                said = fault.Message;
            }
            if (said.Length == 0) return null;
            if (clock.Elapsed > bound) return $"{said} (after {bound.TotalSeconds:0} s)";
            await Task.Delay(100, cancel);
        }
    }

    public async ValueTask DisposeAsync()
    {
        Client?.Dispose();
        if (Stack is not null) await Stack.DisposeAsync();
        if (Providers is not null) await Providers.DisposeAsync();
        Network?.Dispose();
        Time?.Dispose();
        Disk?.Dispose();      // with all that is on it
        _scratch.Delete(recursive: true);
    }
}
