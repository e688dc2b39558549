using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What only a request of real shape finds out: an instance that is up, but struggles.</summary>
[Collection(OwnStackCollection.Name)]
public sealed class GhostTests(OwnStack own) : IAsyncLifetime
{
    public async Task InitializeAsync()
    {
        foreach (var name in (string[])["one", "two"]) own.Providers[name].Update(s => s with { FirstTokenMs = 50, LatencyMs = 70, Tokens = 4 });
        var document = own.Config.Document.DeepClone().AsObject();
        document["pools"]![0]!["ghost"] = Config.Json(new { per_day = 100_000, max_tokens_per_day = 100_000_000, sample = 1 });
        document["failover_config"]!["health_check"] = Config.Json(new { interval = "1s", timeout = "10s", unhealthy_threshold = 2, healthy_threshold = 1 });
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(document));
    }

    public async Task DisposeAsync()
    {
        foreach (var name in (string[])["one", "two"])
        {
            own.Providers[name].ClearFaults();
            own.Providers[name].Update(_ => SharedStack.Simulated(name).Settings);
        }
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
        foreach (var name in (string[])["one", "two"]) await own.Stack.Node.ForgiveAsync(name);
    }

    [Fact]
    public async Task An_instance_that_answers_probes_at_once_but_calls_ten_times_slower_gets_less_traffic_until_it_has_recovered()
    {
        await RunAsync("one", 12);
        await RunAsync("two", 2);
        await Wait.Until(async () => await StatusAsync("one") == "ok" && await FactorAsync("one") == 1, "one is well");
        var workers = own.Stack.Workers;

        own.Providers["one"].Update(s => s with { LatencyMultiplier = 10 });
        await Wait.Until(async () => await FactorAsync("one") == 0.5, "the ghosts of the schedule see it", TimeSpan.FromSeconds(60), StateAsync);
        await RunAsync("one", 8);
        await Wait.Until(async () => await FactorAsync("one") <= 0.25, "it goes down further while it lasts", TimeSpan.FromSeconds(60), StateAsync);
        Assert.True((bool)(await own.Stack.Node.StatsAsync())["instances"]!["one"]!["healthy"]!);       // for the probes it is up
        Assert.Equal("slow", (string?)(await IncidentAsync("one", open: true))["cause"]);
        var answers = await own.Gateway.AskManyAsync("chat-model", calls: 150, atATime: 4);
        Expect.Served(answers);
        var share = answers.Count(answer => answer.Instance == "one") / 150.0;
        Assert.True(share < 0.33, $"its share is {share:P0}");

        own.Providers["one"].Update(s => s with { LatencyMultiplier = 1 });
        await RunAsync("one", 12);
        await Wait.Until(async () => await FactorAsync("one") == 1, "its whole weight is back", TimeSpan.FromSeconds(60), StateAsync);
        await IncidentAsync("one", open: false);
        Assert.Equal(workers, own.Stack.Workers);                                                      // without a reload
        await Wait.Until(async () => await own.Stack.Node.InFlightAsync("one") == 0, "each ghost gave its permit back");

        // Ghosts say what they are to the provider, and clients' requests became samples, redacted.
        Assert.Contains(own.Providers.Ledger.Entries("one"), call => call.User == "evenkeel-ghost");
        // Asked until it is one: a node that has enough of them drops what comes before they are taken.
        await Wait.Until(async () =>
        {
            Expect.Served([await own.Gateway.AskAsync("chat-model", "I am anna@mail.example.")]);
            return (await own.Admin.ListAsync("ghosts/samples")).Any(sample => ((string?)sample!["body"]!["messages"]![0]!["content"])!.Contains("I am [masked]"));
        }, "a sample", TimeSpan.FromSeconds(40));
        Assert.DoesNotContain("anna", (await own.Admin.ListAsync("ghosts/samples")).ToJsonString());
    }

    [Fact]
    public async Task An_instance_that_answers_200_without_content_is_grey()
    {
        await Wait.Until(async () => await StatusAsync("two") == "ok", "two is well");
        own.Providers["two"].AddFault("empty_content");
        await Wait.Until(async () => await FactorAsync("two") < 1, "the ghosts see it", TimeSpan.FromSeconds(60), StateAsync);
        Assert.Equal("empty", (string?)(await IncidentAsync("two", open: true))["cause"]);
        Expect.Served(await own.Gateway.AskManyAsync("chat-model", calls: 20, atATime: 4));
    }

    private async Task RunAsync(string instance, int count)
    {
        var run = await own.Admin.PostAsync("ghosts/run", new { pool = "chat", instance, count });
        Assert.Equal(count, (int)run["sent"]!);
    }

    private async Task<string?> StatusAsync(string instance) =>
        (string?)(await own.Admin.GetAsync("ghosts?instance=" + instance))["instances"]!.AsArray().SingleOrDefault()?["status"];

    private async Task<double> FactorAsync(string instance) => (double)(await own.Stack.Node.StatsAsync())["instances"]![instance]!["weight_factor"]!;

    private async Task<JsonNode> IncidentAsync(string instance, bool open)
    {
        JsonNode? incident = null;
        await Wait.Until(async () => (incident = (await own.Admin.ListAsync($"incidents?kind=grey&subject={instance}&open={(open ? "true" : "false")}")).FirstOrDefault()) is not null, "an incident");
        return incident!;
    }

    private async Task<string> StateAsync() => (await own.Admin.GetAsync("ghosts?limit=12")).ToJsonString();
}
