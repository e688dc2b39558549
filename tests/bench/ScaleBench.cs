using System.Diagnostics;
using System.Globalization;
using System.Net.Http.Headers;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>
/// What a request costs while pools, instances and clients grow; how long a push takes until all workers run it, and a reload; what the
/// snapshot weighs in a worker. The request always goes to a pool of three instances, but for the row that says otherwise.
/// </summary>
internal sealed class ScaleBench(Stage stage, Options options)
{
    private const int Workers = 2;

    private sealed record Size(string Name, int Pools, int Instances, int Clients, int InPool = 3);

    private sealed record Round(string Size, double CpuMicroseconds, double PerSecond, double PushTakenMs, double PushMs, double ReloadMs);

    private sealed record Still(string Size, int SnapshotBytes, double WorkerMb, double StartedMs);

    private static readonly Size[] Sizes =
    [
        new("1 pool, 3 instances, 10 clients", 1, 3, 10),
        new("1,000 pools", 1_000, 3, 10),
        new("1,000 instances", 1, 1_000, 10),
        new("5,000 instances", 1, 5_000, 10),
        new("10,000 clients", 1, 3, 10_000),
        new("100,000 clients", 1, 3, 100_000),
        new("1,000 pools, 5,000 instances, 10,000 clients", 1_000, 5_000, 10_000),
        new("100 instances in the pool", 1, 100, 10, 100),
        new("1,000 instances in the pool", 1, 1_000, 10, 1_000),
    ];

    private readonly List<Round> _rounds = [];
    private readonly List<Still> _still = [];

    public void Run()
    {
        var sizes = options.Smoke ? [new Size("10 pools, 100 instances, 100 clients", 10, 100, 100)] : options.Quick ? [Sizes[0], Sizes[2], Sizes[7]] : Sizes;
        var machine = Machine.Describe(stage.Checkout);
        Console.WriteLine($"scale: {sizes.Length} sizes, {options.Rounds} rounds");
        var upstream = Upstream.Start(stage);
        var nodes = new List<Grown>();
        foreach (var size in sizes)
        {
            var clock = Stopwatch.StartNew();
            var yaml = Yaml(size, upstream.AtOnce);
            clock.Restart();
            var node = Node.Start(stage, $"scale-{nodes.Count}", yaml, Workers);
            var grown = new Grown(node, yaml);
            grown.Await(_ => true);
            var started = clock.Elapsed.TotalMilliseconds;
            nodes.Add(grown);
            // Each worker compiles a snapshot when it is first asked for something.
            ClosedLoop.Run(stage, node.Port, Call.OfBytes(1_000), 32, 1);
            _still.Add(new Still(size.Name, Node.SnapshotOf(Node.Read(yaml), 1).Json.Length,
                ProcessCost.Descendants(node.Pid).Where(pid => pid != node.Pid).Average(pid => ProcessCost.AnonymousBytes(pid)) / 1e6, started));
            Console.WriteLine($"  {size.Name}: up in {started:0} ms");
        }
        for (var round = 0; round < options.Rounds; round++)
        {
            foreach (var (i, size) in sizes.Index().Skip(round % sizes.Length).Concat(sizes.Index().Take(round % sizes.Length)))
            {
                var node = nodes[i];
                var before = ProcessCost.CpuSeconds(node.Node.Pid);
                var (requests, failed, perSecond) = ClosedLoop.Run(stage, node.Node.Port, Call.OfBytes(1_000), 32, options.Smoke ? 1 : options.Quick ? 1 : 3);
                if (failed > 0)
                {
                    throw new BenchException($"{failed} of {requests} requests failed with {size.Name}");
                }
                var cpu = (ProcessCost.CpuSeconds(node.Node.Pid) - before) * 1e6 / requests;
                var (taken, everywhere) = node.Push(2 + round);
                _rounds.Add(new Round(size.Name, cpu, perSecond, taken, everywhere, node.Reload()));
            }
            Console.WriteLine($"  round {round + 1} of {options.Rounds}");
        }
        Write(machine, sizes);
        nodes.ForEach(node => node.Dispose());
    }

    /// <summary>A configuration of that size. The upstreams answer for the pool that is asked; nobody asks the others.</summary>
    private static string Yaml(Size size, int[] upstreams)
    {
        var yaml = new StringBuilder("gateway: {anonymous: false}\ninstances:\n");
        for (var i = 0; i < size.Instances; i++)
        {
            yaml.Append(CultureInfo.InvariantCulture, $"  - {{name: i{i}, base_url: \"http://127.0.0.1:{upstreams[i % upstreams.Length]}/v1\", api_key: env:PROVIDER, weight: 50, max_connections: 10000}}\n");
        }
        string Names(int from, int count) => string.Join(", ", Enumerable.Range(from, count).Select(i => $"i{i % size.Instances}"));
        yaml.Append(CultureInfo.InvariantCulture, $"pools:\n  - {{name: chat, models: [{Call.Model}], algorithm: least_load, tiers: [{{name: t, instances: [{Names(0, size.InPool)}]}}]}}\n");
        for (var i = 1; i < size.Pools; i++)
        {
            yaml.Append(CultureInfo.InvariantCulture, $"  - {{name: p{i}, models: [m{i}], tiers: [{{name: t, instances: [{Names(i * 3, 3)}]}}]}}\n");
        }
        yaml.Append("clients:\n");
        for (var i = 0; i < size.Clients; i++)
        {
            yaml.Append(CultureInfo.InvariantCulture, $"  - {{name: c{i}, key: {(i == 0 ? "env:CLIENT" : $"key-of-client-number-{i}-{i * 7919}")}, requests_per_minute: 10000000}}\n");
        }
        return yaml.ToString();
    }

