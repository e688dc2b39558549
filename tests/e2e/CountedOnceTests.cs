using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What went through the node is what the control plane tells of it.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class CountedOnceTests(SharedStack shared)
{
    [Fact]
    public async Task Every_request_is_counted_once_and_tells_where_it_went()
    {
        const int Calls = 30;
        // In a second of their own: of more than fifty in one, some are counted only, and the test before may just have made many.
        await Task.Delay(1000);
        var answers = await shared.Gateway.AskManyAsync("counted-model", Calls, atATime: 10);
        Expect.Served(answers);

        foreach (var level in new[] { "request", "attempt" })
        {
            await Wait.Until(async () => await CountedAsync(level) >= Calls, $"every {level} is counted", evidence: async () => (await shared.Admin.GetAsync($"telemetry/errors?pool=counted&level={level}")).ToJsonString());
            Assert.Equal(Calls, await CountedAsync(level));
        }
        var latency = await shared.Admin.GetAsync("telemetry/latency?pool=counted&by=instance");
        Assert.Equal(Calls, latency["distribution"]!.AsArray().Sum(bucket => (int)bucket!["count"]!));
        // Requests are read before the counters: one that ends in between is there the next time.
        var first = answers[0].Header("x-request-id");
        await Wait.Until(async () => (await shared.Admin.ListAsync("traces?pool=counted")).Any(one => (string?)one!["request_id"] == first), "the first request is told of");
        var trace = await shared.Admin.GetAsync("traces/" + first);
        Assert.Equal(("counted", "ok", "counted"), ((string)trace["pool"]!, (string)trace["outcome"]!, (string)Assert.Single(trace["attempts"]!.AsArray())!["instance"]!));
    }

    private async Task<int> CountedAsync(string level) =>
        (await shared.Admin.GetAsync($"telemetry/errors?pool=counted&level={level}"))["points"]!.AsArray().Sum(point => (int)point!["requests"]!);
}
