using System.Net;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using Xunit;

namespace Evenkeel.Tests;

/// <summary>Requests as a test reads best: send, expect a status, get the JSON.</summary>
internal static class Http
{
    public static async Task<JsonNode> SendAsync(
        this HttpClient client, HttpMethod method, string path, HttpContent? content = null, HttpStatusCode expect = HttpStatusCode.OK, string? ifMatch = null)
    {
        using var request = new HttpRequestMessage(method, path) { Content = content };
        if (ifMatch is not null)
        {
            request.Headers.TryAddWithoutValidation("If-Match", ifMatch);
        }

        using var response = await client.SendAsync(request);
        var text = await response.Content.ReadAsStringAsync();
        Assert.True(expect == response.StatusCode, $"{method} {path}: expected {(int)expect}, got {(int)response.StatusCode}: {text}");
        if ((int)response.StatusCode >= 400)
        {
            Assert.Equal("application/problem+json", response.Content.Headers.ContentType?.MediaType);
        }

        return text.Length > 0 && text[0] is '{' or '[' ? JsonNode.Parse(text)! : new JsonObject { ["text"] = text };
    }

    public static Task<JsonNode> GetAsync(this HttpClient client, string path, HttpStatusCode expect) => client.SendAsync(HttpMethod.Get, path, expect: expect);

    public static async Task<JsonNode> GetJsonAsync(this HttpClient client, string path) => (await client.GetFromJsonAsync<JsonNode>(path))!;

    /// <summary>Puts a whole configuration and gives its revision.</summary>
    public static async Task<long> PutConfigAsync(this HttpClient client, string yaml) =>
        (long)(await client.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml(yaml)))["revision"]!;

    public static async Task<long> ETagAsync(this HttpClient client, string path)
    {
        using var response = await client.GetAsync(path);
        return long.Parse(response.Headers.ETag!.Tag.Trim('"'));
    }

    /// <summary>"path: message" of every fault of a refused configuration.</summary>
    public static string[] Errors(this JsonNode problem) =>
        [.. problem["errors"]!.AsArray().Select(e => $"{e!["path"]}: {e["message"]}")];
}
