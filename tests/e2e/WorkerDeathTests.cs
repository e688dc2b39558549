using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>A worker that is killed takes its own connections with it, and nothing else.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class WorkerDeathTests(SharedStack shared)
{
    [Fact]
    public async Task After_the_kill_of_a_worker_the_in_flight_counts_are_true_again_within_5_seconds()
    {
        var instances = new[] { "slow-1", "slow-2" };
        foreach (var name in instances)
        {
            shared.Providers[name].AddFault("accept_and_hang", match: new FaultMatch(Model: "slow-model"));
        }
        using var caller = new Gateway(shared.Gateway.Address);      // with no connection yet
        List<Task<Reply>> waiting = [];
        void Call() => waiting.Add(caller.AskAsync("slow-model"));
        try
        {
            // Calls that wait for an answer that never comes: some at each worker, for the other one stands still meanwhile.
            foreach (var worker in shared.Stack.Workers)
            {
                var before = Running();
                await shared.Stack.WhilePausedAsync([worker], () => Wait.Until(() =>
                {
                    if (Running() > before) return true;
                    Call();
                    return false;
                }, "the other worker asks"));
                await Wait.Until(() => Running() == waiting.Count, $"{waiting.Count} calls run");
            }
            while (waiting.Count < 40) Call();
            await Wait.Until(async () => await CountedAsync() == waiting.Count && Running() == waiting.Count, $"{waiting.Count} calls run");
            shared.Stack.KillWorker(shared.Stack.Workers[0]);
            await Wait.Until(() => Running() < waiting.Count, "the killed worker's connections are gone");

            await Wait.Until(async () => await CountedAsync() == Running() && shared.Stack.Workers.Count == 2, "the counts are true again", TimeSpan.FromSeconds(5),
                async () => $"{await CountedAsync()} counted, {Running()} running, workers {string.Join(' ', shared.Stack.Workers)}");
            Assert.True(Running() > 0, "both workers lost their connections");
        }
        finally
        {
            foreach (var name in instances) shared.Providers[name].ClearFaults();
            caller.Dispose();       // its calls end as those of a client that leaves, and count against no instance
            await Task.WhenAll(waiting);
        }
        await Wait.Until(async () => await CountedAsync() == 0, "nothing is counted when nothing runs", TimeSpan.FromSeconds(5));
        Expect.Served(await shared.Gateway.AskManyAsync("slow-model", calls: 40, atATime: 10));
    }

    private int Running() => shared.Providers["slow-1"].Counters.InFlight + shared.Providers["slow-2"].Counters.InFlight;

    private async Task<int> CountedAsync() => await shared.Stack.Node.InFlightAsync("slow-1") + await shared.Stack.Node.InFlightAsync("slow-2");
}
