using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What is shipped for Prometheus and Grafana, against a real Prometheus that scrapes a real node under load.</summary>
[Collection(SharedStackCollection.Name)]
public sealed partial class PrometheusTests(SharedStack shared)
{
    private static readonly string Shipped = Path.Combine(Launcher.Checkout, "nginx", "observability");

    [Fact]
    public async Task Every_expression_of_rules_and_dashboards_returns_data()
    {
        // Everything that they speak of happens: failures and 429s that are rescued, cut streams, a lesser tier, and a pool of which nobody is left.
        shared.Providers["seen-1"].AddFault("cut_after=8", match: new FaultMatch(Stream: true));
        shared.Providers["lost"].Down();
        using var over = new CancellationTokenSource();
        var load = Enumerable.Range(0, 6).Select(caller => Task.Run(async () =>
        {
            for (var i = 0; !over.IsCancellationRequested; i++)
            {
                if (caller == 0) await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("lost-model", $"Question {i}"));
                else if (caller < 4) await shared.Gateway.AskAsync("seen-model");
                else await shared.Gateway.StreamAsync("seen-model");
                await Task.Delay(50);
            }
        })).ToList();
        var directory = Stack.ScratchDirectory();
        var address = $"127.0.0.1:{Launcher.FreePort()}";
        using var prometheus = Start(directory, address);
        try
        {
            using var http = new HttpClient { BaseAddress = new Uri($"http://{address}") };
            var missing = RuleExpressions().Concat(DashboardExpressions()).Distinct().ToList();
            Assert.True(missing.Count > 50, $"{missing.Count} expressions");
            await Wait.Until(async () =>
            {
                foreach (var expression in missing.ToList())
                {
                    if (await HasDataAsync(http, expression)) missing.Remove(expression);
                }
                return missing.Count == 0;
            }, "data for every expression", TimeSpan.FromSeconds(90), () => Task.FromResult(string.Join('\n', missing)));
        }
        finally
        {
            await over.CancelAsync();
            prometheus.Kill(entireProcessTree: true);
            await prometheus.WaitForExitAsync();
            await Task.WhenAll(load);
            Directory.Delete(directory, recursive: true);
        }
    }

    /// <summary>With the shipped configuration, but for the node's address, a faster pace, and where the token is.</summary>
    private Process Start(string directory, string address)
    {
        foreach (var file in new[] { "rules.yml", "alerts.yml" }) File.Copy(Path.Combine(Shipped, file), Path.Combine(directory, file));
        File.Copy(shared.Stack.PathOf("node-token"), Path.Combine(directory, "node-token"));
        var config = File.ReadAllText(Path.Combine(Shipped, "prometheus.yml"))
            .Replace("127.0.0.1:9145", $"127.0.0.1:{shared.Stack.Recorded("NODE_ADMIN_PORT")}").Replace("interval: 10s", "interval: 1s");
        File.WriteAllText(Path.Combine(directory, "prometheus.yml"), config);
        // Bounded, also when this process dies.
        return Process.Start(new ProcessStartInfo("timeout",
        [
            "300", "prometheus", $"--config.file={directory}/prometheus.yml", $"--storage.tsdb.path={directory}/data", $"--web.listen-address={address}", "--log.level=error",
        ]))!;
    }

    private static async Task<bool> HasDataAsync(HttpClient http, string expression)
    {
        try
        {
            using var answer = await http.GetAsync("/api/v1/query?query=" + Uri.EscapeDataString(expression));
            var body = await answer.Content.ReadAsStringAsync();
            Assert.True(answer.StatusCode != System.Net.HttpStatusCode.BadRequest, $"{expression}: {body}");
            return answer.IsSuccessStatusCode && JsonNode.Parse(body)!["data"]!["result"]!.AsArray().Count > 0;
        }
        catch (HttpRequestException)
        {
            return false;   // it has only just been started
        }
    }

    // A condition that holds nowhere returns nothing, as it should: what is asked for is that it can be judged.
    private static IEnumerable<string> RuleExpressions() =>
        new[] { "rules.yml", "alerts.yml" }.SelectMany(file => File.ReadLines(Path.Combine(Shipped, file)))
            .Select(line => line.Trim()).Where(line => line.StartsWith("expr: ", StringComparison.Ordinal)).Select(line => line["expr: ".Length..])
            .Select(text => text.StartsWith('"') ? Threshold().Replace(JsonSerializer.Deserialize<string>(text)!, "${op} bool ${number}") : text);

    private static IEnumerable<string> DashboardExpressions() =>
        Directory.EnumerateFiles(Path.Combine(Shipped, "grafana", "dashboards"), "*.json").SelectMany(file => Found(JsonNode.Parse(File.ReadAllText(file))!))
            .Select(text => text.Replace("$__rate_interval", "1m").Replace("$__range_s", "60").Replace("$__range", "1m").Replace("$revenue_per_hour", "160")
                .Replace("$pool", ".*").Replace("$instance", ".*"));

    private static IEnumerable<string> Found(JsonNode? node) => node switch
    {
        JsonObject map => map.SelectMany(one => one is { Key: "expr", Value: JsonValue text } ? [(string)text!] : Found(one.Value)),
        JsonArray list => list.SelectMany(Found),
        _ => [],
    };

    [GeneratedRegex(@"(?<op>[<>]=?) (?<number>[0-9.]+)(?= and |$)")]
    private static partial Regex Threshold();
}
