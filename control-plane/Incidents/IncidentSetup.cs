using Evenkeel.Jobs;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Quartz;

namespace Evenkeel.Incidents;

public static class IncidentSetup
{
    /// <summary>Events in, incidents out, and their clock.</summary>
    public static IServiceCollection AddIncidents(this IServiceCollection services)
    {
        services.AddSingleton<IncidentStore>();
        services.AddSingleton<EventDrain>();
        return services.AddQuartz(quartz =>
        {
            quartz.Every<IncidentJob>("incidents", "incidents", TimeSpan.FromSeconds(2));
            quartz.Every<PruneIncidentsJob>("prune", "incidents", TimeSpan.FromHours(1));
        });
    }
}

/// <summary>
/// Reads the nodes' events with a cursor and makes incidents of them. Each portion and its cursor are one transaction, and an event is
/// known by node, life and number: whatever fails in between, nothing is lost that the node still keeps (10,000 events), and nothing
/// counts twice. What the node had to drop is counted and an incident of its own.
/// </summary>
public sealed class EventDrain(IncidentStore store, NodeStore nodes, NodeViews views, NodeAdmin admin, ILogger<EventDrain> log)
{
    private const int PortionsAtOnce = 20;

    public async Task RunAsync(CancellationToken cancel)
    {
        await Task.WhenAll((await nodes.ListAsync(cancel)).Where(node => node.Live).Select(node => DrainAsync(node, cancel)));
        await SayWhatRunsAsync(cancel);
        while (!await store.ApplyAsync(cancel)) cancel.ThrowIfCancellationRequested();
    }

    private async Task DrainAsync(Node node, CancellationToken cancel)
    {
        try
        {
            for (var portion = 0; portion < PortionsAtOnce; portion++)
            {
                var cursor = await store.CursorAsync(node.Name, cancel);
                var events = await admin.EventsAsync(node.Address, cursor.Number, cancel);
                // Another life of the list: from its beginning, as its numbers may lie below the cursor.
                if (events is not null && events.Begin != cursor.Life) events = await admin.EventsAsync(node.Address, 0, cancel);
                if (events is null) return;
                var isNews = events.Events.Count > 0 || events.Begin != cursor.Life;
                if (!isNews || !await store.KeepAsync(node.Name, cursor, events, cancel) || events.Events.Count == 0) return;
            }
        }
        catch (Exception failure) when (!cancel.IsCancellationRequested && failure is not OperationCanceledException)
        {
            IncidentLog.NotDrained(log, node.Name, failure.Message);
        }
    }

    // A node that refused a revision is well again when it runs what it should, by whatever way that came about.
    private async Task SayWhatRunsAsync(CancellationToken cancel)
    {
        var refusing = await store.RefusingNodesAsync(cancel);
        if (refusing.Count == 0) return;
        foreach (var node in (await views.ListAsync(cancel)).Where(node => node.Acknowledged && refusing.Contains(node.Name))) await store.TellAsync("revision_runs", node.Name, cancel);
    }
}

/// <summary>Drains events and makes incidents of them.</summary>
[DisallowConcurrentExecution]
public sealed class IncidentJob(EventDrain drain) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await drain.RunAsync(cancel);
}

/// <summary>Forgets old events and closed incidents.</summary>
[DisallowConcurrentExecution]
public sealed class PruneIncidentsJob(IncidentStore store) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await store.PruneAsync(cancel);
}

internal static partial class IncidentLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "the events of node {Node} are not drained: {Reason}")]
    public static partial void NotDrained(ILogger log, string node, string reason);
}
