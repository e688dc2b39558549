using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;

namespace Evenkeel.Auth;

/// <summary>
/// TLS of the control plane's own listener: a certificate from files, read again when they change, TLS 1.2 and 1.3; and, with a CA for
/// clients, nobody is let in without a certificate of that CA, besides his token.
/// </summary>
public static class ListenerTls
{
    /// <summary>As the options say; without a certificate nothing is done, and an address for https is refused.</summary>
    /// <exception cref="SetupException">The files do not fit each other or the address.</exception>
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

        var files = new CertificateFiles(options.TlsCertificateFile!, options.TlsKeyFile);
        var trust = options.ClientCaFile is { } caFile ? CertificateFiles.Trust(caFile, CertificateFiles.ForClients) : null;
        kestrel.ConfigureHttpsDefaults(https =>
        {
            https.ServerCertificate = files.Current().TargetCertificate;
            https.SslProtocols = SslProtocols.Tls12 | SslProtocols.Tls13;
            https.OnAuthenticate = (_, ssl) => ssl.ServerCertificateContext = files.Current();
            if (trust is not null)
            {
                https.ClientCertificateMode = ClientCertificateMode.RequireCertificate;
                https.ClientCertificateValidation = (certificate, _, _) => IsTrusted(certificate, trust);
            }
        });
    }

    private static bool IsTrusted(X509Certificate2 certificate, X509ChainPolicy trust)
    {
        using var chain = new X509Chain { ChainPolicy = trust.Clone() };
        return chain.Build(certificate);
    }
}
