using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What a change of the configuration does to nginx, and what it does not: weights are pushed, instances reload once.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class ChangeTests(SharedStack shared)
{
    private const int Streams = 20;
    private const string LongPrompt = "A long one.";

    /// <summary>A reload waits for the end of the last one's old workers.</summary>
    private static readonly TimeSpan s_reload = TimeSpan.FromSeconds(40);

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
        Expect.Served(await load.StopAsync());
        Assert.Equal(workers, shared.Stack.Workers);
    }

    [Fact]
    public async Task An_added_and_a_removed_instance_reload_once_each_and_streams_in_flight_survive_both_whole()
    {
        await using var added = await ProviderSimulator.StartAsync(new ProviderOptions { Instances = [SharedStack.Simulated("added")] });
        foreach (var name in SharedStack.Mortals)
        {
            shared.Providers[name].AddFault("answer;tokens=20;first_token_ms=10;tokens_per_second=10", match: new FaultMatch(Stream: true));
        }
        using var stop = new CancellationTokenSource();
        var streams = Enumerable.Range(0, Streams).Select(_ => StreamUntilAsync(stop.Token)).ToArray();
        await using var load = shared.Gateway.StartLoad("mortal-model", callers: 3, afresh: true);
        var reloads = new List<DateTime>();
        try
        {
            var first = shared.Stack.Workers;
            var second = await OneReloadAsync(first, async () =>
            {
                await shared.Admin.AddInstanceAsync("added", added["added"].BaseUrl, new { api_key = SharedStack.KeyOf("added") });
                await shared.Admin.AcknowledgedAsync(await shared.Admin.SetFirstTierAsync("slow", "added"), s_reload);
            }, reloads);
            using (var caller = shared.Gateway.Afresh())
            {
                Assert.Equal("added", (await caller.AskAsync("slow-model")).Instance);
            }

            await shared.Admin.SetFirstTierAsync("slow", "slow-1", "slow-2");
            await OneReloadAsync(second, async () => await shared.Admin.AcknowledgedAsync(await shared.Admin.RemoveInstanceAsync("added"), s_reload), reloads);
            Assert.False(File.Exists(shared.Stack.PathOf("node/run/instances/added.sock")), "the removed instance's door is still there");
        }
        finally
        {
            await stop.CancelAsync();
            await Task.WhenAll(streams);
            Array.ForEach(SharedStack.Mortals, name => shared.Providers[name].ClearFaults());
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document), s_reload);
        }

        var all = (await Task.WhenAll(streams)).SelectMany(stream => stream).ToList();
        Expect.Whole(all, Answer.TextForPrompt(LongPrompt, tokens: 20));
        Assert.All(reloads, reload => Assert.True(all.Count(stream => stream.Began < reload && reload < stream.Ended) >= Streams / 2, "few streams were in flight at a reload"));
        Expect.Served(await load.StopAsync());
    }

    [Fact]
    public async Task A_drained_instance_gets_no_new_calls_while_its_streams_end_in_peace_and_nothing_reloads()
    {
        var workers = shared.Stack.Workers;
        await shared.Admin.AcknowledgedAsync(await shared.Admin.SetFirstTierAsync("slow", "slow-1"));
        try
        {
            shared.Providers["slow-1"].AddFault("answer;tokens=30;first_token_ms=10;tokens_per_second=10", times: 5, match: new FaultMatch(Stream: true));
            var begun = 0;
            var streams = Enumerable.Range(0, 5).Select(_ => shared.Gateway.StreamAsync("slow-model", LongPrompt, () => Interlocked.Increment(ref begun))).ToArray();
            await Wait.Until(() => Volatile.Read(ref begun) == 5, "all streams have begun");
            await shared.Admin.SetFirstTierAsync("slow", "slow-1", "slow-2");
            await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangeInstanceAsync("slow-1", new { drain = true }));
            Assert.All(streams, stream => Assert.False(stream.IsCompleted, "the streams ended too soon"));
            Assert.All(await shared.Gateway.AskManyAsync("slow-model", calls: 40, atATime: 10), answer => Assert.Equal((200, "slow-2"), (answer.Status, answer.Instance)));
            Expect.Whole(await Task.WhenAll(streams), Answer.TextForPrompt(LongPrompt, tokens: 30));

            await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangeInstanceAsync("slow-1", new { drain = false, enabled = false }));
            Assert.All(await shared.Gateway.AskManyAsync("slow-model", calls: 10, atATime: 2), answer => Assert.Equal((200, "slow-2"), (answer.Status, answer.Instance)));
            Assert.Equal(workers, shared.Stack.Workers);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
    }

    [Fact]
    public async Task A_pools_algorithm_can_be_changed_while_it_runs()
    {
        await shared.Admin.SetWeightAsync("slow-1", 100);
        try
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangePoolAsync("slow", new { algorithm = "round_robin" }));
            // One after the other on one connection, thus in one worker: strictly in turn, whatever the weights.
            var answers = await shared.Gateway.AskManyAsync("slow-model", calls: 20, atATime: 1);
            Assert.Equal(10, answers.Count(answer => answer.Instance == "slow-1"));

            await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangePoolAsync("slow", new { algorithm = "weighted" }));
            answers = await shared.Gateway.AskManyAsync("slow-model", calls: 50, atATime: 1);
            Assert.True(answers.Count(answer => answer.Instance == "slow-1") >= 45, "weights of 100 and 1 do not count");
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
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

    /// <summary>Stream after stream, each of two seconds.</summary>
    private async Task<List<StreamedReply>> StreamUntilAsync(CancellationToken stop)
    {
        var streams = new List<StreamedReply>();
        while (!stop.IsCancellationRequested)
        {
            streams.Add(await shared.Gateway.StreamAsync("mortal-model", LongPrompt));
        }
        return streams;
    }

    /// <summary>Changes, and sees that exactly one generation of workers follows the one before. Gives the new one, and notes when it came.</summary>
    private async Task<IReadOnlyList<int>> OneReloadAsync(IReadOnlyList<int> before, Func<Task> change, List<DateTime> reloads)
    {
        var seen = new SortedSet<int>(before);
        using var stop = new CancellationTokenSource();
        var watch = Task.Run(async () =>
        {
            var came = DateTime.MaxValue;
            for (var isLast = false; !isLast; await Task.Delay(20))
            {
                isLast = stop.IsCancellationRequested;      // once more then: it may have looked before they came
                seen.UnionWith(shared.Stack.Workers);
                came = came == DateTime.MaxValue && seen.Count > before.Count ? DateTime.UtcNow : came;
            }
            reloads.Add(came);
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
