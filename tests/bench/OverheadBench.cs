namespace Evenkeel.Bench;

/// <summary>
/// What a gateway costs per request: CPU of its processes, throughput when pushed as hard as it goes, time added at a modest rate.
/// </summary>
internal sealed class OverheadBench(Stage stage, Options options)
{
    private sealed record Setting(string Name, int BodyBytes, int DelayMs, int Connections, double PerSecond);

    /// <summary>One peer, one setting, one round. Cpu in µs per request.</summary>
    private sealed record Round(string Setting, string Peer, double? CpuAtSaturation, double? PerSecond, double? CpuAtRate, double P50, double P99, long Failed);

    // Enough connections to saturate each peer; the rates leave all of them time to spare.
    private static readonly Setting[] Settings =
    [
        new("1 KB, at once", 1_000, 0, 32, 500), new("100 KB, at once", 100_000, 0, 32, 100),
        new("1 KB, 20 ms", 1_000, Upstream.DelayMs, 256, 500), new("100 KB, 20 ms", 100_000, Upstream.DelayMs, 64, 100),
    ];

    private readonly double _seconds = options.Quick ? 1 : 4;
    private readonly Setting[] _settings = options.Smoke ? Settings[..1] : Settings;
    private readonly List<Round> _rounds = [];

    public void Run()
    {
        Console.WriteLine($"overhead: {options.Rounds} rounds, {_seconds} s each");
        var machine = Machine.Describe(stage.Checkout);
        var upstream = Upstream.Start(stage);
        var peers = _settings.Select(setting => setting.DelayMs).Distinct()
            .ToDictionary(delay => delay, delay => delay == 0 ? Start("at-once", upstream.AtOnce) : Start("delayed", upstream.Delayed));
        for (var round = options.Smoke ? 1 : 0; round < options.Rounds + 1; round++)
        {
            foreach (var setting in _settings)
            {
                // Everybody follows everybody else in turn; the first round only warms up.
                var order = peers[setting.DelayMs].ToList();
                order = [.. order.Skip(round % order.Count), .. order.Take(round % order.Count)];
                foreach (var peer in order)
                {
                    var one = Measure(setting, peer, round == 0 ? 1 : _seconds);
                    if (round > 0)
                    {
                        _rounds.Add(one);
                    }
                }
            }
            Console.WriteLine(round == 0 ? "  warm" : $"  round {round} of {options.Rounds}");
        }
        var known = peers[0].Where(peer => peer.Name != Peer.Direct).ToList();
        Write(machine, known);
    }

    private List<Peer> Start(string name, int[] upstreams)
    {
        List<Peer?> peers =
        [
            new Peer(Peer.Direct, "", "", upstreams[0], 0, new Dictionary<string, string>()),
            options.Wants(Peer.Nginx) ? Peers.StartNginx(stage, name, upstreams) : null,
            options.Wants(Peer.Haproxy) ? Peers.StartHaproxy(stage, name, upstreams) : null,
            options.Wants(Peer.Evenkeel) ? Peers.StartEvenkeel(stage, name, upstreams) : null,
            options.Wants(Peer.Portkey) ? Peers.StartPortkey(stage, name, upstreams) : null,
        ];
        return [.. peers.OfType<Peer>()];
    }

    private Round Measure(Setting setting, Peer peer, double seconds)
    {
        var call = Call.OfBytes(setting.BodyBytes).With(peer.Headers);
        var direct = peer.Name == Peer.Direct;
        (double? cpuAtSaturation, double? perSecond, double? cpuAtRate) = (null, null, null);
        long failed = 0;
        if (!direct)
        {
            var before = ProcessCost.CpuSeconds(peer.Pid);
            var (requests, bad, rate) = ClosedLoop.Run(stage, peer.Port, call, setting.Connections, Math.Max(1, seconds));
            cpuAtSaturation = (ProcessCost.CpuSeconds(peer.Pid) - before) * 1e6 / Math.Max(1, requests);
            (perSecond, failed) = (rate, bad);
        }
        var idle = direct ? 0 : ProcessCost.CpuSeconds(peer.Pid);
        var open = OpenLoop.Run(peer.Port, call.Bytes(), setting.PerSecond, seconds, stage.Cancel);
        if (!direct)
        {
            cpuAtRate = (ProcessCost.CpuSeconds(peer.Pid) - idle) * 1e6 / Math.Max(1, open.LatenciesMs.Count);
        }
        return new Round(setting.Name, peer.Name, cpuAtSaturation, perSecond, cpuAtRate, open.Percentile(0.5), open.Percentile(0.99), failed + open.Failed);
    }

