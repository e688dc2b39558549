using System.Diagnostics;
using System.Net;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What several nodes have together: the ceilings of the instances, and what one of them finds out.</summary>
[Collection(FleetStackCollection.Name)]
public sealed class FleetTests(FleetStack fleet)
{
    /// <summary>It is promised within two seconds, on a machine that has time for it.</summary>
    private static readonly TimeSpan s_soon = TimeSpan.FromSeconds(8);

    [Fact]
    public async Task Four_nodes_at_full_load_stay_below_a_ceiling_while_nodes_join_and_die_and_what_one_finds_out_the_others_know()
    {
        var scarce = fleet.Providers["scarce"];
        await Wait.Until(async () => await PermitsAsync(fleet.Stack.Node) == FleetStack.Ceiling, "a lone node has all of it");
        var nodes = new List<FurtherNode>();
        var loads = new List<Load> { fleet.Stack.Gateway.StartLoad("scarce-model", callers: 60) };
        try
        {
            await loads[0].MoreAsync(200);
            Assert.Equal((0, FleetStack.Ceiling), (scarce.Counters.Rejected, scarce.Counters.PeakInFlight));

            // Three more join under load: one enrols, the others show the token that all share.
            var oneTime = (string)(await fleet.Stack.Admin.PostAsync("nodes/enrolments", new { }))["token"]!;
            nodes.AddRange(await Task.WhenAll(Enumerable.Range(2, 3).Select(i => FurtherNode.StartAsync(fleet.Stack, $"node-{i}", "other-model", i == 2 ? oneTime : null))));
            var others = nodes.ToDictionary(node => node, node => node.Gateway.StartLoad("scarce-model", callers: 20));
            loads.AddRange(others.Values);
            NodeAdmin[] all = [fleet.Stack.Node, .. nodes.Select(node => node.Admin)];
            await Wait.Until(async () => await SumAsync(all) == FleetStack.Ceiling && (await Task.WhenAll(all.Select(PermitsAsync))).All(part => part >= 4), "all four have a part", s_soon, () => TellAsync(all));
            await others[nodes[0]].MoreAsync(50);
            await others[nodes[2]].MoreAsync(50);

            // One dies with what it had.
            var dead = nodes[2];
            var lost = others[dead];
            loads.Remove(lost);
            dead.Kill();
            var left = all[..^1];
            await Wait.Until(async () => await SumAsync(left) == FleetStack.Ceiling, "the others have its part", s_soon, () => TellAsync(left));
            await lost.DisposeAsync();
            await loads[0].MoreAsync(100);
            foreach (var load in loads) Expect.Served(await load.StopAsync());
            Assert.Equal(0, scarce.Counters.Rejected);
            Assert.True(scarce.Counters.PeakInFlight >= FleetStack.Ceiling * 0.9, $"at most {scarce.Counters.PeakInFlight} at once: the ceiling was not used");

            await WhatOneFindsOutTheOthersKnowAsync(nodes[0], nodes[1]);
            await AClientThatIsSwitchedOffIsRefusedEverywhereAsync([fleet.Stack.Gateway, nodes[0].Gateway, nodes[1].Gateway]);
            await SharesOutliveControlPlaneAndRestartAsync(nodes[0], left);
            await ARemovedNodeServesAndIsToldNothingMoreAsync(nodes[0], [fleet.Stack.Node, nodes[1].Admin]);
        }
        finally
        {
            foreach (var load in loads) await load.DisposeAsync();
            foreach (var node in nodes) await node.DisposeAsync();
        }
    }

    private async Task WhatOneFindsOutTheOthersKnowAsync(FurtherNode finder, FurtherNode hearer)
    {
        fleet.Providers["frail"].AddFault("status;code=503");
        await Wait.Until(async () =>
        {
            await finder.Gateway.AskAsync("frail-model");
            return await BreakerAsync(finder) == "open";
        }, "the breaker opens at the one that asks");
        await Wait.Until(async () => (await FrailAsync(hearer))["opening"] is { } opening && (string?)opening["by"] == finder.Name, "and at the one that does not", s_soon);

        // Closed by the trials of the one that asks, it closes at the one that does not.
        fleet.Providers["frail"].ClearFaults();
        await Wait.Until(async () =>
        {
            await finder.Gateway.AskAsync("frail-model");
            return await BreakerAsync(finder) == "closed";
        }, "the breaker closes at the one that asks");
        await Wait.Until(async () => await BreakerAsync(hearer) == "closed", "and at the other", s_soon, async () => (await FrailAsync(hearer)).ToJsonString());
    }

