using System.Net;
using System.Text.Json;
using System.Text.RegularExpressions;
using Dapper;
using Evenkeel.Reports;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Nodes;
using Microsoft.AspNetCore.TestHost;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Reports;

[Collection(PostgresCollection.Name)]
public sealed class ReportTests(PostgresFixture postgres) : IAsyncLifetime
{
    private static readonly string[] Views = ["audit", "availability_daily", "cost_daily", "error_timeline", "failovers", "incidents", "mttr_by_instance", "request_trace"];

    private ControlPlane controlPlane = null!;
    private NpgsqlConnection database = null!;

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        using var admin = controlPlane.Admin();
        await admin.PutConfigAsync("""
            instances:
              - {name: a, base_url: "http://127.0.0.1:9001"}
              - {name: b, base_url: "http://127.0.0.1:9002"}
            pools:
              - {name: chat, models: [chat], tiers: [{name: primary, instances: [a, b]}]}
              - {name: all, models: [all]}
            """);
        database = await controlPlane.OpenDatabaseAsync();

        // Yesterday: a out 01:00-02:00 at two nodes that overlap and 05:00-05:30; b out 01:30-01:45 within that. a is out again since 10 s.
        await database.ExecuteAsync("""
            insert into instance_health (instance, known_since) select n, date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day' from unnest(array['a', 'b']) n;
            insert into incident (kind, subject, node, since, until, evidence, last_event_at)
            select kind, subject, node, y + s::interval, y + u::interval, '{}', now()
            from (select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day' as y) day,
                (values ('breaker', 'a', 'one', '1:00', '1:40'), ('breaker', 'a', 'two', '1:20', '2:00'), ('probe', 'a', null, '5:00', '5:30'),
                    ('blocked', 'b', 'one', '1:30', '1:45'), ('cooldown', 'b', 'one', '3:00', '4:00')) v (kind, subject, node, s, u);
            insert into incident (kind, subject, since, evidence, last_event_at, cause) values ('probe', 'a', now() - interval '10 s', '{}', now(), 'server_error');
            insert into event (kind, subject, detail, applied) values
                ('stream_resumed', 'a', '{"by": "b", "result": "ok", "outcome": "truncated", "request_id": "r1"}', true), ('breaker_closed', 'a', '{}', true);
            insert into node (name, admin_url, last_seen_at, live) values ('one', 'http://127.0.0.1:1', now() - interval '1 hour', false);
            """);
        Assert.True(await controlPlane.Services.GetRequiredService<TelemetryStore>().KeepAsync("one", new TelemetryCursor(), Read<NodeTelemetry>("first"), Read<NodeTraces>("traces")));

        static T Read<T>(string name) => JsonSerializer.Deserialize<T>(File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", name + ".json")), NodeTelemetry.Options)!;
    }

    public async Task DisposeAsync()
    {
        await database.DisposeAsync();
        await controlPlane.DisposeAsync();
    }

    [Fact]
    public async Task Every_view_has_an_example_in_the_manual_that_the_reporting_role_can_run()
    {
        var examples = Regex.Matches(await File.ReadAllTextAsync(Repository.PathOf("docs", "reports.md")), "```sql\n(.*?)```", RegexOptions.Singleline).Select(match => match.Groups[1].Value).ToList();
        Assert.Equal(Views, await database.QueryAsync<string>("select viewname from pg_views where schemaname = 'report' order by 1"));
        await database.ExecuteAsync("set role evenkeel_report");
        foreach (var view in Views)
        {
            var example = Assert.Single(examples, text => text.Contains("report." + view));
            Assert.NotEmpty(await database.QueryAsync(example));
        }
    }

    [Fact]
    public async Task The_reporting_role_can_read_the_views_and_nothing_else()
    {
        await database.ExecuteAsync("set role evenkeel_report");
        foreach (var sql in new[]
        {
            "select * from evenkeel.incident", "select * from evenkeel.secret", "select * from evenkeel.revision", "select * from quartz.qrtz_triggers",
            "delete from report.incidents", "update report.failovers set from_instance = 'x'", "create table report.mine (n int)", "create table evenkeel.mine (n int)",
        })
        {
            var refused = await Assert.ThrowsAsync<PostgresException>(() => database.ExecuteAsync(sql));
            Assert.True(refused.SqlState is PostgresErrorCodes.InsufficientPrivilege or PostgresErrorCodes.ObjectNotInPrerequisiteState, $"{sql}: {refused.MessageText}");
        }
    }

