using Evenkeel.Database;
using Evenkeel.Jobs;
using Microsoft.AspNetCore.Http.HttpResults;
using Quartz;

namespace Evenkeel.Health;

/// <summary>Probes, their clock, and what the operator sees of them.</summary>
public static class HealthSetup
{
    public static IServiceCollection AddHealth(this IServiceCollection services)
    {
        services.AddSingleton<HealthStore>();
        services.AddSingleton<HealthMemory>();
        services.AddSingleton<Prober>();
        services.AddHostedService(provider => provider.GetRequiredService<Prober>());
        return services.AddQuartz(quartz => quartz.Every<ProbeJob>("probes", "health", Prober.Tick));
    }

    public static void MapInstanceHealth(this IEndpointRouteBuilder app) =>
        app.MapGet("/api/v1/health", List).WithTags("health").WithName("listHealth").WithMetadata(new AnswersFromMemory()).WithSummary("What the probes say of each instance.")
            .ProducesProblem(StatusCodes.Status401Unauthorized);

    private static async Task<Ok<IReadOnlyList<InstanceHealth>>> List(HealthStore health, CancellationToken cancel) => TypedResults.Ok(await health.ListAsync(cancel));
}

/// <summary>Begins the probes of the next second.</summary>
[DisallowConcurrentExecution]
public sealed class ProbeJob(Prober prober) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await prober.TickAsync(cancel);
}
