using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Dapper;
using Evenkeel.Publishing;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Telemetry;

/// <summary>The endpoints against tests/contract/telemetry/first.json and traces.json, read a moment ago.</summary>
[Collection(PostgresCollection.Name)]
public sealed class TelemetryApiTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>, IAsyncLifetime
{
    private const string Config = """
        gateway: {revenue_per_hour: {amount: 120, currency: GBP}, exchange_rates: {GBP: 1, USD: 0.5}}
        instances:
          - {name: official-1, base_url: "http://127.0.0.1:9001", weight: 50}
          - {name: hosted-b, base_url: "http://127.0.0.1:9002", drain: true}
          - {name: lite, base_url: "http://127.0.0.1:9003"}
        pools:
          - {name: chat, models: [chat], tiers: [{name: primary, instances: [official-1, hosted-b]}, {name: degraded, instances: [lite]}]}
        clients:
          - {name: web-app, key: sk-web-app-0123456789, budget: {amount: 0.0001, currency: GBP, per: month}}
        """;

    private ControlPlane Plane => fixture.Plane;
    private HttpClient admin = null!;
    private NpgsqlConnection database = null!;

    public async Task InitializeAsync()
    {
        admin = Plane.Admin();
        await Plane.PauseJobsAsync("telemetry");
        database = await Plane.OpenDatabaseAsync();
        var revision = await admin.PutConfigAsync(Config);
        await NodeCalls.EventuallyAsync("the plane knows", () => Plane.Services.GetRequiredService<DesiredState>().Current?.Revision >= revision);
        await database.ExecuteAsync("""
            truncate telemetry_series, telemetry_call, telemetry_usage, telemetry_trace, telemetry_cursor, telemetry_last, outage_prevented;
            delete from incident;
            insert into node (name, admin_url, last_seen_at, live) values ('one', 'http://127.0.0.1:1', now() - interval '1 hour', false) on conflict do nothing;
            """);
        var store = new TelemetryStore(Plane.Services.GetRequiredService<NpgsqlDataSource>());
        // In the gateway's time and not in the example's.
        var now = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1000.0;
        var traces = Read<NodeTraces>("traces");
        Assert.True(await store.KeepAsync("one", new TelemetryCursor(), Read<NodeTelemetry>("first"), traces with { Traces = [.. traces.Traces.Select(trace => trace with { At = now })] }));
    }

    public async Task DisposeAsync()
    {
        admin.Dispose();
        await database.DisposeAsync();
    }

