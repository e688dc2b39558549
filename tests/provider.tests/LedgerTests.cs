using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class LedgerTests
{
    private static Task<ProviderSimulator> StartAsync(InstanceSettings settings, int ledgerLimit = 1000) =>
        ProviderSimulator.StartAsync(new ProviderOptions { Instances = [new InstanceOptions("L") { Settings = settings }], LedgerLimit = ledgerLimit });

    [Fact]
    public async Task An_entry_tells_who_asked_what_and_what_it_cost()
    {
        await using var simulator = await StartAsync(new InstanceSettings { CachedPromptShare = 0.5 });
        await AskAsync(simulator["L"], body: """{"model":"deepseek-chat","user":"ghost","messages":[{"role":"user","content":"hello"}]}""",
            headers: "Authorization: Bearer sk-secret\r\nX-Request-Id: r-1\r\n");
        var entry = (await simulator.Ledger.WaitAsync(all => all is [{ Ended: true }]))[0];
        Assert.Equal(("L", "deepseek-chat", false, "ghost", "r-1"), (entry.Instance, entry.Model, entry.Stream, entry.User, entry.RequestId));
        Assert.Equal(("POST", "/v1/chat/completions", "provider.test", 1), (entry.Method, entry.Path, entry.Host, entry.RequestOnConnection));
        Assert.Equal((200, LedgerOutcome.Completed, 1), (entry.Status, entry.Outcome, entry.InFlight));
        Assert.Equal((20, 6, 20, 26), (entry.TokensSent, entry.PromptTokensBilled, entry.CompletionTokensBilled, entry.TokensBilled));
        Assert.Equal((3, 0, true), (entry.PromptTokensCached, entry.ReasoningTokens, entry.UsageTold));
        Assert.Equal(12, entry.AuthorizationSha256!.Length);
        Assert.Equal(64, entry.BodySha256.Length);
        Assert.True(entry.HeadersMs <= entry.EndMs);
    }

    [Fact]
    public async Task Failed_calls_are_billed_at_nothing_and_cut_ones_for_what_was_sent()
    {
        await using var simulator = await StartAsync(new InstanceSettings());
        foreach (var fault in new[] { "status=503", "reset", "error_event_first", "cut_after=7", "reasoning_first=5,usage_chunk=off" })
        {
            await AskAsync(simulator["L"], fault, Bodies.Stream);
        }
        var entries = await simulator.Ledger.WaitAsync(all => all.Count == 5 && all.All(e => e.Ended));
        Assert.Equal([0, 0, 0, 13, 31], entries.Select(e => e.TokensBilled));
        Assert.Equal([0, 0, 0, 0, 5], entries.Select(e => e.ReasoningTokens));
        Assert.All(entries, e => Assert.False(e.UsageTold));
        Assert.Equal([LedgerOutcome.Completed, LedgerOutcome.ResetByUs, LedgerOutcome.Completed, LedgerOutcome.CutByUs, LedgerOutcome.Completed], entries.Select(e => e.Outcome));
    }

    [Fact]
    public async Task Beyond_the_ceiling_calls_are_rejected_at_once_and_the_peak_is_kept()
    {
        await using var simulator = await StartAsync(new InstanceSettings { Ceiling = 2, CeilingRetryAfter = "3" });
        var instance = simulator["L"];
        using var first = await ConnectAsync(instance);
        using var second = await ConnectAsync(instance);
        foreach (var client in new[] { first, second })
        {
            await client.SendAsync(Bodies.Stream, "x-sim-fault: stall_after=1;stall_ms=forever\r\n");
            await client.ReadUntilAsync("choices");
        }
        var third = await AskAsync(instance);
        Assert.Equal((429, "rate_limit_exceeded", "3"), (third.Status, third.Error, third.Header("retry-after")));
        Assert.Equal((2, 3, 1L), (instance.Counters.InFlight, instance.Counters.PeakInFlight, instance.Counters.Rejected));
        Assert.Equal(200, (await AskAsync(instance, body: "", path: "/v1/models", method: "GET")).Status);
        first.Dispose();
        await simulator.Ledger.WaitAsync(all => all[0].Ended);
        Assert.Equal(200, (await AskAsync(instance)).Status);
        instance.ResetCounters();
        Assert.Equal((1, 0L), (instance.Counters.PeakInFlight, instance.Counters.Calls));
    }

    [Fact]
    public async Task A_client_that_has_its_answer_may_ask_again_at_once_under_a_ceiling_of_one()
    {
        await using var simulator = await StartAsync(new InstanceSettings { Ceiling = 1 });
        for (var i = 0; i < 50; i++)
        {
            using var client = await ConnectAsync(simulator["L"]);
            await client.SendAsync(i % 2 == 0 ? Bodies.Chat : Bodies.Stream, keepAlive: true);
            var answer = await client.ReadUntilAsync(i % 2 == 0 ? "}}" : "0\r\n\r\n");
            Assert.StartsWith("HTTP/1.1 200", answer);
        }
    }

    [Fact]
    public async Task A_client_that_leaves_in_mid_stream_is_noticed_with_the_time()
    {
        await using var simulator = await StartAsync(new InstanceSettings { FirstTokenMs = 0, TokensPerSecond = 20, Tokens = 1000 });
        DateTimeOffset left;
        using (var client = await ConnectAsync(simulator["L"]))
        {
            await client.SendAsync(Bodies.Stream);
            await client.ReadUntilAsync("choices");
            left = DateTimeOffset.UtcNow;
        }
        var entry = (await simulator.Ledger.WaitAsync(all => all[0].Ended))[0];
        Assert.Equal(LedgerOutcome.ClientGone, entry.Outcome);
        Assert.True(entry.ClientGoneAt >= left && entry.TokensSent < 1000 && entry.TokensSent == entry.CompletionTokensBilled);
        Assert.Equal((0, 1L), (simulator["L"].Counters.InFlight, simulator["L"].Counters.ClientsGone));
    }

    [Fact]
    public async Task Bodies_and_heads_are_kept_when_asked_without_credentials()
    {
        await using var simulator = await StartAsync(new InstanceSettings { RecordBodies = true });
        await AskAsync(simulator["L"], headers: "Authorization: Bearer sk-secret\r\nX-Trace: 7\r\n");
        var entry = simulator.Ledger.Entries()[0];
        Assert.Equal(Bodies.Chat, entry.Body);
        Assert.Contains("X-Trace: 7", entry.Head);
        Assert.DoesNotContain("sk-secret", entry.ToJson().ToJsonString());
    }

    [Fact]
    public async Task The_ledger_keeps_the_newest_and_can_be_read_from_a_point()
    {
        await using var simulator = await StartAsync(new InstanceSettings(), ledgerLimit: 3);
        for (var i = 0; i < 5; i++)
        {
            await AskAsync(simulator["L"]);
        }
        Assert.Equal([3L, 4, 5], simulator.Ledger.Entries().Select(e => e.Sequence));
        Assert.Equal([5L], simulator.Ledger.Entries("L", since: 4).Select(e => e.Sequence));
        Assert.Empty(simulator.Ledger.Entries("other"));
        simulator.Ledger.Clear();
        Assert.Empty(simulator.Ledger.Entries());
    }

    [Fact]
    public async Task Five_hundred_streams_at_once_all_come_through()
    {
        await using var simulator = await StartAsync(new InstanceSettings { LatencyMs = 300, LatencySigma = 0.25 });
        var answers = await Task.WhenAll(Enumerable.Range(0, 500).Select(_ => AskAsync(simulator["L"], body: Bodies.Stream)));
        Assert.All(answers, answer => Assert.Equal(Bodies.Text, answer.StreamedText()));
        Assert.Equal((500L, 0), (simulator["L"].Counters.Calls, simulator["L"].Counters.InFlight));
    }
}
