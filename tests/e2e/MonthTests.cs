using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;
using Xunit.Abstractions;

namespace Evenkeel.EndToEnd;

/// <summary>A month of calls: what it cost, and what was written down of it.</summary>
[Collection(SharedStackCollection.Name)]
public sealed partial class MonthTests(SharedStack shared, Month month, ITestOutputHelper output) : IClassFixture<Month>
{
    /// <summary>Of one instance in one currency. Money in billionths.</summary>
    private sealed record Sum(long Input, long Cached, long Output, long Reasoning, long Cost, long Estimated)
    {
        public static Sum operator +(Sum a, Sum b) =>
            new(a.Input + b.Input, a.Cached + b.Cached, a.Output + b.Output, a.Reasoning + b.Reasoning, a.Cost + b.Cost, a.Estimated + b.Estimated);
    }

    /// <summary>
    /// To the billionth where the provider told its usage. Where it told none (cut, left, or it never does), the tokens are exact here because
    /// the simulator counts as the gateway estimates; what no one can know is how much of the prompt came from the provider's cache, so that
    /// the estimate leaves the discount out, and is never below the bill.
    /// </summary>
    [Fact]
    public async Task A_month_costs_what_the_providers_ledger_says_at_the_node_in_SQL_in_the_API_and_for_Prometheus()
    {
        Assert.Empty(month.Refused);
        var calls = Month.Instances.SelectMany(shared.CallsOf).ToList();
        Assert.True(calls.Count > 3000, $"{calls.Count} calls");
        foreach (var change in month.Changes) Assert.InRange(calls.Count(call => call.At < change), 20, calls.Count - 20);
        foreach (var change in month.Changes) Assert.DoesNotContain(calls, call => (EndOf(call) - change).Duration() < TimeSpan.FromMilliseconds(50));

        var expected = calls.Where(call => call.TokensBilled > 0).GroupBy(call => (call.Instance, month.Prices[call.Instance].At(EndOf(call)).Currency))
            .ToDictionary(group => group.Key, group => group.Select(Counted).Aggregate((a, b) => a + b));
        Assert.Equal([("month-a", "USD"), ("month-b", "EUR"), ("month-b", "USD"), ("month-c", "CNY")], expected.Keys.Order());
        Assert.True(calls.Count(call => call is { TokensBilled: > 0, UsageTold: false }) > 200, "many estimates");

        // The node, once all is merged.
        JsonArray series = [];
        await Wait.Until(async () =>
        {
            series = JsonNode.Parse(await shared.Stack.Node.GetAsync("/telemetry?after=0"))!["series"]!.AsArray();
            return Of("attempt").Sum(one => (int)one["count"]!) == calls.Count && Of("usage").Sum(one => (int)one["attempts"]!) == calls.Count(call => call.TokensBilled > 0);
        }, "every attempt is counted", evidence: () => Task.FromResult($"{calls.Count} calls in the ledger, {Of("attempt").Sum(one => (int)one["count"]!)} attempts; "
            + $"{calls.Count(call => call.TokensBilled > 0)} billed, {Of("usage").Sum(one => (int)one["attempts"]!)} that cost something"));
        Same("the node", Of("usage").GroupBy(one => ((string)one["labels"]!["instance"]!, (string)one["currency"]!)).ToDictionary(group => group.Key, group => group.Select(one => new Sum(
            (long)one["input"]!, (long)one["cached_input"]!, (long)one["output"]!, (long)one["reasoning"]!, (long)one["cost_nano"]!, (long)one["estimated_cost_nano"]!)).Aggregate((a, b) => a + b)));
        foreach (var waste in new[] { "cut", "gone" }) Assert.Contains(Of("usage"), one => (string)one["labels"]!["waste"]! == waste && (long)one["cost_nano"]! > 0);
        Assert.Contains(Of("usage"), one => (string)one["labels"]!["traffic"]! == "resumed" && (long)one["cost_nano"]! > 0);

        // Prometheus' text.
        var metrics = await shared.Stack.Node.GetAsync("/metrics");
        Assert.Equal(expected.ToDictionary(one => one.Key, one => one.Value.Cost / 1e9m), MetricLine().Matches(metrics)
            .GroupBy(line => (line.Groups["instance"].Value, line.Groups["currency"].Value)).Where(group => Month.Instances.Contains(group.Key.Item1))
            .ToDictionary(group => group.Key, group => group.Sum(line => decimal.Parse(line.Groups["value"].Value, CultureInfo.InvariantCulture))));

        // SQL, once the control plane has read it; by the report, that anybody may query.
        Dictionary<(string, string), Sum> report = [];
        await Wait.Until(async () => (report = await ReportAsync()).Values.Sum(sum => sum.Cost) >= expected.Values.Sum(sum => sum.Cost), "the control plane has read it");
        Same("the report", report);

        // The API, from rows of ten seconds, minutes, hours and days.
        foreach (var step in new[] { 10, 60, 3600, 86400 })
        {
            var (from, to) = (month.Began.AddMinutes(-1).UtcDateTime.ToString("O"), DateTime.UtcNow.AddMinutes(1).ToString("O"));
            var cost = await shared.Admin.GetAsync($"telemetry/cost?by=instance&step_s={step}&from={from}&to={to}");
            Assert.Equal(step, (int)cost["step_s"]!);
            var rows = cost["rows"]!.AsArray().Where(row => Month.Instances.Contains((string)row!["name"]!)).ToDictionary(row => ((string)row!["name"]!, (string)row["currency"]!), row => row!);
            foreach (var (key, sum) in expected)
            {
                Assert.Equal((sum.Cost / 1e9m, sum.Estimated / 1e9m), ((decimal)rows[key]["total"]!, (decimal)rows[key]["estimated"]!));
                Assert.Equal(sum.Cost / 1e9m, rows[key]["points"]!.AsArray().Sum(point => (decimal)point!["amount"]!));
            }
        }

        // The bill: what was told, to the cent and beyond; what was estimated, never below.
        foreach (var (key, sum) in expected)
        {
            var billed = calls.Where(call => call.TokensBilled > 0 && (call.Instance, month.Prices[call.Instance].At(EndOf(call)).Currency) == key).ToList();
            var (told, untold) = (billed.Where(call => call.UsageTold).Sum(Bill), billed.Where(call => !call.UsageTold).Sum(Bill));
            Assert.Equal(told, sum.Cost - sum.Estimated);
            Assert.True(untold <= sum.Estimated);
            output.WriteLine($"{key.Instance}: {billed.Count} calls, billed {(told + untold) / 1e9m} {key.Currency}, of which {untold / 1e9m} without usage; counted {sum.Cost / 1e9m}, of which {sum.Estimated / 1e9m} estimated");
        }

        IEnumerable<JsonNode> Of(string family) => series.Where(one => (string?)one!["family"] == family && (string?)one["labels"]!["pool"] == "month").Select(one => one!);

        void Same(string where, Dictionary<(string, string), Sum> found)
        {
            foreach (var (key, sum) in expected) Assert.True(found.GetValueOrDefault(key) == sum, $"{where}, {key}: {found.GetValueOrDefault(key)} instead of {sum}");
            Assert.Equal(expected.Count, found.Count);
        }
    }

