using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Evenkeel.Auth;

/// <summary>A certificate with its chain and key in PEM files, read again when they change. Half a renewal keeps the old pair until the next look.</summary>
public sealed class CertificateFiles
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(2);

    private readonly string _certificateFile;
    private readonly string _keyFile;
    private readonly Lock _lock = new();
    private (DateTime Certificate, DateTime Key) _stamp;
    private long _lookedAt;
    private SslStreamCertificateContext _context;

    /// <param name="certificateFile">The certificate, then its chain.</param>
    /// <param name="keyFile">Null: the key is in the certificate's file.</param>
    /// <exception cref="SetupException">They cannot be read, or do not fit.</exception>
    public CertificateFiles(string certificateFile, string? keyFile)
    {
        (_certificateFile, _keyFile) = (certificateFile, keyFile ?? certificateFile);
        _context = OrSetupFault(() =>
        {
            _stamp = Stamp();
            return Read();
        });
        _lookedAt = Environment.TickCount64;
    }

    public SslStreamCertificateContext Current()
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

    /// <summary>What trusts the certificates of one CA's file, for one use, and nobody else's.</summary>
    /// <param name="caFile">PEM, one or more certificates.</param>
    /// <param name="use">The object identifier of the use, as for servers or for clients.</param>
    /// <exception cref="SetupException">The file cannot be read or holds no certificate.</exception>
    public static X509ChainPolicy Trust(string caFile, string use)
    {
        var policy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck, ApplicationPolicy = { new Oid(use) } };
        OrSetupFault(() =>
        {
            policy.CustomTrustStore.ImportFromPemFile(caFile);
            return 0;
        });
        return policy.CustomTrustStore.Count > 0 ? policy : throw new SetupException($"{caFile} holds no certificate");
    }

    public const string ForServers = "1.3.6.1.5.5.7.3.1", ForClients = "1.3.6.1.5.5.7.3.2";

    private static T OrSetupFault<T>(Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception e) when (e is CryptographicException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new SetupException($"the certificate cannot be read: {e.Message}");
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
