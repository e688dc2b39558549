using Evenkeel.Jobs;
using Evenkeel.Nodes;
using Microsoft.Extensions.DependencyInjection.Extensions;

namespace Evenkeel.Publishing;

public static class PublishingSetup
{
    /// <summary>Rendering, pushing, the nodes, and their jobs. Goes with <see cref="NodeEndpoints.MapNodes"/>.</summary>
    public static IServiceCollection AddPublishing(this IServiceCollection services)
    {
        services.TryAddSingleton(_ => Renderer.FromResource());
        services.AddSingleton<DesiredState>();
        services.AddSingleton<NodeStore>();
        services.AddSingleton<NodeViews>();
        services.AddSingleton<NodeMemory>();
        services.AddHostedService(provider => provider.GetRequiredService<NodeMemory>());
        services.AddHostedService<FleetKeeper>();
        services.AddSingleton<NodeTokens>();
        services.AddSingleton(provider => new NodeAdmin(provider.GetRequiredService<NodeTokens>().ForAsync, provider.GetRequiredService<EvenkeelOptions>()));
        services.AddSingleton<Publisher>();
        services.AddHostedService(provider => provider.GetRequiredService<Publisher>());
        return services.AddNodeJobs();
    }
}
