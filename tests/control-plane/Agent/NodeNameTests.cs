using System.Net;
using System.Runtime.Versioning;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Logging;
using Xunit;

namespace Evenkeel.Tests.Agent;

/// <summary>The names of providers are resolved by the node, and the address that comes of it is judged, whatever the name said before.</summary>
[SupportedOSPlatform("linux")]
public sealed class NodeNameTests
{
    [Fact]
    public async Task A_name_that_resolves_to_a_metadata_address_is_refused_when_it_is_called_and_any_other_is_served()
    {
        await using var provider = await StartProviderAsync();
        var port = new Uri(provider.Urls.Single()).Port;
        using var names = new NameServer(new Dictionary<string, IPAddress> { ["good.example"] = IPAddress.Loopback, ["bad.example"] = IPAddress.Parse("169.254.169.254") });
        await using var node = new AgentNode { Environment = { ["EVENKEEL_NAMESERVERS"] = $"127.0.0.1:{names.Port}" } };
        Directory.CreateSymbolicLink(node.At("lua/evenkeel"), Repository.PathOf("lua", "evenkeel"));
        await node.Stub.StartAsync();

        var read = ConfigReader.Read($$"""
            instances:
              - {name: good, base_url: "http://good.example:{{port}}/v1"}
              - {name: bad, base_url: "http://bad.example:{{port}}/v1"}
              - {name: nowhere, base_url: "http://nowhere.example:{{port}}/v1"}
            pools: [{models: [m]}]
            """, ConfigFormat.Yaml);
        Assert.True(read.IsValid, string.Join('\n', read.Faults));
        var text = Renderer.FromResource().Render(read.Document, new NodeSettings("local", $"127.0.0.1:{node.AdminPort}", $"127.0.0.1:{node.EdgePort}", "1"));
        node.Want(1, (text.Text, text.Digest));
        node.StartAgent();
        await node.ReportAsync(text.Digest, "applied");

        using var admin = new NodeAdmin((_, _) => ValueTask.FromResult<string?>(ControlPlaneStub.Token), NodeTlsTests.NoTls);
        var address = new NodeAddress("local", $"http://127.0.0.1:{node.AdminPort}");
        Assert.IsType<PushResult.Taken>(await admin.PushAsync(address, SnapshotBuilder.Build(read.Document, 1, FleetState.Unknown, _ => new ResolvedSecret("", null)), default));
        async Task<DoorAnswer> KnockAsync(string instance) => await admin.KnockAsync(address, instance, new ProbeCall("/v1/models", null), AgentNode.Patience, default);
        await node.EventuallyAsync("the snapshot is in force", async () => (await KnockAsync("good")).Status == 200);

        Assert.Contains("link-local or otherwise never a provider", (await KnockAsync("bad")).Body);
        Assert.Contains("the name has no address", (await KnockAsync("nowhere")).Body);
        names.Dispose();
        Assert.Equal(200, (await KnockAsync("good")).Status);          // known is known
    }

    private static async Task<WebApplication> StartProviderAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls($"http://127.0.0.1:{AgentNode.FreePort()}");
        var app = builder.Build();
        app.MapGet("/v1/models", () => """{"object":"list","data":[]}""");
        await app.StartAsync();
        return app;
    }
}