    // Within a second at every node: the quickest of a few, as other programs run on this machine too.
    private async Task AClientThatIsSwitchedOffIsRefusedEverywhereAsync(Gateway[] everywhere)
    {
        var key = await fleet.Stack.Admin.NewClientKeyAsync("clients", new { name = "app" });
        async Task AnswerAsync(int status) => await Task.WhenAll(everywhere.Select(gateway => Wait.Until(async () =>
            (await gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("other-model"), ("Authorization", "Bearer " + key))).Status == status, $"{gateway.Address} answers {status}")));
        var quickest = TimeSpan.MaxValue;
        for (var i = 0; i < 5 && quickest > TimeSpan.FromSeconds(1); i++)
        {
            await fleet.Stack.Admin.ChangeClientAsync("app", new { enabled = true });
            await AnswerAsync(200);
            var watch = Stopwatch.StartNew();
            await fleet.Stack.Admin.ChangeClientAsync("app", new { enabled = false });
            await AnswerAsync(401);
            quickest = watch.Elapsed < quickest ? watch.Elapsed : quickest;
        }
        Assert.True(quickest < TimeSpan.FromSeconds(1), $"off everywhere after {quickest}");
        await fleet.Stack.Admin.PutConfigAsync(fleet.Config.Document);
        await Task.WhenAll(everywhere.Select(gateway => Wait.Until(async () => (await gateway.AskAsync("other-model")).Status == 200, $"{gateway.Address} asks for no key")));
    }

    private async Task ARemovedNodeServesAndIsToldNothingMoreAsync(FurtherNode removed, NodeAdmin[] others)
    {
        using var thief = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{fleet.Stack.AdminPort}") };
        thief.DefaultRequestHeaders.Authorization = new("Bearer", removed.Token);
        foreach (var path in new[] { "/node/v1/node-1/nginx.conf", "/node/v1/node-3/nginx.conf", "/api/v1/nodes" })
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await thief.GetAsync(path)).StatusCode);
        }
        using var intruder = new NodeAdmin(fleet.Stack.Node.Address, removed.Token);
        Assert.Equal(HttpStatusCode.Unauthorized, (await Assert.ThrowsAsync<HttpRequestException>(() => intruder.GetAsync("/stats"))).StatusCode);

        await fleet.Stack.Admin.DeleteAsync("nodes/" + removed.Name);
        await Wait.Until(async () => await SumAsync(others) == FleetStack.Ceiling, "the others have its part", s_soon, () => TellAsync(others));
        Expect.Served(await removed.Gateway.AskAsync("other-model"));
        await Wait.Until(() => removed.Said.Contains("refuses this node's token", StringComparison.Ordinal), "its agent says so");
        Expect.Served(await removed.Gateway.AskAsync("other-model"));
    }

    // The last share is kept without a control plane, by a node that starts anew as well.
    private async Task SharesOutliveControlPlaneAndRestartAsync(FurtherNode node, NodeAdmin[] all)
    {
        fleet.Stack.Kill("control-plane");
        try
        {
            var held = await PermitsAsync(node.Admin);
            Assert.True(held < FleetStack.Ceiling);
            node.KillNginx();
            await Wait.Until(async () => (await node.Gateway.AskAsync("other-model")).Status == 200, "it answers again");
            Assert.Equal(held, await PermitsAsync(node.Admin));
            Assert.Equal(FleetStack.Ceiling, await SumAsync(all));
        }
        finally
        {
            var up = await fleet.Stack.UpAsync();
            Assert.True(up.ExitCode == 0, up.Output);
        }
    }

    private static async Task<int> PermitsAsync(NodeAdmin node) => (int?)(await node.StatsAsync())["instances"]!["scarce"]?["permits"] ?? 0;

    private static async Task<int> SumAsync(NodeAdmin[] nodes) => (await Task.WhenAll(nodes.Select(PermitsAsync))).Sum();

    private static async Task<string> TellAsync(NodeAdmin[] nodes) =>
        string.Join('\n', (await Task.WhenAll(nodes.Select(node => node.StatsAsync()))).Select(stats => $"{stats["node"]} {stats["shares_version"]} {stats["share"]} {stats["instances"]!["scarce"]}"));

    private static async Task<JsonNode> FrailAsync(FurtherNode node) => (await node.Admin.StatsAsync())["instances"]!["frail"]!;

    private static async Task<string> BreakerAsync(FurtherNode node) => (string)(await FrailAsync(node))["breaker"]!;
}
