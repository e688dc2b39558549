using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class TlsFaultTests
{
    private static Task<ProviderSimulator> StartAsync(TlsMode mode, params string[] sni) => ProviderSimulator.StartAsync(new ProviderOptions
    {
        Instances = [new InstanceOptions("T") { Settings = new InstanceSettings { Tls = mode, Sni = sni } }],
    });

    /// <summary>What a client that trusts the simulator's authority objects to.</summary>
    private static async Task<(SslPolicyErrors Errors, X509ChainStatusFlags Chain)> CheckAsync(ProviderSimulator simulator, string name)
    {
        var seen = (SslPolicyErrors.None, X509ChainStatusFlags.NoError);
        using var authority = X509Certificate2.CreateFromPem(simulator.AuthorityPem);
        using var client = await ConnectAsync(simulator["T"]);
        await client.SecureAsync(name, (_, certificate, _, errors) =>
        {
            using var chain = new X509Chain();
            chain.ChainPolicy.TrustMode = X509ChainTrustMode.CustomRootTrust;
            chain.ChainPolicy.CustomTrustStore.Add(authority);
            chain.ChainPolicy.RevocationMode = X509RevocationMode.NoCheck;
            chain.Build((X509Certificate2)certificate!);
            seen = (errors & ~SslPolicyErrors.RemoteCertificateChainErrors, chain.ChainStatus.Aggregate(X509ChainStatusFlags.NoError, (all, one) => all | one.Status));
            return true;
        });
        await client.SendAsync();
        Assert.Equal(200, (await client.ReadAllAsync()).Status);
        return seen;
    }

    [Theory]
    [InlineData(TlsMode.Good, SslPolicyErrors.None, X509ChainStatusFlags.NoError)]
    [InlineData(TlsMode.Expired, SslPolicyErrors.None, X509ChainStatusFlags.NotTimeValid)]
    [InlineData(TlsMode.WrongName, SslPolicyErrors.RemoteCertificateNameMismatch, X509ChainStatusFlags.NoError)]
    [InlineData(TlsMode.Selfsigned, SslPolicyErrors.None, X509ChainStatusFlags.UntrustedRoot)]
    public async Task A_certificate_is_wrong_in_exactly_the_scripted_way(TlsMode mode, SslPolicyErrors errors, X509ChainStatusFlags chain)
    {
        await using var simulator = await StartAsync(mode);
        Assert.Equal((errors, chain), await CheckAsync(simulator, "localhost"));
    }

    [Fact]
    public async Task The_handshake_itself_may_fail_or_hang()
    {
        await using var simulator = await StartAsync(TlsMode.HandshakeFailure);
        using (var client = await ConnectAsync(simulator["T"]))
        {
            await Assert.ThrowsAsync<AuthenticationException>(() => client.SecureAsync("localhost"));
        }
        simulator["T"].Update(settings => settings with { Tls = TlsMode.HandshakeReset });
        using (var client = await ConnectAsync(simulator["T"]))
        {
            await Assert.ThrowsAsync<IOException>(() => client.SecureAsync("localhost"));
        }
        simulator["T"].Update(settings => settings with { Tls = TlsMode.HandshakeHang });
        using (var client = await ConnectAsync(simulator["T"]))
        {
            var handshake = client.SecureAsync("localhost", (_, _, _, _) => true);
            await Task.Delay(100);
            Assert.False(handshake.IsCompleted);
            simulator["T"].Down();
            await Assert.ThrowsAnyAsync<Exception>(() => handshake);
        }
        var deadline = DateTime.UtcNow.AddSeconds(20);
        while (simulator["T"].Counters.TlsFailures < 3 && DateTime.UtcNow < deadline)
        {
            await Task.Delay(10);
        }
        Assert.Equal(3, simulator["T"].Counters.TlsFailures);
    }

    [Fact]
    public async Task One_address_serves_several_names_each_with_its_own_certificate()
    {
        await using var simulator = await StartAsync(TlsMode.Good, "one.test", "two.test");
        foreach (var name in new[] { "one.test", "two.test" })
        {
            Assert.Equal((SslPolicyErrors.None, X509ChainStatusFlags.NoError), await CheckAsync(simulator, name));
        }
        Assert.Equal(["one.test", "two.test"], simulator.Ledger.Entries().Select(e => e.Sni));
        Assert.Equal(2, simulator.Ledger.Entries().Select(e => e.ConnectionId).Distinct().Count());
        using var stranger = await ConnectAsync(simulator["T"]);
        await Assert.ThrowsAnyAsync<Exception>(() => stranger.SecureAsync("three.test", (_, _, _, _) => true));
    }

    [Fact]
    public async Task The_authority_is_written_where_clients_can_take_it()
    {
        var file = Path.Combine(Directory.CreateTempSubdirectory("provider").FullName, "ca.pem");
        await using var simulator = await ProviderSimulator.StartAsync(new ProviderOptions { CaFile = file });
        using var authority = X509CertificateLoader.LoadCertificateFromFile(file);
        Assert.Equal(simulator.AuthorityPem.Trim(), authority.ExportCertificatePem().Trim());
        Directory.Delete(Path.GetDirectoryName(file)!, recursive: true);
    }

    [Fact]
    public async Task Faults_work_under_tls_too()
    {
        await using var simulator = await StartAsync(TlsMode.Good);
        async Task<RawAnswer> AskAsync(string fault)
        {
            using var client = await ConnectAsync(simulator["T"]);
            await client.SecureAsync("localhost", (_, _, _, _) => true);
            await client.SendAsync(Bodies.Stream, $"x-sim-fault: {fault}\r\n");
            return await client.ReadAllAsync();
        }
        var cut = await AskAsync("cut_after=4");
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 4), cut.StreamedText());
        Assert.False(cut.IsComplete);
        Assert.Equal(End.Reset, (await AskAsync("reset_before_headers")).End);
        Assert.Equal(Bodies.Text, (await AskAsync("split_bytes=50;gap_ms=0")).StreamedText());
    }

    [Fact]
    public async Task A_tls_listener_answers_plain_http_with_nothing_of_use()
    {
        await using var simulator = await StartAsync(TlsMode.Good);
        using var client = await ConnectAsync(simulator["T"]);
        await client.Stream.WriteAsync(Encoding.ASCII.GetBytes("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        Assert.DoesNotContain("HTTP/1.1", (await client.ReadAllAsync()).Head);
    }
}
