using System.Diagnostics;
using System.Text.Json;
using Dapper;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Xunit;
using Xunit.Abstractions;

namespace Evenkeel.Tests.Telemetry;

[Collection(PostgresCollection.Name)]
public sealed class TelemetryLoadTests(PlaneFixture fixture, ITestOutputHelper output) : IClassFixture<PlaneFixture>
{
    private const int Nodes = 8;
    private const int Rounds = 6;
    private const int RequestsPerRound = 500;      // 250 a second each, read every 2 s

    [Fact]
    public async Task Eight_nodes_with_2_000_requests_a_second_are_drained_without_loss()
    {
        var plane = fixture.Plane;
        using var starts = plane.CreateClient();
        await plane.PauseJobsAsync("telemetry");
        await using var database = await plane.OpenDatabaseAsync();
        var gauges = Enumerable.Range(0, Nodes).Select(n => new Counting(n)).ToList();
        var nodes = new List<FakeNode>();
        try
        {
            foreach (var (n, counting) in gauges.Index())
            {
                var node = await FakeNode.StartAsync();
                nodes.Add(node);
                (node.Telemetry, node.Traces) = (counting.Telemetry, counting.Traces);
                await database.ExecuteAsync("insert into node (name, admin_url) values (@name, @Url)", new { name = $"n{n}", node.Url });
            }
            var drain = plane.Services.GetRequiredService<TelemetryDrain>();
            var taken = new List<double>();
            for (var round = 0; round < Rounds; round++)
            {
                foreach (var counting in gauges) counting.Serve(RequestsPerRound);
                await database.ExecuteAsync("update node set last_seen_at = now(), live = true");
                var watch = Stopwatch.StartNew();
                await drain.RunAsync(CancellationToken.None);
                taken.Add(watch.Elapsed.TotalSeconds);
            }
            // A node that was too busy to answer in time is read the next time.
            await NodeCalls.EventuallyAsync("all is read", async () =>
            {
                await database.ExecuteAsync("update node set last_seen_at = now(), live = true");
                await drain.RunAsync(CancellationToken.None);
                return await database.ExecuteScalarAsync<int>("select count(*)::int from telemetry_cursor where seq = @seq", new { gauges[0].Seq }) == Nodes
                    && await database.ExecuteScalarAsync<long>("select count(*) from telemetry_trace") >= gauges.Sum(counting => counting.Told);
            });
            await plane.Services.GetRequiredService<TelemetryStore>().RollUpAsync();

            output.WriteLine($"{Nodes} nodes, {Nodes * RequestsPerRound / 2} requests/s, {gauges.Sum(counting => counting.Changed)} series: a round takes {taken.Skip(1).Order().ElementAt(Rounds / 2 - 1):0.00} s of 2 s");
            Assert.Equal(Nodes * RequestsPerRound * Rounds, await database.ExecuteScalarAsync<long>(
                "select sum(count)::bigint from telemetry_call_by_minute c join telemetry_series s on s.id = c.series where s.family = 'request'"));
            Assert.Equal(3L * Nodes * RequestsPerRound * Rounds, await database.ExecuteScalarAsync<long>("select sum(cost_nano)::bigint from telemetry_usage_by_minute"));
            Assert.Equal(gauges.Sum(counting => counting.Told), await database.ExecuteScalarAsync<long>("select count(*) from telemetry_trace"));
        }
        finally
        {
            foreach (var node in nodes) await node.DisposeAsync();
        }
    }

    /// <summary>A node that counts: 24 series of requests, 72 of attempts, 150 of usage, and a ring of requests.</summary>
    private sealed class Counting(int node)
    {
        private const long Life = 1_764_000_000_000;

        private static readonly string[] Outcomes = ["ok", "rate_limited", "server_error", "timeout_first_token"];

        private readonly long[] counts = new long[24 + 72 + 150];
        private readonly Random random = new(node);
        private long seq = Life;
        private readonly List<NodeTrace> ring = [];

        public int Changed => counts.Length;
        public long Seq => seq;
        public int Told => ring.Count;

        public void Serve(int requests)
        {
            for (var i = 0; i < requests; i++)
            {
                counts[random.Next(24)]++;
                counts[24 + random.Next(72)]++;
                counts[96 + random.Next(150)]++;
            }
            seq++;
            for (var i = 0; i < 150; i++)
            {
                ring.Add(new NodeTrace
                {
                    Id = Life + ring.Count + 1,
                    At = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1000.0,
                    RequestId = $"{node}-{ring.Count}",
                    Pool = "p1",
                    Model = "deepseek-chat",
                    Kind = "chat",
                    Mode = "stream",
                    Status = 200,
                    Outcome = "ok",
                    Tier = 1,
                    DurationMs = 900,
                    Revision = 1,
                    Attempts = [new TraceAttempt { Instance = "a", Tier = 1, Outcome = "server_error", DurationMs = 3, Of = 3 }, new TraceAttempt { Instance = "b", Tier = 1, Outcome = "ok", BeganMs = 4, DurationMs = 896, FirstTokenMs = 200, Of = 2 }],
                });
            }
        }

        public string Telemetry(long after, long from) => JsonSerializer.Serialize(new NodeTelemetry
        {
            Seq = seq,
            BoundsS = new NodeBounds { Long = Histogram.LongBounds, Short = Histogram.ShortBounds },
            Series = after >= seq ? [] : [.. counts.Select(Series)],
        }, NodeTelemetry.Options);

        public string Traces(long after) => JsonSerializer.Serialize(new NodeTraces { Traces = [.. ring.Where(trace => trace.Id > after).Take(1000)], Begin = Life, Last = Life + ring.Count }, NodeTelemetry.Options);

        private static NodeSeries Series(long count, int i)
        {
            var labels = new SeriesLabels { Pool = $"p{i % 3}", Mode = i % 2 == 0 ? "stream" : "json", Traffic = "client", Kind = "chat" };
            var common = new NodeSeries { Family = "", Born = Life * 1000 + i, Labels = labels };
            if (i >= 96) return common with { Family = "usage", Labels = labels with { Client = $"c{i}", Instance = $"i{i % 9}", Mode = "", Kind = "" }, Attempts = count, Input = 100 * count, Output = 50 * count, CostNano = 3 * count, Currency = "USD" };
            var (total, first, token) = (Spread(Histogram.LongBounds.Length), Spread(Histogram.LongBounds.Length), Spread(Histogram.ShortBounds.Length));
            return i < 24
                ? common with { Family = "request", Labels = labels with { Outcome = Outcomes[i / 6], Tier = (short)(i % 4) }, Count = count, Total = total, FirstToken = first, Overhead = token }
                : common with { Family = "attempt", Labels = labels with { Outcome = Outcomes[i % 4], Instance = $"i{i}" }, Count = count, Total = total, FirstToken = first, PerOutputToken = token };

            NodeHistogram Spread(int bounds) => new() { Sum = count * 0.2, Buckets = [.. Enumerable.Range(0, bounds + 1).Select(b => (count + b) / (bounds + 1))] };
        }
    }
}
