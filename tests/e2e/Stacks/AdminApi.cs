using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>What is wrong with a document, and where: <c>pools[0].tiers[1].name</c>.</summary>
internal sealed record Fault(string Path, string Message);

/// <summary>What a node reported of one revision's text.</summary>
internal sealed record NodeReport(long Revision, string Result, string Stage, string Words);

/// <summary>The operator's REST API, in the operator's words. A write that is refused fails the test, with the reason.</summary>
internal sealed class AdminApi : IDisposable
{
    public const string NodeName = "node-1";

    private readonly HttpClient _http;

    public AdminApi(Uri address, string token)
    {
        _http = new HttpClient { BaseAddress = address, Timeout = TimeSpan.FromSeconds(15) };
        _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
    }

    public void Dispose() => _http.Dispose();

    // ---- writes: each gives the revision it minted

    public Task<long> PutConfigAsync(JsonObject document) => WriteAsync(HttpMethod.Put, "config", document);

    public Task<long> ChangeInstanceAsync(string name, object changes) => WriteAsync(HttpMethod.Patch, "instances/" + name, Config.Json(changes));

    public Task<long> ChangePoolAsync(string name, object changes) => WriteAsync(HttpMethod.Patch, "pools/" + name, Config.Json(changes));

    public Task<long> SetWeightAsync(string name, int weight) => ChangeInstanceAsync(name, new { weight });

    public Task<long> AddInstanceAsync(string name, string baseUrl, object? settings = null) =>
        WriteAsync(HttpMethod.Post, "instances", Config.Entry(name, baseUrl, settings));

    public Task<long> RemoveInstanceAsync(string name) => WriteAsync(HttpMethod.Delete, "instances/" + name, null);

    /// <summary>A new client, or a client's new key. The key is told here only.</summary>
    public async Task<string> NewClientKeyAsync(string path, object? body = null)
    {
        using var answer = await _http.PostAsync("/api/v1/" + path, body is null ? null : Body(Config.Json(body)));
        var text = await answer.Content.ReadAsStringAsync();
        Assert.True(answer.IsSuccessStatusCode, $"POST {path}: {(int)answer.StatusCode} {text}");
        return (string)JsonNode.Parse(text)!["key"]!;
    }

    public Task<long> ChangeClientAsync(string name, object changes) => WriteAsync(HttpMethod.Patch, "clients/" + name, Config.Json(changes));

    /// <summary>Which instances the first tier of a pool has from now on.</summary>
    public async Task<long> SetFirstTierAsync(string pool, params string[] instances)
    {
        var tiers = (await GetAsync("pools/" + pool))["tiers"]!.DeepClone().AsArray();
        tiers[0]!["instances"] = new JsonArray([.. instances.Select(name => JsonValue.Create(name))]);
        return await WriteAsync(HttpMethod.Patch, "pools/" + pool, new JsonObject { ["tiers"] = tiers });
    }

    /// <summary>The faults of a document that is not to be stored; none = it could be.</summary>
    public async Task<IReadOnlyList<Fault>> FaultsOfAsync(JsonNode document)
    {
        using var answer = await _http.PostAsync("/api/v1/config/validate", Body(document));
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        return Faults(JsonNode.Parse(await answer.Content.ReadAsStringAsync())!["errors"]);
    }

    /// <summary>A PUT that may be refused: its status, and the faults when it was.</summary>
    public async Task<(HttpStatusCode Status, IReadOnlyList<Fault> Faults)> TryPutConfigAsync(JsonNode document)
    {
        using var answer = await _http.PutAsync("/api/v1/config", Body(document));
        var text = await answer.Content.ReadAsStringAsync();
        return (answer.StatusCode, answer.IsSuccessStatusCode ? [] : Faults(JsonNode.Parse(text)!["errors"]));
    }

    // ---- reads

    public async Task<JsonObject> GetAsync(string path) => (await ReadAsync(path)).AsObject();

    public async Task<JsonArray> ListAsync(string path) => (await ReadAsync(path)).AsArray();

    /// <summary>A call that changes no configuration.</summary>
    public async Task<JsonObject> PostAsync(string path, object body)
    {
        using var answer = await _http.PostAsync("/api/v1/" + path, Body(Config.Json(body)));
        var text = await answer.Content.ReadAsStringAsync();
        Assert.True(answer.IsSuccessStatusCode, $"POST {path}: {(int)answer.StatusCode} {text}");
        return JsonNode.Parse(text)!.AsObject();
    }

    /// <summary>Removes what is no part of the configuration.</summary>
    public async Task DeleteAsync(string path)
    {
        using var answer = await _http.DeleteAsync("/api/v1/" + path);
        Assert.True(answer.IsSuccessStatusCode, $"DELETE {path}: {(int)answer.StatusCode} {await answer.Content.ReadAsStringAsync()}");
    }

    private async Task<JsonNode> ReadAsync(string path) => JsonNode.Parse(await TextAsync(path))!;

    public async Task<string> TextAsync(string path)
    {
        using var answer = await _http.GetAsync("/api/v1/" + path);
        var text = await answer.Content.ReadAsStringAsync();
        Assert.True(answer.IsSuccessStatusCode, $"GET {path}: {(int)answer.StatusCode} {text}");
        return text;
    }

    public Task<JsonObject> StatusAsync() => GetAsync("status");

    public Task<JsonObject> NodeAsync() => GetAsync("nodes/" + NodeName);

    public async Task<long> RevisionAsync() => (long)(await StatusAsync())["revision"]!;

    public async Task<string> DesiredTextAsync()
    {
        using var answer = await _http.GetAsync($"/api/v1/nodes/{NodeName}/nginx.conf");
        answer.EnsureSuccessStatusCode();
        return await answer.Content.ReadAsStringAsync();
    }

    /// <summary>What the node reported, newest first.</summary>
    public async Task<IReadOnlyList<NodeReport>> ReportsAsync()
    {
        using var answer = await _http.GetAsync($"/api/v1/nodes/{NodeName}/reports");
        answer.EnsureSuccessStatusCode();
        return [.. JsonNode.Parse(await answer.Content.ReadAsStringAsync())!.AsArray().Select(report => new NodeReport(
            (long)report!["revision"]!, (string)report["result"]!, (string?)report["stage"] ?? "", (string?)report["words"] ?? ""))];
    }

    /// <summary>Until every worker runs this revision.</summary>
    public Task AcknowledgedAsync(long revision, TimeSpan? deadline = null) => Wait.Until(async () =>
    {
        var status = await StatusAsync();
        return (bool)status["acknowledged"]! && (long)status["revision"]! >= revision;
    }, $"all workers run revision {revision}", deadline, async () => (await StatusAsync()).ToJsonString());

    private async Task<long> WriteAsync(HttpMethod method, string path, JsonNode? body)
    {
        using var request = new HttpRequestMessage(method, "/api/v1/" + path) { Content = body is null ? null : Body(body) };
        using var answer = await _http.SendAsync(request);
        var text = await answer.Content.ReadAsStringAsync();
        Assert.True(answer.IsSuccessStatusCode, $"{method} {path}: {(int)answer.StatusCode} {text}");
        return long.Parse(answer.Headers.ETag!.Tag.Trim('"'));
    }

    private static StringContent Body(JsonNode document) => new(document.ToJsonString(), Encoding.UTF8, "application/json");

    private static IReadOnlyList<Fault> Faults(JsonNode? errors) =>
        [.. (errors?.AsArray() ?? []).Select(fault => new Fault((string)fault!["path"]!, (string)fault["message"]!))];
}
