using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Provider;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>A configuration in the making: what the tests need to say, the rest by default. Written as JSON.</summary>
internal sealed class Config
{
    private readonly JsonArray _instances = [];
    private readonly JsonArray _pools = [];

    /// <summary>The whole document, to be changed where a test needs a key that has no method here.</summary>
    public JsonObject Document { get; }

    public Config()
    {
        Document = new JsonObject
        {
            ["gateway"] = new JsonObject { ["workers"] = 2 },
            ["instances"] = _instances,
            ["pools"] = _pools,
            // Short times, so that an instance that came back need not be waited for; and hardly any probes, which would take out for good
            // what a test keeps broken on purpose (ProbeTests has its own).
            ["failover_config"] = Json(new
            {
                circuit_breaker = new { recovery_timeout = "1s", sliding_window = "10s" },
                health_check = new { interval = "1h", healthy_threshold = 1 },
            }),
        };
    }

    public Config Instance(string name, string baseUrl, object? settings = null)
    {
        _instances.Add(Entry(name, baseUrl, settings));
        return this;
    }

    /// <summary>The simulated instance under its own name.</summary>
    public Config Instance(SimulatedInstance instance, object? settings = null) => Instance(instance.Name, instance.BaseUrl, settings);

    /// <summary>A pool whose public model is NAME-model, with one tier per group of instance names.</summary>
    public Config Pool(string name, string[][] tiers, object? settings = null)
    {
        _pools.Add(Merge(new JsonObject
        {
            ["name"] = name,
            ["models"] = new JsonArray(name + "-model"),
            ["ghost"] = Json(new { per_day = 0 }),      // tests count calls
            ["tiers"] = new JsonArray([.. tiers.Select((instances, i) => Json(new { name = $"tier-{i + 1}", instances }))]),
        }, settings));
        return this;
    }

    /// <summary>
    /// A simulated instance answers in some ten milliseconds, and a busy machine makes a hundred times that of one call. It would be slow then,
    /// and hardly asked for a minute, if no long base latency made that normal.
    /// </summary>
    public static JsonObject Entry(string name, string baseUrl, object? settings = null) =>
        Merge(new JsonObject { ["name"] = name, ["base_url"] = baseUrl, ["base_latency"] = "5s" }, settings);

    public static JsonObject Json(object value) => JsonSerializer.SerializeToNode(value)!.AsObject();

    public static JsonObject Merge(JsonObject target, object? settings)
    {
        foreach (var (key, value) in settings is null ? [] : Json(settings))
        {
            target[key] = value?.DeepClone();
        }
        return target;
    }
}
