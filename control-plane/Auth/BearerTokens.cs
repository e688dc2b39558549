using System.Security.Cryptography;
using System.Text;

namespace Evenkeel.Auth;

public enum Audience { Admin, Node }

/// <summary>Says whose token an endpoint takes; an endpoint that says nothing takes the admins'.</summary>
public sealed record TokenAudience(Audience Audience);

/// <summary>
/// The two tokens that come by file: the operator's first one, which works without the database, and the one that control plane and all
/// nodes that have not enrolled show each other, where there is one.
/// </summary>
public sealed class BearerTokens(string adminToken, string? nodeToken)
{
    /// <summary>Below this, a token can be guessed.</summary>
    private const int LeastCharacters = 16;

    /// <summary>SHA-256 of the operator's token.</summary>
    public byte[] AdminHash { get; } = Hash(adminToken);

    /// <summary>The nodes' common token; null: every node has to enrol.</summary>
    public string? NodeToken { get; } = nodeToken;

    /// <summary>SHA-256 of it.</summary>
    public byte[]? NodeHash { get; } = nodeToken is null ? null : Hash(nodeToken);

    /// <exception cref="SetupException">A file cannot be read, or what it holds is no token.</exception>
    public static BearerTokens From(EvenkeelOptions options) => new(Read(options.AdminTokenFile), options.NodeTokenFile is { Length: > 0 } file ? Read(file) : null);

    private static string Read(string path) => EvenkeelOptions.ReadSecretFile(path) is { Length: >= LeastCharacters } token
        ? token
        : throw new SetupException($"{path} holds no token: {LeastCharacters} characters are the least");

    public bool IsOneOfThese(byte[] hash) => hash.AsSpan().SequenceEqual(AdminHash) || (NodeHash is not null && hash.AsSpan().SequenceEqual(NodeHash));

    /// <summary>Of what stands behind "Bearer"; null when nothing fit does.</summary>
    public static byte[]? HashOf(string? authorization)
    {
        const string Scheme = "Bearer ";
        return authorization is { Length: <= 4096 } && authorization.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            ? Hash(authorization[Scheme.Length..].Trim())
            : null;
    }

    public static byte[] Hash(string token) => SHA256.HashData(Encoding.UTF8.GetBytes(token));
}