    [Fact]
    public async Task Every_request_of_the_month_has_one_line_in_the_access_log_though_it_was_rotated_by_hand_and_by_size()
    {
        string[] files = [month.AccessLog + ".moved", month.AccessLog + ".1", month.AccessLog];
        var lines = new Dictionary<string, int[]>();
        await Wait.Until(async () =>
        {
            lines = [];
            for (var file = 0; file < files.Length; file++)
            {
                foreach (var line in await LinesAsync(files[file]))
                {
                    var id = (string)JsonNode.Parse(line)!["request_id"]!;
                    if (id.StartsWith("month-", StringComparison.Ordinal)) (lines.TryGetValue(id, out var counts) ? counts : lines[id] = new int[files.Length])[file]++;
                }
            }
            return lines.Count == month.RequestIds.Count;
        }, "every request is in the log", evidence: () => Task.FromResult(string.Join(' ', month.RequestIds.Except(lines.Keys).Take(20))));
        Assert.All(lines, line => Assert.Equal(1, line.Value.Sum()));
        for (var file = 0; file < files.Length; file++) Assert.Contains(lines.Values, counts => counts[file] > 0);

        // The hole by which it was swollen is no part of any line.
        static async Task<string[]> LinesAsync(string path)
        {
            using var log = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
            using var text = new MemoryStream();
            var block = new byte[64 * 1024];
            for (int read; (read = await log.ReadAsync(block)) > 0;)
            {
                if (block.AsSpan(0, read).ContainsAnyExcept((byte)0)) text.Write([.. block.Take(read).Where(one => one != 0)]);
            }
            // Nor is a last one that is still being written.
            var lines = Encoding.UTF8.GetString(text.ToArray());
            return lines[..(lines.LastIndexOf('\n') + 1)].Split('\n', StringSplitOptions.RemoveEmptyEntries);
        }
    }

    private static DateTimeOffset EndOf(LedgerEntry call) => call.At.AddMilliseconds(call.EndMs!.Value);

    private decimal Bill(LedgerEntry call) => month.Prices[call.Instance].At(EndOf(call)).Rates.Of(call.PromptTokensBilled, call.PromptTokensCached, call.CompletionTokensBilled);

    /// <summary>How the gateway should count a call.</summary>
    private Sum Counted(LedgerEntry call)
    {
        var rates = month.Prices[call.Instance].At(EndOf(call)).Rates;
        return call.UsageTold
            ? new Sum(call.PromptTokensBilled, call.PromptTokensCached, call.CompletionTokensBilled, call.ReasoningTokens, (long)Bill(call), 0)
            : Estimate((long)rates.Of(call.PromptTokensBilled, 0, call.CompletionTokensBilled));

        Sum Estimate(long cost) => new(call.PromptTokensBilled, 0, call.CompletionTokensBilled, 0, cost, cost);
    }

    private async Task<Dictionary<(string, string), Sum>> ReportAsync()
    {
        var csv = (await shared.Admin.TextAsync("reports/cost_daily.csv")).Split("\r\n", StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(',')).ToList();
        return csv.Skip(1).Select(row => csv[0].Zip(row).ToDictionary(cell => cell.First, cell => cell.Second)).Where(row => Month.Instances.Contains(row["instance"]))
            .GroupBy(row => (row["instance"], row["currency"])).Where(group => group.Key.Item2 != "")
            .ToDictionary(group => group.Key, group => group.Select(SumOf).Aggregate((a, b) => a + b));

        static Sum SumOf(Dictionary<string, string> row)
        {
            return new Sum(Tokens("input"), Tokens("cached_input"), Tokens("output"), Tokens("reasoning"), Nano("cost"), Nano("estimated_cost"));

            long Tokens(string name) => long.Parse(row[name + "_tokens"], CultureInfo.InvariantCulture);

            long Nano(string name) => (long)(decimal.Parse(row[name], CultureInfo.InvariantCulture) * 1_000_000_000);
        }
    }

    [GeneratedRegex("""^evenkeel_cost_total\{(?=[^}]*instance="(?<instance>[^"]*)")(?=[^}]*currency="(?<currency>[^"]*)")[^}]*\} (?<value>\S+)$""", RegexOptions.Multiline)]
    private static partial Regex MetricLine();
}
