using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using Evenkeel.Config;
using Evenkeel.Publishing;
using Xunit;

namespace Evenkeel.Tests.Publishing;

public sealed class RendererTests
{
    private static readonly Renderer Renderer = Renderer.FromResource();
    private static readonly NodeSettings Node = new("local", "127.0.0.1:9145");

    public static IEnumerable<object[]> Cases => Golden.Cases("render");

    [Theory]
    [MemberData(nameof(Cases))]
    public void Every_case_gives_its_golden_text_and_nginx_takes_it(string name)
    {
        var rendered = Renderer.Render(CaseFile.Load(Path.Combine(Golden.Folder("render"), name + ".yaml")), Node);
        Golden.Check(Path.Combine(Golden.Folder("render"), name + ".nginx.conf"), rendered.Text);
        NginxTest.Accepts(rendered.Text);
    }

    [Fact]
    public void The_digest_is_that_of_the_text_with_its_own_digest_left_empty()
    {
        var rendered = Renderer.Render(Example(), Node);
        Assert.Contains(rendered.Digest, rendered.Text);
        Assert.Equal(rendered.Digest, Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(rendered.Text.Replace(rendered.Digest, "")))));
    }

    public static TheoryData<string, Func<ConfigDocument, ConfigDocument>> PushedChanges => new()
    {
        { "weight", document => Change(document, instance => instance with { Weight = 1 }) },
        { "limit", document => Change(document, instance => instance with { MaxConnections = 1 }) },
        { "key", document => Change(document, instance => instance with { ApiKey = "env:ANOTHER" }) },
        { "price", document => Change(document, instance => instance with { Price = new PriceConfig(9, 9) }) },
        { "drain", document => Change(document, instance => instance with { Drain = true }) },
        { "enabled", document => Change(document, instance => instance with { Enabled = false }) },
        { "base_url", document => Change(document, instance => instance with { BaseUrl = "http://127.0.0.1:1/x" }) },
        { "model", document => Change(document, instance => instance with { Model = "another" }) },
        { "timeouts", document => Change(document, instance => instance with { Timeouts = new TimeoutsConfig { Total = TimeSpan.FromHours(1) } }) },
        { "verification and server name", document => Change(document, instance => instance with { Tls = instance.Tls with { Verify = false, ServerName = "x.example" } }) },
        { "order of instances", document => document with { Instances = [.. document.Instances.Reverse()] } },
        { "pools", document => document with { Pools = [] } },
        { "tiers", document => document with { Pools = [.. document.Pools.Select(pool => pool with { Tiers = [] })] } },
        { "failover", document => document with { FailoverConfig = new FailoverConfig { Fallback = new FallbackConfig { DegradedModel = "x" } } } },
        { "clients", document => document with { Clients = [] } },
    };

    [Theory]
    [MemberData(nameof(PushedChanges))]
    public void What_is_pushed_leaves_the_text_byte_identical(string what, Func<ConfigDocument, ConfigDocument> change)
    {
        var before = Example();
        var after = change(before);
        Assert.NotEqual(before, after);
        Assert.True(Renderer.Render(before, Node).Text == Renderer.Render(after, Node).Text, what);
    }

    public static TheoryData<string, Func<ConfigDocument, ConfigDocument>> RenderedChanges => new()
    {
        { "an added instance", document => document with { Instances = [.. document.Instances, new InstanceConfig { Name = "new", BaseUrl = "http://x" }] } },
        { "a CA file", document => Change(document, instance => instance with { Tls = instance.Tls with { CaFile = "/etc/ca.pem" } }) },
        { "listen", document => document with { Gateway = document.Gateway with { Listen = "127.0.0.1:1" } } },
        { "workers", document => document with { Gateway = document.Gateway with { Workers = 7 } } },
        { "TLS", document => document with { Gateway = document.Gateway with { Tls = new EdgeTlsConfig("/tmp/pem", "/tmp/key") } } },
    };

    [Theory]
    [MemberData(nameof(RenderedChanges))]
    public void What_needs_a_reload_changes_the_digest(string what, Func<ConfigDocument, ConfigDocument> change) =>
        Assert.True(Renderer.Render(Example(), Node).Digest != Renderer.Render(change(Example()), Node).Digest, what);

    [Fact]
    public void A_nodes_own_listeners_and_workers_come_before_the_documents()
    {
        var text = Renderer.Render(Example(), Node with { EdgeListen = "127.0.0.1:7001", AdminListen = "127.0.0.1:7002", Workers = "5" }).Text;
        Assert.Contains("listen 127.0.0.1:7001 ", text);
        Assert.Contains("listen 127.0.0.1:7002;", text);
        Assert.Contains("worker_processes 5;", text);
    }

    public static TheoryData<string> HostileValues =>
    [
        "a\"; } server { listen 1.2.3.4:5; } #",
        "$host",
        "a;b",
        "a}b",
        "a{b",
        "a\nb",
        "a\r\nb",
        "a\0b",
        "a b",
        "a'b",
        "a\\",
        "{{textDigest}}",
        "{{{x",
        "}}",
        "ключ",
        "a\u2028b",
        new string('a', 10_000),
        "",
    ];

    // In every field that can reach the text, behind the validator's back: refused, so neither in the text nor breaking it.
    [Theory]
    [MemberData(nameof(HostileValues))]
    public void A_hostile_value_never_enters_the_text(string hostile)
    {
        var document = Example();
        Refused(Change(document, instance => instance with { Name = hostile }), Node);
        Refused(document with { Gateway = document.Gateway with { Listen = hostile } }, Node);
        Refused(document with { Gateway = document.Gateway with { Listen = "127.0.0.1:8080" + (hostile.Length == 0 ? ";" : hostile) } }, Node);
        Refused(document, Node with { Name = hostile });
        Refused(document, Node with { EdgeListen = hostile });
        Refused(document, Node with { AdminListen = hostile });
        Refused(document, Node with { Workers = hostile });
    }

    [Theory]
    [MemberData(nameof(HostileValues))]
    public void A_hostile_ca_file_is_refused_or_stays_one_quoted_token(string hostile)
    {
        var document = Change(Example(), instance => instance with { Tls = instance.Tls with { CaFile = "/tmp/" + hostile } });
        string text;
        try { text = Renderer.Render(document, Node).Text; }
        catch (FormatException) { return; }
        var plain = Renderer.Render(Change(Example(), instance => instance with { Tls = instance.Tls with { CaFile = "/tmp/plain" } }), Node);
        Assert.Equal(plain.Text.Count(c => c == '\n'), text.Count(c => c == '\n'));
        Assert.Matches("lua_ssl_trusted_certificate (\"/tmp/[^\"]*\"|/tmp/[^ ;]*);\n", text);
    }

    [Fact]
    public void Nginx_reads_a_ca_file_whose_name_needs_quotes()
    {
        using var key = ECDsa.Create();
        using var certificate = new CertificateRequest("CN=test", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow, DateTimeOffset.UtcNow.AddDays(1));
        var folder = Directory.CreateTempSubdirectory("evenkeel ca, (key) ~&|<>!?=");
        try
        {
            var file = Path.Combine(folder.FullName, "a b.pem");
            File.WriteAllText(file, certificate.ExportCertificatePem());
            NginxTest.Accepts(Renderer.Render(Change(Example(), instance => instance with { Tls = instance.Tls with { CaFile = file } }), Node).Text);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [InlineData("1.2", "ssl_protocols TLSv1.2 TLSv1.3;")]
    [InlineData("1.3", "ssl_protocols TLSv1.3;")]
    public void The_edge_speaks_TLS_and_HTTP_2_with_the_files_it_is_given(string version, string protocols)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = new CertificateRequest("CN=edge", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow, DateTimeOffset.UtcNow.AddDays(1));
        var folder = Directory.CreateTempSubdirectory("evenkeel edge ");
        try
        {
            var (pem, keyPem) = (Path.Combine(folder.FullName, "edge.pem"), Path.Combine(folder.FullName, "edge.key"));
            File.WriteAllText(pem, certificate.ExportCertificatePem());
            File.WriteAllText(keyPem, key.ExportPkcs8PrivateKeyPem());
            var document = Example() with { Gateway = new GatewayConfig { Tls = new EdgeTlsConfig(pem, keyPem, version) } };
            var text = Renderer.Render(document, Node).Text;
            Assert.Contains("listen 127.0.0.1:8080 ssl http2 backlog", text);
            Assert.Contains(protocols, text);
            NginxTest.Accepts(text);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(HostileValues))]
    public void A_hostile_certificate_file_is_refused_or_stays_one_quoted_token(string hostile)
    {
        foreach (var tls in new[] { new EdgeTlsConfig("/tmp/" + hostile, "/tmp/key"), new EdgeTlsConfig("/tmp/pem", "/tmp/" + hostile) })
        {
            string text;
            try { text = Renderer.Render(Example() with { Gateway = new GatewayConfig { Tls = tls } }, Node).Text; }
            catch (FormatException) { continue; }
            Assert.Matches("ssl_certificate (\"/tmp/[^\"]*\"|/tmp/[^ ;]*); ", text);
            Assert.Matches("ssl_certificate_key (\"/tmp/[^\"]*\"|/tmp/[^ ;]*);\n", text);
        }
    }

    // Fields that are pushed and never rendered: whatever they hold, the text is the same.
    [Theory]
    [MemberData(nameof(HostileValues))]
    public void A_hostile_value_in_a_pushed_field_leaves_the_text_as_it_is(string hostile)
    {
        var document = Example();
        var changed = Change(document, instance => instance with { BaseUrl = hostile, ApiKey = hostile, Model = hostile, Provider = hostile, Capabilities = [hostile], Tls = instance.Tls with { ServerName = hostile } }) with
        {
            Pools = [new PoolConfig { Name = hostile, Models = [hostile], Tiers = [new TierConfig(hostile, [hostile], hostile)], FailoverConfig = new FailoverConfig { Fallback = new FallbackConfig { DefaultResponse = hostile, DegradedModel = hostile } } }],
            Clients = [new ClientConfig { Name = hostile, Key = hostile, Models = [hostile] }],
        };
        Assert.Equal(Renderer.Render(document, Node), Renderer.Render(changed, Node));
    }

    private static void Refused(ConfigDocument document, NodeSettings node) => Assert.Throws<FormatException>(() => Renderer.Render(document, node));

    private static ConfigDocument Example() => CaseFile.Load(Path.Combine(Golden.Folder("snapshot"), "example.yaml"));

    private static ConfigDocument Change(ConfigDocument document, Func<InstanceConfig, InstanceConfig> change) =>
        document with { Instances = [change(document.Instances[0]), .. document.Instances.Skip(1)] };
}
