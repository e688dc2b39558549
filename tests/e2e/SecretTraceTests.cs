using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>
/// Looks for every secret in use in everything that a whole stack leaves behind or says: files, the database's own files, logs, API answers,
/// and every answer that a client gets, those of a provider that repeats our key included. Secrets are where they have to be, for their
/// owner only, and nowhere else.
/// </summary>
[Collection(SharedStackCollection.Name)]
public sealed class SecretTraceTests(SharedStack shared)
{
    private const string ClientKey = "the-key-of-canary", WebhookSecret = "the-secret-of-canary-webhook";

    /// <summary>Files that hold secrets because somebody has to read them there.</summary>
    private static readonly string[] s_keepers =
        ["admin-token", "node-token", "postgres/password", "postgres/reader-password", "control-plane/secret.key", "node/token", "node/run/agent.header", "node/snapshot.json"];

    private static readonly string[] s_pages = ["/", "/app.js", "/openapi/v1.json", "/openapi/index.html", "/healthz", "/readyz", "/metrics", "/nothing", "/api/v1/telemetry/cost?by=client"];

    private static readonly string[] s_nodePaths =
        ["/status", "/status?format=text", "/stats", "/events?after=0", "/metrics", "/telemetry?after=0", "/traces?after=0", "/nothing", "/instances/first/v1/models", "/instances/gone/v1/models", "/instances/none/v1/models"];

    private readonly List<(string Where, string Text)> _seen = [];

    [Fact]
    public async Task Every_secret_is_where_it_has_to_be_and_nowhere_else()
    {
        using var admin = Caller(shared.Stack.AdminPort, "admin-token");
        using var node = Caller(int.Parse(shared.Stack.Recorded("NODE_ADMIN_PORT")), "node-token");
        var config = shared.Config.Document.DeepClone().AsObject();
        config["clients"] = new JsonArray(Config.Json(new { name = "canary", key = ClientKey, requests_per_minute = 600 }));
        config["webhooks"] = new JsonArray(Config.Json(new { name = "canary", url = "http://127.0.0.1:9/", secret = WebhookSecret }));
        config["gateway"]!["webhook_private_targets"] = true;
        await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(config));
        var secrets = Secrets().ToList();
        var token = (string)(await shared.Admin.PostAsync("tokens", new { name = "canary", role = "viewer" }))["token"]!;
        secrets.Add(("a viewer's token", token));
        try
        {
            await AskAsync();
            await ReadAsync(admin, node);
        }
        finally
        {
            (await admin.DeleteAsync("/api/v1/tokens/canary")).Dispose();
            foreach (var name in new[] { "first", "renamed" })
            {
                shared.Providers[name].ClearFaults();
                await shared.Stack.Node.ForgiveAsync(name);
            }

            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }

        Assert.True(_seen.Count > 60, $"only {_seen.Count} answers were looked at");
        foreach (var (where, text) in _seen)
        {
            AssertClean(secrets, text, where);
        }

        AssertFilesAreClean(secrets);

