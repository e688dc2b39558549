using Dapper;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Npgsql;
using Quartz;

namespace Evenkeel.Jobs;

/// <summary>
/// What happens by the clock, each on one control plane at a time. A run that fails is logged and the next one comes by the clock: no job
/// keeps state that a missed run could hurt.
/// </summary>
public static class NodeJobs
{
    public static IServiceCollection AddNodeJobs(this IServiceCollection services)
    {
        services.AddSingleton<ClockWatch>();
        services.AddHostedService(provider => provider.GetRequiredService<ClockWatch>());
        return services.AddQuartz(quartz =>
        {
            quartz.Every<ReconcileJob>("reconcile", "nodes", TimeSpan.FromSeconds(2));
            quartz.Every<NodeLivenessJob>("node-liveness", "nodes", TimeSpan.FromSeconds(5));
            quartz.Every<PruneJob>("prune", "nodes", TimeSpan.FromHours(1));
        });
    }

    internal static void Every<T>(this IQuartzBuilder quartz, string name, string group, TimeSpan interval) where T : class, IJob =>
        quartz.ScheduleJob<T>(
            trigger => trigger.WithIdentity(name, group).StartNow().WithSimpleSchedule(schedule => schedule.WithInterval(interval).RepeatForever()),
            job => job.WithIdentity(name, group));
}

/// <summary>Resends what a node lacks.</summary>
[DisallowConcurrentExecution]
public sealed class ReconcileJob(Publisher publisher) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await publisher.ReconcileAsync(cancel);
}

/// <summary>Says which nodes have gone away, once. When the clock was set, no node has been silent for so long as it seems.</summary>
[DisallowConcurrentExecution]
public sealed class NodeLivenessJob(NodeStore nodes, ClockWatch clock, ILogger<NodeLivenessJob> log) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default)
    {
        if (clock.WasSetWithin(NodeStore.LiveFor)) return;
        foreach (var name in await nodes.GoneAsync(cancel)) PublishingLog.NodeGone(log, name, NodeStore.LiveFor.TotalSeconds);
    }
}

/// <summary>
/// Keeps the history bounded: reports per node, nodes that never came back, the newest revisions, what the audit log says of them and the
/// secrets that only they referred to.
/// </summary>
[DisallowConcurrentExecution]
public sealed class PruneJob(NodeStore nodes, NpgsqlDataSource database) : IJob
{
    private const int RevisionsKept = 5_000;

    // A row of the audit log goes with the revision that it is about.
    private const string PruneRevisionsSql = """
        with last as (select max(number) as number from (select number from revision order by number desc offset @RevisionsKept limit 1) old)
        delete from audit_log using last where to_revision <= last.number or from_revision <= last.number;
        with last as (select max(number) as number from (select number from revision order by number desc offset @RevisionsKept limit 1) old)
        delete from revision using last where revision.number <= last.number;
        delete from audit_log where at < now() - interval '400 days';
        """;

    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default)
    {
        await nodes.PruneAsync(cancel);
        await PruneRevisionsAsync(database, RevisionsKept, cancel);
        await SecretStore.PruneAsync(database, cancel);
    }

    internal static async Task PruneRevisionsAsync(NpgsqlDataSource database, int RevisionsKept, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneRevisionsSql, new { RevisionsKept }, transaction, cancellationToken: cancel));
        await transaction.CommitAsync(cancel);
    }
}
