using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace Evenkeel.Provider;

/// <summary>Reads the command line into <see cref="ProviderOptions"/>.</summary>
internal static class CommandLine
{
    public static string Help { get; } = Build();

    /// <summary>The options, or null when help was asked for.</summary>
    /// <exception cref="FormatException">An argument that cannot be understood; the message says which.</exception>
    public static ProviderOptions? Parse(string[] args)
    {
        var options = new ProviderOptions();
        var instances = new List<InstanceOptions>();
        var demo = false;
        int? basePort = null;
        for (var i = 0; i < args.Length; i++)
        {
            var (name, inline) = args[i].StartsWith("--", StringComparison.Ordinal) && args[i].IndexOf('=') is > 0 and var at && args[i][..at] is not "--instance"
                ? (args[i][..at], args[i][(at + 1)..])
                : (args[i], null);
            string Value() => inline ?? (++i < args.Length ? args[i] : throw new FormatException($"{name} needs a value"));
            switch (name)
            {
                case "--help" or "-h":
                    return null;
                case "--control":
                    options = options with { Control = Hosts.Split(Value()) };
                    break;
                case "--instance":
                    instances.Add(Instance(Value()));
                    break;
                case "--ca-file":
                    options = options with { CaFile = Value() };
                    break;
                case "--ledger-limit":
                    options = options with { LedgerLimit = Number(name, Value()) };
                    break;
                case "--demo":
                    demo = true;
                    break;
                case "--base-port":
                    basePort = Number(name, Value());
                    break;
                default:
                    throw new FormatException($"unknown argument '{args[i]}'");
            }
        }
        if (demo)
        {
            var profile = ProviderOptions.Demo(basePort);
            instances.InsertRange(0, profile.Instances);
            options = options with { Control = options.Control ?? profile.Control };
        }
        return instances.Count > 0 ? options with { Instances = instances } : throw new FormatException("give --demo or at least one --instance");
    }

    /// <summary>NAME=host:port[,setting=value]…; lists are joined by '+'.</summary>
    private static InstanceOptions Instance(string text)
    {
        var parts = text.Split(',');
        var at = parts[0].IndexOf('=');
        if (at <= 0)
        {
            throw new FormatException($"--instance '{text}': wanted NAME=host:port[,setting=value]…");
        }
        var (host, port) = Hosts.Split(parts[0][(at + 1)..]);
        var shape = new InstanceSettings().Show();
        var changes = new JsonObject();
        foreach (var part in parts.Skip(1))
        {
            var equals = part.IndexOf('=');
            var name = (equals < 0 ? part : part[..equals]).Replace('-', '_');
            changes[name] = Setting(shape[name], equals < 0 ? "true" : part[(equals + 1)..]);
        }
        return new InstanceOptions(parts[0][..at], host, port) { Settings = new InstanceSettings().Merge(changes) };
    }

    private static JsonNode Setting(JsonNode? shape, string value)
    {
        if (shape is JsonArray)
        {
            return new JsonArray([.. value.Split('+').Select(item => JsonValue.Create(item))]);
        }
        if (shape is JsonValue known && known.GetValueKind() == System.Text.Json.JsonValueKind.String)
        {
            return JsonValue.Create(value);
        }
        return bool.TryParse(value, out var flag) ? JsonValue.Create(flag)
            : decimal.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? JsonValue.Create(number)
            : JsonValue.Create(value);
    }

    private static int Number(string name, string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : throw new FormatException($"{name} needs a number");

    private static string Build()
    {
        var text = new StringBuilder("""
            evenkeel-provider: simulated OpenAI-compatible LLM providers that fail on demand

              evenkeel-provider --demo [--base-port N]
              evenkeel-provider --control HOST:PORT --instance NAME=HOST:PORT[,setting=value]... [--instance ...]

              --demo             instances A, B (ceiling 50), C (20), lite (40), calls of about 0.8 s, and a control listener
              --base-port N      the demo's ports: N..N+3, control N+4; without it free ones
              --instance SPEC    one provider endpoint; port 0 = a free one; lists are joined by '+' (sni=a.test+b.test)
              --control H:P      the control listener
              --ca-file PATH     write the certificate (PEM) of the authority behind tls=good|expired|wrong-name
              --ledger-limit N   requests remembered (100000); 0 = none

            When ready it prints one line: listening NAME=host:port ... [control=host:port]. SIGTERM or SIGINT end it.

            Settings (at start, or at run time by PATCH /instances/NAME), with their defaults:

            """);
        foreach (var (name, value) in new InstanceSettings().Show())
        {
            text.Append($"  {name,-22} {value?.ToJsonString() ?? "null"}\n");
        }
        text.Append("""

              tls: none good selfsigned expired wrong-name handshake-failure handshake-hang handshake-reset

            Control listener (in paths '*' = every instance):
              GET    /instances, /instances/NAME    state: settings, counters, queued faults
              POST   /instances                     {"name":"D","address":"127.0.0.1:0","settings":{...}}
              PATCH  /instances/NAME                settings, e.g. {"latency_ms":12000}
              POST   /instances/NAME/faults         one or a list of {"fault":"status=429;retry_after=2","times":1,"after":0,
                                                    "for_ms":60000,"match":{"model":"m","stream":true,"path":"/chat","reused":true}}
              DELETE /instances/NAME/faults
              DELETE /instances/NAME/counters
              POST   /instances/NAME/down, .../up   refuse connections and reset the open ones; come back
              GET    /ledger?instance=NAME&since=N  requests as the provider saw them; since = a sequence number
              DELETE /ledger
              GET    /ca, /faults, /healthz

            Faults: by control listener, by header 'x-sim-fault: SPEC', or by model name 'sim-SPEC' (header first, then model,
            then queue). SPEC = name[=value][;param=value]..., several joined by '+'. The first parameter may be given as name=value.

            """);
        foreach (var kind in FaultCatalogue.All)
        {
            text.Append($"  {kind.Name}{(kind.Parameters.Length > 0 ? "  (" + string.Join(", ", kind.Parameters) + ")" : "")}\n      {kind.Help}\n");
        }
        return text.ToString();
    }
}
