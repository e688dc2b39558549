using Evenkeel.Config;
using Evenkeel.Jobs;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Quartz;

namespace Evenkeel.Telemetry;

public static class TelemetrySetup
{
    /// <summary>Counters in, rows over time out, and their clock. Goes with <see cref="TelemetryEndpoints.MapTelemetry"/>.</summary>
    public static IServiceCollection AddTelemetry(this IServiceCollection services)
    {
        services.AddSingleton<TelemetryStore>();
        services.AddSingleton<TelemetryDrain>();
        services.AddSingleton<TelemetryQueries>();
        services.AddSingleton<Spending>();
        services.AddSingleton<LiveFeed>();
        return services.AddQuartz(quartz =>
        {
            quartz.Every<TelemetryJob>("telemetry", "telemetry", TimeSpan.FromSeconds(2));
            quartz.Every<RollUpJob>("roll-up", "telemetry", TimeSpan.FromSeconds(10));
            quartz.Every<MaintainTelemetryJob>("maintain", "telemetry", TimeSpan.FromMinutes(10));
        });
    }
}

/// <summary>
/// Reads the counters and requests of all live nodes at once. A node that does not answer, or a database that is away, costs nothing but
/// time: counters are cumulative, and the node keeps its requests in a bounded ring and counts what it drops.
/// </summary>
public sealed class TelemetryDrain(TelemetryStore store, NodeStore nodes, NodeAdmin admin, ILogger<TelemetryDrain> log)
{
    private const int PortionsAtOnce = 20;
    private const int MostPages = 50;

    public async Task RunAsync(CancellationToken cancel) =>
        await Task.WhenAll((await nodes.ListAsync(cancel)).Where(node => node.Live).Select(node => DrainAsync(node, cancel)));

    // All pages as one answer: it is as old as its first page, and a series that comes twice is as its last page has it.
    private async Task<NodeTelemetry?> TelemetryAsync(Node node, long after, CancellationToken cancel)
    {
        var first = await admin.TelemetryAsync(node.Address, after, 0, cancel);
        if (first?.Seq < after)
        {
            // The node's clock was set back.
            after = 0;
            first = await admin.TelemetryAsync(node.Address, after, 0, cancel);
        }
        if (first is not { Next: { } next }) return first;
        var series = first.Series.ToList();
        for (var page = 1; page < MostPages; page++)
        {
            if (await admin.TelemetryAsync(node.Address, after, next, cancel) is not { } more || !more.BoundsS.Long.SequenceEqual(first.BoundsS.Long)) return null;
            series.AddRange(more.Series);
            if (more.Next is not { } further) return first with { Series = series };
            next = further;
        }
        return null;
    }

    private async Task DrainAsync(Node node, CancellationToken cancel)
    {
        try
        {
            for (var portion = 0; portion < PortionsAtOnce; portion++)
            {
                var cursor = await store.CursorAsync(node.Name, cancel);
                var traces = await admin.TracesAsync(node.Address, cursor.TraceNumber, cancel);
                // Another life of the ring: from its beginning, as its numbers may lie below the cursor.
                var isAnew = traces is not null && traces.Begin != cursor.TraceLife;
                if (isAnew) traces = await admin.TracesAsync(node.Address, 0, cancel);
                var telemetry = portion == 0 ? await TelemetryAsync(node, cursor.Seq, cancel) : null;

                var isNews = telemetry is { Series.Count: > 0 } || traces is { Traces.Count: > 0 } || isAnew;
                if (!isNews && telemetry is not null) await store.NoNewsAsync(node.Name, cursor, cancel);
                if (!isNews || !await store.KeepAsync(node.Name, cursor, telemetry, traces, cancel)) return;
                if (traces is not { Traces: [.., var newest] } || newest.Id >= traces.Last) return;
            }
        }
        catch (Exception failure) when (!cancel.IsCancellationRequested && failure is not OperationCanceledException)
        {
            TelemetryLog.NotDrained(log, node.Name, failure.Message);
        }
    }
}

/// <summary>Drains the nodes' counters and requests.</summary>
[DisallowConcurrentExecution]
public sealed class TelemetryJob(TelemetryDrain drain) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await drain.RunAsync(cancel);
}

/// <summary>10 s to minutes, minutes to hours, hours to days.</summary>
[DisallowConcurrentExecution]
public sealed class RollUpJob(TelemetryStore store) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await store.RollUpAsync(cancel);
}

/// <summary>Makes partitions ahead and drops old ones.</summary>
[DisallowConcurrentExecution]
public sealed class MaintainTelemetryJob(TelemetryStore store, ConfigStore configs) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) =>
        await store.MaintainAsync((await configs.LoadAsync(cancel)).Document.Gateway.Retention ?? new RetentionConfig(), cancel);
}

internal static partial class TelemetryLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "the telemetry of node {Node} is not drained: {Reason}")]
    public static partial void NotDrained(ILogger log, string node, string reason);
}