        // Nor will there be a core file, which would hold them all.
        Assert.NotEmpty(shared.Stack.AllProcesses);
        Assert.All(shared.Stack.AllProcesses, pid => Assert.Matches(@"Max core file size\s+0\s+0\s", Limits(pid)));
    }

    // Every kind of answer: good, streamed, from the lesser tier, refused, unknown; and every way in which a provider can say an error.
    private async Task AskAsync()
    {
        foreach (var model in new[] { "spread-model", "renamed-model", "tiers-model", "no-such-model" })
        {
            foreach (var stream in new[] { false, true })
            {
                await SayAsync(model, stream);
            }
        }

        Saw(await shared.Gateway.PostAsync("/v1/chat/completions", "{"));
        Saw(await shared.Gateway.GetAsync("/v1/models"));
        Saw(await shared.Gateway.SendAsync(HttpMethod.Put, "/v1/models", null));
        Saw(await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("tiers-model"), ("Authorization", "Bearer " + ClientKey + "x")));

        foreach (var fault in new[] { "status=400;message={0}", "status=503;message={0}", "error_json_200=invalid_request_error;message={0}", "error_event_first=invalid_request_error;message={0}", "error_event_after=3;message={0}", "status=401;message={0}" })
        {
            // What takes an instance out comes last, and to one that has no other to stand in for it.
            var name = fault.StartsWith("status=401", StringComparison.Ordinal) ? "renamed" : "first";
            foreach (var stream in new[] { false, true })
            {
                var provider = shared.Providers[name];
                provider.AddFault(string.Format(fault, "Incorrect%20key%20" + SharedStack.KeyOf(name)), times: 1);
                var answer = await SayAsync(name == "first" ? "tiers-model" : "renamed-model", stream);
                provider.ClearFaults();
                if (fault.StartsWith("status=400", StringComparison.Ordinal))
                {
                    Assert.Equal(400, answer.Status);
                    Assert.Contains("Incorrect key ***", (string?)answer.Error["message"]);      // the rest of its words comes through
                }
            }
        }
    }

    private async Task<Reply> SayAsync(string model, bool stream)
    {
        var answer = await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody(model, stream: stream), ("Authorization", "Bearer " + ClientKey));
        Saw(answer);
        return answer;
    }

    private void Saw(Reply reply) => _seen.Add(($"a client's answer: {reply}", reply.Body + "\n" + string.Join('\n', reply.Headers.Select(h => $"{h.Key}: {h.Value}"))));

    private async Task ReadAsync(HttpClient admin, HttpClient node)
    {
        // The node's events have become incidents: the evidence is what the provider said.
        await Wait.Until(async () => (await shared.Admin.ListAsync("incidents?state=all&instance=renamed")).ToJsonString().Contains("Incorrect key", StringComparison.Ordinal)
            || (await shared.Admin.ListAsync("incidents")).ToJsonString().Contains("Incorrect key", StringComparison.Ordinal), "an incident quotes the provider");

        var document = JsonNode.Parse(await admin.GetStringAsync("/openapi/v1.json"))!["paths"]!.AsObject();
        var revision = await shared.Admin.RevisionAsync();
        var incident = (long)(await shared.Admin.ListAsync("incidents"))[0]!["id"]!;
        var trace = (await shared.Gateway.AskAsync("tiers-model")).Header("x-request-id")!;
        var paths = document.Where(path => path.Value!["get"] is not null && !path.Key.StartsWith("/node/", StringComparison.Ordinal)).Select(path => path.Key switch
        {
            "/api/v1/instances/{name}" => "/api/v1/instances/first",
            "/api/v1/pools/{name}" => "/api/v1/pools/tiers",
            "/api/v1/clients/{name}" => "/api/v1/clients/canary",
            "/api/v1/revisions/{from}/diff/{to}" => $"/api/v1/revisions/{revision - 1}/diff/{revision}",
            "/api/v1/reports/{name}.csv" => "/api/v1/reports/audit.csv",
            var other => other.Replace("/nodes/{name}", "/nodes/" + AdminApi.NodeName).Replace("{number}", $"{revision}").Replace("{id}", $"{incident}").Replace("{request_id}", trace),
        }).Where(path => path != "/api/v1/telemetry/live").Concat(s_pages).ToList();
        Assert.All(paths, path => Assert.DoesNotContain("{", path));
        foreach (var report in await shared.Admin.ListAsync("reports"))
        {
            paths.Add($"/api/v1/reports/{(string)report!["name"]!}.csv");
        }

        foreach (var (caller, path) in paths.Select(p => (admin, p)).Concat(s_nodePaths.Select(p => (node, p))))
        {
            using var answer = await caller.GetAsync(path);
            Assert.True((int)answer.StatusCode < 500 || path.StartsWith("/instances/", StringComparison.Ordinal), $"{path}: {answer.StatusCode}");
            _seen.Add((path, answer.Headers + "\n" + await answer.Content.ReadAsStringAsync()));
        }

        using var refused = await admin.PutAsync("/api/v1/config", new StringContent($"instances: [{{name: x, base_url: \"ftp://x\", api_key: \"{SharedStack.KeyOf("first")} {SharedStack.KeyOf("second")}\"}}]", Encoding.UTF8, "application/yaml"));
        Assert.Equal(422, (int)refused.StatusCode);
        _seen.Add(("a refused configuration", await refused.Content.ReadAsStringAsync()));
    }

    // As they lie on the disk: PostgreSQL's tables, its log and its write-ahead log among them.
    private void AssertFilesAreClean(IReadOnlyList<(string Name, string Value)> secrets)
    {
        var everywhere = new EnumerationOptions { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.ReparsePoint | FileAttributes.Device };
        var (looked, kept) = (0, 0);
        foreach (var file in Directory.EnumerateFiles(shared.Stack.State, "*", everywhere))
        {
            var name = Path.GetRelativePath(shared.Stack.State, file);
            if (name.StartsWith("release/", StringComparison.Ordinal) || name.EndsWith(".sock", StringComparison.Ordinal) || name.Contains(".s.PGSQL", StringComparison.Ordinal))
            {
                continue;
            }

            UnixFileMode mode;
            string text;
            try
            {
                mode = File.GetUnixFileMode(file);
                text = Encoding.Latin1.GetString(File.ReadAllBytes(file));
            }
            catch (IOException)
            {
                continue;       // gone meanwhile
            }

            Assert.True((mode & (UnixFileMode.OtherWrite | UnixFileMode.GroupWrite)) == 0, $"{name} can be written by others: {mode}");
            if (s_keepers.Contains(name))
            {
                Assert.True(mode == (UnixFileMode.UserRead | UnixFileMode.UserWrite), $"{name} holds secrets and is {mode}");
                kept++;
                continue;
            }

            AssertClean(secrets, text, name);
            looked++;
        }

        Assert.Equal(s_keepers.Length, kept);
        Assert.True(looked > 500, $"only {looked} files were looked at");
        Assert.All(Directory.EnumerateDirectories(shared.Stack.State, "*", everywhere), directory => Assert.True((File.GetUnixFileMode(directory) & (UnixFileMode.OtherWrite | UnixFileMode.GroupWrite)) == 0, $"{directory} can be written by others"));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(shared.Stack.State));     // nobody else enters
    }

    private IEnumerable<(string Name, string Value)> Secrets()
    {
        foreach (var instance in shared.Config.Document["instances"]!.AsArray())
        {
            if ((string?)instance!["api_key"] is { } key)
            {
                yield return ($"the key of {instance["name"]}", key);
            }
        }

        yield return ("a client's key", ClientKey);
        yield return ("a webhook's secret", WebhookSecret);
        foreach (var file in new[] { "admin-token", "node-token", "postgres/password", "postgres/reader-password" })
        {
            yield return (file, File.ReadAllText(shared.Stack.PathOf(file)).Trim());
        }

        yield return ("secret.key", Encoding.Latin1.GetString(File.ReadAllBytes(shared.Stack.PathOf("control-plane/secret.key"))));
    }

    private static void AssertClean(IReadOnlyList<(string Name, string Value)> secrets, string text, string where)
    {
        foreach (var (name, value) in secrets)
        {
            Assert.False(text.Contains(value, StringComparison.Ordinal), $"{name} is in {where}");
        }
    }

    private static string Limits(int pid)
    {
        try { return File.ReadAllText($"/proc/{pid}/limits"); }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException) { return "Max core file size 0 0 "; }
    }

    private HttpClient Caller(int port, string tokenFile) => new()
    {
        BaseAddress = new Uri($"http://127.0.0.1:{port}"),
        DefaultRequestHeaders = { Authorization = new AuthenticationHeaderValue("Bearer", File.ReadAllText(shared.Stack.PathOf(tokenFile)).Trim()) },
    };
}
