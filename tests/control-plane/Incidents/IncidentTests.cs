using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Dapper;
using Evenkeel.Incidents;
using Evenkeel.Nodes;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Incidents;

public sealed class IncidentTests(PostgresFixture postgres) : IClassFixture<PostgresFixture>, IAsyncLifetime
{
    private const long Life = 1_763_000_000_000;

    private ControlPlane controlPlane = null!;
    private HttpClient admin = null!;
    private HttpClient agent = null!;
    private FakeNode node = null!;
    private readonly EventList list = new();

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        (admin, agent) = (controlPlane.Admin(), controlPlane.Node());
        node = await FakeNode.StartAsync();
        node.Events = list.After;
        await admin.ApplyAsync(NodeCalls.Config());
        node.TextDigest = (await agent.TextAsync("one", node.Url)).TextDigest();
    }

    public async Task DisposeAsync()
    {
        await controlPlane.DisposeAsync();
        await node.DisposeAsync();
    }

    [Fact]
    public async Task What_a_node_tells_becomes_an_incident_with_cause_evidence_and_revision()
    {
        list.Add("breaker_opened", "a", """{"outcome":"server_error","why":"consecutive","evidence":"HTTP 500 \u0000 oops","request_id":"r1"}""");
        var incident = await IncidentAsync("breaker", open: true);
        Assert.Equal(("a", "one", "server_error", 1), (incident.Text("subject"), incident.Text("node"), incident.Text("cause"), incident.GetProperty("revision").GetInt32()));
        Assert.Equal("r1", incident.GetProperty("evidence").GetProperty("first").Text("request_id"));
        list.Add("breaker_half_open", "a", "{}");
        list.Add("breaker_closed", "a", """{"outcome":"ok"}""");
        incident = await IncidentAsync("breaker", open: false);
        Assert.Equal(3, incident.GetProperty("events").GetInt32());
    }

    [Fact]
    public async Task An_event_that_comes_again_counts_once_and_thousands_come_in_portions()
    {
        for (var i = 0; i < 2500; i++) list.Add("stream_resumed", "a", $$"""{"result":"ok","n":{{i}}}""");
        await using var database = await controlPlane.OpenDatabaseAsync();
        await NodeCalls.EventuallyAsync("all are here", async () => await database.ExecuteScalarAsync<int>("select count(*)::int from event where node = 'one'") == 2500);
        await database.ExecuteAsync("update event_cursor set number = life");      // as if its last answer had been lost
        await NodeCalls.EventuallyAsync("all are read again", async () => await database.ExecuteScalarAsync<long>("select number - life from event_cursor") == 2500);
        Assert.Equal(2500, await database.ExecuteScalarAsync<int>("select count(*)::int from event where node = 'one'"));
    }

    [Fact]
    public async Task What_happened_while_the_control_plane_was_away_is_told_when_it_is_back_and_what_was_dropped_is_counted()
    {
        list.Add("breaker_opened", "a", "{}");
        await IncidentAsync("breaker", open: true);
        await using var database = await controlPlane.OpenDatabaseAsync();
        await controlPlane.DisposeAsync();

        list.Add("breaker_closed", "a", "{}");
        list.Add("blocked", "a", """{"outcome":"quota","seconds":600}""");
        list.Dropped = 7;
        controlPlane = await Restarted();
        admin = controlPlane.Admin();
        await IncidentAsync("breaker", open: false);
        Assert.Equal("quota", (await IncidentAsync("blocked", open: true)).Text("cause"));
        Assert.Equal("one", (await IncidentAsync("events_dropped", open: false)).Text("subject"));
        Assert.Equal(7, await database.ExecuteScalarAsync<long>("select dropped from event_cursor"));

        async Task<ControlPlane> Restarted()
        {
            var another = ControlPlane.On(controlPlane.ConnectionString);
            using var caller = another.Node();
            await NodeCalls.EventuallyAsync("it serves", async () => (await caller.PollAsync("one", node.Url)).IsSuccessStatusCode);
            return another;
        }
    }

    [Fact]
    public async Task A_restarted_node_ends_what_it_no_longer_knows_and_its_new_events_count()
    {
        list.Add("breaker_opened", "a", "{}");
        await IncidentAsync("breaker", open: true);
        list.Restart(Life - 5000);                     // its clock was set back: its numbers lie below the old ones
        list.Add("cooldown", "a", """{"outcome":"rate_limited","seconds":1000}""");
        await IncidentAsync("breaker", open: false);
        await IncidentAsync("cooldown", open: true);
    }

    [Fact]
    public async Task What_happens_after_the_clock_was_set_back_is_an_incident_of_its_own()
    {
        list.Add("breaker_opened", "a", "{}");
        list.Add("breaker_closed", "a", "{}");
        await IncidentAsync("breaker", open: false);
        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("update incident set since = since + interval '1 hour', until = until + interval '1 hour', last_event_at = last_event_at + interval '1 hour'");
        list.Add("breaker_opened", "a", "{}");
        list.Add("breaker_closed", "a", "{}");
        await NodeCalls.EventuallyAsync("both are there and over", async () =>
            await database.QuerySingleAsync<(long, long)>("select count(*), sum(events)::bigint from incident where kind = 'breaker' and until is not null") == (2, 4));
    }

    [Fact]
    public async Task A_probe_that_fails_is_an_incident_until_it_succeeds_or_the_instance_is_removed()
    {
        await using var database = await controlPlane.OpenDatabaseAsync();
        await NodeCalls.EventuallyAsync("a is up", async () => await database.ExecuteScalarAsync<string>("select status from instance_health where instance = 'a'") == "up");
        await database.ExecuteAsync("update instance_health set next_at = now() + interval '9 s', status = 'down', outcome = 'bad_gateway', words = 'refused' where instance = 'a'");
        var incident = await IncidentAsync("probe", open: true);
        Assert.Equal(("bad_gateway", "refused"), (incident.Text("cause"), incident.GetProperty("evidence").GetProperty("first").Text("evidence")));
        await admin.ApplyAsync(NodeCalls.Config().Replace("name: a,", "name: z,").Replace("[a]", "[z]"));
        await IncidentAsync("probe", open: false);
    }

    [Fact]
    public async Task A_lost_node_and_a_refused_revision_are_incidents_and_end_when_all_is_well_again()
    {
        await agent.PostAsync($"/node/v1/one/reports?revision=1&text_digest={new string('a', 64)}&result=refused&stage=test", new StringContent("nginx: [emerg] no", null, "text/plain"));
        var refused = await IncidentAsync("revision_refused", open: null);
        Assert.Equal(("one", "test"), (refused.Text("subject"), refused.Text("cause")));
        await NodeCalls.EventuallyAsync("the node runs what it should", async () => (await admin.StatusAsync()).GetProperty("acknowledged").GetBoolean());
        await IncidentAsync("revision_refused", open: false);

        await node.DisposeAsync();
        await using var database = await controlPlane.OpenDatabaseAsync();
        await NodeCalls.EventuallyAsync("it is lost", async () =>
        {
            await database.ExecuteAsync("update node set last_seen_at = now() - interval '1 minute'");
            await controlPlane.Services.GetRequiredService<NodeStore>().GoneAsync();
            return !await database.ExecuteScalarAsync<bool>("select live from node");
        });
        await IncidentAsync("node_lost", open: true);
        await agent.PollAsync("one", node.Url);
        await IncidentAsync("node_lost", open: false);
    }

    [Fact]
    public async Task Incidents_can_be_filtered_paged_acknowledged_and_commented()
    {
        foreach (var instance in new[] { "a", "b", "c" }) list.Add("breaker_opened", instance, "{}");
        list.Add("breaker_closed", "b", "{}");
        await NodeCalls.EventuallyAsync("all are here", async () => (await ListAsync("?kind=breaker&open=true")).Count == 2 && (await ListAsync("?subject=b&open=false")).Count == 1);
        Assert.Equal(["c", "b", "a"], (await ListAsync("?kind=breaker&node=one")).Select(one => one.Text("subject")));
        var first = Assert.Single(await ListAsync("?kind=breaker&limit=1"));
        Assert.Equal(["b"], (await ListAsync($"?kind=breaker&limit=1&before={first.GetProperty("id")}")).Select(one => one.Text("subject")));
        Assert.Empty(await ListAsync("?kind=breaker&until=2020-01-01T00:00:00Z"));
        Assert.Equal(2, (await ListAsync("?kind=breaker&since=2999-01-01T00:00:00%2B02:00")).Count);     // those that are open

        var path = $"/api/v1/incidents/{first.GetProperty("id")}";
        await admin.SendAsync(HttpMethod.Post, path + "/acknowledge", Body.Json("""{"by":"ada"}"""));
        var seen = await admin.SendAsync(HttpMethod.Post, path + "/acknowledge", Body.Json("""{"by":"bob"}"""));
        Assert.Equal("ada", (string?)seen["acknowledged_by"]);
        await admin.SendAsync(HttpMethod.Post, path + "/comments", Body.Json("""{"text":"vendor called","author":"ada"}"""));
        var whole = await admin.GetAsync(path, HttpStatusCode.OK);
        Assert.Equal(("vendor called", 1), ((string?)whole["comments"]![0]!["text"], (int)whole["comment_count"]!));
        await admin.SendAsync(HttpMethod.Post, path + "/comments", Body.Json("""{"text":""}"""), HttpStatusCode.BadRequest);
        await admin.SendAsync(HttpMethod.Post, "/api/v1/incidents/999999/comments", Body.Json("""{"text":"x"}"""), HttpStatusCode.NotFound);
        await admin.SendAsync(HttpMethod.Post, "/api/v1/incidents/999999/acknowledge", Body.Json("{}"), HttpStatusCode.NotFound);
        await admin.GetAsync("/api/v1/incidents/999999", HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task Old_events_and_closed_incidents_are_forgotten_and_open_ones_stay()
    {
        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("""
            insert into event (at, kind, subject, applied) values (now() - interval '31 days', 'probe_up', 'x', true), (now(), 'probe_up', 'x', true);
            insert into incident (kind, subject, since, until, evidence, last_event_at) values
                ('probe', 'old', now() - interval '500 days', now() - interval '401 days', '{}', now()),
                ('probe', 'open', now() - interval '500 days', null, '{}', now());
            """);
        await controlPlane.Services.GetRequiredService<IncidentStore>().PruneAsync();
        Assert.Equal(1, await database.ExecuteScalarAsync<int>("select count(*)::int from event where subject = 'x'"));
        Assert.Equal(["open"], await database.QueryAsync<string>("select subject from incident where subject in ('old', 'open')"));
    }

    private async Task<List<JsonElement>> ListAsync(string query) => [.. (await admin.GetFromJsonAsync<JsonElement>("/api/v1/incidents" + query)).EnumerateArray()];

    private async Task<JsonElement> IncidentAsync(string kind, bool? open)
    {
        List<JsonElement> found = [];
        await NodeCalls.EventuallyAsync($"an incident \"{kind}\"", async () =>
            (found = await ListAsync($"?kind={kind}")).Count > 0 && (open is null || found[0].GetProperty("open").GetBoolean() == open));
        return found[0];
    }

    /// <summary>A node's list of events, as lua/evenkeel/events.lua keeps it.</summary>
    private sealed class EventList
    {
        private readonly Lock gate = new();
        private readonly List<(long Id, string Json)> events = [];
        private long begin = Life;

        public long Dropped { get; set; }

        public void Add(string kind, string subject, string detail)
        {
            lock (gate)
            {
                var id = begin + events.Count + 1;
                var at = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1000.0;
                events.Add((id, FormattableString.Invariant($"{{\"id\":{id},\"at\":{at},\"kind\":\"{kind}\",\"subject\":\"{subject}\",\"detail\":{detail}}}")));
            }
        }

        public void Restart(long newBegin)
        {
            lock (gate)
            {
                events.Clear();
                begin = newBegin;
            }
        }

        public string After(long cursor)
        {
            lock (gate)
            {
                if (cursor > begin + events.Count) cursor = begin;
                var some = events.Where(one => one.Id > cursor).Take(1000).Select(one => one.Json).ToList();
                var dropped = some.Count > 0 ? Dropped : 0;
                if (some.Count > 0) Dropped = 0;
                return $$"""{"events":[{{string.Join(',', some)}}],"begin":{{begin}},"last":{{begin + events.Count}},"dropped":{{dropped}}}""";
            }
        }
    }
}

internal static class Elements
{
    public static string? Text(this JsonElement element, string key) => element.GetProperty(key).GetString();
}
