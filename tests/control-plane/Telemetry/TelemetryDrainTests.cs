using System.Text.Json;
using Dapper;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Telemetry;

/// <summary>A reading of a node may end between any two of its steps, and by whomever it is taken up again: what the node counted is counted once.</summary>
[Collection(PostgresCollection.Name)]
public sealed class TelemetryDrainTests(PostgresFixture postgres, PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Wherever_a_reading_is_cut_off_all_counts_once_whether_the_same_process_goes_on_or_another(bool answerIsLost)
    {
        var nodes = fixture.Plane.Services.GetRequiredService<NodeAdmin>();
        await using var wire = new FrailWire(postgres.Port);
        await using var frail = NpgsqlDataSource.Create(new NpgsqlConnectionStringBuilder(fixture.Plane.ConnectionString) { Port = wire.Port, SearchPath = "evenkeel" }.ConnectionString);
        await using var database = await fixture.Plane.OpenDatabaseAsync();
        await using var node = await FakeNode.StartAsync();
        var (counted, name) = (0L, answerIsLost ? "answer-lost" : "request-lost");
        node.Telemetry = (_, _) => JsonSerializer.Serialize(new { seq = counted, bounds_s = new { @long = Histogram.LongBounds, @short = Histogram.ShortBounds }, series = new[] { Series("request"), Series("attempt"), Usage() } });
        node.Traces = after => JsonSerializer.Serialize(new
        {
            traces = Enumerable.Range((int)after + 1, (int)(counted - after)).Select(id => new { id, at = DateTimeOffset.UtcNow.ToUnixTimeSeconds(), request_id = $"{name}-{id}", status = 200, revision = 1, attempts = Array.Empty<object>() }),
            begin = 0,
            last = counted,
            dropped = 0,
            sampled_out = 0,
        });
        await database.ExecuteAsync("insert into node (name, admin_url, last_seen_at, live) values (@name, @Url, now(), true)", new { name, node.Url });

        var drain = NewDrain();
        await ReadAsync();
        var isOver = false;
        for (var nth = 1; !isOver; nth++)
        {
            foreach (var goesOn in new[] { true, false })
            {
                counted += 7;
                wire.CutAt(nth, answerIsLost);
                await ReadAsync();
                isOver = wire.IsCutToCome;          // the reading has fewer steps than that
                wire.CutAt(0, false);
                counted += 2;
                if (!goesOn) drain = NewDrain();
                // The plane of the fixture reads the node by its own clock: it may be the one that has it first.
                await NodeCalls.EventuallyAsync($"all is counted after a cut at step {nth}", async () =>
                {
                    await ReadAsync();
                    return await StoredAsync() == (counted, counted, counted, counted);
                });
            }
            Assert.True(nth < 100, "a reading has no end");
        }

        TelemetryDrain NewDrain() => new(new TelemetryStore(frail), new NodeStore(frail), nodes, NullLogger<TelemetryDrain>.Instance);

        async Task ReadAsync()
        {
            try
            {
                await drain.RunAsync(default);
            }
            catch (NpgsqlException)
            {
                // Cut before it had begun with the node.
            }
        }

        object Series(string family) => new
        {
            family,
            born = 1,
            count = counted,
            labels = new { pool = name, instance = family == "attempt" ? "a" : "", outcome = "ok", traffic = "client" },
            total = new { sum = counted * 0.1, buckets = new long[Histogram.LongBounds.Length + 1].Select((_, i) => i == 3 ? counted : 0) },
        };

        object Usage() => new { family = "usage", born = 1, attempts = counted, cost_nano = counted, labels = new { pool = name, instance = "a", traffic = "client" } };

        async Task<(long, long, long, long)> StoredAsync() => await database.QuerySingleAsync<(long, long, long, long)>("""
            select (select coalesce(sum(count), 0)::bigint from telemetry_call c join telemetry_series s on s.id = c.series where level = 0 and pool = @name and family = 'request'),
                (select coalesce(sum(total[4]), 0)::bigint from telemetry_call c join telemetry_series s on s.id = c.series where level = 0 and pool = @name and family = 'attempt'),
                (select coalesce(sum(cost_nano), 0)::bigint from telemetry_usage u join telemetry_series s on s.id = u.series where level = 0 and pool = @name),
                (select count(*) from telemetry_trace where node = @name)
            """, new { name });
    }
}
