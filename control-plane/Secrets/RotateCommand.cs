using Dapper;
using Evenkeel.Config;
using Evenkeel.Database;

namespace Evenkeel.Secrets;

/// <summary>
/// `rotate-secret-key [--prepare]`: a new key for the stored secrets, while control planes run. The next key is made beside the one in
/// force, every secret is sealed anew in one transaction, then the next key takes force and the old one is kept as ".previous". Interrupted
/// anywhere, all keys that are needed are there, and the command can be started again. A running control plane that meets the new key
/// reads the files again. With control planes on several machines: `--prepare` here, copy the ".next" file beside the key on every
/// machine, then run the command on each.
/// </summary>
public static class RotateCommand
{
    // What is sealed: secrets of the configuration, and the tokens of enrolled nodes (by their name: NodeTokens.SealOf).
    private static readonly (string RowsSql, string UpdateSql)[] s_sealed =
    [
        ("select id, key_id, nonce, ciphertext from secret where key_id <> @keyId for update",
            "update secret set key_id = @KeyId, nonce = @Nonce, ciphertext = @Ciphertext where id = @Id"),
        ("select 'node:' || node as id, key_id, nonce, ciphertext from node_token where key_id <> @keyId for update",
            "update node_token set key_id = @KeyId, nonce = @Nonce, ciphertext = @Ciphertext where 'node:' || node = @Id"),
    ];

    /// <returns>0: done. 1: nothing was changed, for the reason that was written. 2: wrong usage.</returns>
    public static async Task<int> RunAsync(IReadOnlyList<string> arguments, EvenkeelOptions options, TextWriter output, TextWriter errors, CancellationToken cancel = default)
    {
        if (arguments is not ([] or ["--prepare"]))
        {
            await errors.WriteLineAsync("usage: rotate-secret-key [--prepare]");
            return 2;
        }

        var path = options.SecretKeyFile;
        SecretKeyFile.ReadOrCreate(path);
        SecretKeyFile.ReadOrCreate(SecretKeyFile.NextOf(path));
        if (arguments.Count == 1)
        {
            await output.WriteLineAsync($"{SecretKeyFile.NextOf(path)} is ready: copy it beside the key of every other control plane, then run rotate-secret-key on each.");
            return 0;
        }

        await using var database = DatabaseSetup.Open(options);
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await ConfigStore.LockAsync(connection, transaction, cancel);

        var keys = SecretKeyFile.ReadAll(path);
        var vault = new SecretVault(() => [keys[1], .. keys]);
        var count = 0;
        foreach (var (rowsSql, updateSql) in s_sealed)
        {
            var rows = (await connection.QueryAsync<SealedSecret>(new CommandDefinition(rowsSql, new { keyId = vault.KeyId }, transaction, cancellationToken: cancel))).ToList();
            var resealed = rows.Select(vault.Reseal).OfType<SealedSecret>().ToList();
            if (resealed.Count < rows.Count)
            {
                await errors.WriteLineAsync($"evenkeel: {rows.Count - resealed.Count} of {rows.Count} stored secrets cannot be read with the keys at {path}*; nothing was changed");
                return 1;
            }

            await connection.ExecuteAsync(new CommandDefinition(updateSql, resealed, transaction, cancellationToken: cancel));
            count += rows.Count;
        }

        await transaction.CommitAsync(cancel);
        SecretKeyFile.Promote(path);
        await output.WriteLineAsync($"{count} stored secrets have the new key. The old one is {SecretKeyFile.PreviousOf(path)}: backups of the database made before now need it.");
        return 0;
    }
}
