using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Dapper;
using Evenkeel.Jobs;
using Evenkeel.Nodes;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Publishing;

public sealed class PublisherTests(PostgresFixture postgres) : IClassFixture<PostgresFixture>, IAsyncLifetime
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
    public async Task A_write_is_pushed_to_every_node_well_within_a_second_and_acknowledged()
    {
        await using var second = await FakeNode.StartAsync();
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config()), ("one", node), ("two", second));

        var revision = await admin.ApplyAsync(NodeCalls.Config(weight: 51));
        var took = await NodeCalls.EventuallyAsync("both nodes run it", () => node.Revision == revision && second.Revision == revision);
        Assert.True(took < TimeSpan.FromSeconds(1), $"it took {took}");
        Assert.Equal(51, node.Taken.Last().GetProperty("instances")[0].GetProperty("weight").GetInt32());
        took = await NodeCalls.EventuallyAsync("acknowledged", async () => (await admin.StatusAsync()) is var status && Acknowledged(status) && status.GetProperty("revision").GetInt64() == revision);
        Assert.True(took < TimeSpan.FromSeconds(1), $"it took {took}");
    }

    [Fact]
    public async Task It_is_not_acknowledged_while_a_node_runs_another_text_and_draining_workers_do_not_count()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config());
        await RegisterAsync("one", node);
        var right = node.TextDigest;
        node.TextDigest = new string('f', 64);
        await NodeCalls.EventuallyAsync("the node holds it", () => node.Revision == revision);
        await NodeCalls.EventuallyAsync("the status shows the other text", async () => TextOf(await admin.StatusAsync()) == node.TextDigest);
        Assert.False(Acknowledged(await admin.StatusAsync()));

        node.HasDrainingWorker = true;
        node.TextDigest = right;
        await NodeCalls.EventuallyAsync("acknowledged", async () => Acknowledged(await admin.StatusAsync()));
    }

    [Fact]
    public async Task Without_a_node_nothing_is_acknowledged()
    {
        await admin.ApplyAsync(NodeCalls.Config());
        Assert.False(Acknowledged(await admin.StatusAsync()));
    }

    [Fact]
    public async Task A_node_that_lost_its_snapshot_gets_it_again()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config());
        await AcknowledgedAsync(revision, ("one", node));
        node.Forget();
        await NodeCalls.EventuallyAsync("the node has it again", () => node.Revision == revision);
    }

    [Fact]
    public async Task A_slow_node_gets_one_push_at_a_time_and_then_the_newest()
    {
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config()), ("one", node));
        node.PushTakes = TimeSpan.FromMilliseconds(700);
        var before = node.Pushes;
        long revision = 0;
        for (var weight = 1; weight <= 10; weight++) revision = await admin.ApplyAsync(NodeCalls.Config(weight));
        await NodeCalls.EventuallyAsync("the node has the newest", () => node.Revision == revision);
        Assert.Equal(1, node.MostPushesAtOnce);
        Assert.True(node.Pushes - before < 10, $"{node.Pushes - before} pushes for ten revisions");
    }

    [Fact]
    public async Task A_slow_node_does_not_hold_up_another()
    {
        await using var slow = await FakeNode.StartAsync();
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config()), ("fast", node), ("slow", slow));
        slow.PushTakes = TimeSpan.FromSeconds(4);
        var revision = await admin.ApplyAsync(NodeCalls.Config(weight: 7));
        var took = await NodeCalls.EventuallyAsync("the fast one has it", () => node.Revision == revision);
        Assert.True(took < TimeSpan.FromSeconds(1), $"it took {took}");
    }

    [Fact]
    public async Task A_refused_snapshot_is_on_record_with_the_nodes_reasons_and_not_pushed_in_a_loop()
    {
        var first = await admin.ApplyAsync(NodeCalls.Config());
        await AcknowledgedAsync(first, ("one", node));
        node.Refuses = ["instances[0].path: not a path"];
        var revision = await admin.ApplyAsync(NodeCalls.Config(weight: 3));
        JsonElement refusal = default;
        await NodeCalls.EventuallyAsync("the refusal is shown", async () =>
            (await admin.GetFromJsonAsync<JsonElement>("/api/v1/nodes/one")).TryGetProperty("last_refusal", out refusal));
        Assert.Equal((revision, "push"), (refusal.GetProperty("revision").GetInt64(), refusal.GetProperty("stage").GetString()));
        Assert.Contains("instances[0].path: not a path", refusal.GetProperty("words").GetString());
        Assert.False(Acknowledged(await admin.StatusAsync()));

        var pushes = node.Pushes;
        await AfterReconcilesAsync(2);
        Assert.Equal(pushes, node.Pushes);

        node.Refuses = null;
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config(weight: 4)), ("one", node));
    }

    [Fact]
    public async Task A_node_with_a_newer_revision_is_left_alone_and_shown()
    {
        await admin.ApplyAsync(NodeCalls.Config());
        node.Hold(1_000_000, "x");
        await RegisterAsync("one", node);
        await NodeCalls.EventuallyAsync("the fault is shown", async () =>
            (await admin.GetFromJsonAsync<JsonElement>("/api/v1/nodes/one")).TryGetProperty("fault", out var fault) && fault.GetString()!.Contains("newer revision"));
        Assert.Equal(1_000_000, node.Revision);
    }

    [Fact]
    public async Task An_instance_whose_key_cannot_be_resolved_is_pushed_disabled_with_a_visible_fault()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config(more: "  - {name: keyless, base_url: \"http://127.0.0.1:9002\", api_key: \"env:EVENKEEL_TEST_NO_SUCH_VARIABLE\"}"));
        await AcknowledgedAsync(revision, ("one", node));
        var keyless = node.Taken.Last().GetProperty("instances").EnumerateArray().Single(instance => instance.GetProperty("name").GetString() == "keyless");
        Assert.False(keyless.GetProperty("enabled").GetBoolean());
        var fault = Assert.Single((await admin.StatusAsync()).GetProperty("faults").EnumerateArray());
        Assert.Equal("instances[1].api_key", fault.GetProperty("path").GetString());
        Assert.Contains("EVENKEEL_TEST_NO_SUCH_VARIABLE is not set", fault.GetProperty("message").GetString());
    }

    [Fact]
    public async Task A_key_file_that_changes_is_pushed_without_a_new_revision()
    {
        var file = Path.GetTempFileName();
        try
        {
            File.WriteAllText(file, "first-key");
            await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config(more: $"  - {{name: filed, base_url: \"http://127.0.0.1:9002\", api_key: \"file:{file}\"}}")), ("one", node));
            Assert.Equal("first-key", Key());
            File.WriteAllText(file + ".new", "second-key");
            File.Move(file + ".new", file, overwrite: true);        // never empty
            await NodeCalls.EventuallyAsync("the second key is there", () => Key() == "second-key");
        }
        finally
        {
            File.Delete(file);
        }

        string? Key() => node.Taken.Last().GetProperty("instances")[1].GetProperty("api_key").GetString();
    }

    [Fact]
    public async Task Without_the_database_nodes_still_get_their_snapshot_and_agents_their_text_and_all_is_well_when_it_is_back()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config());
        await AcknowledgedAsync(revision, ("one", node));
        await AfterReconcilesAsync(2);          // the first of them has ended: all is remembered

        await controlPlane.SetDatabaseAsync(away: true);
        await NodeCalls.EventuallyAsync("it is known that the database is away", async () =>
            await admin.GetAsync("/api/v1/status") is { IsSuccessStatusCode: true } answer && (await answer.Content.ReadFromJsonAsync<JsonElement>()).GetProperty("database_away").GetBoolean());
        foreach (var path in new[] { "status", "nodes", "nodes/one", "config", "instances", "pools", "clients", "health" })
            Assert.True((await admin.GetAsync("/api/v1/" + path)) is { StatusCode: HttpStatusCode.OK }, path);
        Assert.Equal(revision, (await admin.StatusAsync()).GetProperty("revision").GetInt64());
        using var write = await admin.PutAsync("/api/v1/config", Body.Yaml(NodeCalls.Config(weight: 7)));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, write.StatusCode);
        Assert.Contains("The database is away", await write.Content.ReadAsStringAsync());
        node.Forget();
        await NodeCalls.EventuallyAsync("the node has its snapshot again", () => node.Revision == revision);
        Assert.Equal(HttpStatusCode.OK, (await agent.PollAsync("one", node.Url)).StatusCode);

        await controlPlane.SetDatabaseAsync(away: false);
        await NodeCalls.EventuallyAsync("it is known to be back", async () => !(await admin.StatusAsync()).GetProperty("database_away").GetBoolean());
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config(weight: 5)), ("one", node));
        await AfterReconcilesAsync(1);
    }

    [Fact]
    public async Task What_was_found_while_the_database_was_away_by_a_control_plane_that_then_ended_gives_way_to_what_the_database_says()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config());
        await AcknowledgedAsync(revision, ("one", node));
        var right = node.Digest;
        node.Hold(revision, "of a finding that nobody kept", DateTimeOffset.UtcNow.AddMinutes(1).ToUnixTimeMilliseconds());
        await NodeCalls.EventuallyAsync("the node goes by the database again", () => node.Digest == right);
        await AcknowledgedAsync(revision, ("one", node));
    }

    [Fact]
    public async Task A_node_that_nobody_has_heard_of_for_15_s_is_not_live_and_said_so_once()
    {
        await using var second = await FakeNode.StartAsync();
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config()), ("one", node), ("two", second));
        await second.DisposeAsync();
        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("update node set last_seen_at = now() - interval '20 s' where name = 'two'");

        var store = controlPlane.Services.GetRequiredService<NodeStore>();
        await NodeCalls.EventuallyAsync("it is marked", async () => { await store.GoneAsync(); return !await database.ExecuteScalarAsync<bool>("select live from node where name = 'two'"); });
        Assert.Empty(await store.GoneAsync());
        Assert.Equal(["one"], (await admin.StatusAsync()).GetProperty("nodes").EnumerateArray().Where(one => one.GetProperty("live").GetBoolean()).Select(one => one.GetProperty("name").GetString()));
        Assert.True(Acknowledged(await admin.StatusAsync()));
    }

    [Fact]
    public async Task Old_reports_revisions_and_nodes_are_pruned_and_the_newest_kept()
    {
        await AcknowledgedAsync(await admin.ApplyAsync(NodeCalls.Config()), ("one", node));
        for (var weight = 1; weight <= 4; weight++) await admin.ApplyAsync(NodeCalls.Config(weight));
        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("""
            insert into node_report (node, revision, text_digest, result, stage, words) select 'one', n, 'x', 'applied', 'load', '' from generate_series(1, 250) n;
            insert into node (name, admin_url, last_seen_at) values ('forgotten', 'http://127.0.0.1:1', now() - interval '8 days');
            """);
        await controlPlane.Services.GetRequiredService<NodeStore>().PruneAsync();
        await PruneJob.PruneRevisionsAsync(controlPlane.Services.GetRequiredService<NpgsqlDataSource>(), 2, default);

        Assert.Equal((200, 51), await database.QuerySingleAsync<(int, int)>("select count(*)::int, min(revision)::int from node_report"));
        Assert.Equal(["one"], await database.QueryAsync<string>("select name from node"));
        Assert.Equal(2, await database.ExecuteScalarAsync<int>("select count(*)::int from revision"));
        Assert.True((await admin.GetAsync("/api/v1/config")).IsSuccessStatusCode);
        await admin.ApplyAsync(NodeCalls.Config(weight: 9));
    }

    // As an agent does, with the text that the node then says it runs.
    private async Task RegisterAsync(string name, FakeNode fake) => fake.TextDigest = (await agent.TextAsync(name, fake.Url)).TextDigest();

    private async Task AcknowledgedAsync(long revision, params (string Name, FakeNode Node)[] nodes)
    {
        foreach (var (name, fake) in nodes) await RegisterAsync(name, fake);
        await NodeCalls.EventuallyAsync($"revision {revision} is acknowledged", async () => await admin.StatusAsync() is var status && Acknowledged(status) && status.GetProperty("revision").GetInt64() == revision);
    }

    /// <summary>Waits until the scheduler has run the reconcile job so many times.</summary>
    private async Task AfterReconcilesAsync(int count)
    {
        await using var database = await controlPlane.OpenDatabaseAsync();
        Task<long> FiredAsync() => database.ExecuteScalarAsync<long>("select prev_fire_time from quartz.qrtz_triggers where trigger_name = 'reconcile'");
        for (; count > 0; count--)
        {
            var before = await FiredAsync();
            await NodeCalls.EventuallyAsync("the reconcile job runs", async () => await FiredAsync() > before);
        }
    }

    private static bool Acknowledged(JsonElement status) => status.GetProperty("acknowledged").GetBoolean();

    private static string? TextOf(JsonElement status) =>
        status.GetProperty("nodes")[0].TryGetProperty("text_digest", out var digest) ? digest.GetString() : null;
}
