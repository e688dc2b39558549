using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Evenkeel.Tests.Agent;

/// <summary>A certificate authority for one test. What it issues is for 127.0.0.1, and goes to NAME.pem and NAME.key.</summary>
internal sealed class TestAuthority : IDisposable
{
    private readonly X509Certificate2 _authority;
    private readonly Func<string, string> _at;

    /// <param name="name">Its own certificate is NAME.pem.</param>
    /// <param name="at">Where a file lies.</param>
    /// <param name="above">Who vouches for it, and has it in its file then; null: it is its own.</param>
    public TestAuthority(string name, Func<string, string> at, TestAuthority? above = null)
    {
        _at = at;
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=" + name, key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign, true));
        var (from, until) = (DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(2));
        if (above is null)
        {
            _authority = request.CreateSelfSigned(from, until);
        }
        else
        {
            using var signed = request.Create(above._authority, from, above._authority.NotAfter, RandomNumberGenerator.GetBytes(16));
            _authority = signed.CopyWithPrivateKey(key);
        }

        File = above?.File ?? at(name + ".pem");     // one file for all of them
        System.IO.File.AppendAllText(File, _authority.ExportCertificatePem() + "\n");
    }

    public string File { get; }

    /// <param name="name">Of the files.</param>
    /// <param name="use">For servers or for clients.</param>
    /// <param name="subject">What the certificate says; NAME unless given.</param>
    public (string Certificate, string Key) Issue(string name, string use, string? subject = null)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=" + (subject ?? name), key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddIpAddress(IPAddress.Loopback);
        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, false));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid(use)], false));
        using var issued = request.Create(_authority, DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1), RandomNumberGenerator.GetBytes(16));
        System.IO.File.WriteAllText(_at(name + ".pem"), issued.ExportCertificatePem());
        System.IO.File.WriteAllText(_at(name + ".key"), key.ExportPkcs8PrivateKeyPem());
        return (_at(name + ".pem"), _at(name + ".key"));
    }

    public void Dispose() => _authority.Dispose();
}
