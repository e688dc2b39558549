using System.Text.Json.Nodes;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>
/// The stack of all tests that leave it as they found it, with one pool per purpose so that no test sees another's
/// breakers and latencies. The providers are simulated in this process.
/// </summary>
public sealed class SharedStack : IAsyncLifetime
{
    /// <summary>What a, b and c can bear, and the limit the gateway has been told.</summary>
    internal static readonly Dictionary<string, int> Ceilings = new() { ["a"] = 50, ["b"] = 50, ["c"] = 20 };

    /// <summary>Three more of a kind, to be killed.</summary>
    internal static readonly string[] Mortals = ["mortal-1", "mortal-2", "mortal-3"];

    /// <summary>The vendors behind one address are told apart by these names only.</summary>
    internal const string VendorX = "vendor-x.test", VendorY = "vendor-y.test";

    private Stack? _stack;
    private ProviderSimulator? _providers;

    internal Stack Stack => _stack!;
    internal Gateway Gateway => Stack.Gateway;
    internal AdminApi Admin => Stack.Admin;
    internal ProviderSimulator Providers => _providers!;
    internal Config Config { get; private set; } = null!;

    /// <summary>The certificate of the authority that the providers' good certificates come from.</summary>
    internal string CaFile { get; private set; } = "";

    /// <summary>What the clients' calls were to this instance; probes apart.</summary>
    internal IReadOnlyList<LedgerEntry> CallsOf(string instance) => [.. Providers.Ledger.Entries(instance).Where(call => call.Method == "POST")];

    /// <summary>The key an instance demands of its callers.</summary>
    internal static string KeyOf(string instance) => $"sk-of-{instance}";

