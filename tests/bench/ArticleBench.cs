using System.Globalization;
using Evenkeel.Provider;

namespace Evenkeel.Bench;

/// <summary>
/// The article's story on real components: the provider simulator behind plain nginx (one instance, then three in turn, nothing that fails
/// over: the state before) and behind Evenkeel's node. What took hours or a month there is compressed here.
/// </summary>
internal sealed class ArticleBench(Stage stage, Options options)
{
    private const double CallS = 0.8;
    private static readonly (string Name, int Ceiling)[] Instances = [("a", 50), ("b", 50), ("c", 20)];
    private static readonly string[] Algorithms = ["round_robin", "weighted", "least_load"];

    /// <summary>One way in one scene and one round. Latencies in s; C's load is a share of its ceiling.</summary>
    private sealed record Round(string Scene, string Way, double ErrorPercent, double P50, double P99, double LoadOfC, int Requests, int Incidents);

    private readonly List<Round> _rounds = [];
    private readonly double _seconds = options.Smoke ? 1 : options.Quick ? 4 : 8;
    private readonly double _monthS = options.Smoke ? 1 : options.Quick ? 15 : 60;

    public void Run()
    {
        Console.WriteLine($"article: {options.Rounds} rounds");
        var machine = Machine.Describe(stage.Checkout);
        using (var full = new Scenery(stage, "full", CallS, 1))
        {
            for (var round = 0; round < options.Rounds; round++)
            {
                foreach (var way in Turn(options.Smoke ? [Scenery.Turns, "weighted"] : full.Ways, round))
                {
                    Open("85 in flight", full, way, 85, _seconds, null);
                    if (!options.Smoke)
                    {
                        Crowd(full, way, 118);
                    }
                    if (!options.Smoke && way is not (Scenery.One or "round_robin"))
                    {
                        Slow(full, way);
                        Surge(full, way);
                        Jitter(full, way);
                    }
                }
                Console.WriteLine($"  round {round + 1} of {options.Rounds}");
            }
        }
        // A day of the month lasts two seconds; calls and the failover's times are a tenth of the real ones.
        using (var month = new Scenery(stage, "month", CallS / 10, 0.1))
        {
            for (var round = 0; round < Math.Min(options.Rounds, 3); round++)
            {
                foreach (var way in Turn([.. month.Ways.Where(way => way != "round_robin" && (!options.Smoke || way == "weighted"))], round))
                {
                    Month(month, way, round);
                }
                Console.WriteLine($"  month {round + 1}");
            }
        }
        Write(machine);
    }

    private static IEnumerable<string> Turn(IReadOnlyList<string> ways, int round) => ways.Skip(round % ways.Count).Concat(ways.Take(round % ways.Count));

    // ------------------------------------------------------------------------------------------------------------ scenes

    /// <summary>So many callers, each of whom asks again as soon as he has been answered, or a call's time after a failure.</summary>
    private void Crowd(Scenery scenery, string way, int callers) =>
        Measure($"{callers} in flight", scenery, way, port => OpenLoop.RunCallers(port, scenery.CallOf(way).Bytes(), callers, CallS, _seconds, stage.Cancel));

    /// <summary>A takes four times as long as it did. The state is measured, not the seconds in which it is found out: those are the surge's.</summary>
    private void Slow(Scenery scenery, string way)
    {
        scenery["a"].Update(settings => settings with { LatencyMultiplier = 4 });
        Open("A four times slower", scenery, way, 60, _seconds, null, settle: true);
    }

    /// <summary>23 January: A goes from 0.8 s to 12 s for four hours, here for the middle third.</summary>
    private void Surge(Scenery scenery, string way) => Open("surge of 23 January", scenery, way, 45, _seconds * 2, at =>
        scenery["a"].Update(settings => settings with { LatencyMultiplier = at is > 1 / 3.0 and < 2 / 3.0 ? 15 : 1 }));

