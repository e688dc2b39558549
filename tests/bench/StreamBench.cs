using System.Diagnostics;

namespace Evenkeel.Bench;

/// <summary>What the node adds to streams: to the first token and to each one after it; and what thousands of streams at once need.</summary>
internal sealed class StreamBench(Stage stage, Options options)
{
    private const int TokensPerSecond = 50;

    // The moments of the streams' tokens lie evenly between each other: 5.1 ms modulo 20 ms comes to each tenth of a millisecond.
    private const double BeginPerSecond = 1000 / 5.1;

    private readonly int _streams = options.Smoke ? 20 : 200;

    private sealed record Round(string Peer, double FirstP50, double FirstP99, double TokenP50, double TokenP99, int Broken, double? CpuPerToken);

    public void Run()
    {
        var seconds = options.Smoke ? 1 : options.Quick ? 2 : 6;
        var many = options.Smoke ? 100 : options.Quick ? 500 : 4_000;
        Console.WriteLine($"stream: {options.Rounds} rounds of {_streams} streams × {TokensPerSecond} tokens/s for {seconds} s, then {many} streams at once");
        var machine = Machine.Describe(stage.Checkout);
        using var epoll = new Epoll();
        using var provider = new StreamProvider(stage, epoll);
        var ports = provider.Listening;
        var node = Peers.StartEvenkeel(stage, "streaming", ports);
        var direct = new Peer(Peer.Direct, "", "", ports[0], 0, new Dictionary<string, string>());
        var nginx = Peers.StartNginx(stage, "streaming", ports, location: "proxy_buffering off;");
        Peer[] peers = [direct, nginx, node];
        // A gateway has a core of its own, as it would have; all others, its agent too, have another. In this order, for nginx is our child.
        if (Environment.ProcessorCount > 1)
        {
            ProcessCost.Pin(Environment.ProcessId, 0, only: false);
            if (!Epoll.TakePrecedence())
            {
                Console.WriteLine("  not root: what else runs on the core of the measuring thread may hold it up");
            }
            foreach (var gateway in new[] { nginx, node })
            {
                ProcessCost.Pin(gateway.Pid, 0, only: true);
                ProcessCost.Precede(gateway.Pid);
            }
        }
        var rounds = new List<Round>();
        for (var round = options.Smoke ? 1 : 0; round < options.Rounds + 1; round++)
        {
            foreach (var peer in peers.Skip(round % peers.Length).Concat(peers.Take(round % peers.Length)))
            {
                var one = Measure(epoll, provider, peer, round == 0 ? 1 : seconds);
                if (round > 0)
                {
                    rounds.Add(one);
                }
            }
            Console.WriteLine(round == 0 ? "  warm" : $"  round {round} of {options.Rounds}");
        }
        var late = provider.LateMs;
        (double P50, double P99) lateness = (Statistics.Percentile(late, 0.5), Statistics.Percentile(late, 0.99));
        var crowd = Crowd(epoll, provider, node, many);
        var churn = Churn(epoll, provider, node, options.Soak ? 3600 : options.Smoke ? 4 : options.Quick ? 15 : 60);
        Write(machine, nginx, node, seconds, rounds, lateness, crowd, churn);
    }

    private static byte[] Request(Peer peer, double perSecond, int tokens)
    {
        var call = Call.OfBytes(1_000, stream: true).With(peer.Headers);
        return (call with { Body = call.Body.Insert(1, $"\"user\":\"{perSecond}/{tokens}\",") }).Bytes();
    }

    private Round Measure(Epoll epoll, StreamProvider provider, Peer peer, int seconds)
    {
        var before = peer.Pid == 0 ? 0 : ProcessCost.CpuSeconds(peer.Pid);
        var tokens = seconds * TokensPerSecond;
        var result = StreamClient.Run(epoll, provider, peer.Port, Request(peer, TokensPerSecond, tokens), _streams, BeginPerSecond, seconds + 30, null, stage.Cancel);
        double? cpu = peer.Pid == 0 ? null : (ProcessCost.CpuSeconds(peer.Pid) - before) * 1e6 / (_streams * tokens);
        return new Round(peer.Name, Statistics.Percentile(result.FirstTokenMs, 0.5), Statistics.Percentile(result.FirstTokenMs, 0.99),
            Statistics.Percentile(result.TokenMs, 0.5), Statistics.Percentile(result.TokenMs, 0.99), result.Broken, cpu);
    }

    private sealed record CrowdResult(int Streams, int Whole, int Broken, double LongestGapMs, double TokenSpacingMs, double KilobytesPerStream, double FirstP99Ms, double TokenP99Ms);

    private CrowdResult Crowd(Epoll epoll, StreamProvider provider, Peer node, int streams)
    {
        const double PerSecond = 2, BeginEachSecond = 400;
        var ramp = streams / BeginEachSecond;
        var tokens = (int)((ramp + (options.Smoke ? 1 : options.Quick ? 5 : 20)) * PerSecond);          // all of them live at the peak
        var before = ProcessCost.AnonymousBytes(node.Pid);
        long peak = 0;
        var result = StreamClient.Run(epoll, provider, node.Port, Request(node, PerSecond, tokens), streams, BeginEachSecond, (tokens / PerSecond) + ramp + 30,
            () => peak = ProcessCost.AnonymousBytes(node.Pid), stage.Cancel);
        Console.WriteLine($"  {streams} streams at once: {result.Whole} whole, {result.Broken} broken");
        return new CrowdResult(streams, result.Whole, result.Broken, result.LongestGapMs, 1000 / PerSecond, (peak - before) / 1024.0 / streams,
            Statistics.Percentile(result.FirstTokenMs, 0.99), Statistics.Percentile(result.TokenMs, 0.99));
    }

