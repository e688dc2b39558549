using Dapper;
using Npgsql;

namespace Evenkeel.Secrets;

/// <param name="Value">The secret, or null with a reason.</param>
/// <param name="Fault">Why there is no value; never holds a secret.</param>
public readonly record struct ResolvedSecret(string? Value, string? Fault)
{
    /// <summary>Nothing of a secret gets into a log by accident.</summary>
    public override string ToString() => Fault ?? "(resolved)";
}

/// <summary>Reference → secret, only when a snapshot is made: env: and file: are read by the control plane, secret: is decrypted from the store.</summary>
public sealed class SecretResolver(NpgsqlDataSource database, SecretVault vault, SecretFiles files)
{
    public async Task<ResolvedSecret> ResolveAsync(string reference, CancellationToken cancel = default) =>
        (await ResolveAsync([reference], cancel))[reference];

    /// <summary>Every reference with its secret or its fault; one query for all stored ones.</summary>
    public async Task<IReadOnlyDictionary<string, ResolvedSecret>> ResolveAsync(IReadOnlyCollection<string> references, CancellationToken cancel = default)
    {
        var parsed = references.Distinct().ToDictionary(text => text, SecretReference.Parse);
        var stored = await Stored([.. parsed.Values.Where(r => r.Kind == SecretKind.Stored).Select(r => r.Value)], cancel);
        return parsed.ToDictionary(r => r.Key, r => Checked(r.Value switch
        {
            { Kind: SecretKind.Environment } env => FromEnvironment(env.Value),
            { Kind: SecretKind.File } file => files.Read(file.Value),
            { Kind: SecretKind.Stored } id => FromStore(id.Value, stored),
            _ => new(null, "a literal secret was never stored"),
        }, r.Value));
    }

    // The control plane's own settings and passwords are nobody's provider key.
    private static ResolvedSecret FromEnvironment(string name) =>
        name.StartsWith("Evenkeel__", StringComparison.OrdinalIgnoreCase) || name == "PGPASSWORD" ? new(null, $"the environment variable {name} is the control plane's own")
        : Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? new(value, null) : new(null, $"the environment variable {name} is not set");

    private ResolvedSecret FromStore(string id, Dictionary<string, SealedSecret> stored) =>
        !stored.TryGetValue(id, out var secret) ? new(null, $"no stored secret \"{id}\"")
        : vault.Open(secret) is { } value ? new(value, null)
        : new(null, $"the stored secret \"{id}\" was not encrypted with this key");

    private static ResolvedSecret Checked(ResolvedSecret secret, SecretReference reference) =>
        secret.Value is { } value && !SecretReference.IsSecretValue(value)
            ? new(null, $"{reference} does not hold 1 to {SecretReference.MostCharacters} visible ASCII characters")
            : secret;

    private async Task<Dictionary<string, SealedSecret>> Stored(string[] ids, CancellationToken cancel)
    {
        if (ids.Length == 0)
        {
            return [];
        }

        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<SealedSecret>(new CommandDefinition(
            "select id, key_id as KeyId, nonce, ciphertext from secret where id = any(@ids)", new { ids }, cancellationToken: cancel));
        return rows.ToDictionary(s => s.Id);
    }
}