    /// <summary>New Year's Eve: A answers, but after 2 to 5 s, for a moment again and again; B bears only five at a time.</summary>
    private void Jitter(Scenery scenery, string way)
    {
        scenery["a"].Update(settings => settings with { JitterEveryMs = 4_000, JitterForMs = 1_500, JitterMultiplier = 4 });
        scenery["b"].Update(settings => settings with { Ceiling = 5 });
        Open("jitter of New Year's Eve", scenery, way, 30, _seconds, null);
    }

    /// <summary>Four outages of each instance, 0.8 % of the time in all, at random: unreachable, 503, silent, refusing by 429.</summary>
    private void Month(Scenery scenery, string way, int seed)
    {
        var random = new Random(seed);
        var outages = (from name in Instances.Select(instance => instance.Name)
                       from kind in new[] { "reset", "status=503", "hang", "status=429" }
                       select (Name: name, Kind: kind, From: random.NextDouble() * 0.99)).ToList();
        var under = new string?[Instances.Length];
        Open("a month of outages", scenery, way, 8, _monthS, at =>
        {
            foreach (var (i, (name, _)) in Instances.Index())
            {
                var kind = outages.Where(outage => outage.Name == name && at >= outage.From && at < outage.From + 0.002).Select(outage => outage.Kind).FirstOrDefault();
                if (kind != under[i])
                {
                    scenery[name].ClearFaults();
                    if (kind is not null)
                    {
                        scenery[name].AddFault(kind);
                    }
                    under[i] = kind;
                }
            }
        });
    }

    private void Open(string scene, Scenery scenery, string way, int inFlight, double seconds, Action<double>? play, bool settle = false) => Measure(scene, scenery, way, port =>
    {
        OpenLoopResult Load() => OpenLoop.Run(port, scenery.CallOf(way).Bytes(), inFlight / scenery.CallSeconds, seconds, stage.Cancel);
        if (settle)
        {
            _ = Load();
        }
        return Load();
    }, seconds, play);

    private void Measure(string scene, Scenery scenery, string way, Func<int, OpenLoopResult> run, double seconds = 0, Action<double>? play = null)
    {
        using var over = new CancellationTokenSource();
        var port = scenery.Begin(way);
        var (sum, samples) = (0.0, 0);
        var began = Environment.TickCount64;
        var watch = new Thread(() =>
        {
            while (!over.IsCancellationRequested)
            {
                var elapsed = (Environment.TickCount64 - began) / 1000.0;
                play?.Invoke(elapsed / seconds);
                if (elapsed > 1 && elapsed < Math.Max(seconds, _seconds))
                {
                    sum += scenery["c"].Counters.InFlight;
                    samples++;
                }
                over.Token.WaitHandle.WaitOne(20);
            }
        });
        watch.Start();
        OpenLoopResult result;
        try
        {
            result = run(port);
        }
        finally
        {
            over.Cancel();
            watch.Join();
            scenery.Heal();
        }
        var requests = result.LatenciesMs.Count + result.Failed;
        var badDays = result.FailedAtS.GroupBy(at => (int)(at / seconds * 30)).Count(day => day.Count() > 0.01 * requests / 30);
        _rounds.Add(new Round(scene, way, 100.0 * result.Failed / Math.Max(1, requests), result.Percentile(0.5) / 1000, result.Percentile(0.99) / 1000,
            100.0 * sum / Math.Max(1, samples) / Instances[2].Ceiling, requests, badDays));
    }

    // ------------------------------------------------------------------------------------------------------------ results

    private Figure? Of(string scene, string way, Func<Round, double> what) => Figure.Of(_rounds.Where(round => round.Scene == scene && round.Way == way).Select(what));

