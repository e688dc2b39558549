namespace Evenkeel;

/// <summary>Where the control plane listens and finds things: configuration section "Evenkeel", by arguments or environment.</summary>
public sealed record EvenkeelOptions
{
    public const string Section = "Evenkeel";

    /// <summary>Address of the REST API and the dashboard.</summary>
    public string Listen { get; init; } = "http://127.0.0.1:8081";

    /// <summary>Npgsql connection string without the password.</summary>
    public required string Database { get; init; }
    public string? DatabasePasswordFile { get; init; }

    /// <summary>Holds the operator's bearer token for /api/v1.</summary>
    public required string AdminTokenFile { get; init; }

    /// <summary>Holds the bearer token that control plane and nodes without a token of their own show each other; null: every node has to enrol.</summary>
    public string? NodeTokenFile { get; init; }

    /// <summary>32 random bytes that encrypt stored secrets; made when missing.</summary>
    public required string SecretKeyFile { get; init; }

    /// <summary>Where the files of "file:" references have to lie; null: anywhere but the control plane's own.</summary>
    public string? SecretDirectory { get; init; }

    /// <summary>PEM: the certificate of an https address, with its chain.</summary>
    public string? TlsCertificateFile { get; init; }

    /// <summary>PEM: its key; null: it is in the certificate's file.</summary>
    public string? TlsKeyFile { get; init; }

    /// <summary>PEM: whose certificates callers have to show, besides their token; null: none.</summary>
    public string? ClientCaFile { get; init; }

    /// <summary>PEM: whose certificates the nodes' admin listeners have to show when they speak TLS; null: those the system trusts.</summary>
    public string? NodeCaFile { get; init; }

    /// <summary>PEM: the certificate, with its chain, that is shown to the nodes' admin listeners; null: none.</summary>
    public string? NodeCertificateFile { get; init; }

    /// <summary>PEM: its key; null: it is in the certificate's file.</summary>
    public string? NodeKeyFile { get; init; }

    /// <summary>How long a start waits for the database before it gives up.</summary>
    public int DatabaseWaitSeconds { get; init; } = 60;

    /// <exception cref="SetupException">Something that is needed is not set.</exception>
    public static EvenkeelOptions From(IConfiguration configuration)
    {
        var section = configuration.GetSection(Section);
        string Needed(string key) => section[key] is { Length: > 0 } value ? value : throw new SetupException($"{Section}:{key} is not set");
        return new EvenkeelOptions
        {
            Listen = section[nameof(Listen)] ?? "http://127.0.0.1:8081",
            Database = Needed(nameof(Database)),
            DatabasePasswordFile = section[nameof(DatabasePasswordFile)],
            AdminTokenFile = Needed(nameof(AdminTokenFile)),
            NodeTokenFile = section[nameof(NodeTokenFile)],
            SecretKeyFile = Needed(nameof(SecretKeyFile)),
            SecretDirectory = section[nameof(SecretDirectory)],
            TlsCertificateFile = section[nameof(TlsCertificateFile)],
            TlsKeyFile = section[nameof(TlsKeyFile)],
            ClientCaFile = section[nameof(ClientCaFile)],
            NodeCaFile = section[nameof(NodeCaFile)],
            NodeCertificateFile = section[nameof(NodeCertificateFile)],
            NodeKeyFile = section[nameof(NodeKeyFile)],
            DatabaseWaitSeconds = section.GetValue(nameof(DatabaseWaitSeconds), 60),
        };
    }

    /// <summary>The one line of a token or password file.</summary>
    public static string ReadSecretFile(string path)
    {
        try
        {
            return File.ReadAllText(path).Trim() is { Length: > 0 } text ? text : throw new SetupException($"{path} is empty");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new SetupException($"{path} cannot be read");
        }
    }
}

/// <summary>The control plane cannot start as it is set up; the message is for the person who started it.</summary>
public sealed class SetupException(string message) : Exception(message);
