using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What the node counts, against what its providers have seen and its clients have got.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class TelemetryTests(SharedStack shared)
{
    private const decimal InputPrice = 0.27m, CachedPrice = 0.07m, OutputPrice = 1.10m;

    [Fact]
    public async Task Tokens_and_money_are_those_of_the_providers_ledger_whatever_became_of_the_calls()
    {
        var first = shared.Providers["billed"];
        var requests = 0;
        Expect.Served(await shared.Gateway.AskManyAsync("billed-model", calls: 12, atATime: 4));
        for (var i = 0; i < 6; i++) Assert.True((await shared.Gateway.StreamAsync("billed-model", $"Tell me of the sea, part {i}.")).Done);
        requests += 18;

        first.AddFault("status=503", times: 1);                                       // retried
        Expect.Served(await shared.Gateway.AskManyAsync("billed-model", calls: 2, atATime: 1));
        requests += 2;

        first.AddFault("cut_after_tokens=8", times: 2);                        // continued by the other one
        for (var i = 0; i < 2; i++) Assert.True((await shared.Gateway.StreamAsync("billed-model", "Tell me of the deep.")).Done);
        requests += 2;

        first.AddFault("stall_after_tokens=5;stall_ms=20000", times: 1);       // its client leaves
        Assert.False((await shared.Gateway.LeaveAfterAsync(5, "billed-model", "Tell me of the reef.")).Done);
        requests++;
        await shared.Providers.Ledger.WaitAsync(entries => entries.All(entry => entry.Ended), "billed");

        JsonArray series = [];
        await Wait.Until(async () =>
        {
            series = await SeriesAsync();
            return Of(series, "request", "billed").Sum(one => (long)one!["count"]!) == requests
                && Of(series, "attempt", "billed").Where(one => (string?)one["labels"]!["traffic"] != "probe").Sum(one => (long)one["count"]!)
                    == shared.CallsOf("billed").Count + shared.CallsOf("billed-too").Count
                // Row by row: what is read while a worker merges has some of its rows only.
                && Of(series, "usage", "billed").Sum(one => (long)one["attempts"]!) == shared.CallsOf("billed").Concat(shared.CallsOf("billed-too")).Count(call => call.TokensBilled > 0);
        }, "all is merged", evidence: () => Task.FromResult(series.ToJsonString()));

        foreach (var instance in new[] { "billed", "billed-too" })
        {
            var calls = shared.CallsOf(instance);
            var usage = Of(series, "usage", "billed").Where(one => (string?)one["labels"]!["instance"] == instance).ToList();
            Assert.Equal(calls.Sum(call => call.PromptTokensBilled), usage.Sum(one => (int)one["input"]!));
            Assert.Equal(calls.Sum(call => call.CompletionTokensBilled), usage.Sum(one => (int)one["output"]!));

            // What the provider bills: the calls that told their usage by their cached share, the others without.
            var cost = usage.Sum(one => (((int)one["input"]! - (int)one["cached_input"]!) * InputPrice + (int)one["cached_input"]! * CachedPrice + (int)one["output"]! * OutputPrice) * 1000);
            Assert.Equal((long)cost, usage.Sum(one => (long)one["cost_nano"]!));
        }

        var cut = Assert.Single(Of(series, "usage", "billed"), one => (string?)one["labels"]!["waste"] == "cut");
        Assert.Equal((2, 16, 16), ((int)cut["attempts"]!, (int)cut["output"]!, (int)cut["estimated_output"]!));
        var gone = Assert.Single(Of(series, "usage", "billed"), one => (string?)one["labels"]!["waste"] == "gone");
        Assert.Equal((1, 5, 5), ((int)gone["attempts"]!, (int)gone["output"]!, (int)gone["estimated_output"]!));
        Assert.Contains(Of(series, "usage", "billed"), one => (string?)one["labels"]!["traffic"] == "resumed" && (long)one["cost_nano"]! > 0);
        Assert.All(Of(series, "usage", "billed").Where(one => (string?)one["labels"]!["waste"] == ""), one => Assert.Equal(0, (int)one["estimated_output"]!));
        Assert.Equal(3, Of(series, "request", "billed").Sum(one => (int)one["retried"]!));
        Assert.Equal(1, Of(series, "request", "billed").Where(one => (string?)one["labels"]!["outcome"] == "client_gone").Sum(one => (int)one["count"]!));

        var traces = (await TracesAsync()).Where(trace => (string?)trace["pool"] == "billed").ToList();
        var continued = traces.First(trace => trace["attempts"]!.AsArray().Any(attempt => attempt!["way"] is not null));
        Assert.Equal("ok", (string?)continued["outcome"]);
        Assert.Equal(["truncated", "ok"], continued["attempts"]!.AsArray().Select(attempt => (string?)attempt!["outcome"]));
        Assert.Equal(["server_error", "ok"], traces.First(trace => (string?)trace["attempts"]![0]!["outcome"] == "server_error")["attempts"]!.AsArray().Select(attempt => (string?)attempt!["outcome"]));
    }

    /// <summary>As a busy worker meets it: request and farewell come in one. Nginx tells of the farewell only those who listen already.</summary>
    [Fact]
    public async Task Who_has_left_before_a_worker_looks_is_not_asked_for_at_the_provider()
    {
        const int Leavers = 5;
        var body = Gateway.ChatBody("any-model");
        var request = Encoding.UTF8.GetBytes($"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}");
        var door = new UnixDomainSocketEndPoint(shared.Stack.PathOf("node/run/instances/idle.sock"));
        var before = shared.CallsOf("idle").Count;
        await shared.Stack.WhilePausedAsync(shared.Stack.Workers, async () =>
        {
            for (var i = 0; i < Leavers; i++)
            {
                using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(door);
                await socket.SendAsync(request);
            }
        });
        await Wait.Until(async () => (await SeriesAsync()).Where(one => (string?)one!["family"] == "attempt" && (string?)one["labels"]!["instance"] == "idle"
            && (string?)one["labels"]!["outcome"] == "client_gone").Sum(one => (int)one!["count"]!) == Leavers, "all are counted");
        Assert.Equal(before, shared.CallsOf("idle").Count);
    }

    /// <summary>All workers are told to end at the same moment, most often in the second before they would have added up what they counted.</summary>
    [Fact]
    public async Task What_the_workers_counted_last_is_not_lost_when_a_reload_ends_them()
    {
        const int Reloads = 12, Calls = 8;
        using var caller = shared.Gateway.Afresh();
        for (var i = 0; i < Reloads; i++)
        {
            var old = shared.Stack.Workers;
            var answers = await Task.WhenAll(Enumerable.Range(0, Calls).Select(_ => caller.PostAsync("/v1/chat/completions", Gateway.ChatBody("reloaded-model"), ("Connection", "close"))));
            Expect.Served(answers);
            await shared.Stack.ReloadAsync();
            await Wait.Until(() => shared.Stack.Workers is { Count: 2 } now && !now.Intersect(old).Any(), "new workers serve");
        }
        var counted = 0;
        await Wait.Until(async () => (counted = await CountedAsync()) >= Reloads * Calls, "all calls are counted", evidence: () => Task.FromResult($"{counted} of {Reloads * Calls}"));
        Assert.Equal(Reloads * Calls, counted);

        // Of a pool that only this test calls: another's last calls may be counted a second later.
        async Task<int> CountedAsync() => Of(await SeriesAsync(), "request", "reloaded").Sum(one => (int)one["count"]!);
    }

    [Fact]
    public async Task A_pool_that_a_later_tier_answers_is_an_incident_until_its_first_tier_is_back()
    {
        try
        {
            shared.Providers["tiered"].AddFault("status=503");
            Assert.Equal("tier-2", (await shared.Gateway.AskAsync("tiered-model")).Tier);
            await Wait.Until(async () => (await IncidentsAsync(open: true)).Count == 1, "it is open");
        }
        finally
        {
            shared.Providers["tiered"].ClearFaults();
        }
        await shared.Stack.Node.ForgiveAsync("tiered");
        await Wait.Until(async () =>
        {
            await Task.Delay(250);
            Expect.Served(await shared.Gateway.AskAsync("tiered-model"));
            return (await IncidentsAsync(open: true)).Count == 0;
        }, "it is over", TimeSpan.FromSeconds(40));
        Assert.Equal("server_error", (string?)(await IncidentsAsync(open: false))[0]!["cause"]);

        Task<JsonArray> IncidentsAsync(bool open) => shared.Admin.ListAsync($"incidents?kind=tier_degraded&subject=tiered&open={(open ? "true" : "false")}");
    }

    [Fact]
    public async Task Prometheus_takes_the_metrics_of_a_node_and_promtool_finds_nothing_to_say()
    {
        Expect.Served(await shared.Gateway.AskManyAsync("plain-model", calls: 3, atATime: 1));
        string text = "";
        await Wait.Until(async () => (text = await shared.Stack.Node.GetAsync("/metrics")).Contains("evenkeel_requests_total{pool=\"plain\"", StringComparison.Ordinal), "it is counted");
        Assert.Contains("evenkeel_breaker_state{instance=\"plain\",state=\"closed\"} 1", text);
        using var promtool = Process.Start(new ProcessStartInfo("promtool", "check metrics") { RedirectStandardInput = true, RedirectStandardError = true, RedirectStandardOutput = true })!;
        await promtool.StandardInput.WriteAsync(text);
        promtool.StandardInput.Close();
        var said = await promtool.StandardError.ReadToEndAsync() + await promtool.StandardOutput.ReadToEndAsync();
        await promtool.WaitForExitAsync();
        Assert.Equal((0, ""), (promtool.ExitCode, said));
    }

    [Fact]
    public async Task The_access_log_has_one_line_of_JSON_for_each_request_whatever_was_asked()
    {
        var id = $"log-{Guid.NewGuid():N}";
        Expect.Served(await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model", "a secret prompt"), ("x-request-id", id)));
        await shared.Gateway.GetAsync("/v1/no%22such%0athing%5c", ("x-request-id", id + "-odd"));
        string[] lines = [];
        await Wait.Until(() => (lines = [.. File.ReadLines(shared.Stack.PathOf("node/logs/access.log")).Where(line => line.Contains(id, StringComparison.Ordinal))]).Length == 2, "both are written");
        // Each worker writes its own once a second: which of them is first says nothing.
        var (odd, usual) = (lines.Single(line => line.Contains(id + "-odd", StringComparison.Ordinal)), lines.Single(line => !line.Contains(id + "-odd", StringComparison.Ordinal)));
        var call = JsonNode.Parse(usual)!;
        Assert.Equal(("plain", 200, "plain", "ok"), ((string?)call["pool"], (int)call["status"]!, (string?)call["attempts"]![0]!["instance"], (string?)call["attempts"]![0]!["outcome"]));
        Assert.Equal("/v1/no\"such\nthing\\", (string?)JsonNode.Parse(odd)!["path"]);
        Assert.DoesNotContain("secret prompt", string.Concat(lines));
    }

    /// <summary>All that the node still has, a portion at a time.</summary>
    private async Task<IReadOnlyList<JsonNode>> TracesAsync()
    {
        var all = new List<JsonNode>();
        for (var last = 0L; JsonNode.Parse(await shared.Stack.Node.GetAsync($"/traces?after={last}"))!["traces"]!.AsArray() is { Count: > 0 } traces; last = (long)traces[^1]!["id"]!)
        {
            all.AddRange(traces.Select(trace => trace!));
        }
        return all;
    }

    private async Task<JsonArray> SeriesAsync() => JsonNode.Parse(await shared.Stack.Node.GetAsync("/telemetry?after=0"))!["series"]!.AsArray();

    private static IEnumerable<JsonNode> Of(JsonArray series, string family, string pool) =>
        series.Where(one => (string?)one!["family"] == family && (string?)one["labels"]!["pool"] == pool).Select(one => one!);
}
