using System.Text.RegularExpressions;

namespace Evenkeel.Secrets;

public enum SecretKind { Environment, File, Stored, Literal }

/// <summary>
/// How a configuration names a secret: "env:NAME", "file:PATH", "secret:ID" (in the store) or, only on the way in, the
/// secret itself. <see cref="ToString"/> never shows a literal.
/// </summary>
public readonly partial record struct SecretReference(SecretKind Kind, string Value)
{
    public const int MostCharacters = 4096;

    private const string Redacted = "(redacted)";

    public static SecretReference Parse(string text) =>
        text.StartsWith("env:", StringComparison.Ordinal) ? new(SecretKind.Environment, text[4..])
        : text.StartsWith("file:", StringComparison.Ordinal) ? new(SecretKind.File, text[5..])
        : text.StartsWith("secret:", StringComparison.Ordinal) ? new(SecretKind.Stored, text[7..])
        : new(SecretKind.Literal, text);

    /// <returns>Null, or why this cannot be a secret; never holds the secret.</returns>
    public string? Fault() => Kind switch
    {
        SecretKind.Environment => EnvironmentName().IsMatch(Value) ? null : "env: needs the name of an environment variable",
        SecretKind.File => Value.Length is > 1 and <= 512 && Value[0] == '/' && !Value.AsSpan().ContainsAnyExceptInRange(' ', '~')
            ? null : "file: needs an absolute path of printable characters, 512 at most",
        SecretKind.Stored => StoredId().IsMatch(Value) ? null : "secret: needs the id that the store gave",
        _ when Value == Redacted => "is what stands in place of a secret, not the secret",
        _ => IsSecretValue(Value) ? null : $"a secret is 1 to {MostCharacters} visible ASCII characters",
    };

    /// <summary>Fit for an HTTP header: visible ASCII without spaces, bounded.</summary>
    public static bool IsSecretValue(string value) =>
        value.Length is > 0 and <= MostCharacters && !value.AsSpan().ContainsAnyExceptInRange('!', '~');

    public override string ToString() => Kind switch
    {
        SecretKind.Environment => "env:" + Value,
        SecretKind.File => "file:" + Value,
        SecretKind.Stored => "secret:" + Value,
        _ => Redacted,
    };

    [GeneratedRegex("^[A-Za-z_][A-Za-z0-9_]{0,127}\\z")]
    private static partial Regex EnvironmentName();

    [GeneratedRegex("^[0-9a-f]{20}\\z")]
    private static partial Regex StoredId();
}
