using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>
/// Which way of choosing an instance serves an LLM-like workload best: algorithms/simulation.lua plays the traffic around the node's own
/// code, and the rules take turns on the same arrivals. Nothing is timed, so a busy machine changes no figure.
/// </summary>
internal sealed class AlgorithmsBench(Stage stage, Options options)
{
    private sealed record Round(string Scenario, string Algorithm, int Seed, int Requests, int Errors, int Attempts, double P50S, double P99S, double FirstP50S, double FirstP99S)
    {
        public double ErrorPercent => 100.0 * Errors / Math.Max(1, Requests);
    }

    private sealed record Row(string Scenario, string Algorithm, Figure P50, Figure P99, Figure FirstP99, Figure ErrorPercent);

    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };
    private static readonly string[] Ours = ["round_robin", "weighted", "least_load"];

    // Nearer than this is the same: other seeds move a P99 by as much.
    private const double SameShare = 0.02;
    private const double SameErrorPercent = 0.05;

    private readonly int _seconds = options.Smoke ? 20 : options.Quick ? 60 : 300;

    public void Run()
    {
        var machine = Machine.Describe(stage.Checkout);
        Console.WriteLine($"algorithms: {options.Rounds} rounds of {_seconds} simulated seconds");
        var runs = Simulate();
        var rows = runs.GroupBy(run => (run.Scenario, run.Algorithm)).Select(group => new Row(group.Key.Scenario, group.Key.Algorithm,
            Figure.Of(group.Select(run => run.P50S))!, Figure.Of(group.Select(run => run.P99S))!, Figure.Of(group.Select(run => run.FirstP99S))!,
            Figure.Of(group.Select(run => run.ErrorPercent))!)).ToList();
        var algorithms = rows.Select(row => row.Algorithm).Distinct().ToList();
        var table = new Table(["scenario: P99 s, errors", .. algorithms]);
        var chart = new BarChart("Whole answers, P99", "seconds by scenario and rule; median of the rounds; less is better");
        foreach (var scenario in rows.GroupBy(row => row.Scenario))
        {
            table.Add([scenario.Key, .. scenario.Select(Cell)]);
            foreach (var row in scenario)
            {
                chart.Add(scenario.Key, row.Algorithm, row.P99);
            }
        }
        foreach (var ours in Ours)
        {
            table.Add([$"better / worse than {ours} in", .. algorithms.Select(other => other == ours ? "" : Compare(rows, other, ours))]);
        }
        Report.Write(options.Out, "algorithms", "Ways of choosing an instance", machine, new Dictionary<string, string>
        {
            ["workload"] = $"{options.Rounds} seeds, {_seconds} simulated seconds each, the first tenth not counted; 70 % streams; answers log-normal in length (median 100 tokens, sigma 0.7), "
                + "calls of about 0.8 s that get slower as the instance fills; three instances of 50, 50 and 20 unless the scenario says otherwise; trouble lasts the middle third",
            ["around the rules"] = "edge, live, breaker, escalation and the adapter's report of the node, on a simulated clock; up to 4 attempts, a queue of 100 places and 2 s",
            ["errors"] = "requests without an answer, %",
            ["better, worse"] = $"scenarios where the P99 differs by over {SameShare * 100:0} % or the errors by over {SameErrorPercent.ToString(CultureInfo.InvariantCulture)} points (errors decide first)",
            ["least_connections"] = "(in flight + 1) / weight",
            ["peak_ewma_p2c"] = "Finagle's: of two at random the least latency × (in flight + 1), each peak counts whole",
            ["prequal"] = "hot-cold rule at the 0.84 quantile, all instances known instead of probes of a few",
            ["least_load_absolute"] = "the least (in flight + 1) / limit × latency",
        }, table, chart, new { rows, runs });
    }

    private static string Cell(Row row) => string.Create(CultureInfo.InvariantCulture, $"{row.P99.Median:0.00}, {row.ErrorPercent.Median:0.##} %");

    private static string Compare(List<Row> rows, string other, string ours)
    {
        var (better, worse) = (0, 0);
        foreach (var scenario in rows.GroupBy(row => row.Scenario))
        {
            var (a, b) = (scenario.First(row => row.Algorithm == other), scenario.First(row => row.Algorithm == ours));
            var errors = a.ErrorPercent.Median - b.ErrorPercent.Median;
            var time = (a.P99.Median / b.P99.Median) - 1;
            var verdict = Math.Abs(errors) > SameErrorPercent ? Math.Sign(errors) : Math.Abs(time) > SameShare ? Math.Sign(time) : 0;
            better += verdict < 0 ? 1 : 0;
            worse += verdict > 0 ? 1 : 0;
        }
        return $"{better} / {worse}";
    }

    private List<Round> Simulate()
    {
        var start = new ProcessStartInfo("luajit", ["tests/bench/algorithms/simulation.lua", $"{_seconds}", $"{options.Rounds}"])
        {
            WorkingDirectory = stage.Checkout,
            RedirectStandardOutput = true,
        };
        using var process = Process.Start(start)!;
        using var stopped = stage.Cancel.Register(() => process.Kill());
        var text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        stage.Cancel.ThrowIfCancellationRequested();
        return process.ExitCode == 0 ? JsonSerializer.Deserialize<List<Round>>(text, Json)! : throw new BenchException("the simulation failed; its words are above");
    }
}