    [Fact]
    public async Task Outages_that_overlap_are_one_and_only_those_that_have_ended_count_as_repaired()
    {
        var a = await database.QuerySingleAsync("select outages, open, mttr_s, longest_s from report.mttr_by_instance where instance = 'a'");
        Assert.Equal((3L, 1L, 2700m, 3600m), ((long)a.outages, (long)a.open, (decimal)a.mttr_s, (decimal)a.longest_s));
        Assert.Equal(900m, await database.ExecuteScalarAsync<decimal>("select mttr_s from report.mttr_by_instance where instance = 'b'"));
    }

    [Fact]
    public async Task A_pool_is_out_while_all_its_instances_are()
    {
        var yesterday = (await database.QueryAsync<(string Scope, string Name, decimal Observed, decimal Down, decimal Availability)>("""
            select scope, name, observed_s, down_s, availability from report.availability_daily where day = (now() at time zone 'UTC')::date - 1 order by scope, name
            """)).ToList();
        Assert.Equal(
            [("instance", "a", 5400m), ("instance", "b", 900m), ("pool", "all", 900m), ("pool", "chat", 900m)],
            yesterday.Select(row => (row.Scope, row.Name, row.Down)));
        Assert.All(yesterday, row => Assert.Equal((86400m, Math.Round(1 - row.Down / 86400m, 6)), (row.Observed, row.Availability)));
        Assert.InRange(await database.ExecuteScalarAsync<decimal>("select down_s from report.availability_daily where day = (now() at time zone 'UTC')::date and name = 'a'"), 10, 300);
    }

    [Fact]
    public async Task A_failover_says_from_where_to_where_and_why()
    {
        var row = await database.QuerySingleAsync("select from_instance, to_instance, reason, outcome, request_id from report.failovers where reason = 'stream_resumed'");
        Assert.Equal(("a", "b", "truncated", "r1"), ((string)row.from_instance, (string)row.to_instance, (string)row.outcome, (string)row.request_id));
        Assert.Equal(0, await database.ExecuteScalarAsync<int>("select count(*)::int from report.failovers where reason = 'breaker_closed'"));
    }

    [Fact]
    public async Task Open_incidents_last_until_now()
    {
        var row = await database.QuerySingleAsync("select cause, open, until, duration_s from report.incidents where open");
        Assert.Equal("server_error", (string)row.cause);
        Assert.Null((object?)row.until);
        Assert.InRange((decimal)row.duration_s, 10, 300);
    }

    [Fact]
    public async Task Requests_errors_and_money_are_as_the_nodes_told_them()
    {
        Assert.Equal([("official-1", "server_error"), ("lite", "ok")],
            await database.QueryAsync<(string, string)>("select instance, attempt_outcome from report.request_trace where request_id = 'req-2' order by attempt"));
        Assert.Equal(1, await database.ExecuteScalarAsync<int>("select count(*)::int from report.request_trace where request_id = 'req-5' and attempt is null"));
        Assert.Equal(1, await database.ExecuteScalarAsync<long>("select count from report.error_timeline where level = 'attempt' and outcome = 'server_error'"));
        Assert.Equal((0.00009238m, 0.00001258m), await database.QuerySingleAsync<(decimal, decimal)>("select sum(cost), sum(estimated_cost) from report.cost_daily where currency = 'USD'"));
    }

