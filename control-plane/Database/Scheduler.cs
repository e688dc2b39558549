using Microsoft.Extensions.Options;
using Quartz;

namespace Evenkeel.Database;

/// <summary>Quartz on its PostgreSQL store. Parts add their jobs with services.AddQuartz(q => q.ScheduleJob&lt;…&gt;(…)).</summary>
public static class Scheduler
{
    public static IServiceCollection AddScheduler(this IServiceCollection services)
    {
        services.AddQuartz(quartz =>
        {
            // Several control planes may share the database: the name says which scheduler it is, the id which process.
            quartz.ConfigureScheduler(o =>
            {
                o.InstanceName = "evenkeel";
                o.InstanceId = $"{Environment.MachineName}-{Environment.ProcessId}-{Guid.NewGuid():N}";
            });
            quartz.UsePersistentStore(store =>
            {
                store.UsePostgres(o => o.UseRegisteredDataSource = true);
                store.UseSystemTextJsonSerializer();
                store.ConfigureStore(o =>
                {
                    o.TablePrefix = "quartz.qrtz_";   // made by migrations/0002_quartz.sql
                    o.MisfireThreshold = TimeSpan.FromSeconds(5);
                    o.StoreJobDataAsStrings = true;
                    o.DbRetryInterval = TimeSpan.FromSeconds(2);
                    o.UseBackgroundThreads = true;    // what is left to itself by SchedulerHost holds no process open
                });
                store.UseClustering(c =>
                {
                    c.CheckinInterval = TimeSpan.FromSeconds(1);
                    c.CheckinMisfireThreshold = TimeSpan.FromSeconds(2);
                });
            });

            // Otherwise every start resets the stored triggers and fires them at once.
            quartz.ConfigureOptions<QuartzOptions>(o => o.Scheduling.IgnoreDuplicates = true);
        });
        services.Configure<QuartzHostedServiceOptions>(o => o.WaitForJobsToComplete = true);
        services.AddHostedService<SchedulerHost>();
        return services;
    }
}

/// <summary>
/// Starts and stops Quartz as its own host does, but waits for its end only so long: it ends when it has told its store so, and with the
/// database away that is never. Nothing is lost by that, since no job keeps state that an interrupted run could hurt.
/// </summary>
internal sealed class SchedulerHost(IHostApplicationLifetime lifetime, IServiceProvider services, IOptionsMonitor<QuartzHostedServiceOptions> options, ILogger<SchedulerHost> log) : IHostedService
{
    private static readonly TimeSpan s_stopsWithin = TimeSpan.FromSeconds(5);

    private readonly QuartzHostedService _quartz = new(lifetime, services, options);

    public Task StartAsync(CancellationToken cancel) => _quartz.StartAsync(cancel);

    public async Task StopAsync(CancellationToken cancel)
    {
        try
        {
            await Task.Run(() => _quartz.StopAsync(cancel), CancellationToken.None).WaitAsync(s_stopsWithin, cancel);
        }
        catch (Exception late) when (late is TimeoutException or OperationCanceledException)
        {
            DatabaseLog.SchedulerGivenUp(log, s_stopsWithin.TotalSeconds);
        }
    }
}
