using System.Collections.Concurrent;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What a change of the configuration does to nginx, and what it does not: weights are pushed, instances reload once.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class ChangeTests(SharedStack shared)
{
    private const int Streams = 20;

    [Fact]
    public async Task A_new_weight_changes_the_split_within_a_second_and_touches_neither_nginx_conf_nor_a_worker()
    {
        var (text, workers) = (shared.Stack.NginxConf, shared.Stack.Workers);
        await using var load = shared.Gateway.StartLoad("slow-model", callers: 10);
        try
        {
            await load.MoreAsync(50);
            var revision = await shared.Admin.SetWeightAsync("slow-1", 0);
            var changed = DateTimeOffset.UtcNow;
            await load.MoreAsync(600);

            var late = CallsOf("slow-1").Where(call => call.At > changed + TimeSpan.FromSeconds(1)).ToList();
            Assert.True(late.Count == 0, $"{late.Count} calls went to slow-1 later than a second after its weight was 0");
            Assert.True(CallsOf("slow-2").Any(call => call.At > changed + TimeSpan.FromSeconds(1)), "the load did not go on for a second");

            await shared.Admin.AcknowledgedAsync(revision);
            Assert.Equal(text, shared.Stack.NginxConf);
            Assert.Equal(workers, shared.Stack.Workers);

            var since = shared.Providers.Ledger.Entries()[^1].Sequence;
            await shared.Admin.SetWeightAsync("slow-1", 1);
            await Wait.Until(() => CallsOf("slow-1", since).Count > 0, "slow-1 is asked again", TimeSpan.FromSeconds(1));
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
        Assert.All(await load.StopAsync(), answer => Assert.True(answer.Status == 200, answer.ToString()));
        Assert.Equal(workers, shared.Stack.Workers);
    }

    [Fact]
    public async Task An_added_and_a_removed_instance_reload_once_each_and_streams_in_flight_survive_both_whole()
    {
        await using var added = await ProviderSimulator.StartAsync(new ProviderOptions { Instances = [SharedStack.Simulated("added")] });
        var first = shared.Stack.Workers;
        try
        {
            var streams = await StartStreamsAsync();
            var second = await OneReloadAsync(first, async () =>
            {
                await shared.Admin.AddInstanceAsync("added", added["added"].BaseUrl, new { api_key = SharedStack.KeyOf("added") });
                await shared.Admin.AcknowledgedAsync(await shared.Admin.SetFirstTierAsync("slow", "added"));
            });
            Assert.Equal("added", (await shared.Gateway.AskAsync("slow-model")).Instance);
            await AssertWholeAsync(streams);

            // The node reloads only when the last reload's old workers are gone.
            await shared.Admin.AcknowledgedAsync(await shared.Admin.SetFirstTierAsync("slow", "slow-1", "slow-2"));
            streams = await StartStreamsAsync();
            await OneReloadAsync(second, async () => await shared.Admin.AcknowledgedAsync(await shared.Admin.RemoveInstanceAsync("added")));
            await AssertWholeAsync(streams);
            Assert.False(File.Exists(shared.Stack.PathOf("node/run/instances/added.sock")), "the removed instance's door is still there");
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document), TimeSpan.FromSeconds(30));
        }
    }

    [Fact]
    public async Task Two_operators_cannot_overwrite_each_other_unseen()
    {
        using var http = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{shared.Stack.AdminPort}") };
        http.DefaultRequestHeaders.Add("Authorization", "Bearer " + File.ReadAllText(shared.Stack.PathOf("admin-token")).Trim());
        var before = await shared.Admin.RevisionAsync();
        try
        {
            await shared.Admin.SetWeightAsync("slow-1", 7);
            using var late = new HttpRequestMessage(HttpMethod.Patch, "/api/v1/instances/slow-1") { Content = new StringContent("""{"weight": 8}""", null, "application/merge-patch+json") };
            late.Headers.TryAddWithoutValidation("If-Match", $"\"{before}\"");
            using var answer = await http.SendAsync(late);
            Assert.Equal(412, (int)answer.StatusCode);
            Assert.Equal(7, (int)(await shared.Admin.GetAsync("instances/slow-1"))["weight"]!);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
    }

    /// <summary>Streams that last some seconds and are all past their first token.</summary>
    private async Task<Task<StreamedAnswer>[]> StartStreamsAsync()
    {
        foreach (var name in new[] { "slow-1", "slow-2" })
        {
            shared.Providers[name].AddFault("answer;tokens=40;first_token_ms=10;tokens_per_second=12", times: Streams, match: new FaultMatch(Stream: true));
        }
        var begun = new ConcurrentBag<bool>();
        var streams = Enumerable.Range(0, Streams).Select(_ => shared.Gateway.StreamAsync("slow-model", "A long one.", () => begun.Add(true))).ToArray();
        await Wait.Until(() => begun.Count == Streams, "all streams have begun");
        return streams;
    }

    private async Task AssertWholeAsync(Task<StreamedAnswer>[] streams)
    {
        var wanted = Evenkeel.Provider.Answer.TextForPrompt("A long one.", tokens: 40);
        foreach (var stream in await Task.WhenAll(streams))
        {
            Assert.True(stream is { Head.Status: 200, Done: true, FinishReason: "stop" } && stream.Text == wanted, stream.ToString());
        }
        foreach (var name in new[] { "slow-1", "slow-2" })
        {
            shared.Providers[name].ClearFaults();
        }
    }

    /// <summary>Changes, and sees that exactly one generation of workers follows the one before. Gives the new one.</summary>
    private async Task<IReadOnlyList<int>> OneReloadAsync(IReadOnlyList<int> before, Func<Task> change)
    {
        var seen = new SortedSet<int>(before);
        using var stop = new CancellationTokenSource();
        var watch = Task.Run(async () =>
        {
            while (!stop.IsCancellationRequested)
            {
                seen.UnionWith(shared.Stack.Workers);
                await Task.Delay(20);
            }
        });
        await change();
        await Wait.Until(() => !shared.Stack.Workers.Intersect(before).Any() && shared.Stack.Workers.Count == before.Count, "new workers have taken over");
        var after = shared.Stack.Workers;
        await stop.CancelAsync();
        await watch;
        Assert.Equal(before.Concat(after).Order(), seen);
        return after;
    }

    private IReadOnlyList<LedgerEntry> CallsOf(string instance, long since = 0) =>
        [.. shared.Providers.Ledger.Entries(instance, since).Where(call => call.Method == "POST")];
}
