using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>How calls spread over a tier's instances, and what clients notice when one of them dies.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class SpreadTests(SharedStack shared)
{
    [Theory]
    [InlineData(60)]
    [InlineData(200)]
    public async Task Concurrent_calls_spread_by_weight_and_no_ceiling_is_touched(int atATime)
    {
        foreach (var name in SharedStack.Ceilings.Keys)
        {
            shared.Providers[name].ResetCounters();
        }
        var answers = await shared.Gateway.AskManyAsync("spread-model", calls: 900, atATime);

        Expect.Served(answers);
        Assert.All(answers, answer => Assert.True(answer.Tier == "tier-1" && answer.Header("x-evenkeel-degraded") is null, "answered by the lesser tier"));
        foreach (var (name, ceiling) in SharedStack.Ceilings)
        {
            var counters = shared.Providers[name].Counters;
            Assert.Equal(0, counters.Rejected);
            Assert.True(counters.PeakInFlight <= ceiling, $"{name} had {counters.PeakInFlight} calls at once; its ceiling is {ceiling}");
            // Weights 50, 50 and 20, whose sum is 120. Three standard deviations of 900 draws are five percentage points.
            var share = answers.Count(answer => answer.Instance == name) / (double)answers.Count;
            Assert.True(Math.Abs(share - ceiling / 120.0) < 0.05, $"{name} answered {share:P1}, its weight is {ceiling / 120.0:P1}");
        }
    }

    [Fact]
    public async Task Every_answer_says_who_gave_it()
    {
        var since = LastSequence();
        var answers = await shared.Gateway.AskManyAsync("spread-model", calls: 60, atATime: 20);

        foreach (var name in SharedStack.Ceilings.Keys)
        {
            Assert.Equal(shared.Providers.Ledger.Entries(name, since).Count(call => call.Method == "POST"), answers.Count(answer => answer.Instance == name));
        }
    }

    [Fact]
    public async Task An_instance_that_dies_under_load_costs_no_client_an_error_and_is_used_again_when_it_returns()
    {
        await using var load = shared.Gateway.StartLoad("mortal-model", callers: 30);
        await load.MoreAsync(300);
        var mortal = shared.Providers["mortal-2"];
        Assert.True(mortal.Counters.Calls > 0, "it was not even used");

        mortal.Down();
        try
        {
            await load.MoreAsync(600);
        }
        finally
        {
            mortal.Up();
        }
        var since = LastSequence();
        await Wait.Until(() => shared.Providers.Ledger.Entries(mortal.Name, since).Count(call => call.Method == "POST" && call.Status == 200) >= 5,
            "it answers again", evidence: async () => (await shared.Stack.Node.StatsAsync())["instances"]![mortal.Name]!.ToJsonString());

        var answers = await load.StopAsync();
        Expect.Served(answers);
        Assert.Contains(answers, answer => answer.Attempts > 1);
    }

    private long LastSequence() => shared.Providers.Ledger.Entries() is [.., var last] ? last.Sequence : 0;
}