    private void Write(IReadOnlyDictionary<string, string> machine)
    {
        var chart = new BarChart("Requests that failed, %", "by scene and way; median and spread of the rounds; less is better");
        var table = new Table("scene", "way", "failed, %", "P50, s", "P99, s", "load of C, %", "days with an incident");
        foreach (var group in _rounds.GroupBy(round => (round.Scene, round.Way)).OrderBy(group => Array.IndexOf([.. _rounds.Select(round => round.Scene).Distinct()], group.Key.Scene)))
        {
            var (scene, way) = group.Key;
            chart.Add(scene, way, Of(scene, way, round => round.ErrorPercent));
            table.Add(scene, way, Table.Spread(Of(scene, way, round => round.ErrorPercent), "0.00"), Table.Spread(Of(scene, way, round => round.P50), "0.00"), Table.Spread(Of(scene, way, round => round.P99), "0.00"),
                Table.Spread(Of(scene, way, round => round.LoadOfC), "0"), scene.Contains("month") ? Table.Spread(Of(scene, way, round => round.Incidents), "0") : "");
        }
        string Median(string scene, string way, Func<Round, double> what, string format) => Of(scene, way, what)?.Median.ToString(format, CultureInfo.InvariantCulture) ?? "";
        var story = new Table("the article's row", "before", "after", "plain nginx here", "weighted", "least_load");
        const string Month = "a month of outages";
        story.Add("monthly uptime, %", "99.2", "99.97", Median(Month, Scenery.One, round => 100 - round.ErrorPercent, "0.00"), Median(Month, "weighted", round => 100 - round.ErrorPercent, "0.00"), Median(Month, "least_load", round => 100 - round.ErrorPercent, "0.00"));
        story.Add("P99, s (A four times slower)", "3.2", "1.1", Median("A four times slower", Scenery.Turns, round => round.P99, "0.00"), Median("A four times slower", "weighted", round => round.P99, "0.00"), Median("A four times slower", "least_load", round => round.P99, "0.00"));
        story.Add("failed with 118 at once, % (maximum: 50 → 120)", "", "< 0.3", Median("118 in flight", Scenery.One, round => round.ErrorPercent, "0.00"), Median("118 in flight", "weighted", round => round.ErrorPercent, "0.00"), Median("118 in flight", "least_load", round => round.ErrorPercent, "0.00"));
        story.Add("C's load with 85 in flight, %", "95", "70", Median("85 in flight", Scenery.Turns, round => round.LoadOfC, "0"), Median("85 in flight", "weighted", round => round.LoadOfC, "0"), Median("85 in flight", "least_load", round => round.LoadOfC, "0"));
        story.Add("failed with 85 in flight, %", "15", "< 0.3", Median("85 in flight", Scenery.Turns, round => round.ErrorPercent, "0.00"), Median("85 in flight", "weighted", round => round.ErrorPercent, "0.00"), Median("85 in flight", "least_load", round => round.ErrorPercent, "0.00"));
        story.Add("incidents of the month", "3-4", "0", Median(Month, Scenery.One, round => round.Incidents, "0"), Median(Month, "weighted", round => round.Incidents, "0"), Median(Month, "least_load", round => round.Incidents, "0"));
        Report.Write(options.Out, "article", "The article's story", machine, new Dictionary<string, string>
        {
            ["providers"] = "the simulator: A and B of ceiling 50, C of 20, calls of 0.8 s, log-normal with sigma 0.12 (so that a well provider's own P99 is 1.06 s)",
            ["ways"] = $"\"{Scenery.One}\": plain nginx before A; \"{Scenery.Turns}\": plain nginx, round robin over the three, nothing that fails over; the others: Evenkeel's node with this algorithm, one worker, queue of 100 places and 2 s",
            ["scenes"] = $"{_seconds:0} s each; the surge {_seconds * 2:0} s with 12 s instead of 0.8 s in the middle third, 45 in flight; jitter: A four times slower for 1.5 of 4 s, B bears 5, 30 in flight; A four times slower: 60 in flight, counted after as many seconds of the same",
            ["month"] = $"30 days in {_monthS:0} s; calls of 80 ms, 8 in flight, failover times a tenth of the defaults; every instance is out four times, for 0.2 % each: reset, 503, silence, 429. An incident: a day on which over 1 % of the requests failed",
        }, table, chart, new { rounds = _rounds }, story);
    }

    // ------------------------------------------------------------------------------------------------------------ scenery

