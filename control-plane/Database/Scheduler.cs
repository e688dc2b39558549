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
        services.AddQuartzHostedService(o => o.WaitForJobsToComplete = true);
        return services;
    }
}
