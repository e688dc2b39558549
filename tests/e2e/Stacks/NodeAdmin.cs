using System.Net.Http.Headers;
using System.Text.Json.Nodes;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>An nginx worker, as it says itself.</summary>
internal sealed record WorkerStatus(int Pid, long Revision, string TextDigest);

/// <summary>The node's own admin listener: what nginx itself says it runs.</summary>
internal sealed class NodeAdmin : IDisposable
{
    private readonly HttpClient _http;

    public NodeAdmin(Uri address, string token)
    {
        _http = new HttpClient { BaseAddress = address, Timeout = TimeSpan.FromSeconds(5) };
        _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
    }

    public Uri Address => _http.BaseAddress!;

    public void Dispose() => _http.Dispose();

    public Task<string> GetAsync(string path) => _http.GetStringAsync(path);

    public async Task<JsonObject> StatsAsync() => JsonNode.Parse(await _http.GetStringAsync("/stats"))!.AsObject();

    /// <summary>Attempts that run at this instance now, as the gateway counts them.</summary>
    public async Task<int> InFlightAsync(string instance) => (int)(await StatsAsync())["instances"]![instance]!["in_flight"]!;

    public async Task<IReadOnlyList<WorkerStatus>> WorkersAsync() =>
        [.. JsonNode.Parse(await _http.GetStringAsync("/status"))!["workers"]!.AsArray()
            .Select(worker => new WorkerStatus((int)worker!["pid"]!, (long)worker["revision"]!, (string)worker["text_digest"]!))];

    /// <summary>Closes the instance's breaker and ends its cooldown, as an operator would after a repair.</summary>
    public async Task ForgiveAsync(string instance) => (await _http.PostAsync($"/instances/{instance}/_reset", null)).EnsureSuccessStatusCode();
}
