using Evenkeel.Jobs;
using Quartz;

namespace Evenkeel.Clients;

/// <summary>Clients: their resources, and the round that holds them to their limits across nodes.</summary>
public static class ClientSetup
{
    public static IServiceCollection AddClients(this IServiceCollection services)
    {
        services.AddSingleton<SpendingExchange>();
        return services.AddQuartz(quartz => quartz.Every<SpendingJob>("spending", "clients", SpendingExchange.Every));
    }

    public static RouteGroupBuilder MapClients(this IEndpointRouteBuilder app) => new ClientEndpoints().Map(app);
}