    [Fact]
    public async Task Every_report_comes_as_csv_and_says_its_limit()
    {
        using var admin = controlPlane.Admin();
        var listed = (await admin.GetJsonAsync("/api/v1/reports")).AsArray().ToDictionary(report => (string)report!["name"]!, report => (string)report!["csv"]!);
        Assert.Equal(Views, listed.Keys.Order(StringComparer.Ordinal));
        foreach (var (name, path) in listed)
        {
            using var answer = await admin.GetAsync(path);
            Assert.True(answer.IsSuccessStatusCode, name);
            Assert.Equal(("text/csv", "100000"), (answer.Content.Headers.ContentType?.MediaType, answer.Headers.GetValues("X-Evenkeel-Row-Limit").Single()));
            var lines = (await answer.Content.ReadAsStringAsync()).Split("\r\n");
            Assert.Equal(string.Join(',', await database.QueryAsync<string>($"select attname from pg_attribute where attrelid = 'report.{name}'::regclass and attnum > 0 order by attnum")), lines[0]);
            if (name != "request_trace") Assert.Equal(await database.ExecuteScalarAsync<int>($"select count(*)::int from report.{name}"), lines.Length - 2);
        }
        Assert.Equal(3, (await admin.GetStringAsync("/api/v1/reports/cost_daily.csv?limit=1")).Split("\r\n").Length);
        await admin.GetAsync("/api/v1/reports/secret.csv", HttpStatusCode.NotFound);
        await admin.GetAsync("/api/v1/reports/incidents.csv?limit=100001", HttpStatusCode.BadRequest);
        await admin.GetAsync("/api/v1/reports/incidents.csv?from=2020-01-01T00:00:00Z", HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task A_reader_who_does_not_read_holds_one_of_few_exports_and_not_without_end()
    {
        await database.ExecuteAsync("insert into audit_log (who, action) select 'somebody', repeat('x', 200) from generate_series(1, 20000)");
        await using var bounded = controlPlane.WithWebHostBuilder(host => host.ConfigureTestServices(services => services.AddSingleton(new Exports(atOnce: 2, longest: TimeSpan.FromSeconds(8)))));
        using var admin = bounded.CreateClient();
        admin.DefaultRequestHeaders.Authorization = new("Bearer", ControlPlane.AdminToken);
        Task<HttpResponseMessage> BeginAsync() => admin.GetAsync("/api/v1/reports/audit.csv", HttpCompletionOption.ResponseHeadersRead);

        using var first = await BeginAsync();
        using var second = await BeginAsync();
        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.OK), (first.StatusCode, second.StatusCode));
        using (var third = await BeginAsync())
        {
            Assert.Equal((HttpStatusCode.ServiceUnavailable, "application/problem+json", "10"),
                (third.StatusCode, third.Content.Headers.ContentType?.MediaType, third.Headers.GetValues("Retry-After").Single()));
        }

        Assert.True((await first.Content.ReadAsStringAsync()).Length > 4_000_000);      // whoever reads in time has it whole
        await NodeCalls.EventuallyAsync("one is free again", async () =>
        {
            using var next = await BeginAsync();
            return next.StatusCode == HttpStatusCode.OK && (await next.Content.ReadAsStringAsync()).EndsWith("\r\n", StringComparison.Ordinal);
        });
        await NodeCalls.EventuallyAsync("both are free again", async () =>
        {
            using var again = await BeginAsync();
            using var fourth = await BeginAsync();
            return (again.StatusCode, fourth.StatusCode) == (HttpStatusCode.OK, HttpStatusCode.OK);
        });
        await Assert.ThrowsAnyAsync<Exception>(() => second.Content.ReadAsStringAsync());      // cut off, and seen to be
    }

    [Fact]
    public async Task Csv_quotes_what_needs_it_and_disarms_formulas()
    {
        using var stream = new MemoryStream();
        await using var reader = await database.ExecuteReaderAsync("""select '=1+2' as a, E'say "hi",\nyou' as b, null::text as c, -5 as d, 1.50::numeric as e, '2026-01-02T03:04:05Z'::timestamptz as f, '@x' as g, true as h, '' as i""");
        await Csv.WriteAsync((System.Data.Common.DbDataReader)reader, stream, CancellationToken.None);
        Assert.Equal("a,b,c,d,e,f,g,h,i\r\n'=1+2,\"say \"\"hi\"\",\nyou\",,-5,1.50,2026-01-02T03:04:05.000Z,'@x,true,\r\n", System.Text.Encoding.UTF8.GetString(stream.ToArray()));
    }
}
