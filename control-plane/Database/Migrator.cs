using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Dapper;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>
/// Brings the database to the version of this program: every migrations/NNNN_name.sql of the assembly once, in order, each
/// in a transaction. Several control planes may start at once: one migrates, the others wait. A file that was changed
/// after it ran stops the start, because nobody could say what the database holds. Migrations that this program does not know
/// are a newer program's; they are written so that this one can go on.
/// </summary>
public static class Migrator
{
    public const string Schema = "evenkeel";

    private const long LockKey = 0x65766b_0001;

    /// <returns>The names that were applied now.</returns>
    public static async Task<IReadOnlyList<string>> MigrateAsync(NpgsqlDataSource database, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync("select pg_advisory_lock(@LockKey)", new { LockKey }, commandTimeout: 300);
        try
        {
            return await Migrate_NeedsLock(connection, cancel);
        }
        finally
        {
            await connection.ExecuteAsync("select pg_advisory_unlock(@LockKey)", new { LockKey });
        }
    }

    private static async Task<IReadOnlyList<string>> Migrate_NeedsLock(NpgsqlConnection connection, CancellationToken cancel)
    {
        await connection.ExecuteAsync($"""
            create schema if not exists {Schema};
            create table if not exists {Schema}.schema_migration (
                name text primary key, sha256 text not null, applied_at timestamptz not null default now())
            """);
        var known = (await connection.QueryAsync<(string Name, string Sha256)>($"select name, sha256 from {Schema}.schema_migration"))
            .ToDictionary(m => m.Name, m => m.Sha256);
        var applied = new List<string>();
        foreach (var (name, sql) in All())
        {
            var sha256 = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(sql)));
            if (known.TryGetValue(name, out var before))
            {
                if (before != sha256)
                {
                    throw new SetupException($"migration {name} was changed after it had been applied");
                }

                continue;
            }

            await using var transaction = await connection.BeginTransactionAsync(cancel);
            await connection.ExecuteAsync(sql, transaction: transaction, commandTimeout: 600);
            await connection.ExecuteAsync($"insert into {Schema}.schema_migration (name, sha256) values (@name, @sha256)", new { name, sha256 }, transaction);
            await transaction.CommitAsync(cancel);
            applied.Add(name);
        }

        return applied;
    }

    private static IEnumerable<(string Name, string Sql)> All()
    {
        var assembly = Assembly.GetExecutingAssembly();
        foreach (var resource in assembly.GetManifestResourceNames().Where(n => n.StartsWith("migrations/", StringComparison.Ordinal)).Order(StringComparer.Ordinal))
        {
            using var reader = new StreamReader(assembly.GetManifestResourceStream(resource)!);
            yield return (resource["migrations/".Length..], reader.ReadToEnd().ReplaceLineEndings("\n"));
        }
    }
}
