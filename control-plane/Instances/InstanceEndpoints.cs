using Evenkeel.Config;

namespace Evenkeel.Instances;

public static class InstanceEndpoints
{
    public static RouteGroupBuilder MapInstances(this IEndpointRouteBuilder app) =>
        new ConfigListEndpoints<InstanceConfig>("instances", "instance", d => d.Instances, i => i.Name, ["weight", "drain", "enabled"]).Map(app);
}