    private void Write(IReadOnlyDictionary<string, string> machine, Size[] sizes)
    {
        Figure? Of(Size size, Func<Round, double> what) => Figure.Of(_rounds.Where(round => round.Size == size.Name).Select(what));
        var table = new Table("size", "CPU µs/request", "push taken, ms", "push in all workers, ms", "reload, ms", "snapshot, MB", "a worker, MB", "start, ms");
        var chart = new BarChart("CPU per 1 KB request by size", "µs of both workers, median and spread of the rounds; less is better");
        foreach (var size in sizes)
        {
            var still = _still.First(still => still.Size == size.Name);
            table.Add(size.Name, Table.Spread(Of(size, round => round.CpuMicroseconds), "0"), Table.Spread(Of(size, round => round.PushTakenMs), "0"), Table.Spread(Of(size, round => round.PushMs), "0"),
                Table.Spread(Of(size, round => round.ReloadMs), "0"), (still.SnapshotBytes / 1e6).ToString("0.00", CultureInfo.InvariantCulture), still.WorkerMb.ToString("0", CultureInfo.InvariantCulture), still.StartedMs.ToString("0", CultureInfo.InvariantCulture));
            chart.Add("CPU per request, µs", size.Name, Of(size, round => round.CpuMicroseconds));
        }
        Report.Write(options.Out, "scale", "Cost as a configuration grows", machine, new Dictionary<string, string>
        {
            ["load"] = $"{options.Rounds} rounds, sizes in turn; wrk, 32 connections, 1 KB requests to a pool of three instances with least_load (all by the last two rows: to a pool of so many), a client with a limit; {Workers} workers",
            ["push"] = "a new revision with another weight for every instance, to an idle node; taken: the answer of PUT /snapshot; in all workers: until /status tells it of each",
            ["reload"] = "HUP until as many new workers have reported",
            ["a worker"] = "anonymous resident memory of a worker that has compiled the snapshot and served for a second",
        }, table, chart, new { still = _still, rounds = _rounds });
    }

    /// <summary>A node and the other end of its admin listener.</summary>
    private sealed class Grown : IDisposable
    {
        private readonly HttpClient _admin;
        private readonly Evenkeel.Config.ConfigDocument _document;

        public Grown(Node node, string yaml)
        {
            Node = node;
            _document = Bench.Node.Read(yaml.Replace("weight: 50", "weight: 40", StringComparison.Ordinal));
            _admin = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{node.AdminPort}"), Timeout = TimeSpan.FromSeconds(60) };
            _admin.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", node.Token);
        }

        public Node Node { get; }

        public void Dispose() => _admin.Dispose();

        /// <summary>How long until the node has taken it, and until all workers run it, in ms.</summary>
        public (double TakenMs, double EverywhereMs) Push(long revision)
        {
            var json = Bench.Node.SnapshotOf(_document, revision).Json;
            var clock = Stopwatch.StartNew();
            using var answer = _admin.Send(new HttpRequestMessage(HttpMethod.Put, "/snapshot") { Content = new ReadOnlyMemoryContent(json) });
            if ((int)answer.StatusCode != 202)
            {
                throw new BenchException($"the node answers a push with {(int)answer.StatusCode}");
            }
            var taken = clock.Elapsed.TotalMilliseconds;
            Await(workers => workers.Count(worker => worker.Revision == revision) >= Workers && workers.All(worker => worker.Revision == revision));
            return (taken, clock.Elapsed.TotalMilliseconds);
        }

        /// <summary>How long until new workers have taken over, in ms.</summary>
        public double Reload()
        {
            var old = Report().Select(worker => worker.Pid).ToHashSet();
            var clock = Stopwatch.StartNew();
            _ = Kill(Node.Pid, 1);
            Await(workers => workers.Count(worker => !old.Contains(worker.Pid)) >= Workers);
            return clock.Elapsed.TotalMilliseconds;
        }

        public void Await(Func<IReadOnlyList<(int Pid, long Revision)>, bool> good)
        {
            var clock = Stopwatch.StartNew();
            while (!good(Report()))
            {
                if (clock.Elapsed > TimeSpan.FromSeconds(60))
                {
                    throw new BenchException("the node's workers do not get there within a minute");
                }
                Thread.Sleep(5);
            }
        }

        private List<(int Pid, long Revision)> Report()
        {
            // A connection of its own each time: one that is kept may belong to a worker that is about to leave.
            using var request = new HttpRequestMessage(HttpMethod.Get, "/status") { Headers = { ConnectionClose = true } };
            using var answer = _admin.Send(request);
            using var status = JsonDocument.Parse(answer.Content.ReadAsStream());
            return [.. status.RootElement.GetProperty("workers").EnumerateArray().Select(worker => (worker.GetProperty("pid").GetInt32(), worker.GetProperty("revision").GetInt64()))];
        }

        [DllImport("libc", EntryPoint = "kill")]
        private static extern int Kill(int pid, int signal);
    }
}
