using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Xunit;

namespace Evenkeel.Tests.Nodes;

/// <summary>What these tests say to the control plane, by intent.</summary>
internal static class NodeCalls
{
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    public static string Config(int weight = 50, string more = "") => $$"""
        instances:
          - {name: a, base_url: "http://127.0.0.1:9001", weight: {{weight}}}
        {{more}}
        pools:
          - {name: chat, models: [chat], tiers: [{name: primary, instances: [a]}]}
        """;

    public static async Task<long> ApplyAsync(this HttpClient admin, string yaml)
    {
        var answer = await admin.PutAsync("/api/v1/config", Body.Yaml(yaml));
        var body = await answer.Content.ReadFromJsonAsync<JsonElement>();
        Assert.True(answer.StatusCode == HttpStatusCode.OK, body.ToString());
        return body.GetProperty("revision").GetInt64();
    }

    /// <summary>Asks for a node's text as its agent does.</summary>
    public static Task<HttpResponseMessage> PollAsync(this HttpClient node, string name, string adminUrl = "http://127.0.0.1:1", string have = "", double waitS = 0, string more = "") =>
        node.GetAsync(FormattableString.Invariant($"/node/v1/{name}/nginx.conf?have={have}&wait_s={waitS}&admin_listen=127.0.0.1:9145&admin_url={Uri.EscapeDataString(adminUrl)}{more}"));

    public static string TextDigest(this HttpResponseMessage answer) => answer.Headers.GetValues("X-Evenkeel-Text-Digest").Single();

    public static async Task<JsonElement> StatusAsync(this HttpClient admin) => await admin.GetFromJsonAsync<JsonElement>("/api/v1/status");

    /// <summary>The text of a node, as soon as the first configuration has got there.</summary>
    public static async Task<HttpResponseMessage> TextAsync(this HttpClient node, string name, string adminUrl = "http://127.0.0.1:1", string more = "")
    {
        HttpResponseMessage? answer = null;
        await EventuallyAsync("a text", async () => (answer = await node.PollAsync(name, adminUrl, waitS: 5, more: more)).StatusCode == HttpStatusCode.OK);
        return answer!;
    }

    public static async Task<TimeSpan> EventuallyAsync(string what, Func<Task<bool>> condition)
    {
        for (var watch = Stopwatch.StartNew(); ; await Task.Delay(20))
        {
            if (await condition()) return watch.Elapsed;
            Assert.True(watch.Elapsed < Patience, $"not within {Patience.TotalSeconds} s: {what}");
        }
    }

    public static Task<TimeSpan> EventuallyAsync(string what, Func<bool> condition) => EventuallyAsync(what, () => Task.FromResult(condition()));
}