    /// <summary>Three simulated providers, plain nginx before them in two forms, and a node with a pool per algorithm.</summary>
    private sealed class Scenery : IDisposable
    {
        public const string One = "nginx, A alone";
        public const string Turns = "nginx, in turn";

        private readonly ProviderSimulator _providers;
        private readonly Dictionary<string, int> _ports;
        private readonly Stage _stage;
        private readonly string _yaml;
        private Node? _node;
        private int _nodes;

        public Scenery(Stage stage, string name, double callSeconds, double scale)
        {
            CallSeconds = callSeconds;
            _stage = stage;
            _providers = ProviderSimulator.StartAsync(new ProviderOptions
            {
                LedgerLimit = 0,
                Instances = [.. Instances.Select(instance => new InstanceOptions(instance.Name) { Settings = Settings(instance.Ceiling) })],
            }).GetAwaiter().GetResult();
            string Ms(double seconds) => string.Create(CultureInfo.InvariantCulture, $"{seconds * scale * 1000:0}ms");
            _yaml = $$"""
                instances:
                {{string.Concat(Instances.Select(one => $"  - {{name: {one.Name}, base_url: \"{this[one.Name].BaseUrl}\", weight: {one.Ceiling}, max_connections: {one.Ceiling}, base_latency: {Ms(CallS)}, timeouts: {{total: {Ms(30)}, first_token: {Ms(10)}}}}}\n"))}}
                pools:
                {{string.Concat(Algorithms.Select(algorithm => $"  - {{name: {algorithm.Replace('_', '-')}, models: [{algorithm}], algorithm: {algorithm}, tiers: [{{name: primary, instances: [a, b, c]}}], queue: {{size: 100, timeout: {Ms(2)}}}}}\n"))}}
                failover_config:
                  circuit_breaker: {sliding_window: {{Ms(60)}}, recovery_timeout: {{Ms(30)}}}
                  fallback: {cache_ttl: 0s}
                """;
            const string Before = "proxy_next_upstream off; proxy_read_timeout 30s;";
            int Nginx(string form, params string[] instances) => Peers.StartNginx(stage, $"{name}-{form}", [.. instances.Select(instance => this[instance].Port)], "", Before).Port;
            _ports = new() { [One] = Nginx("one", "a"), [Turns] = Nginx("turns", "a", "b", "c") };
        }

        public double CallSeconds { get; }
        public IReadOnlyList<string> Ways => [One, Turns, .. Algorithms];
        public SimulatedInstance this[string name] => _providers[name];

        /// <summary>Where this way listens. A node begins each scene anew: what it has learned in one is not to help or hinder it in the next.</summary>
        public int Begin(string way)
        {
            if (_node is not null)
            {
                _stage.Stop(_node.Agent);
                _node = null;
            }
            if (_ports.TryGetValue(way, out var port))
            {
                return port;
            }
            _node = Node.Start(_stage, $"evenkeel-{CallSeconds.ToString(CultureInfo.InvariantCulture)}-{_nodes++}", _yaml, workers: 1);
            return _node.Port;
        }

        public Call CallOf(string way)
        {
            var call = Call.OfBytes(1_000);
            return call with { Body = call.Body.Replace(Call.Model, way, StringComparison.Ordinal) };
        }

        /// <summary>All as it was, once the last call has gone home.</summary>
        public void Heal()
        {
            foreach (var (name, ceiling) in Instances)
            {
                this[name].ClearFaults();
                this[name].Update(_ => Settings(ceiling));
            }
            var limit = Environment.TickCount64 + 20_000;
            while (Instances.Any(instance => this[instance.Name].Counters.InFlight > 0) && Environment.TickCount64 < limit)
            {
                Thread.Sleep(50);
            }
        }

        public void Dispose() => _providers.DisposeAsync().AsTask().GetAwaiter().GetResult();

        private InstanceSettings Settings(int ceiling) => new() { Ceiling = ceiling, LatencyMs = CallSeconds * 1000, LatencySigma = 0.12 };
    }
}
