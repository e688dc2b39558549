using Evenkeel.Config;

namespace Evenkeel.Pools;

public static class PoolEndpoints
{
    public static RouteGroupBuilder MapPools(this IEndpointRouteBuilder app) =>
        new ConfigListEndpoints<PoolConfig>("pools", "pool", d => d.Pools, p => p.Name).Map(app);
}
