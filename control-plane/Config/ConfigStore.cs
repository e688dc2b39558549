using System.Data;
using System.Text.Json;
using Dapper;
using Evenkeel.Auth;
using Evenkeel.Database;
using Evenkeel.Secrets;
using Npgsql;

namespace Evenkeel.Config;

/// <param name="Revision">0 as long as nothing was ever stored.</param>
/// <param name="Digest">sha256 of the document's canonical form.</param>
/// <param name="Document">Secrets are references.</param>
public sealed record StoredConfig(long Revision, string Digest, ConfigDocument Document);

/// <summary>Who changes the configuration, by what, and why; for the revision and the audit log.</summary>
public sealed record ChangeNote(string Author, string Action, string Message = "")
{
    public Role? Role { get; init; }
    public string? Source { get; init; }
}

/// <summary>What an edit makes of the current document: another document with its faults, or a refusal.</summary>
public sealed record Edit(ReadResult? Result, EditRefusal? Refusal = null, string Words = "")
{
    public static implicit operator Edit(ReadResult result) => new(result);

    public static Edit NotFound(string words) => new(null, EditRefusal.NotFound, words);

    public static Edit Forbidden(string words) => new(null, EditRefusal.Forbidden, words);

    public static Edit Conflict(string words) => new(null, EditRefusal.Conflict, words);
}

public enum EditRefusal { NotFound, Forbidden, Conflict }

public abstract record ChangeResult
{
    /// <summary>In force. Not changed: the same document was there already and no revision was minted.</summary>
    public sealed record Saved(bool Changed, StoredConfig Before, StoredConfig Now) : ChangeResult;

    /// <summary>Somebody else was faster.</summary>
    public sealed record Stale(long Revision) : ChangeResult;

    public sealed record Invalid(IReadOnlyList<ConfigFault> Faults) : ChangeResult;

    public sealed record Refused(EditRefusal Refusal, string Words) : ChangeResult;
}

/// <summary>
/// The configuration in PostgreSQL. Reading sees one state; changing is serialised by an advisory lock, so that an edit
/// always starts from the newest document and revision numbers grow in the order in which they come into force. Every
/// new revision is announced with NOTIFY evenkeel_revision, '&lt;number&gt;'.
/// </summary>
public sealed class ConfigStore(NpgsqlDataSource database, SecretVault vault, DatabaseState databaseState)
{
    private volatile StoredConfig? remembered;

    public const string Channel = "evenkeel_revision";

    private const long LockKey = 0x65766b_0002;

    /// <summary>The configuration in force; while the database is away, the one that was read last.</summary>
    public async Task<StoredConfig> LoadAsync(CancellationToken cancel = default)
    {
        if (databaseState.IsAway) return remembered ?? throw DatabaseState.IsAwayNow();
        try
        {
            return remembered = await databaseState.AskAsync(ReadAsync, cancel);
        }
        catch (NpgsqlException) when (remembered is not null)
        {
            return remembered;
        }
    }

    private async Task<StoredConfig> ReadAsync(CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(IsolationLevel.RepeatableRead, cancel);
        return await Load(connection, transaction, cancel);
    }

    /// <summary>Number of the newest revision; 0: none.</summary>
    public Task<long> RevisionAsync(CancellationToken cancel = default) => databaseState.AskAsync(async asked =>
    {
        await using var connection = await database.OpenConnectionAsync(asked);
        return await connection.ExecuteScalarAsync<long>(new CommandDefinition(
            "select coalesce(max(number), 0) from revision", cancellationToken: asked));
    }, cancel);

    /// <summary>
    /// Edits the current document and, when the outcome is valid and different, replaces the rows that differ and mints
    /// a revision, all or nothing. Secrets that came as literals are stored encrypted and leave the document.
    /// </summary>
    /// <param name="edit">Pure; called once, under the lock.</param>
    /// <param name="note">Who and why.</param>
    /// <param name="expected">Revisions of which one must be the current one; null: any.</param>
    /// <param name="cancel">Up to the commit.</param>
    public Task<ChangeResult> ChangeAsync(
        Func<StoredConfig, Edit> edit, ChangeNote note, IReadOnlyCollection<long>? expected = null, CancellationToken cancel = default) =>
        databaseState.AskAsync(asked => ChangeNowAsync(edit, note, expected, asked), cancel);