    private void Write(IReadOnlyDictionary<string, string> machine, List<Peer> peers)
    {
        Figure? Of(string setting, string peer, Func<Round, double?> what) =>
            Figure.Of(_rounds.Where(round => round.Setting == setting && round.Peer == peer).Select(what).OfType<double>());
        // Round by round against the direct way of the same round, so that a noisy minute weighs on both.
        Figure? Added(string setting, string peer, Func<Round, double> what)
        {
            var direct = _rounds.Where(round => round.Setting == setting && round.Peer == Peer.Direct).Select(what).ToList();
            return Figure.Of(_rounds.Where(round => round.Setting == setting && round.Peer == peer).Select(what).Zip(direct, (here, there) => here - there));
        }
        Figure? Ratio(string setting, string peer)
        {
            var limit = _rounds.Where(round => round.Setting == setting && round.Peer == Peer.Nginx).Select(round => round.CpuAtSaturation ?? 0).ToList();
            return limit.Count == 0 ? null : Figure.Of(_rounds.Where(round => round.Setting == setting && round.Peer == peer)
                .Select(round => round.CpuAtSaturation ?? 0).Zip(limit, (here, there) => here / there));
        }
        var rows = _settings.SelectMany(setting => peers.Select(peer => new
        {
            Setting = setting.Name,
            Peer = peer.Name,
            CpuMicroseconds = Of(setting.Name, peer.Name, round => round.CpuAtSaturation),
            Ratio = Ratio(setting.Name, peer.Name),
            PerSecond = Of(setting.Name, peer.Name, round => round.PerSecond),
            Rate = setting.PerSecond,
            CpuMicrosecondsAtRate = Of(setting.Name, peer.Name, round => round.CpuAtRate),
            AddedP50Ms = Added(setting.Name, peer.Name, round => round.P50),
            AddedP99Ms = Added(setting.Name, peer.Name, round => round.P99),
            Failed = _rounds.Where(round => round.Setting == setting.Name && round.Peer == peer.Name).Sum(round => round.Failed),
        })).ToList();
        var table = new Table("request, upstream", "peer", "CPU µs/request", "× nginx", "requests/s", "rate/s", "CPU µs at rate", "added P50 ms", "added P99 ms", "failed");
        foreach (var row in rows)
        {
            table.Add(row.Setting, row.Peer, Table.Spread(row.CpuMicroseconds, "0"), Table.Spread(row.Ratio, "0.00"), Table.Spread(row.PerSecond, "0"), $"{row.Rate}",
                Table.Spread(row.CpuMicrosecondsAtRate, "0"), Table.Spread(row.AddedP50Ms, "0.00"), Table.Spread(row.AddedP99Ms, "0.00"), $"{row.Failed}");
        }
        var chart = new BarChart("CPU of the gateway's processes per request, µs", "median of the rounds; the line is their spread; shorter is better");
        foreach (var setting in _settings)
        {
            foreach (var row in rows.Where(row => row.Setting == setting.Name))
            {
                chart.Add(setting.Name, row.Peer, row.CpuMicroseconds);
            }
        }
        var settings = peers.ToDictionary(peer => $"{peer.Name} {peer.Version}", peer => peer.Settings);
        settings["load"] = $"{options.Rounds} rounds of {_seconds} s, peers in turn; saturation: wrk (closed loop, 1 thread, "
            + string.Join(", ", _settings.Select(setting => $"{setting.Connections} connections for {setting.Name}")) + "); rate: the bench's own open-loop client";
        var recorded = Regression.Recorded(stage.Checkout, Settings[0].Name);
        Report.Write(options.Out, "overhead", "What a gateway costs per request", machine, settings, table, chart, new { rows, rounds = _rounds });
        if (options is { Quick: true, Smoke: false })
        {
            Regression.Judge(Ratio(Settings[0].Name, Peer.Evenkeel), recorded);
        }
    }
}