    private sealed record ChurnResult(double Seconds, int Streams, int Broken, double FirstMegabytes, double LastMegabytes);

    /// <summary>Streams of two seconds that come and go, 100 each second: what the worker holds after the first of them and after the last.</summary>
    private ChurnResult Churn(Epoll epoll, StreamProvider provider, Peer node, double seconds)
    {
        const int Wave = 200;
        var clock = Stopwatch.StartNew();
        var (megabytes, broken) = (new List<double>(), 0);
        while (clock.Elapsed.TotalSeconds < seconds || megabytes.Count < 4)
        {
            broken += StreamClient.Run(epoll, provider, node.Port, Request(node, 10, 20), Wave, 100, 60, null, stage.Cancel).Broken;
            megabytes.Add(ProcessCost.AnonymousBytes(node.Pid) / 1048576.0);
        }
        // The collector comes and goes, too: the most of a quarter of the time is compared.
        var quarter = megabytes.Count / 4;
        Console.WriteLine($"  {megabytes.Count * Wave} streams came and went, {broken} broken");
        return new ChurnResult(clock.Elapsed.TotalSeconds, megabytes.Count * Wave, broken, megabytes.Take(quarter).Max(), megabytes.TakeLast(quarter).Max());
    }

    private void Write(IReadOnlyDictionary<string, string> machine, Peer nginx, Peer node, int seconds, List<Round> rounds, (double P50, double P99) lateness, CrowdResult crowd, ChurnResult churn)
    {
        Figure? Of(string peer, Func<Round, double> what) => Figure.Of(rounds.Where(round => round.Peer == peer).Select(what));
        Figure? Added(string peer, Func<Round, double> what) => Figure.Of(rounds.Where(round => round.Peer == peer).Select(what)
            .Zip(rounds.Where(round => round.Peer == Peer.Direct).Select(what), (here, there) => here - there));
        (string Name, Func<Round, double> What)[] figures =
        [
            ("first token P50", round => round.FirstP50), ("first token P99", round => round.FirstP99),
            ("token P50", round => round.TokenP50), ("token P99", round => round.TokenP99),
        ];
        var table = new Table("ms", "direct", "nginx", "nginx adds", "evenkeel", "evenkeel adds");
        var chart = new BarChart("Time that the node adds to a stream, ms", "median of the rounds; the line is their spread; shorter is better");
        foreach (var (name, what) in figures)
        {
            table.Add([name, Table.Spread(Of(Peer.Direct, what), "0.00"), .. new[] { Peer.Nginx, Peer.Evenkeel }.SelectMany(peer =>
                new[] { Table.Spread(Of(peer, what), "0.00"), Table.Spread(Added(peer, what), "0.00") })]);
            chart.Add(name, Peer.Nginx, Added(Peer.Nginx, what));
            chart.Add(name, Peer.Evenkeel, Added(Peer.Evenkeel, what));
        }
        string Cpu(string peer) => Table.Spread(Figure.Of(rounds.Where(round => round.Peer == peer).Select(round => round.CpuPerToken).OfType<double>()), "0");
        void Single(string what, string figure) => table.Add(what, "", "", "", figure, "");
        table.Add("CPU µs per token", "", Cpu(Peer.Nginx), "", Cpu(Peer.Evenkeel), "");
        Single($"{crowd.Streams} streams: whole / broken", $"{crowd.Whole} / {crowd.Broken}");
        Single($"{crowd.Streams} streams: longest gap (a token each {crowd.TokenSpacingMs:0} ms)", $"{crowd.LongestGapMs:0}");
        Single($"{crowd.Streams} streams: KB of worker memory per stream", $"{crowd.KilobytesPerStream:0}");
        Single($"{crowd.Streams} streams: first token P99 / token P99", $"{crowd.FirstP99Ms:0.0} / {crowd.TokenP99Ms:0.0}");
        Single($"{churn.Streams} streams came and went in {churn.Seconds:0} s: broken", $"{churn.Broken}");
        Single("MB of worker memory in its first / last quarter", $"{churn.FirstMegabytes:0.0} / {churn.LastMegabytes:0.0}");
        var settings = new Dictionary<string, string>
        {
            [$"{nginx.Name} {nginx.Version}"] = nginx.Settings + ", proxy_buffering off",
            [$"{node.Name} {node.Version}"] = node.Settings,
            ["load"] = $"{options.Rounds} rounds of {_streams} streams × {TokensPerSecond} tokens/s for {seconds} s, direct and through each gateway in turn; tokens carry the time they were sent; the gateway alone on one core and before all else that runs there, provider and client one thread on the other",
            ["how late the provider sent its tokens"] = FormattableString.Invariant($"P50 {lateness.P50:0.000} ms, P99 {lateness.P99:0.000} ms"),
            ["broken streams in the rounds"] = $"{rounds.Sum(round => round.Broken)}",
        };
        Report.Write(options.Out, "stream", "What the node adds to streams", machine, settings, table, chart, new { rounds, crowd, churn });
    }
}