    private async Task<ChangeResult> ChangeNowAsync(Func<StoredConfig, Edit> edit, ChangeNote note, IReadOnlyCollection<long>? expected, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await LockAsync(connection, transaction, cancel);

        var before = await Load(connection, transaction, cancel);
        if (expected is not null && !expected.Contains(before.Revision))
        {
            return new ChangeResult.Stale(before.Revision);
        }

        var edited = edit(before);
        if (edited.Refusal is { } refusal)
        {
            return new ChangeResult.Refused(refusal, edited.Words);
        }

        if (!edited.Result!.IsValid)
        {
            return new ChangeResult.Invalid(edited.Result.Faults);
        }

        var (document, secrets) = vault.Seal(edited.Result.Document);
        if (await UnknownSecrets(connection, transaction, document, before.Document, secrets, cancel) is { Count: > 0 } unknown)
        {
            return new ChangeResult.Invalid(unknown);
        }

        var canonical = ConfigWriter.Canonical(document);
        var digest = ConfigWriter.Digest(canonical);
        if (before.Revision > 0 && digest == before.Digest)
        {
            return new ChangeResult.Saved(false, before, before);
        }

        await InsertSecrets(connection, transaction, secrets, cancel);
        await ReplaceRows_NeedsLock(connection, transaction, before.Revision > 0 ? before.Document : null, document, cancel);
        var revision = await Mint_NeedsLock(connection, transaction, before.Revision, canonical, digest, note, cancel);
        await transaction.CommitAsync(cancel);
        var now = new StoredConfig(revision, digest, document);
        remembered = now;
        return new ChangeResult.Saved(true, before, now);
    }

    /// <summary>Until the transaction ends, nobody else changes the configuration or the stored secrets.</summary>
    internal static Task LockAsync(NpgsqlConnection connection, NpgsqlTransaction transaction, CancellationToken cancel) =>
        connection.ExecuteAsync(new CommandDefinition("select pg_advisory_xact_lock(@LockKey)", new { LockKey }, transaction, cancellationToken: cancel));

    /// <summary>A fault for every "secret:ID" that is not in the store.</summary>
    public async Task<IReadOnlyList<ConfigFault>> UnknownSecretsAsync(ConfigDocument document, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await UnknownSecrets(connection, null, document, null, [], cancel);
    }

    private const string LoadSql = NewestSql + """
        ;
        select * from gateway_setting;
        select * from instance order by position;
        select * from pool order by position;
        select * from pool_model order by pool, position;
        select * from tier order by pool, position;
        select * from tier_instance order by pool, tier, position;
        select * from failover_config;
        select * from client order by position;
        select * from alert_rule order by position;
        select * from webhook order by position;
        """;

    private const string NewestSql = "select number, digest from revision order by number desc limit 1";

    // What a revision means never changes, so one that is remembered need not be read again.
    private async Task<StoredConfig> Load(NpgsqlConnection connection, NpgsqlTransaction transaction, CancellationToken cancel)
    {
        if (remembered is { Revision: > 0 } known
            && await connection.QuerySingleOrDefaultAsync<(long, string)>(new CommandDefinition(NewestSql, transaction: transaction, cancellationToken: cancel)) == (known.Revision, known.Digest))
        {
            return known;
        }

        await using var tables = await connection.QueryMultipleAsync(new CommandDefinition(LoadSql, transaction: transaction, cancellationToken: cancel));
        var newest = await tables.ReadSingleOrDefaultAsync<(long Number, string Digest)>();
        if (newest.Number == 0)
        {
            var empty = new ConfigDocument();
            return new StoredConfig(0, ConfigWriter.Digest(empty), empty);
        }

        var gateway = await tables.ReadSingleAsync<GatewayRow>();
        var instances = await tables.ReadAsync<InstanceRow>();
        var pools = await tables.ReadAsync<PoolRow>();
        var models = (await tables.ReadAsync<PoolModelRow>()).ToLookup(m => m.Pool);
        var tiers = (await tables.ReadAsync<TierRow>()).ToLookup(t => t.Pool);
        var held = (await tables.ReadAsync<TierInstanceRow>()).ToLookup(i => (i.Pool, i.Tier));
        var failover = (await tables.ReadAsync<FailoverRow>()).ToDictionary(f => f.Pool ?? "");
        return new StoredConfig(newest.Number, newest.Digest, new ConfigDocument
        {
            Gateway = gateway.ToConfig(),
            Instances = [.. instances.Select(i => i.ToConfig())],
            Pools = [.. pools.Select(p => p.ToConfig(models[p.Name], tiers[p.Name], held, failover.GetValueOrDefault(p.Name)))],
            FailoverConfig = failover[""].ToConfig(),
            Clients = [.. (await tables.ReadAsync<ClientRow>()).Select(c => c.ToConfig())],
            Alerts = [.. (await tables.ReadAsync<AlertRow>()).Select(a => a.ToConfig())],
            Webhooks = [.. (await tables.ReadAsync<WebhookRow>()).Select(w => w.ToConfig())],
        });
    }

