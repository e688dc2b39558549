using System.Net.Sockets;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>
/// All cases as one set of simulated instances and one configuration. Pure but for starting the simulator: the same cases
/// have the same names, models and (with a base port) addresses.
/// </summary>
internal sealed class Topology(IReadOnlyList<Case> cases, TimeScale time)
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Instances in the order of the cases. With a base port, the numbers depend on this list alone.</summary>
    public IEnumerable<(Case Case, Member Member, int Tier)> Instances =>
        cases.SelectMany(one => one.Setting.Tiers.SelectMany((tier, t) => tier.Select(member => (one, member, t + 1))))
            .DistinctBy(entry => entry.one.InstanceName(entry.member));

    /// <exception cref="InvalidOperationException">A port is taken.</exception>
    public async Task<ProviderSimulator> StartAsync(int? basePort, string? caFile)
    {
        try
        {
            return await ProviderSimulator.StartAsync(new ProviderOptions
            {
                CaFile = caFile,
                Instances = [.. Instances.Select((entry, i) => new InstanceOptions(entry.Case.InstanceName(entry.Member), Port: basePort + i ?? 0) { Settings = entry.Member.Simulated })],
            });
        }
        catch (SocketException fault)
        {
            throw new InvalidOperationException($"the simulated providers need the ports {basePort} to {basePort + Instances.Count() - 1}: {fault.Message}", fault);
        }
    }

    public static void Script(Case one, ProviderSimulator simulator)
    {
        foreach (var trouble in one.Troubles)
        {
            var member = one.Setting.Members.First(member => member.Role == trouble.Role);
            simulator[one.InstanceName(member)].AddFault(trouble.Spec, trouble.Times, match: trouble.Match);
        }
    }

    /// <summary>Evenkeel's configuration, as JSON.</summary>
    public string EvenkeelConfig(ProviderSimulator simulator, string? caFile, string listen)
    {
        var document = new JsonObject
        {
            ["gateway"] = new JsonObject { ["listen"] = listen },
            ["instances"] = new JsonArray([.. Instances.Select(entry => Instance(entry.Case, entry.Member, simulator, caFile))]),
            ["pools"] = new JsonArray([.. cases.Select(Pool)]),
            ["failover_config"] = new JsonObject
            {
                ["circuit_breaker"] = new JsonObject { ["recovery_timeout"] = time.Written(30) },
                ["fallback"] = new JsonObject { ["default_response"] = Setting.DefaultResponse },
            },
        };
        return document.ToJsonString(Indented);
    }

    /// <summary>What another gateway has to be configured with, as a plain table.</summary>
    public string Table(ProviderSimulator simulator)
    {
        var text = new StringBuilder();
        text.AppendLine($"# One line per provider endpoint. Tier 1 is tried first. Time-outs: connect 2 s, first token and silence {time.Ms(10_000) / 1000.0} s unless noted.");
        text.AppendLine($"{"case",-6} {"model the client asks for",-28} {"tier",-4} {"base URL",-32} {"upstream model",-24} remarks");
        foreach (var (one, member, tier) in Instances)
        {
            var remarks = new List<string>();
            if (member.Capabilities.Length > 0) remarks.Add("accepts an assistant prefix" + (member.Provider == "deepseek" ? " (\"prefix\": true)" : ""));
            if (member.MaxConnections != 50) remarks.Add($"at most {member.MaxConnections} at a time");
            if (member.TotalS != 600) remarks.Add($"whole answer within {time.Ms(member.TotalS * 1000) / 1000.0} s");
            if (member.MinTokensPerSecond > 0) remarks.Add($"at least {member.MinTokensPerSecond} tokens/s");
            if (one.Setting.BufferStreams) remarks.Add("streams are buffered whole");
            text.AppendLine($"{one.Number,-6} {one.Model,-28} {tier,-4} {BaseUrl(simulator[one.InstanceName(member)]),-32} {(tier > 1 ? one.FallbackModel : one.Model),-24} {string.Join(", ", remarks)}".TrimEnd());
        }
        return text.ToString();
    }

    // The certificates name the host "localhost".
    private static string BaseUrl(SimulatedInstance instance) =>
        instance.Settings.Tls == TlsMode.None ? instance.BaseUrl : $"https://localhost:{instance.Port}/v1";

    private JsonObject Instance(Case one, Member member, ProviderSimulator simulator, string? caFile)
    {
        string Time(double seconds) => (member.ScaledTimeouts ? time : new TimeScale(1)).Written(seconds);
        var instance = new JsonObject
        {
            ["name"] = one.InstanceName(member),
            ["base_url"] = BaseUrl(simulator[one.InstanceName(member)]),
            ["api_key"] = "sk-failover",
            ["max_connections"] = member.MaxConnections,
            ["base_latency"] = "500ms",
            ["timeouts"] = new JsonObject
            {
                ["connect"] = "2s",
                ["first_token"] = Time(10),
                ["idle"] = Time(10),
                ["total"] = Time(member.TotalS),
                ["min_tokens_per_second"] = member.MinTokensPerSecond,
            },
        };
        if (member.Capabilities.Length > 0) instance["capabilities"] = new JsonArray([.. member.Capabilities.Select(name => JsonValue.Create(name))]);
        if (member.Provider is { } provider) instance["provider"] = provider;
        if (member.Simulated.Tls != TlsMode.None) instance["tls"] = new JsonObject { ["ca_file"] = caFile };
        return instance;
    }

    private static JsonObject Pool(Case one)
    {
        var setting = one.Setting;
        var pool = new JsonObject
        {
            ["name"] = one.Model,
            ["models"] = new JsonArray(one.Model),
            ["tiers"] = new JsonArray([.. setting.Tiers.Select((tier, t) => Tier(one, tier, t))]),
            ["queue"] = new JsonObject { ["size"] = setting.QueueSize, ["timeout"] = $"{setting.QueueTimeoutS * 1000}ms" },
            ["ghost"] = new JsonObject { ["per_day"] = 0 },
        };
        if (setting.BufferStreams) pool["stream_buffer"] = "full";
        if (setting.DefaultIsCompletion) pool["failover_config"] = new JsonObject { ["fallback"] = new JsonObject { ["default_response_mode"] = "completion" } };
        if (setting.UnhealthyThreshold is { } threshold) pool["failover_config"] = new JsonObject { ["health_check"] = new JsonObject { ["unhealthy_threshold"] = threshold } };
        return pool;
    }

    private static JsonObject Tier(Case one, Member[] members, int number)
    {
        var tier = new JsonObject
        {
            ["name"] = number == 0 ? "primary" : $"degraded-{number}",
            ["instances"] = new JsonArray([.. members.Select(member => JsonValue.Create(one.InstanceName(member)))]),
        };
        if (number > 0) tier["model"] = one.FallbackModel;
        return tier;
    }
}