    public async Task InitializeAsync()
    {
        var directory = Stack.ScratchDirectory();
        CaFile = Path.Combine(directory, "providers-ca.pem");
        _providers = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            CaFile = CaFile,
            Instances =
            [
                .. Ceilings.Select(ceiling => Simulated(ceiling.Key, s => s with { Ceiling = ceiling.Value, LatencyMs = 300 })),
                Simulated("lite"),
                .. Mortals.Select(name => Simulated(name)),
                Simulated("plain", s => s with { ApiKey = null, RecordBodies = true }),
                Simulated("renamed", s => s with { RecordBodies = true }),
                Simulated("first"), Simulated("second"),
                Simulated("implied-1"), Simulated("implied-2"),
                Simulated("gone"),
                Simulated("idle"),
                Simulated("counted"),
                Simulated("slow-1"), Simulated("slow-2"),
                Simulated("cut"), Simulated("continues"),
                Simulated("billed", s => s with { CachedPromptShare = 0.25 }), Simulated("billed-too"), Simulated("tiered"), Simulated("tiered-too"),
                Simulated("month-a", s => s with { CachedPromptShare = 0.25 }), Simulated("month-b"), Simulated("month-c"),
                Simulated("no-options", s => s with { RecordBodies = true }),
                Simulated("seen-1", s => s with { ErrorRate = 0.3, ErrorStatus = 503 }), Simulated("seen-2", s => s with { ErrorRate = 0.3, ErrorStatus = 429 }), Simulated("seen-3"),
                Simulated("lost"),
                Simulated("reloaded"),
                Simulated("vendors", s => s with { ApiKey = null, Tls = TlsMode.Good, Sni = [VendorX, VendorY] }),
                Simulated("trusted", s => s with { Tls = TlsMode.Good }),
                Simulated("expired", s => s with { Tls = TlsMode.Expired }),
                Simulated("selfsigned", s => s with { Tls = TlsMode.Selfsigned }),
                Simulated("unverified", s => s with { Tls = TlsMode.Selfsigned }),
                Simulated("wrong-name", s => s with { Tls = TlsMode.WrongName }),
            ],
        });
        Config = Describe();
        _stack = await Stack.StartAsync("shared", Config, directory);
    }

    public async Task DisposeAsync()
    {
        if (_stack is not null)
        {
            await _stack.DisposeAsync();
        }
        if (_providers is not null)
        {
            await _providers.DisposeAsync();
        }
    }

    /// <summary>Calls are short unless a test is about their length; every instance demands a key of its own.</summary>
    internal static InstanceOptions Simulated(string name, Func<InstanceSettings, InstanceSettings>? settings = null) => new(name)
    {
        Settings = (settings ?? (s => s))(new InstanceSettings { LatencyMs = 20, ApiKey = KeyOf(name) }),
    };

    private Config Describe()
    {
        var config = new Config();
        foreach (var (name, ceiling) in Ceilings)
        {
            config.Instance(Providers[name], new { api_key = KeyOf(name), weight = ceiling, max_connections = ceiling, base_latency = "300ms" });
        }
        foreach (var name in (string[])["lite", "first", "second", "implied-1", "implied-2", "gone", "idle", "counted", "slow-1", "slow-2", "cut", "continues", "no-options", "reloaded", .. Mortals])
        {
            config.Instance(Providers[name], new { api_key = KeyOf(name), max_connections = 1000 });
        }
        foreach (var name in new[] { "billed", "billed-too", "tiered", "tiered-too" })
        {
            config.Instance(Providers[name], new
            {
                api_key = KeyOf(name),
                price = new { input_per_million = 0.27m, cached_input_per_million = 0.07m, output_per_million = 1.10m },
            });
        }
        foreach (var name in new[] { "month-a", "month-b", "month-c" })
        {
            config.Instance(Providers[name], new { api_key = KeyOf(name), max_connections = 1000 });
        }
        foreach (var name in new[] { "seen-1", "seen-2", "seen-3", "lost" })
        {
            config.Instance(Providers[name], new { api_key = KeyOf(name), price = new { input_per_million = 1, output_per_million = 2, currency = "GBP" } });
        }
        config.Instance(Providers["plain"]);
        config.Instance(Providers["renamed"], new { api_key = KeyOf("renamed"), model = "vendor/DeepSeek-V3:beta" });

        // One listener, two host names: only the TLS name tells these instances apart.
        var vendors = $"https://127.0.0.1:{Providers["vendors"].Port}/v1";
        config.Instance("vendor-x", vendors, new { tls = new { ca_file = CaFile, server_name = VendorX } });
        config.Instance("vendor-y", vendors, new { tls = new { ca_file = CaFile, server_name = VendorY } });
        foreach (var name in new[] { "trusted", "expired", "selfsigned", "wrong-name" })
        {
            config.Instance(name, ByName(name), new { api_key = KeyOf(name), tls = new { ca_file = CaFile } });
        }
        config.Instance("unknown-authority", ByName("trusted"), new { api_key = KeyOf("trusted") });
        config.Instance("unverified", ByName("unverified"), new { api_key = KeyOf("unverified"), tls = new { verify = false } });

        // Who waits in a queue is not to be sent away because this machine is busy.
        var patient = new { queue = new { timeout = "30s" } };
        return config
            .Pool("spread", [["a", "b", "c"], ["lite"]], patient)
            .Pool("mortal", [Mortals])
            .Pool("plain", [["plain"]])
            .Pool("renamed", [["renamed"]])
            .Pool("tiers", [["first"], ["second"]], new
            {
                tiers = new object[] { new { name = "primary", instances = new[] { "first" } }, new { name = "degraded", instances = new[] { "second" }, model = "small-model" } },
            })
            .Pool("implied", [["implied-1", "implied-2"]], new
            {
                tiers = new object[] { new { name = "primary", instances = new[] { "implied-1", "implied-2" } } },
                failover_config = new { fallback = new { degraded_model = "lesser-model" } },
            })
            .Pool("gone", [["gone"]])
            .Pool("idle", [["idle"]], patient)
            .Pool("counted", [["counted"]])
            .Pool("slow", [["slow-1", "slow-2"]])
            .Pool("cut", [["cut"], ["continues"]])
            .Pool("no-options", [["no-options"]])
            .Pool("billed", [["billed"], ["billed-too"]])
            .Pool("tiered", [["tiered"], ["tiered-too"]])
            .Pool("seen", [["seen-1", "seen-2"], ["seen-3"]], Unshaken())
            .Pool("month", [["month-a", "month-b"], ["month-c"]], Unshaken(Month.Models))
            .Pool("lost", [["lost"]])
            .Pool("reloaded", [["reloaded"]])
            .Pool("vendor-x", [["vendor-x"]])
            .Pool("vendor-y", [["vendor-y"]])
            .Pool("expired", [["expired", "trusted"]], new { algorithm = "round_robin" })
            .Pool("selfsigned", [["selfsigned", "trusted"]], new { algorithm = "round_robin" })
            .Pool("wrong-name", [["wrong-name", "trusted"]], new { algorithm = "round_robin" })
            .Pool("unknown-authority", [["unknown-authority", "trusted"]], new { algorithm = "round_robin" })
            .Pool("unverified", [["unverified"]]);

        // Whose instances may fail as often as they like.
        static JsonObject Unshaken(string[]? models = null)
        {
            var settings = Config.Json(new { failover_config = new { circuit_breaker = new { min_requests = 1_000_000 }, health_check = new { interval = "1h", unhealthy_threshold = 100 } } });
            if (models is not null) settings["models"] = new JsonArray([.. models.Select(model => JsonValue.Create(model))]);
            return settings;
        }

        // A certificate is for a name.
        string ByName(string instance) => $"https://localhost:{Providers[instance].Port}/v1";
    }
}

[CollectionDefinition(Name)]
public sealed class SharedStackCollection : ICollectionFixture<SharedStack>
{
    public const string Name = "2 one stack for all that leave it as they found it";
}