    private static async Task<IReadOnlyList<ConfigFault>> UnknownSecrets(
        NpgsqlConnection connection, NpgsqlTransaction? transaction, ConfigDocument document, ConfigDocument? before, IReadOnlyList<SealedSecret> fresh, CancellationToken cancel)
    {
        // What the document in force refers to is there: no such secret is ever removed.
        var kept = before is null ? [] : SecretFields.Of(before).Select(f => f.Text).ToHashSet();
        var ids = SecretFields.Of(document)
            .Where(f => !kept.Contains(f.Text))
            .Select(f => (f.Path, Reference: SecretReference.Parse(f.Text)))
            .Where(f => f.Reference.Kind == SecretKind.Stored)
            .ToList();
        if (ids.Count == 0) return [];
        var known = (await connection.QueryAsync<string>(new CommandDefinition(
            "select id from secret where id = any(@ids)",
            new { ids = ids.Select(f => f.Reference.Value).Distinct().ToArray() }, transaction, cancellationToken: cancel))).ToHashSet();
        known.UnionWith(fresh.Select(s => s.Id));
        return [.. ids.Where(f => !known.Contains(f.Reference.Value)).Select(f => new ConfigFault(f.Path, $"no stored secret \"{f.Reference.Value}\""))];
    }

    private static Task InsertSecrets(NpgsqlConnection connection, NpgsqlTransaction transaction, IReadOnlyList<SealedSecret> secrets, CancellationToken cancel) =>
        connection.ExecuteAsync(new CommandDefinition(
            "insert into secret (id, key_id, nonce, ciphertext) values (@Id, @KeyId, @Nonce, @Ciphertext) on conflict (id) do nothing",
            secrets, transaction, cancellationToken: cancel));

    // Rows that differ are deleted and inserted anew; what hangs on a pool goes and comes with it. References to an
    // instance are checked at the commit, so an instance may be away for a moment.
    private const string DeleteSql = """
        delete from gateway_setting;
        delete from failover_config where pool is null;
        delete from pool where name = any(@pools);
        delete from instance where name = any(@instances);
        delete from client where name = any(@clients);
        delete from alert_rule where name = any(@alerts);
        delete from webhook where name = any(@webhooks);
        """;

    private const string InsertSql = """
        insert into gateway_setting select * from jsonb_populate_recordset(null::gateway_setting, @gateway::jsonb);
        insert into instance select * from jsonb_populate_recordset(null::instance, @instances::jsonb);
        insert into pool select * from jsonb_populate_recordset(null::pool, @pools::jsonb);
        insert into pool_model select * from jsonb_populate_recordset(null::pool_model, @models::jsonb);
        insert into tier select * from jsonb_populate_recordset(null::tier, @tiers::jsonb);
        insert into tier_instance select * from jsonb_populate_recordset(null::tier_instance, @held::jsonb);
        insert into failover_config select * from jsonb_populate_recordset(null::failover_config, @failover::jsonb);
        insert into client select * from jsonb_populate_recordset(null::client, @clients::jsonb);
        insert into alert_rule select * from jsonb_populate_recordset(null::alert_rule, @alerts::jsonb);
        insert into webhook select * from jsonb_populate_recordset(null::webhook, @webhooks::jsonb);
        """;