    private static T Read<T>(string name) => JsonSerializer.Deserialize<T>(File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", name + ".json")), NodeTelemetry.Options)!;

    private Task<JsonNode> GetAsync(string path) => admin.GetJsonAsync("/api/v1/" + path);

    [Theory]
    [InlineData("telemetry/latency?measure=p99", "measure")]
    [InlineData("telemetry/latency?by=client", "by")]
    [InlineData("telemetry/latency?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from")]
    [InlineData("telemetry/errors?step_s=0", "step_s")]
    [InlineData("telemetry/errors?level=request&instance=a", "instance")]
    [InlineData("telemetry/cost?by=colour", "by")]
    [InlineData("traces?limit=501", "limit")]
    public async Task What_cannot_be_answered_is_refused_with_a_reason(string question, string named) =>
        Assert.Contains(named, (string)(await admin.GetAsync("/api/v1/" + question, HttpStatusCode.BadRequest))["detail"]!);

    [Fact]
    public async Task Latency_comes_as_percentiles_of_the_buckets_and_as_their_distribution()
    {
        var latency = await GetAsync("telemetry/latency?by=instance&measure=first_token");
        var series = Assert.Single(latency["series"]!.AsArray())!;
        var point = Assert.Single(series["points"]!.AsArray())!;
        // Three in 0.2 … 0.35 s, one in 2 … 3 s.
        Assert.Equal(("official-1", 4, 300, 2960), ((string)series["name"]!, (int)point["count"]!, (double)point["p50_ms"]!, (double)point["p99_ms"]!));
        var distribution = latency["distribution"]!.AsArray();
        Assert.Equal(3, (int)distribution.Single(bucket => (double?)bucket!["le_ms"] == 350)!["count"]!);
        Assert.True(distribution[^1]!.AsObject().ContainsKey("le_ms"));
        Assert.Null(distribution[^1]!["le_ms"]);
        Assert.Equal(5, (await GetAsync("telemetry/latency"))["series"]![0]!["points"]!.AsArray().Sum(p => (int)p!["count"]!));
    }

    [Fact]
    public async Task Errors_are_counted_by_outcome_in_every_step()
    {
        var points = (await GetAsync("telemetry/errors?step_s=60"))["points"]!.AsArray();
        Assert.InRange(points.Count, 60, 62);
        var counted = points.Single(point => (int)point!["requests"]! > 0)!;
        Assert.Equal((6, 5, 1), ((int)counted["requests"]!, (int)counted["outcomes"]!["ok"]!, (int)counted["outcomes"]!["server_error"]!));
        Assert.Equal(5, (await GetAsync("telemetry/errors?level=request"))["points"]!.AsArray().Sum(point => (int)point!["requests"]!));
        Assert.Equal(1, (await GetAsync("telemetry/errors?instance=lite"))["points"]!.AsArray().Sum(point => (int)point!["requests"]!));
    }

    [Fact]
    public async Task The_heatmap_shows_failures_outages_and_drains()
    {
        await database.ExecuteAsync("insert into incident (kind, subject, since, until, evidence, last_event_at) values ('breaker', 'official-1', now() - interval '30 minutes', now() - interval '20 minutes', '{}', now()), ('cooldown', 'lite', now(), now() + interval '9 s', '{}', now())");
        var heatmap = await GetAsync("telemetry/heatmap?step_s=60");
        var cells = heatmap["instances"]!.AsArray().ToDictionary(row => (string)row!["instance"]!, row => row!["cells"]!.AsArray());
        Assert.Equal(["official-1", "hosted-b", "lite"], cells.Keys);
        Assert.InRange(cells["official-1"].Count(cell => (string)cell!["state"]! == "out" && cell["incidents"]!.AsArray().Count == 1), 10, 12);
        var busy = cells["official-1"].Single(cell => (int)cell!["attempts"]! > 0)!;
        Assert.Equal((5, 1, 0.2), ((int)busy["attempts"]!, (int)busy["failed"]!, (double)busy["error_rate"]!));
        Assert.Contains(cells["hosted-b"], cell => (string)cell!["state"]! == "draining");
        Assert.Contains(cells["lite"], cell => (string)cell!["state"]! == "degraded");
    }

    [Fact]
    public async Task Cost_comes_by_what_it_was_spent_on_and_against_budgets()
    {
        var cost = await GetAsync("telemetry/cost?by=waste");
        var rows = cost["rows"]!.AsArray().ToDictionary(row => (string)row!["name"]!, row => row!);
        Assert.Equal((0.0000798m, 0.00001258m, 0.00001258m), ((decimal)rows[""]["total"]!, (decimal)rows["cut"]["total"]!, (decimal)rows["cut"]["estimated"]!));
        Assert.Equal((decimal)rows[""]["total"]!, rows[""]["points"]!.AsArray().Sum(point => (decimal)point!["amount"]!));
        var budget = Assert.Single(cost["budgets"]!.AsArray())!;
        Assert.Equal(("web-app", 0.0000399m, 0.399), ((string)budget["client"]!, (decimal)budget["spent"]!, (double)budget["used_share"]!));
    }

    [Fact]
    public async Task Redundancy_is_held_against_the_outages_that_it_prevented()
    {
        // The last full minute: official-1, the heaviest of the first tier, fails most of its calls, and the pool answers.
        await database.ExecuteAsync("""
            select telemetry_make_partitions(now() - interval '1 hour');
            update telemetry_rollup set until = date_bin('1 minute', now() - interval '3 minutes', '2000-01-01Z') where level = 1;
            update telemetry_call set at = date_bin('1 minute', now() - interval '2 minutes', '2000-01-01Z') + interval '10 s';
            update telemetry_call set count = 50 where series = (select id from telemetry_series where outcome = 'server_error');
            select telemetry_roll_up();
            """);
        var roi = await GetAsync("telemetry/roi");
        Assert.Equal((1, 2m, 1.99999371m), ((int)roi["outage_prevented_minutes"]!, (decimal)roi["saved"]!, (decimal)roi["net"]!));
        var spent = Assert.Single(roi["spent"]!.AsArray())!;
        Assert.Equal((0.00009238m, 0.00001258m, 0.00001258m), ((decimal)spent["total"]!, (decimal)spent["redundancy"]!, (decimal)spent["cut"]!));
    }

    [Fact]
    public async Task A_request_tells_where_it_went_and_why()
    {
        var trace = await GetAsync("traces/req-2");
        Assert.Equal(["official-1", "lite"], trace["attempts"]!.AsArray().Select(attempt => (string)attempt!["instance"]!));
        Assert.Equal((2, true, 400), ((int)trace["tier"]!, (bool)trace["degraded"]!, (int)trace["queued_ms"]!));
        Assert.Equal(["req-6", "req-4", "req-3", "req-2", "req-1"], (await GetAsync("traces?instance=official-1&limit=9")).AsArray().Select(t => (string)t!["request_id"]!));
        Assert.Equal(["req-4"], (await GetAsync("traces?outcome=server_error")).AsArray().Select(t => (string)t!["request_id"]!));
        await admin.GetAsync("/api/v1/traces/none", HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task An_incident_tells_what_it_cost_and_counts_nothing_twice()
    {
        await database.ExecuteAsync("""
            insert into incident (kind, subject, since, evidence, last_event_at) values ('breaker', 'official-1', now(), '{}', now());
            select telemetry_make_partitions(now() - interval '1 hour');
            update telemetry_usage set at = at - interval '30 s';
            """);
        for (var run = 0; run < 2; run++) await database.ExecuteAsync("select incident_impact_add()");
        var incident = (await GetAsync("incidents?kind=breaker"))[0]!;
        // req-2 and req-3 asked it in vain; req-4 as well, and was lost; req-5 got a stale answer.
        Assert.Equal((4, 2, 1), ((int)incident["requests_affected"]!, (int)incident["requests_degraded"]!, (int)incident["requests_lost"]!));
        Assert.Equal((0.00001258m, "USD"), ((decimal)incident["cost"]!, (string)incident["currency"]!));
    }

    [Fact]
    public async Task The_live_stream_tells_the_state_of_all_nodes_at_once()
    {
        await using var node = await FakeNode.StartAsync();
        node.Stats = () => """
            {"instances":{"official-1":{"in_flight":3,"limit":40,"max_connections":50,"weight":50,"live_weight":{"stream":30,"json":31},"breaker":"open","healthy":true,"cooldown_s":0,"blocked":"quota"},
              "lite":{"in_flight":0,"limit":20,"max_connections":20,"weight":20,"live_weight":{"stream":20,"json":20},"breaker":"closed","healthy":true,"cooldown_s":0,"blocked":false}},
             "pools":{"chat":{"queued":2}}}
            """;
        using var agent = Plane.Node();
        await agent.TextAsync("two", node.Url);
        using var live = await admin.GetAsync("/api/v1/telemetry/live", HttpCompletionOption.ResponseHeadersRead);
        Assert.Equal("text/event-stream", live.Content.Headers.ContentType?.MediaType);
        using var lines = new StreamReader(await live.Content.ReadAsStreamAsync());
        JsonNode? seen = null;
        using var patience = new CancellationTokenSource(NodeCalls.Patience);
        while (seen is null || (int)seen["pools"]![0]!["queued"]! == 0)
        {
            Assert.Equal("event: state", await lines.ReadLineAsync(patience.Token));
            seen = JsonNode.Parse((await lines.ReadLineAsync(patience.Token))!["data: ".Length..]);
            Assert.Equal("", await lines.ReadLineAsync(patience.Token));
        }
        var instance = seen["instances"]![0]!;
        Assert.Equal(("official-1", 3, 40, "open", true), ((string)instance["name"]!, (int)instance["in_flight"]!, (int)instance["limit"]!, (string)instance["breaker"]!, (bool)instance["blocked"]!));
        // A share is what an instance is asked for: whoever is out, and who drains, has none.
        Assert.Equal([0, 0, 1], seen["instances"]!.AsArray().Select(one => (double)one!["share"]!));
        var pool = seen["pools"]![0]!;
        Assert.Equal(("chat", 2, "degraded"), ((string)pool["name"]!, (int)pool["queued"]!, (string)pool["state"]!));     // hosted-b drains, lite can be asked
        Assert.Contains(seen["nodes"]!.AsArray(), n => (string)n!["name"]! == "two" && (bool)n["live"]!);
    }
}
