using Evenkeel.Jobs;
using Evenkeel.Publishing;
using Quartz;

namespace Evenkeel.Ghosts;

/// <summary>Ghosts, their prompts and their clock.</summary>
public static class GhostSetup
{
    public static IServiceCollection AddGhosts(this IServiceCollection services)
    {
        services.AddSingleton<GhostStore>();
        services.AddSingleton<SampleStore>();
        services.AddSingleton<PromptFiles>();
        services.AddSingleton<GhostRunner>();
        services.AddSingleton<SampleDrain>();
        return services.AddQuartz(quartz =>
        {
            quartz.Every<GhostJob>("ghosts", "ghosts", GhostRunner.Tick);
            quartz.Every<SampleJob>("samples", "ghosts", TimeSpan.FromSeconds(5));
            quartz.Every<PruneGhostsJob>("prune", "ghosts", TimeSpan.FromHours(1));
        });
    }
}

/// <summary>Begins the ghosts of the next second.</summary>
[DisallowConcurrentExecution]
public sealed class GhostJob(GhostRunner runner) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await runner.TickAsync(cancel);
}

/// <summary>Takes the nodes' samples.</summary>
[DisallowConcurrentExecution]
public sealed class SampleJob(SampleDrain drain) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await drain.RunAsync(cancel);
}

/// <summary>Forgets old results, and samples that nobody wants any more.</summary>
[DisallowConcurrentExecution]
public sealed class PruneGhostsJob(GhostStore store, SampleStore samples, DesiredState state) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default)
    {
        await store.PruneAsync(cancel);
        if (state.Current is { } desired) await samples.PruneAsync(desired.Document, cancel);
    }
}
