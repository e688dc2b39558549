using System.Net.Security;
using System.Net.Sockets;
using System.Runtime.Versioning;
using System.Security.Authentication;
using Evenkeel.Auth;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Tests.Publishing;
using Xunit;

namespace Evenkeel.Tests.Agent;

/// <summary>
/// Node and control plane on machines with no private network between them: TLS both ways, and both ways a certificate besides the token.
/// The agent, nginx with the rendered text and our Lua, the control plane's listener and its calls to nodes are the real ones.
/// </summary>
[SupportedOSPlatform("linux")]
public sealed class NodeTlsTests : IAsyncLifetime
{
    internal static readonly EvenkeelOptions NoTls = new() { Database = "", AdminTokenFile = "", SecretKeyFile = "" };

    private readonly AgentNode node = new();
    private readonly TestAuthority ours;
    private readonly TestAuthority below;
    private readonly TestAuthority farBelow;
    private readonly TestAuthority strangers;
    private readonly EvenkeelOptions options;

    public NodeTlsTests()
    {
        (ours, strangers) = (new TestAuthority("ours", node.At), new TestAuthority("strangers", node.At));
        below = new TestAuthority("below", node.At, ours);
        farBelow = new TestAuthority("far-below", node.At, below);
        var plane = ours.Issue("plane", CertificateFiles.ForServers);
        var caller = ours.Issue("plane-as-caller", CertificateFiles.ForClients);
        options = NoTls with
        {
            Listen = node.Stub.Url.Replace("http:", "https:"),
            TlsCertificateFile = plane.Certificate,
            TlsKeyFile = plane.Key,
            ClientCaFile = ours.File,
            NodeCaFile = ours.File,
            NodeCertificateFile = caller.Certificate,
            NodeKeyFile = caller.Key,
        };
        node.Stub.Tls = options;

        var agent = ours.Issue("agent", CertificateFiles.ForClients);
        var admin = ours.Issue("admin", CertificateFiles.ForServers, "old");
        node.Environment["EVENKEEL_CONTROL_CA_FILE"] = ours.File;
        node.Environment["EVENKEEL_CONTROL_CERT_FILE"] = agent.Certificate;
        node.Environment["EVENKEEL_CONTROL_KEY_FILE"] = agent.Key;
        node.Environment["EVENKEEL_ADMIN_CERT_FILE"] = admin.Certificate;
        node.Environment["EVENKEEL_ADMIN_KEY_FILE"] = admin.Key;
        node.Environment["EVENKEEL_ADMIN_CLIENT_CA_FILE"] = ours.File;
        Directory.CreateSymbolicLink(node.At("lua/evenkeel"), Repository.PathOf("lua", "evenkeel"));
    }

    [Fact]
    public async Task Node_and_control_plane_take_each_others_certificates_and_nobody_elses()
    {
        await node.Stub.StartAsync();
        var settings = new NodeSettings("local", $"127.0.0.1:{node.AdminPort}", $"127.0.0.1:{node.EdgePort}", "2", AdminTls: true);
        var text = Renderer.FromResource().Render(CaseFile.Load(Path.Combine(Golden.Folder("render"), "minimal.yaml")), settings);
        node.Want(1, (text.Text, text.Digest));
        node.StartAgent();
        await node.ReportAsync(text.Digest, "applied");             // fetched over TLS, proved at the agent's own socket
        Assert.Contains(node.Stub.Polls, poll => poll.Contains($"admin_url={Uri.EscapeDataString(AdminUrl)}", StringComparison.OrdinalIgnoreCase));

        // To the node.
        Assert.Equal(2, (await StatusAsync(options)).Status?.Workers.Count);
        Assert.Equal("GET /status answers 400", (await StatusAsync(options with { NodeCertificateFile = null, NodeKeyFile = null })).Fault);
        var strange = strangers.Issue("stranger", CertificateFiles.ForClients);
        Assert.Equal("GET /status answers 400", (await StatusAsync(options with { NodeCertificateFile = strange.Certificate, NodeKeyFile = strange.Key })).Fault);
        var far = farBelow.Issue("far", CertificateFiles.ForClients);       // a company's CA: others stand between it and the certificate
        Assert.Equal(2, (await StatusAsync(options with { NodeCertificateFile = far.Certificate, NodeKeyFile = far.Key })).Status?.Workers.Count);
        var server = ours.Issue("only-for-servers", CertificateFiles.ForServers);
        Assert.Equal("GET /status answers 400", (await StatusAsync(options with { NodeCertificateFile = server.Certificate, NodeKeyFile = server.Key })).Fault);
        Assert.StartsWith("its admin listener does not answer", (await StatusAsync(options with { NodeCaFile = strangers.File })).Fault);
        Assert.StartsWith("its admin listener does not answer", (await StatusAsync(options with { NodeCaFile = null })).Fault);
        Assert.Equal("GET /status answers 400", (await StatusAsync(options, AdminUrl.Replace("https:", "http:"))).Fault);

        // To the control plane.
        Assert.Equal(401, await CallPlaneAsync(options.NodeCertificateFile, options.NodeKeyFile));          // a certificate is no token
        Assert.Null(await CallPlaneAsync(null, null));
        Assert.Null(await CallPlaneAsync(strange.Certificate, strange.Key));
        Assert.Null(await CallPlaneAsync(server.Certificate, server.Key));

        // Both are renewed while they run.
        ours.Issue("admin", CertificateFiles.ForServers, "new");
        await node.EventuallyAsync("the node shows its new certificate", async () => await ShownAsync(node.AdminPort) == "CN=new");
        ours.Issue("plane", CertificateFiles.ForServers, "new-plane");
        await node.EventuallyAsync("the control plane shows its new certificate", async () => await ShownAsync(new Uri(options.Listen).Port) == "CN=new-plane");
        await node.EventuallyAsync("two workers are active, the old ones no more", async () => (await StatusAsync(options)).Status?.ActiveWorkers.Count() == 2);
        Assert.Single(node.Stub.Reports);
    }

