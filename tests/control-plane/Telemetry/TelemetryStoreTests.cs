using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Telemetry;

[Collection(PostgresCollection.Name)]
public sealed class TelemetryStoreTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>, IAsyncLifetime
{
    private ControlPlane Plane => fixture.Plane;
    private NpgsqlConnection database = null!;
    private TelemetryStore store = null!;

    public async Task InitializeAsync()
    {
        await Plane.PauseJobsAsync("telemetry");
        database = await Plane.OpenDatabaseAsync();
        store = AnotherStore();
        await database.ExecuteAsync("""
            truncate telemetry_series, telemetry_call, telemetry_usage, telemetry_trace, telemetry_cursor, telemetry_last, telemetry_gap, outage_prevented;
            delete from incident;
            insert into node (name, admin_url, last_seen_at, live) values ('one', 'http://127.0.0.1:1', now() - interval '1 hour', false) on conflict do nothing;
            """);
    }

    public async Task DisposeAsync() => await database.DisposeAsync();

    // As another process has it: nothing in memory.
    private TelemetryStore AnotherStore() => new(Plane.Services.GetRequiredService<NpgsqlDataSource>());

    private static NodeTelemetry Contract(string name) =>
        JsonSerializer.Deserialize<NodeTelemetry>(File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", name + ".json")), NodeTelemetry.Options)!;

    private static NodeTraces ContractTraces() =>
        JsonSerializer.Deserialize<NodeTraces>(File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", "traces.json")), NodeTelemetry.Options)!;

    private async Task KeepAsync(NodeTelemetry? telemetry, NodeTraces? traces = null, TelemetryStore? by = null) =>
        Assert.True(await (by ?? store).KeepAsync("one", await store.CursorAsync("one"), telemetry, traces));

    private static NodeTelemetry Told(long seq, long count, long born = 1) => new()
    {
        Seq = seq,
        BoundsS = new NodeBounds { Long = Histogram.LongBounds, Short = Histogram.ShortBounds },
        Series = [new NodeSeries
        {
            Family = "request", Born = born, Count = count, Labels = new SeriesLabels { Pool = "chat", Outcome = "ok", Traffic = "client", Tier = 1 },
            Total = new NodeHistogram { Sum = count * 0.2, Buckets = [0, 0, count, .. new long[Histogram.LongBounds.Length - 2]] },
        }],
    };

    private Task<long> CountAsync(string what = "count", string where = "true") => database.ExecuteScalarAsync<long>(
        $"select coalesce(sum({what}), 0)::bigint from telemetry_call c join telemetry_series s on s.id = c.series where level = 0 and {where}");

    [Fact]
    public async Task What_a_node_tells_is_kept_as_the_contract_has_it()
    {
        Assert.Equal(Histogram.LongBounds, Contract("first").BoundsS.Long);
        Assert.Equal(Histogram.ShortBounds, Contract("first").BoundsS.Short);
        await KeepAsync(Contract("first"), ContractTraces());
        Assert.Equal(5, await CountAsync(where: "family = 'request'"));
        Assert.Equal(2, await CountAsync("retried + degraded"));
        Assert.Equal(4, await CountAsync("total[7]", "family = 'request'"));
        Assert.Equal(6, await CountAsync(where: "family = 'attempt' and traffic = 'client'"));
        Assert.Equal((92380, 12580, 96), await database.QuerySingleAsync<(long, long, long)>(
            "select sum(cost_nano)::bigint, sum(estimated_cost_nano)::bigint, sum(input)::bigint from telemetry_usage where level = 0"));
        Assert.Equal(
            [("req-1", "{official-1}", "{}", (short?)1), ("req-2", "{official-1,lite}", "{official-1}", 2), ("req-3", "{official-1,hosted-b}", "{official-1}", 1),
                ("req-4", "{official-1,lite}", "{official-1,lite}", null), ("req-5", "{}", "{}", 0), ("req-6", "{official-1}", "{}", 1)],
            await database.QueryAsync<(string, string, string, short?)>("select request_id, instances::text, failed::text, tier from telemetry_trace order by id"));

        await KeepAsync(Contract("second"));
        Assert.Equal(6, await CountAsync(where: "family = 'request'"));
        Assert.Equal(1, await CountAsync("first_token[3]", "family = 'request'"));
        await KeepAsync(Contract("restarted"));
        Assert.Equal(8, await CountAsync(where: "family = 'request'"));
        Assert.Equal(172180, await database.ExecuteScalarAsync<long>("select sum(cost_nano)::bigint from telemetry_usage where level = 0"));
        Assert.Equal(1764106847129, (await store.CursorAsync("one")).TraceNumber);
    }

    [Fact]
    public async Task What_was_counted_while_nobody_read_it_is_known_by_its_row_and_a_node_that_counts_nothing_is_read_too()
    {
        await KeepAsync(Told(1, 3));
        await AwayAsync();
        await store.NoNewsAsync("one", await store.CursorAsync("one"));
        await KeepAsync(Told(2, 5));
        Assert.Equal(0, await database.ExecuteScalarAsync<long>("select count(*) from telemetry_gap"));

        await AwayAsync();
        await KeepAsync(null, ContractTraces());        // its counters are not read with it
        await KeepAsync(Told(3, 9));
        await KeepAsync(Told(4, 11));
        Assert.Equal(("one", true), await database.QuerySingleAsync<(string, bool)>(
            "select g.node, since between now() - interval '61 minutes' and now() - interval '59 minutes' from telemetry_gap g join (select distinct at from telemetry_call) c using (at)"));

        Task AwayAsync() => database.ExecuteAsync("update telemetry_cursor set read_at = now() - interval '1 hour'");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task An_incident_that_began_and_ended_unseen_is_charged_when_its_requests_and_counters_come_and_once(bool isTheControlPlaneAway)
    {
        const string Incidents = """
            insert into incident (kind, subject, since, until, evidence, last_event_at) select 'breaker', 'official-1', now() - a * interval '1 minute', now() - b * interval '1 minute', '{}', now()
            from (values (40, 38), (20, 19)) as v(a, b);
            """;
        await KeepAsync(Told(1, 1));
        if (isTheControlPlaneAway)
        {
            // Their ends were told while the counters were not read, too long ago to look at them still.
            await database.ExecuteAsync(Incidents + "update incident set until_known_at = now() - interval '15 minutes'; update telemetry_cursor set read_at = now() - interval '1 hour'; select incident_impact_add()");
        }
        await KeepAsync(Contract("first"), ContractTraces());
        await database.ExecuteAsync("update telemetry_trace set at = now() - interval '39 minutes'");
        // As if it were half a minute later.
        await database.ExecuteAsync("select telemetry_make_partitions(now() - interval '1 hour'); update telemetry_usage set at = at - interval '30 s'; update telemetry_gap set at = at - interval '30 s'; update incident set impact_at = null;"
            + (isTheControlPlaneAway ? "" : Incidents));

        for (var run = 0; run < 3; run++) await database.ExecuteAsync("select incident_impact_add()");
        var charged = (await database.QueryAsync<(long, long, long, decimal)>("select requests_affected, requests_degraded, requests_lost, cost from incident order by id")).ToList();
        // What they cost is known only where it is known when it was counted: two minutes and one, each with the minute before it.
        var cost = isTheControlPlaneAway ? 0.00001258m : 0;
        Assert.Equal([(3, 1, 1, cost * 0.6m), (0, 0, 0, cost * 0.4m)], charged);
    }

    [Fact]
    public async Task What_is_counted_after_the_clock_was_set_back_is_in_the_sums_of_that_time_and_once_in_each()
    {
        await KeepAsync(Told(1, 3));
        try
        {
            // All levels are summed up to a time that now lies ahead.
            await database.ExecuteAsync("""
                update telemetry_rollup set until = date_bin((array['1 minute', '1 hour', '1 day'])[level]::interval, now() + (array['2 hours', '3 hours', '2 days'])[level]::interval, '2000-01-01Z');
                insert into telemetry_call select l, date_bin((array['1 minute', '1 hour', '1 day'])[l]::interval, c.at, '2000-01-01Z'), series, count, retried, degraded, total_s, total, first_token_s, first_token,
                    per_output_token_s, per_output_token, overhead_s, overhead, queued_s, queued from telemetry_call c, generate_series(1, 3) l where c.level = 0;
                """);
            await KeepAsync(Told(2, 10));
            await store.RollUpAsync();
            foreach (var view in new[] { "10s", "minute", "hour", "day" })
            {
                Assert.Equal(10, await database.ExecuteScalarAsync<long>($"select sum(count)::bigint from telemetry_call_by_{view}"));
            }
        }
        finally
        {
            await database.ExecuteAsync("update telemetry_rollup set until = date_bin('1 day', now(), '2000-01-01Z')");
        }
    }

    [Fact]
    public async Task A_reading_counts_once_whoever_else_keeps_it()
    {
        var cursor = await store.CursorAsync("one");
        Assert.True(await store.KeepAsync("one", cursor, Told(5, 10), ContractTraces()));
        Assert.False(await store.KeepAsync("one", cursor, Told(5, 10), ContractTraces()));
        Assert.False(await AnotherStore().KeepAsync("one", cursor, Told(6, 12), ContractTraces()));
        Assert.Equal(10, await CountAsync());
        Assert.Equal(6, await database.ExecuteScalarAsync<long>("select count(*) from telemetry_trace"));
    }

    [Fact]
    public async Task Control_planes_that_take_turns_count_what_was_added_and_nothing_else()
    {
        var stores = new[] { store, AnotherStore(), AnotherStore() };
        long told = 0;
        for (var i = 0; i < 12; i++)
        {
            told += i;
            await KeepAsync(Told(i + 1, told), by: stores[i * 7 % 3]);
        }
        Assert.Equal(told, await CountAsync());
        Assert.Equal(told, await CountAsync("total[3]"));
    }

    [Fact]
    public async Task A_node_that_was_restarted_or_read_late_is_no_negative_rate_and_no_loss()
    {
        await KeepAsync(Told(1, 10));
        await KeepAsync(Told(90, 500));                        // many readings were missed
        await KeepAsync(Told(3, 7, born: 2));                  // it began anew, and its numbers lie below
        await KeepAsync(Told(4, 5, born: 2));                  // what must not be: it fell without a new life
        Assert.Equal(507, await CountAsync());
        Assert.Equal(0, await database.ExecuteScalarAsync<long>("select count(*) from telemetry_call where count < 0 or 0 > any(total)"));
    }

    [Fact]
    public async Task A_reading_that_fails_leaves_nothing_behind_and_counts_the_next_time()
    {
        await KeepAsync(Told(1, 10));
        var broken = ContractTraces() with { Traces = [new NodeTrace { Id = 1, At = 1, RequestId = "a\0b" }] };
        await Assert.ThrowsAnyAsync<NpgsqlException>(() => KeepAsync(Told(2, 25), broken));
        Assert.Equal(10, await CountAsync());
        await KeepAsync(Told(3, 30));
        Assert.Equal(30, await CountAsync());
    }

    [Fact]
    public async Task Bounds_of_another_version_go_into_the_buckets_that_are_not_faster()
    {
        var other = Told(1, 0) with { BoundsS = new NodeBounds { Long = [0.05, 0.15, 1.2], Short = Histogram.ShortBounds } };
        await KeepAsync(other with { Series = [other.Series[0] with { Count = 10, Total = new NodeHistogram { Sum = 3, Buckets = [1, 2, 3, 4] } }] });
        Assert.Equal((1, 2, 3, 4), await database.QuerySingleAsync<(long, long, long, long)>($"select total[1], total[3], total[8], total[{Histogram.LongBounds.Length + 1}] from telemetry_call"));
    }

    [Fact]
    public async Task Sums_of_every_level_are_the_sums_of_what_came_in()
    {
        await KeepAsync(Told(1, 1));
        await database.ExecuteAsync("""
            delete from telemetry_call;
            select telemetry_make_partitions(now() - interval '50 hours');
            update telemetry_rollup set until = date_bin('1 day', now() - interval '50 hours', '2000-01-01Z');
            insert into telemetry_call
            select 0, date_bin('10 s', now() - g * interval '490 s', '2000-01-01Z'), s.id, g, 1, 0, g * 0.5, array[g, 2 * g, 0]::bigint[], 0, null, 0, null, 0, null, 0, null
            from generate_series(0, 360) g, telemetry_series s;
            insert into telemetry_usage select 0, date_bin('10 s', now() - g * interval '490 s', '2000-01-01Z'), s.id, 1, g, 0, 0, 0, 0, 0, 7 * g, 0 from generate_series(0, 360) g, telemetry_series s;
            """);
        for (var run = 0; run < 2; run++) await store.RollUpAsync();   // the second one adds nothing
        const long Sum = 360 * 361 / 2;
        foreach (var level in new[] { "10s", "minute", "hour", "day" })
        {
            Assert.Equal((Sum, 361, Sum, 2 * Sum), await database.QuerySingleAsync<(long, long, long, long)>(
                $"select sum(count)::bigint, sum(retried)::bigint, (sum_buckets(total))[1], (sum_buckets(total))[2] from telemetry_call_by_{level}"));
            Assert.Equal(7 * Sum, await database.ExecuteScalarAsync<long>($"select sum(cost_nano)::bigint from telemetry_usage_by_{level}"));
        }
        Assert.Equal(4, await database.ExecuteScalarAsync<long>("select count(distinct level) from telemetry_call"));
        Assert.Equal(0, await database.ExecuteScalarAsync<long>("select count(*) from telemetry_call where level = 2 and at <> date_trunc('hour', at at time zone 'UTC') at time zone 'UTC'"));
    }

    [Fact]
    public async Task What_is_past_its_time_is_dropped_by_partitions_and_partitions_lie_ready_ahead()
    {
        await KeepAsync(Told(1, 1));
        await database.ExecuteAsync("""
            delete from telemetry_call;
            select telemetry_make_partitions(now() - interval '20 hours');
            update telemetry_rollup set until = date_bin('1 day', now() - interval '3 days', '2000-01-01Z');
            insert into telemetry_call select 0, date_bin('10 s', now() - h * interval '1 hour', '2000-01-01Z'), s.id, 1, 0, 0, 0, null, 0, null, 0, null, 0, null, 0, null from generate_series(0, 18) h, telemetry_series s;
            """);
        var kept = new RetentionConfig();
        await store.MaintainAsync(kept);
        Assert.Equal(19, await CountAsync());                          // nothing is dropped that was not summed
        await store.RollUpAsync();
        await store.MaintainAsync(kept);
        Assert.InRange(await CountAsync(), 6, 8);
        Assert.Equal(19, await database.ExecuteScalarAsync<long>("select sum(count)::bigint from telemetry_call where level = 1 or (level = 0 and at >= (select until from telemetry_rollup where level = 1))"));
        var ahead = await database.ExecuteScalarAsync<string>("select max(relname) from pg_class where relname like 'telemetry_call_0_%' and relkind = 'r'");
        Assert.True(string.CompareOrdinal(ahead, "telemetry_call_0_" + DateTime.UtcNow.AddHours(1).ToString("yyyyMMddHH")) >= 0, ahead);
    }

    [Fact]
    public async Task A_quantile_lies_in_the_bucket_of_the_observation_that_has_that_rank()
    {
        var random = new Random(20261125);
        for (var round = 0; round < 200; round++)
        {
            var observed = Enumerable.Range(0, random.Next(1, 60)).Select(_ => Math.Pow(10, (random.NextDouble() * 5) - 2)).Order().ToArray();
            var buckets = new long[Histogram.LongBounds.Length + 1];
            foreach (var seconds in observed) buckets[Bucket(seconds)]++;
            var q = random.Next(1, 100) / 100.0;
            var told = await database.ExecuteScalarAsync<double>("select telemetry_quantile(@buckets, @bounds, @q)", new { buckets, bounds = Histogram.LongBounds, q });
            var rank = observed[Math.Max((int)Math.Ceiling((q * observed.Length) - 1e-9) - 1, 0)];
            if (rank > Histogram.LongBounds[^1]) Assert.Equal(Histogram.LongBounds[^1], told);
            else Assert.Equal(Bucket(rank), Bucket(told));
        }
        Assert.Equal(1.75, await database.ExecuteScalarAsync<double>("select telemetry_quantile('{0,10,0,5}', '{1,2,3}', 0.5)"));   // as Prometheus has it
        Assert.Null(await database.ExecuteScalarAsync<double?>("select telemetry_quantile('{0,0}', '{1}', 0.5)"));

        static int Bucket(double seconds) => Array.FindIndex(Histogram.LongBounds, bound => seconds <= bound + 1e-12) is var i && i >= 0 ? i : Histogram.LongBounds.Length;
    }

    [Fact]
    public async Task Nodes_are_drained_by_the_clock_page_by_page()
    {
        await using var node = await FakeNode.StartAsync();
        using var agent = Plane.Node();
        using var admin = Plane.Admin();
        await admin.ApplyAsync(NodeCalls.Config());
        string Read(string name) => File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", name + ".json"));
        node.Telemetry = (after, from) => after >= 1764106847131 ? """{"seq":1764106847132,"series":[]}""" : Read(from == 0 ? "page-1" : "page-2");
        node.Traces = after => after >= 1764106847129 ? """{"traces":[],"begin":1764106847123,"last":1764106847129,"dropped":0,"sampled_out":3}""" : Read("traces");
        await agent.TextAsync("two", node.Url);
        await Plane.ResumeJobsAsync("telemetry");
        await NodeCalls.EventuallyAsync("it is read", async () => await store.CursorAsync("two") is { TraceNumber: 1764106847129, Seq: 1764106847131 });
        Assert.Equal(5, await CountAsync(where: "family = 'request'"));
        Assert.Equal(92380, await database.ExecuteScalarAsync<long>("select sum(cost_nano)::bigint from telemetry_usage where level = 0"));
    }
}
