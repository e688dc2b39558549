using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Evenkeel.Provider;

/// <summary>
/// The simulator's own certificate authority, made at start and gone with the process. Certificates that are expired,
/// selfsigned or for another name are made on demand; keys never touch the disk.
/// </summary>
internal sealed class Certificates : IDisposable
{
    private readonly X509Certificate2 _authority;
    private readonly Dictionary<(TlsMode, string), SslStreamCertificateContext> _made = [];
    private readonly Lock _lock = new();

    public Certificates()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=Evenkeel provider simulator CA", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, true, 0, true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign | X509KeyUsageFlags.CrlSign, true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, false));
        _authority = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-30), DateTimeOffset.UtcNow.AddYears(5));
    }

    public string AuthorityPem => _authority.ExportCertificatePem();

    /// <summary>The certificate that listener shows for this host name in this mode.</summary>
    public SslStreamCertificateContext For(TlsMode mode, string host)
    {
        lock (_lock)
        {
            if (!_made.TryGetValue((mode, host), out var made))
            {
                made = SslStreamCertificateContext.Create(Make(mode, host), mode == TlsMode.Selfsigned ? null : [_authority], offline: true);
                _made[(mode, host)] = made;
            }
            return made;
        }
    }

    public void Dispose() => _authority.Dispose();

    private X509Certificate2 Make(TlsMode mode, string host)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var name = mode == TlsMode.WrongName ? "wrong-name.invalid" : host;
        var request = new CertificateRequest($"CN={name}", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        if (IPAddress.TryParse(name, out var address))
        {
            names.AddIpAddress(address);
        }
        else
        {
            names.AddDnsName(name);
        }
        if (name is "127.0.0.1" or "::1" or "localhost")
        {
            // However a test spells the loopback, the good certificate fits.
            names.AddDnsName("localhost");
            names.AddIpAddress(IPAddress.Loopback);
            names.AddIpAddress(IPAddress.IPv6Loopback);
        }
        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, false));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, true));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid("1.3.6.1.5.5.7.3.1")], false));
        var now = DateTimeOffset.UtcNow;
        var (from, until) = mode == TlsMode.Expired ? (now.AddDays(-20), now.AddDays(-1)) : (now.AddDays(-1), now.AddYears(1));
        if (mode == TlsMode.Selfsigned)
        {
            return request.CreateSelfSigned(from, until);
        }
        request.CertificateExtensions.Add(X509AuthorityKeyIdentifierExtension.CreateFromCertificate(_authority, true, false));
        using var issued = request.Create(_authority, from, until, RandomNumberGenerator.GetBytes(16));
        return issued.CopyWithPrivateKey(key);
    }
}

/// <summary>What one connection meets at the TLS level.</summary>
internal sealed class TlsListener(Certificates certificates, TlsMode mode, string host, string[] sni)
{
    private static readonly TimeSpan HandshakeDeadline = TimeSpan.FromSeconds(30);

    /// <summary>The secured stream, or null when the handshake failed, by script or for real.</summary>
    public async Task<SslStream?> HandshakeAsync(Socket socket, Stream stream)
    {
        if (mode is TlsMode.HandshakeFailure or TlsMode.HandshakeHang or TlsMode.HandshakeReset)
        {
            try
            {
                await FailAsync(socket, stream);
            }
            catch (Exception fault) when (fault is IOException or SocketException or ObjectDisposedException)
            {
                // The client gave up, or the instance was taken down: a failed handshake all the same.
            }
            return null;
        }
        var secured = new SslStream(stream);
        using var deadline = new CancellationTokenSource(HandshakeDeadline);
        try
        {
            await secured.AuthenticateAsServerAsync((_, hello, _, _) => new(Options(hello.ServerName)), null, deadline.Token);
            return secured;
        }
        catch (Exception fault) when (fault is AuthenticationException or IOException or OperationCanceledException)
        {
            await secured.DisposeAsync();
            return null;
        }
    }

    private SslServerAuthenticationOptions Options(string serverName)
    {
        if (sni.Length > 0 && !sni.Contains(serverName, StringComparer.OrdinalIgnoreCase))
        {
            throw new AuthenticationException($"no certificate for the name '{serverName}'");
        }
        return new SslServerAuthenticationOptions
        {
            ServerCertificateContext = certificates.For(mode, sni.Length > 0 ? serverName.ToLowerInvariant() : host),
            AllowRenegotiation = false,
        };
    }

    private async Task FailAsync(Socket socket, Stream stream)
    {
        var hello = new byte[4096];
        if (await stream.ReadAsync(hello) == 0)
        {
            return;
        }
        if (mode == TlsMode.HandshakeHang)
        {
            while (await stream.ReadAsync(hello) > 0)
            {
                // Until the client gives up.
            }
            return;
        }
        if (mode == TlsMode.HandshakeFailure)
        {
            byte[] fatalHandshakeFailure = [0x15, 3, 3, 0, 2, 2, 40];
            await stream.WriteAsync(fatalHandshakeFailure);
            return;
        }
        socket.LingerState = new LingerOption(true, 0);
        socket.Close(0);
    }
}
