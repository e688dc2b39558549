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
            await Wait.Until(async () => await SumAsync(all) == FleetStack.Ceiling && (await Task.WhenAll(all.Select(PermitsAsync))).All(part => part >= 4), "all four have a part", Wait.Promised(2), () => TellAsync(all));
            await others[nodes[0]].MoreAsync(50);
            await others[nodes[2]].MoreAsync(50);

            // One dies with what it had.
            var dead = nodes[2];
            var lost = others[dead];
            loads.Remove(lost);
            dead.Kill();
            var left = all[..^1];
            await Wait.Until(async () => await SumAsync(left) == FleetStack.Ceiling, "the others have its part", Wait.Promised(2), () => TellAsync(left));
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
        await Wait.Until(async () => (await FrailAsync(hearer))["opening"] is { } opening && (string?)opening["by"] == finder.Name, "and at the one that does not");
        await ToldWithinAsync(Wait.Promised(1), finder, hearer, "breaker_opened");

        // Closed by the trials of the one that asks, it closes at the one that does not.
        fleet.Providers["frail"].ClearFaults();
        await Wait.Until(async () =>
        {
            await finder.Gateway.AskAsync("frail-model");
            return await BreakerAsync(finder) == "closed";
        }, "the breaker closes at the one that asks");
        await Wait.Until(async () => await BreakerAsync(hearer) == "closed", "and at the other", evidence: async () => (await FrailAsync(hearer)).ToJsonString());
        await ToldWithinAsync(Wait.Promised(1), finder, hearer, "breaker_closed");

        fleet.Providers["frail"].AddFault("status=429;retry_after=30", times: 1);
        await Wait.Until(async () =>
        {
            await finder.Gateway.AskAsync("frail-model");
            return (double)(await FrailAsync(finder))["cooldown_s"]! > 1;
        }, "it cools down at the one that asks");
        await Wait.Until(async () => (double)(await FrailAsync(hearer))["cooldown_s"]! > 1, "and at the other");
        await ToldWithinAsync(Wait.Promised(1), finder, hearer, "cooldown");
        await Task.WhenAll(finder.Admin.ForgiveAsync("frail"), hearer.Admin.ForgiveAsync("frail"));
    }

    // By the nodes' own clocks, which are one clock here, and their own records.
    private static async Task ToldWithinAsync(TimeSpan promised, FurtherNode finder, FurtherNode hearer, string kind)
    {
        var found = await AtAsync(finder, detail => (string?)detail["why"] != "told");
        // The finder may have found it more than once: what is waited for is the news of its last finding.
        var told = 0.0;
        await Wait.Until(async () => (told = await AtAsync(hearer, detail => (string?)detail["why"] == "told" && (string?)detail["by"] == finder.Name)) >= found, $"{kind} is told");
        Assert.InRange(told - found, 0, promised.TotalSeconds);

        async Task<double> AtAsync(FurtherNode node, Func<JsonNode, bool> isIt) =>
            (double)JsonNode.Parse(await node.Admin.GetAsync("/events?after=0"))!["events"]!.AsArray()
                .Last(one => (string?)one!["kind"] == kind && (string?)one["subject"] == "frail" && isIt(one["detail"]!))!["at"]!;
    }

    [Fact]
    public async Task Of_two_control_planes_the_one_that_leads_is_killed_under_load_and_no_client_notices_and_the_other_goes_on()
    {
        await Wait.Until(async () => (bool)(await fleet.Stack.Admin.StatusAsync())["leads"]!, "the only one leads");
        await using var other = await FurtherControlPlane.StartAsync(fleet.Stack);
        await using var node = await FurtherNode.StartAsync(fleet.Stack, "node-5", "other-model", others: other.Address);
        NodeAdmin[] all = [fleet.Stack.Node, node.Admin];
        await Wait.Until(async () => await SumAsync(all) == FleetStack.Ceiling && await PermitsAsync(node.Admin) > 1, "both nodes have a part", evidence: () => TellAsync(all));
        Assert.True((bool)(await fleet.Stack.Admin.StatusAsync())["leads"]!);
        Assert.False((bool)(await other.Admin.StatusAsync())["leads"]!);
        var loads = new[] { fleet.Stack.Gateway.StartLoad("other-model", callers: 3, afresh: true), node.Gateway.StartLoad("other-model", callers: 3, afresh: true) };
        try
        {
            await loads[1].MoreAsync(20);
            fleet.Stack.Kill("control-plane");

            // What is changed at the other is on all nodes, and it leads.
            var revision = await other.Admin.SetWeightAsync("frail", 51);
            await Wait.Until(async () => (await Task.WhenAll(all.Select(one => one.WorkersAsync()))).All(workers => workers.All(worker => worker.Revision == revision)),
                "all nodes run what was changed", Wait.Promised(5));
            await Wait.Until(async () => (bool)(await other.Admin.StatusAsync())["leads"]!, "the other leads", Wait.Promised(5));

            // The agent has found it: what needs a reload is there as well.
            revision = await other.Admin.AddInstanceAsync("late", fleet.Providers["other"].BaseUrl, new { api_key = SharedStack.KeyOf("other") });
            await Wait.Until(async () => await other.Admin.GetAsync("nodes/node-5") is var view && (long)view["revision"]! == revision && (string?)view["text_digest"] == (string)view["desired_text_digest"]!,
                "the node whose agent asked the dead one runs the new text", evidence: async () => (await other.Admin.GetAsync("nodes/node-5")).ToJsonString() + node.Said);

            // Probes go on: when what the dead one had claimed has run out, three times the probe's 2 s and 5 more.
            fleet.Providers["watched"].Down();
            await Wait.Until(async () => (await Task.WhenAll(all.Select(one => one.StatsAsync()))).All(stats => !(bool)stats["instances"]!["watched"]!["healthy"]!), "the probes take an instance out", TimeSpan.FromSeconds(21) + Wait.Patience);
            fleet.Providers["watched"].Up();
            await Wait.Until(async () => (await Task.WhenAll(all.Select(one => one.StatsAsync()))).All(stats => (bool)stats["instances"]!["watched"]!["healthy"]!), "and bring it back");

            await loads[1].MoreAsync(20);
            foreach (var load in loads) Expect.Served(await load.StopAsync());

            // Shares are dealt by the other now: those of a node that dies are anew.
            node.Kill();
            await Wait.Until(async () => await PermitsAsync(fleet.Stack.Node) == FleetStack.Ceiling, "the dead node's part is dealt to the other", Wait.Promised(2), () => TellAsync([fleet.Stack.Node]));
        }
        finally
        {
            fleet.Providers["watched"].Up();
            foreach (var load in loads) await load.DisposeAsync();
            var up = await fleet.Stack.UpAsync();
            Assert.True(up.ExitCode == 0, up.Output);
        }

        // It is back, and each is as good as the other.
        Assert.True((bool)(await other.Admin.StatusAsync())["leads"]!);
        var back = await fleet.Stack.Admin.PutConfigAsync(fleet.Config.Document);
        await Wait.Until(async () => (await fleet.Stack.Node.WorkersAsync()).All(worker => worker.Revision == back), "a change at the one that is back arrives", evidence: async () => (await fleet.Stack.Admin.StatusAsync()).ToJsonString());
        Assert.Equal(back, await other.Admin.RevisionAsync());
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
        await Wait.Until(async () => await SumAsync(others) == FleetStack.Ceiling, "the others have its part", Wait.Promised(2), () => TellAsync(others));
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
