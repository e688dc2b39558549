using System.Text.Json;
using Evenkeel.Clients;
using Evenkeel.Config;
using Evenkeel.Tests.Nodes;
using Xunit;

namespace Evenkeel.Tests.Clients;

public sealed class SpendingOrderTests
{
    private static readonly DateTime Now = new(2026, 11, 25, 22, 0, 0, DateTimeKind.Utc);
    private static readonly ClientConfig[] Clients =
    [
        new() { Name = "daily", Key = "env:A", Budget = new BudgetConfig(10, Per: "day") },
        new() { Name = "monthly", Key = "env:B", Budget = new BudgetConfig(10) },
        new() { Name = "free", Key = "env:C" },
    ];

    [Fact]
    public void A_node_is_told_what_all_others_and_its_own_earlier_lives_have_spent_in_the_running_period()
    {
        Spent[] spent =
        [
            new("daily", "2026-11-25", "one", 2, 100), new("daily", "2026-11-25", "one", 1, 20), new("daily", "2026-11-25", "two", 7, 3),
            new("daily", "2026-11-24", "two", 7, 5000), new("monthly", "2026-11", "two", 7, 40), new("monthly", "2026-11-25", "two", 7, 9000),
        ];
        var one = SpendingExchange.OrderFor("one", 2, Clients, spent, Now);
        Assert.Equal((0.5m, 2L), (one.Share, one.Born));
        Assert.Equal(new Dictionary<string, SpendingOrder.Others> { ["daily"] = new("2026-11-25", "USD", 23), ["monthly"] = new("2026-11", "USD", 40) }, one.Clients);
        Assert.Equal(120, SpendingExchange.OrderFor("two", 2, Clients, spent, Now).Clients["daily"].OthersNano);
        Assert.Equal((0L, 123m), (SpendingExchange.OrderFor("new", 3, Clients, spent, Now).Born, SpendingExchange.OrderFor("new", 3, Clients, spent, Now).Clients["daily"].OthersNano));
    }

    [Fact]
    public void What_was_spent_in_another_currency_of_the_budget_is_converted_and_the_nodes_own_of_then_is_among_it()
    {
        Spent[] spent =
        [
            new("monthly", "2026-11", "one", 1, 640_000, "GBP"), new("monthly", "2026-11", "one", 1, 3_000, "JPY"), new("monthly", "2026-11", "two", 7, 1_000, "GBP"),
            new("monthly", "2026-11", "two", 7, 500, "JPY"), new("monthly", "2026-11", "two", 6, 40, null), new("monthly", "2026-11", "two", 7, 9, "CHF"),
        ];
        ClientConfig[] clients = [new() { Name = "monthly", Key = "env:B", Budget = new BudgetConfig(120_000, "JPY") }];
        var rates = new Dictionary<string, decimal> { ["GBP"] = 1, ["JPY"] = 0.005m };
        SpendingOrder.Others Told(string node) => SpendingExchange.OrderFor(node, 2, clients, spent, Now, rates).Clients["monthly"];
        Assert.Equal(new("2026-11", "JPY", 128_000_000 + 200_000 + 500 + 40 + 9), Told("one"));
        Assert.Equal(new("2026-11", "JPY", 128_000_000 + 3_000 + 200_000 + 40 + 9), Told("two"));
    }
}

[Collection(PostgresCollection.Name)]
public sealed class SpendingTests(PostgresFixture postgres)
{
    [Fact]
    public async Task Nodes_share_limits_and_learn_what_the_others_have_spent()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        await using var one = await FakeNode.StartAsync();
        await using var two = await FakeNode.StartAsync();
        var (admin, agent) = (plane.Admin(), plane.Node());
        await admin.ApplyAsync("""
            instances: [{name: a, base_url: "http://a.invalid/v1"}]
            pools: [{models: [m]}]
            clients: [{name: app, key: "the-key-of-app", budget: {amount: 5}}]
            """);
        var period = $"{DateTime.UtcNow:yyyy-MM}";
        one.Spent = $$$$"""{"born":11,"clients":{"app":{"period":"{{{{period}}}}","spent_nano":1e+14}}}""";
        two.Spent = $$$$"""{"born":22,"clients":{"app":{"period":"{{{{period}}}}","spent_nano":7}}}""";
        await agent.TextAsync("one", one.Url);
        await agent.TextAsync("two", two.Url);

        await NodeCalls.EventuallyAsync("each knows what the other has spent", () => Told(one) == (0.5m, 11, 7) && Told(two) == (0.5m, 22, 100_000_000_000_000m));
        one.Spent = $$$$"""{"born":12,"clients":{"app":{"period":"{{{{period}}}}","spent_nano":1}}}""";     // restarted
        await NodeCalls.EventuallyAsync("its earlier life counts as another's", () => Told(one) == (0.5m, 12, 100_000_000_000_007m));

        // Nodes that tell the currency, and a budget that changes it; the rows of before count as they are.
        one.Spent = $$$$"""{"born":12,"clients":{"app":{"period":"{{{{period}}}}","currency":"GBP","spent_nano":640}}}""";
        two.Spent = $$$$"""{"born":22,"clients":{"app":{"period":"{{{{period}}}}","currency":"JPY","spent_nano":3}}}""";
        await admin.ApplyAsync("""
            gateway: {exchange_rates: {GBP: 1, JPY: 0.005}}
            instances: [{name: a, base_url: "http://a.invalid/v1"}]
            pools: [{models: [m]}]
            clients: [{name: app, key: "the-key-of-app", budget: {amount: 120000, currency: JPY}}]
            """);
        await NodeCalls.EventuallyAsync("what it spent in the other currency is converted", () => Told(one) == (0.5m, 12, 128_000 + 3 + 100_000_000_000_007m) && Told(two).Item3 == 128_000 + 100_000_000_000_001m);
        Assert.Equal("JPY", one.SpendingOrders.Last().GetProperty("clients").GetProperty("app").GetProperty("currency").GetString());

        static (decimal, long, decimal) Told(FakeNode node) => node.SpendingOrders.LastOrDefault() is { ValueKind: JsonValueKind.Object } order && order.GetProperty("clients").TryGetProperty("app", out var app)
            ? (order.GetProperty("share").GetDecimal(), order.GetProperty("born").GetInt64(), app.GetProperty("others_nano").GetDecimal())
            : default;
    }
}
