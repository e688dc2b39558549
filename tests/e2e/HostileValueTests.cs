using System.Net;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>
/// Values that would like to be nginx configuration, Lua or template code. In every field each is either refused with the
/// field's path, or carried as the plain value it is; never does it reach nginx.conf unquoted, and traffic goes on.
/// </summary>
[Collection(SharedStackCollection.Name)]
public sealed class HostileValueTests(SharedStack shared)
{
    private const string Mark = "evk_hostile";

    private static readonly Dictionary<string, string> Values = new()
    {
        ["double quote"] = $"\"; return 418 \"{Mark}",
        ["single quote"] = $"'; return 418 '{Mark}",
        ["backslash"] = $"{Mark}\\",
        ["dollar"] = $"${Mark}$host${{request_uri}}",
        ["semicolon"] = $"{Mark}; return 418;",
        ["closing brace"] = $"{Mark}}} server {{ listen 1; }}",
        ["newline"] = $"{Mark}\n}}\nserver {{ listen 1; }}",
        ["carriage return"] = $"{Mark}\r\nX-Injected: 1",
        ["template"] = $"{{{{{Mark}}}}}{{{{{{nodeName}}}}}}{{{{#each instances}}}}",
        ["lua"] = $"]]{Mark} os.execute('true') --",
        ["nul"] = $"{Mark}\0",
        ["space and hash"] = $"{Mark} # off",
        ["path"] = $"../../{Mark}/../x",
        ["unicode"] = $"{Mark}\u202Etxt.exe\u2028é",
        ["10 kB"] = Mark + new string('x', 10_000),
    };

    /// <summary>Every field that takes text, and the path under which its faults must come.</summary>
    private static readonly Dictionary<string, Action<JsonObject, string>> Fields = new()
    {
        ["gateway.listen"] = (config, value) => config["gateway"]!["listen"] = value,
        ["gateway.workers"] = (config, value) => config["gateway"]!["workers"] = value,
        ["instances[0].name"] = (config, value) => config["instances"]![0]!["name"] = value,
        ["instances[0].provider"] = (config, value) => config["instances"]![0]!["provider"] = value,
        ["instances[0].base_url"] = (config, value) => config["instances"]![0]!["base_url"] = "http://127.0.0.1:1/" + value,
        ["instances[0].api_key"] = (config, value) => config["instances"]![0]!["api_key"] = value,
        ["instances[0].model"] = (config, value) => config["instances"]![0]!["model"] = value,
        ["instances[0].weight"] = (config, value) => config["instances"]![0]!["weight"] = value,
        ["instances[0].max_connections"] = (config, value) => config["instances"]![0]!["max_connections"] = value,
        ["instances[0].base_latency"] = (config, value) => config["instances"]![0]!["base_latency"] = value,
        ["instances[0].enabled"] = (config, value) => config["instances"]![0]!["enabled"] = value,
        ["instances[0].price"] = (config, value) => config["instances"]![0]!["price"] = Config.Json(new { input_per_million = 1, output_per_million = 1, currency = value }),
        ["instances[0].capabilities"] = (config, value) => config["instances"]![0]!["capabilities"] = new JsonArray(value),
        ["instances[0].tls.ca_file"] = (config, value) => config["instances"]![0]!["tls"] = Config.Json(new { ca_file = "/" + value }),
        ["instances[0].tls.server_name"] = (config, value) => config["instances"]![0]!["tls"] = Config.Json(new { server_name = value }),
        ["instances[0].timeouts"] = (config, value) => config["instances"]![0]!["timeouts"] = Config.Json(new { connect = value }),
        ["instances[0]"] = (config, value) => config["instances"]![0]![value] = 1,
        ["pools[0].name"] = (config, value) => config["pools"]![0]!["name"] = value,
        ["pools[0].models"] = (config, value) => config["pools"]![0]!["models"] = new JsonArray(value),
        ["pools[0].algorithm"] = (config, value) => config["pools"]![0]!["algorithm"] = value,
        ["pools[0].stream_buffer"] = (config, value) => config["pools"]![0]!["stream_buffer"] = value,
        ["pools[0].tiers[0].name"] = (config, value) => config["pools"]![0]!["tiers"]![0]!["name"] = value,
        ["pools[0].tiers[0].model"] = (config, value) => config["pools"]![0]!["tiers"]![0]!["model"] = value,
        ["pools[0].tiers[0].instances"] = (config, value) => config["pools"]![0]!["tiers"]![0]!["instances"] = new JsonArray(value),
        ["pools[0].queue"] = (config, value) => config["pools"]![0]!["queue"] = Config.Json(new { timeout = value }),
        ["pools[0].retry"] = (config, value) => config["pools"]![0]!["retry"] = Config.Json(new { budget_ratio = value }),
        ["failover_config.health_check"] = (config, value) => config["failover_config"]!["health_check"] = Config.Json(new { interval = value }),
        ["failover_config.circuit_breaker"] = (config, value) => config["failover_config"]!["circuit_breaker"] = Config.Json(new { error_rate_threshold = value }),
        ["failover_config.fallback.default_response"] = (config, value) => config["failover_config"]!["fallback"] = Config.Json(new { default_response = value }),
        ["failover_config.fallback.degraded_model"] = (config, value) => config["failover_config"]!["fallback"] = Config.Json(new { degraded_model = value }),
        ["clients[0].name"] = (config, value) => config["clients"] = new JsonArray(Config.Json(new { name = value, key = "a-key-of-a-client" })),
        ["clients[0].key"] = (config, value) => config["clients"] = new JsonArray(Config.Json(new { name = "web-app", key = value })),
        ["clients[0].models"] = (config, value) => config["clients"] = new JsonArray(Config.Json(new { name = "web-app", key = "a-key-of-a-client", models = new[] { value } })),
        ["alerts[0]"] = (config, value) => config["alerts"] = new JsonArray(Config.Json(new { name = "slow", metric = value, above = value })),
        ["webhooks[0].url"] = (config, value) => config["webhooks"] = new JsonArray(Config.Json(new { name = "ops", url = value })),
    };

