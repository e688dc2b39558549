using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What the probes find out before a client does.</summary>
[Collection(OwnStackCollection.Name)]
public sealed class ProbeTests(OwnStack own)
{
    [Fact]
    public async Task An_instance_that_dies_without_traffic_is_out_before_the_first_call_and_back_when_it_returns_and_both_are_on_record()
    {
        var document = own.Config.Document.DeepClone().AsObject();
        document["failover_config"]!["health_check"] = Config.Json(new { interval = "1s", timeout = "2s", unhealthy_threshold = 2, healthy_threshold = 2 });
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(document));
        try
        {
            await Wait.Until(async () => await HealthAsync("one") == "up" && await HealthAsync("two") == "up", "both are up");
            var workers = own.Stack.Workers;

            own.Providers["one"].Down();
            await Wait.Until(async () => await HealthAsync("one") == "down", "the probes see it");
            await Wait.Until(async () => !await IsHealthyAsync("one"), "the node has it", TimeSpan.FromSeconds(1));
            var answers = await own.Gateway.AskManyAsync("chat-model", calls: 20, atATime: 5);
            Expect.Served(answers);
            Assert.All(answers, answer => Assert.Equal(("two", "1"), (answer.Instance, answer.Header("x-evenkeel-attempts"))));

            own.Providers["one"].Up();
            await Wait.Until(async () => await HealthAsync("one") == "up", "the probes see that it is back");
            await Wait.Until(() => IsHealthyAsync("one"), "the node has it", TimeSpan.FromSeconds(1));
            await Wait.Until(async () => (await own.Gateway.AskAsync("chat-model")).Instance == "one", "it is used again");
            Assert.Equal(workers, own.Stack.Workers);      // without a reload

            JsonNode? incident = null;
            await Wait.Until(async () => (incident = (await own.Admin.ListAsync("incidents?kind=probe&subject=one&open=false")).FirstOrDefault()) is not null, "the incident is closed");
            Assert.Equal("bad_gateway", (string?)incident!["cause"]);
        }
        finally
        {
            own.Providers["one"].Up();
            await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
        }
    }

    private async Task<string?> HealthAsync(string instance) =>
        (string?)(await own.Admin.ListAsync("health")).SingleOrDefault(one => (string?)one!["instance"] == instance)?["status"];

    private async Task<bool> IsHealthyAsync(string instance) => (bool)(await own.Stack.Node.StatsAsync())["instances"]![instance]!["healthy"]!;
}
