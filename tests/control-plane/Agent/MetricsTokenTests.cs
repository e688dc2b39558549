using System.Net;
using System.Net.Http.Headers;
using System.Runtime.Versioning;
using Evenkeel.Publishing;
using Evenkeel.Tests.Publishing;
using Xunit;

namespace Evenkeel.Tests.Agent;

[SupportedOSPlatform("linux")]
public sealed class MetricsTokenTests
{
    private const string ForMetrics = "token-for-metrics-alone";

    [Fact]
    public async Task The_token_for_metrics_opens_these_and_nothing_else_of_the_admin_listener()
    {
        await using var node = new AgentNode();
        File.WriteAllText(node.At("for-prometheus"), ForMetrics + "\n");
        node.Environment["EVENKEEL_METRICS_TOKEN_FILE"] = node.At("for-prometheus");
        Directory.CreateSymbolicLink(node.At("lua/evenkeel"), Repository.PathOf("lua", "evenkeel"));
        await node.Stub.StartAsync();
        var settings = new NodeSettings("local", $"127.0.0.1:{node.AdminPort}", $"127.0.0.1:{node.EdgePort}", "1");
        var text = Renderer.FromResource().Render(CaseFile.Load(Path.Combine(Golden.Folder("render"), "minimal.yaml")), settings);
        node.Want(1, (text.Text, text.Digest));
        node.StartAgent();
        await node.ReportAsync(text.Digest, "applied");

        Assert.Equal(HttpStatusCode.OK, await GetAsync(ForMetrics, "/metrics"));
        foreach (var path in new[] { "/stats", "/status", "/metrics/", "/instances/a/v1/models" }) Assert.Equal(HttpStatusCode.Unauthorized, await GetAsync(ForMetrics, path));
        Assert.Equal(HttpStatusCode.Unauthorized, await GetAsync("another-token-for-metrics", "/metrics"));
        Assert.Equal(HttpStatusCode.OK, await GetAsync(ControlPlaneStub.Token, "/metrics"));

        async Task<HttpStatusCode> GetAsync(string token, string path)
        {
            using var http = new HttpClient { DefaultRequestHeaders = { Authorization = new AuthenticationHeaderValue("Bearer", token) } };
            return (await http.GetAsync($"http://127.0.0.1:{node.AdminPort}{path}")).StatusCode;
        }
    }
}