    public static TheoryData<string> Kinds => [.. Values.Keys];

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task A_hostile_value_is_refused_with_its_path_or_carried_as_plain_text(string kind)
    {
        var value = Values[kind];
        var (text, workers) = (shared.Stack.NginxConf, shared.Stack.Workers);
        var carried = shared.Config.Document.DeepClone().AsObject();
        var taken = new List<string>();
        foreach (var (path, set) in Fields)
        {
            var document = shared.Config.Document.DeepClone().AsObject();
            set(document, value);
            var faults = await shared.Admin.FaultsOfAsync(document);
            if (faults.Count == 0)
            {
                taken.Add(path);
                if (path != "instances[0].tls.ca_file")     // a path like others; that there is no such file is nginx's to say
                {
                    set(carried, value);
                }
                continue;
            }
            Assert.True(faults.Any(fault => fault.Path.StartsWith(path, StringComparison.Ordinal)), $"{path}: {string.Join("; ", faults)}");
            Assert.All(faults, fault => Assert.True(fault.Message.Length < 1000 && fault.Path.Length < 1000, $"{path}: a fault of {fault.Message.Length} characters"));
            var (status, _) = await shared.Admin.TryPutConfigAsync(document);
            Assert.Equal(HttpStatusCode.UnprocessableEntity, status);
        }
        // What makes nginx's text never takes such values.
        string[] rendered = ["gateway.listen", "gateway.workers", "instances[0].name"];
        Assert.Empty(rendered.Intersect(taken));

        try
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(carried));
            Assert.Equal(text, shared.Stack.NginxConf);
            Assert.Equal(workers, shared.Stack.Workers);
            Assert.DoesNotContain(Mark, await shared.Admin.DesiredTextAsync());
            var key = taken.Contains("clients[0].key") ? value : "a-key-of-a-client";
            var answer = await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), ("Authorization", "Bearer " + key));
            Assert.True(answer.Status is 200 or 401, answer.ToString());
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
        Assert.Equal(200, (await shared.Gateway.AskAsync("plain-model")).Status);
    }

    [Fact]
    public async Task A_path_with_every_character_that_is_allowed_reaches_nginx_as_one_quoted_value()
    {
        var directory = Stack.ScratchDirectory();
        var strange = Path.Combine(directory, "a b%c!&()*+,-.=?@[]^_|~<>:");
        File.Copy(shared.CaFile, strange);
        try
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangeInstanceAsync("trusted", new { tls = new { ca_file = strange } }), TimeSpan.FromSeconds(40));
            Assert.Contains(strange, shared.Stack.NginxConf);
            Assert.Equal(200, (await shared.Gateway.AskAsync("plain-model")).Status);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document), TimeSpan.FromSeconds(40));
            Directory.Delete(directory, recursive: true);
        }
    }

    [Theory]
    [InlineData("instances/a%22%3B%20return%20418")]
    [InlineData("instances/..%2F..%2Fetc%2Fpasswd")]
    [InlineData("pools/%7B%7Bx%7D%7D")]
    [InlineData("nodes/%24%7Bhost%7D/nginx.conf")]
    public async Task A_hostile_name_in_a_path_of_the_API_is_not_found(string path)
    {
        using var http = new HttpClient();
        http.DefaultRequestHeaders.Add("Authorization", "Bearer " + File.ReadAllText(shared.Stack.PathOf("admin-token")).Trim());
        using var answer = await http.GetAsync($"http://127.0.0.1:{shared.Stack.AdminPort}/api/v1/{path}");
        Assert.Equal(HttpStatusCode.NotFound, answer.StatusCode);
    }
}
