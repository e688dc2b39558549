using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Evenkeel.Provider;

/// <summary>The control listener: the same as the C# methods, as HTTP and JSON. In paths <c>*</c> stands for every instance.</summary>
internal sealed class ControlApi(ProviderSimulator simulator)
{
    private static readonly JsonSerializerOptions Shown = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public async Task HandleAsync(HttpConnection connection, HttpRequest request)
    {
        byte[] answer;
        try
        {
            answer = Answer(request);
        }
        catch (Exception fault) when (fault is FormatException or JsonException or InvalidOperationException or ArgumentException or System.Net.Sockets.SocketException)
        {
            answer = Json(400, new JsonObject { ["error"] = fault.Message });
        }
        await connection.WriteAsync(answer);
    }

    private byte[] Answer(HttpRequest request)
    {
        var path = request.Path.Split('/', StringSplitOptions.RemoveEmptyEntries).Select(Uri.UnescapeDataString).ToArray();
        switch (request.Method, path)
        {
            case ("GET", []):
                return HttpAnswer.Text(200, "text/plain; charset=utf-8", CommandLine.Help);
            case ("GET", ["healthz"]):
                return Json(200, new JsonObject { ["status"] = "ok" });
            case ("GET", ["ca"]):
                return HttpAnswer.Text(200, "application/x-pem-file", simulator.AuthorityPem + "\n");
            case ("GET", ["faults"]):
                return Json(200, new JsonArray([.. FaultCatalogue.All.Select(kind => new JsonObject
                {
                    ["name"] = kind.Name,
                    ["parameters"] = new JsonArray([.. kind.Parameters.Select(name => JsonValue.Create(name))]),
                    ["help"] = kind.Help,
                })]));
            case ("GET", ["ledger"]):
                return Ledger(request.Query);
            case ("DELETE", ["ledger"]):
                simulator.Ledger.Clear();
                return Json(200, new JsonObject { ["cleared"] = true });
            case ("GET", ["instances"]):
                return Json(200, new JsonArray([.. simulator.Instances.Select(State)]));
            case ("POST", ["instances"]):
                return Json(201, State(Add(Body(request).AsObject())));
            case (_, ["instances", var name, .. var rest]):
                return Instance(request, name, rest);
            default:
                return NotFound();
        }
    }

    private byte[] Instance(HttpRequest request, string name, string[] rest)
    {
        var instances = name == "*" ? simulator.Instances : simulator.Find(name) is { } found ? [found] : [];
        if (instances.Count == 0)
        {
            return NotFound();
        }
        Action<SimulatedInstance>? change = (request.Method, rest) switch
        {
            ("GET", []) => _ => { }
            ,
            ("PATCH", []) => Patch(Body(request).AsObject()),
            ("GET", ["faults"]) => _ => { }
            ,
            ("POST", ["faults"]) => Faults(Body(request)),
            ("DELETE", ["faults"]) => instance => instance.ClearFaults(),
            ("DELETE", ["counters"]) => instance => instance.ResetCounters(),
            ("POST", ["down"]) => instance => instance.Down(),
            ("POST", ["up"]) => instance => instance.Up(),
            _ => null,
        };
        if (change is null)
        {
            return NotFound();
        }
        foreach (var instance in instances)
        {
            change(instance);
        }
        return Json(200, name == "*" ? new JsonArray([.. instances.Select(State)]) : State(instances[0]));
    }

    private SimulatedInstance Add(JsonObject body)
    {
        var (host, port) = Hosts.Split((string?)body["address"] ?? "127.0.0.1:0");
        return simulator.AddInstance(new InstanceOptions((string?)body["name"] ?? throw new FormatException("name is missing"), host, port)
        {
            Settings = new InstanceSettings().Merge(body["settings"]?.AsObject() ?? []),
        });
    }

    private static Action<SimulatedInstance> Patch(JsonObject changes)
    {
        new InstanceSettings().Merge(changes); // All or nothing, also for '*'.
        return instance => instance.Update(settings => settings.Merge(changes));
    }

    private static Action<SimulatedInstance> Faults(JsonNode body)
    {
        JsonNode?[] items = body is JsonArray array ? [.. array] : [body];
        foreach (var item in items)
        {
            ReadFault(item); // All or nothing.
        }
        // Each instance counts for itself, so each gets a fault of its own.
        return instance => Array.ForEach(items, item => instance.AddFault(ReadFault(item)));
    }

    private static ScriptedFault ReadFault(JsonNode? item)
    {
        if (item is JsonValue text)
        {
            return new ScriptedFault(Fault.Parse(text.GetValue<string>()));
        }
        var known = (item ?? throw new FormatException("a fault must be a text or an object")).AsObject();
        foreach (var (name, _) in known)
        {
            if (name is not ("fault" or "params" or "times" or "after" or "for_ms" or "match"))
            {
                throw new FormatException($"unknown key '{name}'; a fault has: fault, params, times, after, for_ms, match");
            }
        }
        var spec = (string?)known["fault"] ?? throw new FormatException("fault is missing");
        var fault = known["params"] is JsonObject parameters
            ? Fault.Create(spec, parameters.ToDictionary(pair => pair.Key.Replace('-', '_'), pair => pair.Value?.ToString() ?? ""))
            : Fault.Parse(spec);
        var match = known["match"]?.Deserialize<FaultMatch>(InstanceSettings.Json);
        var lasts = (double?)known["for_ms"] is { } ms ? TimeSpan.FromMilliseconds(ms) : (TimeSpan?)null;
        return new ScriptedFault(fault, (int?)known["times"], (int?)known["after"] ?? 0, lasts, match);
    }

    private byte[] Ledger(string query)
    {
        var parameters = query.Split('&', StringSplitOptions.RemoveEmptyEntries).Select(pair => pair.Split('=', 2))
            .ToDictionary(pair => pair[0], pair => Uri.UnescapeDataString(pair.ElementAtOrDefault(1) ?? ""));
        var since = parameters.TryGetValue("since", out var text) ? long.Parse(text, CultureInfo.InvariantCulture) : 0;
        var entries = simulator.Ledger.Entries(parameters.GetValueOrDefault("instance"), since);
        return Json(200, new JsonArray([.. entries.Select(entry => entry.ToJson())]));
    }

    private static JsonObject State(SimulatedInstance instance)
    {
        var counters = JsonSerializer.SerializeToNode(instance.Counters, InstanceSettings.Json);
        return new JsonObject
        {
            ["name"] = instance.Name,
            ["address"] = instance.EndPoint.ToString(),
            ["base_url"] = instance.BaseUrl,
            ["up"] = instance.IsUp,
            ["settings"] = instance.Settings.Show(),
            ["counters"] = counters,
            ["faults"] = new JsonArray([.. instance.Faults.Select(fault => new JsonObject
            {
                ["fault"] = fault.Fault.Spec,
                ["times"] = fault.Times,
                ["after"] = fault.After,
                ["used"] = fault.Used,
                ["match"] = JsonSerializer.SerializeToNode(fault.Match, InstanceSettings.Json),
            })]),
        };
    }

    private static JsonNode Body(HttpRequest request) =>
        JsonNode.Parse(request.Body) ?? throw new FormatException("the body must be JSON");

    private static byte[] NotFound() => Json(404, new JsonObject { ["error"] = "there is no such thing here; GET / says what there is" });

    private static byte[] Json(int status, JsonNode node) => HttpAnswer.Json(status, node.ToJsonString(Shown) + "\n");
}