    [Fact]
    public async Task A_node_whose_certificate_was_taken_away_serves_what_is_on_disk_without_a_control_plane()
    {
        await node.Stub.StartAsync();
        var document = CaseFile.Load(Path.Combine(Golden.Folder("render"), "minimal.yaml"));
        var text = Renderer.FromResource().Render(document, new NodeSettings("local", $"127.0.0.1:{node.AdminPort}", $"127.0.0.1:{node.EdgePort}", "2", AdminTls: true));
        node.Want(1, (text.Text, text.Digest));
        node.StartAgent();
        await node.ReportAsync(text.Digest, "applied");
        await node.EndAgentAsync();
        await node.Stub.DisposeAsync();

        foreach (var name in new[] { "EVENKEEL_ADMIN_CERT_FILE", "EVENKEEL_ADMIN_KEY_FILE", "EVENKEEL_ADMIN_CLIENT_CA_FILE" }) node.Environment[name] = "";
        File.Delete(node.At("admin.pem"));
        File.Delete(node.At("admin.key"));
        node.StartAgent();
        await node.EventuallyAsync("nginx runs", () => Task.FromResult(node.Log.Split("nginx runs").Length == 3));
        using var http = new HttpClient();
        await node.EventuallyAsync("the edge answers", async () =>
        {
            try { return (await http.GetAsync($"http://127.0.0.1:{node.EdgePort}/healthz")).Headers.Contains("x-request-id"); }
            catch (HttpRequestException) { return false; }
        });
        await Assert.ThrowsAsync<HttpRequestException>(() => http.GetAsync($"http://127.0.0.1:{node.AdminPort}/status"));        // not open to others without TLS

        // With the control plane comes a text without TLS.
        await node.Stub.StartAsync();
        var plain = Renderer.FromResource().Render(document, new NodeSettings("local", $"127.0.0.1:{node.AdminPort}", $"127.0.0.1:{node.EdgePort}", "2"));
        node.Want(2, (plain.Text, plain.Digest));
        await node.ReportAsync(plain.Digest, "applied");
    }

    [Theory]
    [InlineData("EVENKEEL_ADMIN_URL", "http://127.0.0.1:1", "needs an https EVENKEEL_ADMIN_URL")]
    [InlineData("EVENKEEL_ADMIN_CERT_FILE", "", "need EVENKEEL_ADMIN_CERT_FILE")]
    [InlineData("EVENKEEL_ADMIN_CERT_FILE", "/tmp/a\"; include /etc/passwd; #", "is no absolute path")]
    [InlineData("EVENKEEL_ADMIN_KEY_FILE", "relative.key", "is no absolute path")]
    public async Task Half_a_setting_or_a_hostile_one_is_refused_by_the_agent(string name, string value, string words)
    {
        node.Environment[name] = value;
        node.StartAgent();
        await node.EventuallyAsync("the agent says so", () => Task.FromResult(node.Log.Contains(words)));
        Assert.False(File.Exists(node.At("platform-admin.conf")));
    }

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        await node.DisposeAsync();
        ours.Dispose();
        below.Dispose();
        farBelow.Dispose();
        strangers.Dispose();
    }

    private string AdminUrl => $"https://127.0.0.1:{node.AdminPort}";

    private async Task<(NodeStatus? Status, string? Fault)> StatusAsync(EvenkeelOptions with, string? adminUrl = null)
    {
        using var caller = new NodeAdmin((_, _) => ValueTask.FromResult<string?>(ControlPlaneStub.Token), with);
        return await caller.StatusAsync(new NodeAddress("local", adminUrl ?? AdminUrl), CancellationToken.None);
    }

    // The status; null: there was no talking to it.
    private async Task<int?> CallPlaneAsync(string? certificate, string? key)
    {
        var tls = new SslClientAuthenticationOptions { CertificateChainPolicy = CertificateFiles.Trust(ours.File, CertificateFiles.ForServers) };
        if (certificate is not null) tls.LocalCertificateSelectionCallback = (_, _, _, _, _) => new CertificateFiles(certificate, key).Current().TargetCertificate;
        using var http = new HttpClient(new SocketsHttpHandler { SslOptions = tls }) { Timeout = AgentNode.Patience };
        try { return (int)(await http.GetAsync(options.Listen + "/node/v1/local/nginx.conf")).StatusCode; }
        catch (HttpRequestException) { return null; }
    }

    private static async Task<string?> ShownAsync(int port)
    {
        using var socket = new TcpClient();
        await socket.ConnectAsync(System.Net.IPAddress.Loopback, port);
        string? shown = null;
        await using var tls = new SslStream(socket.GetStream(), false, (_, certificate, _, _) => (shown = certificate?.Subject) is not null);
        try { await tls.AuthenticateAsClientAsync("127.0.0.1"); }
        catch (Exception refused) when (refused is AuthenticationException or IOException) { }
        return shown;
    }
}