    private static async Task ReplaceRows_NeedsLock(
        NpgsqlConnection connection, NpgsqlTransaction transaction, ConfigDocument? before, ConfigDocument now, CancellationToken cancel)
    {
        var instances = Difference.Of(before?.Instances, now.Instances, i => i.Name);
        var pools = Difference.Of(before?.Pools, now.Pools, p => p.Name);
        var clients = Difference.Of(before?.Clients, now.Clients, c => c.Name);
        var alerts = Difference.Of(before?.Alerts, now.Alerts, a => a.Name);
        var webhooks = Difference.Of(before?.Webhooks, now.Webhooks, w => w.Name);

        await connection.ExecuteAsync(new CommandDefinition(DeleteSql, new
        {
            pools = pools.Gone,
            instances = instances.Gone,
            clients = clients.Gone,
            alerts = alerts.Gone,
            webhooks = webhooks.Gone,
        }, transaction, cancellationToken: cancel));

        var changedPools = pools.New.Select(p => p.Item).ToList();
        await connection.ExecuteAsync(new CommandDefinition(InsertSql, new
        {
            gateway = Rows([GatewayRow.Of(now.Gateway)]),
            instances = Rows(instances.New.Select(i => InstanceRow.Of(i.Item, i.Position))),
            pools = Rows(pools.New.Select(p => PoolRow.Of(p.Item, p.Position))),
            models = Rows(changedPools.SelectMany(PoolModelRow.Of)),
            tiers = Rows(changedPools.SelectMany(TierRow.Of)),
            held = Rows(changedPools.SelectMany(TierInstanceRow.Of)),
            failover = Rows(changedPools
                .Where(p => p.FailoverConfig is not null)
                .Select(p => FailoverRow.Of(p.FailoverConfig!, p.Name))
                .Append(FailoverRow.Of(now.FailoverConfig, null))),
            clients = Rows(clients.New.Select(c => ClientRow.Of(c.Item, c.Position))),
            alerts = Rows(alerts.New.Select(a => AlertRow.Of(a.Item, a.Position))),
            webhooks = Rows(webhooks.New.Select(w => WebhookRow.Of(w.Item, w.Position))),
        }, transaction, cancellationToken: cancel));
    }

    private static string Rows<T>(IEnumerable<T> rows) => JsonSerializer.Serialize(rows, ConfigJson.Options);

    private const string MintSql = """
        insert into revision (author, message, digest, document)
        values (@Author, @Message, @digest, @document::jsonb) returning number
        """;

    private const string AuditSql = """
        insert into audit_log (who, role, source, action, from_revision, to_revision) values (@Author, @role, @Source, @Action, nullif(@from, 0), @number);
        select pg_notify('evenkeel_revision', @number::text);
        """;

    private static async Task<long> Mint_NeedsLock(
        NpgsqlConnection connection, NpgsqlTransaction transaction, long from, string canonical, string digest, ChangeNote note, CancellationToken cancel)
    {
        var number = await connection.ExecuteScalarAsync<long>(new CommandDefinition(MintSql,
            new { note.Author, note.Message, digest, document = canonical }, transaction, cancellationToken: cancel));
        await connection.ExecuteAsync(new CommandDefinition(AuditSql,
            new { note.Author, role = note.Role is { } role ? ConfigJson.Word(role) : null, note.Source, note.Action, from, number }, transaction, cancellationToken: cancel));
        return number;
    }
}

/// <summary>What to delete and what to insert so that the old list becomes the new one, order included.</summary>
internal static class Difference
{
    public sealed record Changes<T>(string[] Gone, IReadOnlyList<(T Item, int Position)> New);

    public static Changes<T> Of<T>(IReadOnlyList<T>? before, IReadOnlyList<T> now, Func<T, string> name)
    {
        var old = (before ?? []).Select((item, position) => (Item: item, Position: position)).ToDictionary(entry => name(entry.Item));
        var fresh = new List<(T, int)>();
        for (var i = 0; i < now.Count; i++)
        {
            var itsName = name(now[i]);
            if (old.TryGetValue(itsName, out var was) && was.Position == i && (ReferenceEquals(was.Item, now[i]) || Text(was.Item) == Text(now[i])))
            {
                old.Remove(itsName);
            }
            else
            {
                fresh.Add((now[i], i));
            }
        }

        return new Changes<T>([.. old.Keys], fresh);
    }

    private static string Text<T>(T item) => JsonSerializer.Serialize(item, ConfigJson.Options);
}
