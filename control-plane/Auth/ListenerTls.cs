using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;

namespace Evenkeel.Auth;

/// <summary>
/// TLS of the control plane's own listener: a certificate from files, read again when they change, TLS 1.2 and 1.3; and, with a CA for
/// clients, nobody is let in without a certificate of that CA, besides his token.
/// </summary>
public sealed class ListenerTls
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(2);

    private readonly string _certificateFile;
    private readonly string _keyFile;
    private readonly X509Certificate2Collection? _clientRoots;
    private readonly Lock _lock = new();
    private (DateTime Certificate, DateTime Key) _stamp;
    private long _lookedAt;
    private SslStreamCertificateContext _context;

    private ListenerTls(string certificateFile, string keyFile, string? clientCaFile)
    {
        (_certificateFile, _keyFile) = (certificateFile, keyFile);
        _stamp = Stamp();
        _context = Read();
        _lookedAt = Environment.TickCount64;
        if (clientCaFile is not null)
        {
            _clientRoots = [];
            _clientRoots.ImportFromPemFile(clientCaFile);
            if (_clientRoots.Count == 0)
            {
                throw new SetupException($"{clientCaFile} holds no certificate");
            }
        }
    }

    /// <summary>As the options say; without a certificate nothing is done, and an address for https is refused.</summary>
    /// <exception cref="SetupException">The files do not fit, or the address would show tokens to the world.</exception>
    public static void Configure(KestrelServerOptions kestrel, EvenkeelOptions options)
    {
        var isHttps = options.Listen.StartsWith("https:", StringComparison.OrdinalIgnoreCase);
        if (isHttps != options.TlsCertificateFile is not null)
        {
            throw new SetupException(isHttps ? "an https address needs Evenkeel:TlsCertificateFile and Evenkeel:TlsKeyFile" : "Evenkeel:TlsCertificateFile needs an https address in Evenkeel:Listen");
        }

        if (!isHttps)
        {
            if (options.ClientCaFile is not null)
            {
                throw new SetupException("Evenkeel:ClientCaFile needs an https address in Evenkeel:Listen");
            }

            return;
        }

        ListenerTls tls;
        try
        {
            tls = new ListenerTls(options.TlsCertificateFile!, options.TlsKeyFile ?? options.TlsCertificateFile!, options.ClientCaFile);
        }
        catch (Exception e) when (e is CryptographicException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new SetupException($"the certificate cannot be read: {e.Message}");
        }

        kestrel.ConfigureHttpsDefaults(tls.Configure);
    }

    private void Configure(HttpsConnectionAdapterOptions https)
    {
        https.ServerCertificate = _context.TargetCertificate;
        https.SslProtocols = SslProtocols.Tls12 | SslProtocols.Tls13;
        https.OnAuthenticate = (_, ssl) => ssl.ServerCertificateContext = Current();
        if (_clientRoots is not null)
        {
            https.ClientCertificateMode = ClientCertificateMode.RequireCertificate;
            https.ClientCertificateValidation = (certificate, _, _) => IsOfOurCa(certificate);
        }
    }

    private bool IsOfOurCa(X509Certificate2 certificate)
    {
        using var chain = new X509Chain();
        chain.ChainPolicy.TrustMode = X509ChainTrustMode.CustomRootTrust;
        chain.ChainPolicy.CustomTrustStore.AddRange(_clientRoots!);
        chain.ChainPolicy.RevocationMode = X509RevocationMode.NoCheck;
        chain.ChainPolicy.ApplicationPolicy.Add(new Oid("1.3.6.1.5.5.7.3.2"));      // client authentication
        return chain.Build(certificate);
    }

    // A half-written pair keeps the old one until the next look.
    private SslStreamCertificateContext Current()
    {
        lock (_lock)
        {
            if (Environment.TickCount64 - _lookedAt >= LookEvery.TotalMilliseconds)
            {
                _lookedAt = Environment.TickCount64;
                try
                {
                    if (Stamp() is var stamp && stamp != _stamp)
                    {
                        (_context, _stamp) = (Read(), stamp);
                    }
                }
                catch (Exception e) when (e is CryptographicException or IOException or UnauthorizedAccessException)
                {
                }
            }

            return _context;
        }
    }

    private (DateTime, DateTime) Stamp() => (File.GetLastWriteTimeUtc(_certificateFile), File.GetLastWriteTimeUtc(_keyFile));

    private SslStreamCertificateContext Read()
    {
        var chain = new X509Certificate2Collection();
        chain.ImportFromPemFile(_certificateFile);
        return SslStreamCertificateContext.Create(X509Certificate2.CreateFromPemFile(_certificateFile, _keyFile), chain, offline: true);
    }
}
