using System.Net.Http.Json;
using System.Text.Json;
using Dapper;
using Evenkeel.Health;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Health;

public sealed class ProberTests(PostgresFixture postgres) : IClassFixture<PostgresFixture>, IAsyncLifetime
{
    private ControlPlane controlPlane = null!;
    private HttpClient admin = null!;
    private HttpClient agent = null!;
    private FakeNode node = null!;

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        (admin, agent) = (controlPlane.Admin(), controlPlane.Node());
        node = await FakeNode.StartAsync();
    }

    public async Task DisposeAsync()
    {
        await controlPlane.DisposeAsync();
        await node.DisposeAsync();
    }

    [Fact]
    public async Task An_instance_whose_probes_fail_is_out_at_every_node_within_a_second_and_back_when_they_succeed()
    {
        await using var second = await FakeNode.StartAsync();
        await admin.ApplyAsync(Config(["a", "b"]));
        await RegisterAsync(("one", node), ("two", second));
        await StatusAsync("a", "up");
        await StatusAsync("b", "up");

        node.Door = second.Door = (name, _) => name == "a" ? (503, "server_error", "{}") : (200, null, "{}");
        var down = await StatusAsync("a", "down");
        Assert.Equal(("server_error", "models"), (down.GetProperty("outcome").GetString(), down.GetProperty("kind").GetString()));
        var took = await NodeCalls.EventuallyAsync("both nodes have it", () => !Healthy(node, "a") && !Healthy(second, "a"));
        Assert.True(took < TimeSpan.FromSeconds(1), $"it took {took}");
        Assert.True(Healthy(node, "b"));

        node.Door = second.Door = (_, _) => (200, null, "{}");
        await StatusAsync("a", "up");
        took = await NodeCalls.EventuallyAsync("both nodes have it back", () => Healthy(node, "a") && Healthy(second, "a"));
        Assert.True(took < TimeSpan.FromSeconds(1), $"it took {took}");
        await NodeCalls.EventuallyAsync("acknowledged", async () => (await admin.StatusAsync()).GetProperty("acknowledged").GetBoolean());
        Assert.Contains(node.Knocks, knock => knock is { Instance: "a", Path: "/v1/models" });
        Assert.Contains(second.Knocks, knock => knock.Instance == "a");
    }

    [Fact]
    public async Task Without_the_database_probes_go_on_and_what_they_find_reaches_the_nodes_and_is_kept_when_it_is_back()
    {
        await admin.ApplyAsync(Config(["a", "b"]));
        await RegisterAsync(("one", node));
        await StatusAsync("a", "up");
        await StatusAsync("b", "up");

        await controlPlane.SetDatabaseAsync(away: true);
        node.Door = (name, _) => name == "a" ? (503, "server_error", "{}") : (200, null, "{}");
        await NodeCalls.EventuallyAsync("the node has it", () => !Healthy(node, "a") && Healthy(node, "b"));
        node.Door = (name, _) => name == "b" ? (503, "server_error", "{}") : (200, null, "{}");
        await NodeCalls.EventuallyAsync("and the next", () => Healthy(node, "a") && !Healthy(node, "b"));

        await controlPlane.SetDatabaseAsync(away: false);
        await StatusAsync("b", "down");
        await NodeCalls.EventuallyAsync("acknowledged", async () => await admin.StatusAsync() is var status && status.GetProperty("acknowledged").GetBoolean() && !status.GetProperty("database_away").GetBoolean());
        node.Door = (_, _) => (200, null, "{}");
        await NodeCalls.EventuallyAsync("it is probed as before", () => Healthy(node, "b"));
    }

    [Fact]
    public async Task A_node_that_cannot_be_reached_says_nothing_about_the_instances()
    {
        await admin.ApplyAsync(Config(["a"]));
        await RegisterAsync(("one", node));
        await StatusAsync("a", "up");
        await node.DisposeAsync();
        await NodeCalls.EventuallyAsync("probes find nobody", async () =>
            (await HealthAsync("a")) is { ValueKind: JsonValueKind.Object } health && health.GetProperty("words").GetString()!.Contains("does not answer"));
        await KeepOnAsync(3);
        Assert.Equal("up", (await HealthAsync("a")).GetProperty("status").GetString());
    }

    [Fact]
    public async Task Where_there_are_no_models_a_completion_is_asked_for_and_costs_are_counted()
    {
        node.Door = (_, path) => path == "/v1/models" ? (404, "server_error", "{}") : (200, null, "data: {}\n\n");
        await admin.ApplyAsync(Config(["a"]));
        await RegisterAsync(("one", node));
        var health = await StatusAsync("a", "up");
        Assert.Equal("completion", health.GetProperty("kind").GetString());
        Assert.True(health.GetProperty("completions").GetInt64() >= 1);
        var asked = node.Knocks.Count(knock => knock.Path == "/v1/models");
        await KeepOnAsync(2);
        Assert.Equal(asked, node.Knocks.Count(knock => knock.Path == "/v1/models"));
    }

    [Fact]
    public async Task An_empty_account_takes_an_instance_out_whose_balance_is_asked_for()
    {
        node.Door = (_, path) => path == "/user/balance" ? (200, null, """{"is_available":false}""") : (200, null, "{}");
        await admin.ApplyAsync(Config(["a"], more: ", probe: {kind: balance}"));
        await RegisterAsync(("one", node));
        Assert.Equal("quota", (await StatusAsync("a", "down")).GetProperty("outcome").GetString());
    }

    [Fact]
    public async Task No_instance_is_asked_twice_at_once_however_slow_and_two_control_planes_share_the_work()
    {
        await using var another = controlPlane.Another();
        using var other = another.Admin();
        node.DoorTakes = TimeSpan.FromMilliseconds(1500);       // longer than the interval
        await admin.ApplyAsync(Config(["a", "b", "c"], timeout: "30s"));       // none is given up and asked again
        await RegisterAsync(("one", node));
        await NodeCalls.EventuallyAsync("the other one knows the configuration", async () => (await other.GetAsync("/api/v1/config")).IsSuccessStatusCode);
        await NodeCalls.EventuallyAsync("many probes", () => node.Knocks.Count >= 12);
        Assert.Equal(1, node.MostKnocksAtOnce);
    }

    [Fact]
    public async Task A_claim_is_given_once_and_a_late_result_is_dropped()
    {
        await admin.ApplyAsync(Config(["a", "b", "c"]));       // no node: the job claims nothing
        var store = controlPlane.Services.GetRequiredService<HealthStore>();
        ProbeWish[] wishes = [.. "abc".Select(name => new ProbeWish(name.ToString(), TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(30)))];
        var ahead = TimeSpan.FromSeconds(2);
        var claims = (await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Task.Run(() => store.ClaimAsync(wishes, ahead))))).SelectMany(all => all).ToList();
        Assert.Equal(["a", "b", "c"], claims.Select(claim => claim.Instance).Order());

        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("update instance_health set turn = turn + 1 where instance = 'a'");
        var late = claims.Single(claim => claim.Instance == "a");
        await store.KeepAsync([new ProbeOutcome(late, late.State with { Status = HealthStatus.Down }, new ProbeResult(ProbeVerdict.Bad, "server_error"), Evenkeel.Config.ProbeKind.Models, "one", 1, 0)]);
        Assert.Empty((await store.FleetAsync()).Down);
    }

    [Fact]
    public async Task Every_change_has_a_higher_number_also_when_an_instance_that_is_out_is_removed()
    {
        await admin.ApplyAsync(Config(["a", "b"]));
        var store = controlPlane.Services.GetRequiredService<HealthStore>();
        await using var database = await controlPlane.OpenDatabaseAsync();
        await store.ClaimAsync([new ProbeWish("a", TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1))], TimeSpan.FromSeconds(2));
        var before = await store.FleetAsync();
        await database.ExecuteAsync("update instance_health set latency_ms = 5 where instance = 'a'");
        Assert.Equal(before.Number, (await store.FleetAsync()).Number);
        await database.ExecuteAsync("update instance_health set status = 'down' where instance = 'a'");
        var down = await store.FleetAsync();
        Assert.Equal(["a"], down.Down);
        await admin.ApplyAsync(Config(["b"]));
        await store.ClaimAsync([], TimeSpan.FromSeconds(1));
        var gone = await store.FleetAsync();
        Assert.Empty(gone.Down);
        Assert.True(before.Number < down.Number && down.Number < gone.Number);
    }

    [Fact]
    public async Task Five_hundred_instances_at_ten_seconds_keep_pace_and_do_not_march_in_step()
    {
        var names = Enumerable.Range(0, 500).Select(i => $"i{i}").ToArray();
        await admin.ApplyAsync(Config(names, interval: "10s"));
        await RegisterAsync(("one", node));
        await NodeCalls.EventuallyAsync("each was probed", () => node.Knocks.Select(knock => knock.Instance).Distinct().Count() == 500);
        // By when they came, for this may look later than it means to.
        var from = DateTime.UtcNow;
        var until = from + TimeSpan.FromSeconds(10);
        await NodeCalls.EventuallyAsync("ten seconds more", () => DateTime.UtcNow >= until);
        var knocks = node.Knocks.Where(knock => knock.At >= from && knock.At < until).ToList();
        Assert.InRange(knocks.Count, 400, 600);
        Assert.Equal(1, node.MostKnocksAtOnce);
        Assert.InRange(knocks.Select(knock => knock.At.Ticks / TimeSpan.TicksPerSecond).Distinct().Count(), 7, 11);
        // How many in one second, by when they are due: what a machine that stalls for a moment makes up for in the next is no step.
        await using var database = await controlPlane.OpenDatabaseAsync();
        var busiest = await database.ExecuteScalarAsync<long>("select max(n) from (select count(*) as n from instance_health group by date_trunc('second', next_at)) seconds");
        Assert.InRange(busiest, 1, 149);
    }

    private static string Config(string[] instances, string interval = "1s", string timeout = "2s", string more = "") => $$"""
        instances:
        {{string.Join('\n', instances.Select(name => $"  - {{name: {name}, base_url: \"http://127.0.0.1:9001\"{more}}}"))}}
        pools:
          - {name: chat, models: [chat], tiers: [{name: primary, instances: [{{string.Join(", ", instances)}}]}]}
        failover_config:
          health_check: {interval: {{interval}}, timeout: {{timeout}}, unhealthy_threshold: 2, healthy_threshold: 2}
        """;

    private async Task RegisterAsync(params (string Name, FakeNode Node)[] nodes)
    {
        foreach (var (name, fake) in nodes)
        {
            fake.TextDigest = (await agent.TextAsync(name, fake.Url)).TextDigest();
            await NodeCalls.EventuallyAsync($"{name} has a snapshot", () => fake.Revision > 0);
        }
    }

    private async Task<JsonElement> HealthAsync(string instance) =>
        (await admin.GetFromJsonAsync<JsonElement>("/api/v1/health")).EnumerateArray().SingleOrDefault(one => one.GetProperty("instance").GetString() == instance);

    private async Task<JsonElement> StatusAsync(string instance, string status)
    {
        JsonElement health = default;
        await NodeCalls.EventuallyAsync($"{instance} is {status}", async () =>
            (health = await HealthAsync(instance)) is { ValueKind: JsonValueKind.Object } && health.GetProperty("status").GetString() == status);
        return health;
    }

    /// <summary>Waits for so many more probes of a.</summary>
    private async Task KeepOnAsync(int probes)
    {
        var until = (await HealthAsync("a")).GetProperty("probes").GetInt64() + probes;
        await NodeCalls.EventuallyAsync("more probes", async () => (await HealthAsync("a")).GetProperty("probes").GetInt64() >= until);
    }

    private static bool Healthy(FakeNode node, string instance) =>
        node.Taken.Last().GetProperty("instances").EnumerateArray().Single(one => one.GetProperty("name").GetString() == instance) is var found
        && !(found.TryGetProperty("healthy", out var healthy) && !healthy.GetBoolean());
}
