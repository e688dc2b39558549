using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Dapper;
using Evenkeel.Auth;
using Evenkeel.Database;
using Evenkeel.Secrets;
using Npgsql;

namespace Evenkeel.Nodes;

/// <summary>What became of an attempt to enrol.</summary>
public enum Enrolment
{
    Done,
    /// <summary>No such one-time token, or it has expired, or another node has used it.</summary>
    Unknown,
    /// <summary>It was made for another node.</summary>
    ForAnother,
    /// <summary>There is a node of this name, and the one-time token was not made for it.</summary>
    Taken,
    /// <summary>What should be the node's token is somebody else's.</summary>
    Unfit,
}

/// <summary>
/// Who a node is. One that has enrolled has a token of its own: it opens this node's paths and no others, and is what the control plane shows
/// at this node's admin listener. Every other node shows the token that all share, where there is one.
/// </summary>
public sealed partial class NodeTokens : IDisposable
{
    public const int MostWaiting = 1_000;
    public const int MostNodes = 10_000;

    private const string EnrolmentPrefix = "eke_";

    private sealed record Row(string Node, byte[]? TokenHash, string? KeyId, byte[]? Nonce, byte[]? Ciphertext, DateTime? EnrolledAt);

    // Without a hash: it was removed.
    private sealed record Known(byte[]? Hash, string? Token, DateTime? EnrolledAt);

    private readonly NpgsqlDataSource _database;
    private readonly BearerTokens _files;
    private readonly SecretVault _vault;
    private readonly KeptCopy<Dictionary<string, Known>> _kept;
    private Dictionary<string, Known> _opened = [];     // what was opened once is not opened again

    public NodeTokens(NpgsqlDataSource database, DatabaseState databaseState, BearerTokens files, SecretVault vault, TimeProvider time, ILogger<NodeTokens> log)
    {
        (_database, _files, _vault) = (database, files, vault);
        _kept = new(database, databaseState, LoadAsync, time, reason => NodeTokenLog.NotRead(log, reason));
    }

    /// <summary>Whether this is the token of that node.</summary>
    /// <exception cref="NpgsqlException">The database is away, and the tokens were never read.</exception>
    public async ValueTask<bool> AcceptsAsync(string node, string? authorization, CancellationToken cancel)
    {
        if (BearerTokens.HashOf(authorization) is not { } hash)
        {
            return false;
        }

        return (await _kept.CurrentAsync(cancel)).GetValueOrDefault(node)?.Hash is { } own
            ? CryptographicOperations.FixedTimeEquals(hash, own)
            : _files.NodeHash is { } shared && CryptographicOperations.FixedTimeEquals(hash, shared);
    }

    /// <summary>
    /// What to show at this node's admin listener; null: nothing, as it is not known, or the node was removed: what all share is not for it.
    /// </summary>
    public async ValueTask<string?> ForAsync(string node, CancellationToken cancel)
    {
        try
        {
            return (await _kept.CurrentAsync(cancel)).TryGetValue(node, out var own) ? own.Token : _files.NodeToken;
        }
        catch (NpgsqlException)
        {
            return null;
        }
    }

    /// <summary>Renews what is known, for as long as it may be the last that is.</summary>
    public async Task RememberAsync(CancellationToken cancel) => await _kept.CurrentAsync(cancel);

    /// <summary>Since when a node has its own token; null: it shows the one that all share.</summary>
    public async ValueTask<DateTime?> EnrolledAtAsync(string node, CancellationToken cancel) =>
        (await _kept.CurrentAsync(cancel)).GetValueOrDefault(node)?.EnrolledAt;

    private const string AllowSql = """
        delete from node_enrolment where expires_at <= now();
        insert into node_enrolment (token_hash, node, created_by, expires_at)
        select @hash, @node, @by, now() + @lasts where (select count(*) from node_enrolment) < @MostWaiting
        returning expires_at
        """;

    /// <param name="node">Whom the token is for, also in place of the token it has; null: any that is new.</param>
    /// <param name="lasts">How long it can be used.</param>
    /// <param name="by">Who makes it.</param>
    /// <param name="cancel">Up to the answer.</param>
    /// <returns>The one-time token, which nothing keeps; null: too many wait to be used.</returns>
    public async Task<(string Token, DateTime ExpiresAt)?> AllowAsync(string? node, TimeSpan lasts, string by, CancellationToken cancel)
    {
        var token = EnrolmentPrefix + AdminTokens.Random();
        await using var connection = await _database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<DateTime?>(new CommandDefinition(AllowSql,
            new { hash = BearerTokens.Hash(token), node, by, lasts, MostWaiting }, cancellationToken: cancel)) is { } expiresAt ? (token, expiresAt) : null;
    }

    private sealed record Waiting(string? Node, string CreatedBy, DateTime? UsedAt);

    private const string WaitingSql = "select node, created_by, used_at from node_enrolment where token_hash = @enrolment and expires_at > now() for update";
    private const string KnownSql = "select token_hash from node_token where node = @node for update";
    private const string IsNewSql = "select not exists (select from node where name = @node and live) and (select count(*) from node_token) < @MostNodes";
    private const string KeepSql = """
        insert into node_token (node, token_hash, key_id, nonce, ciphertext, enrolled_by) values (@node, @hash, @KeyId, @Nonce, @Ciphertext, @by)
        on conflict (node) do update set token_hash = excluded.token_hash, key_id = excluded.key_id, nonce = excluded.nonce,
            ciphertext = excluded.ciphertext, enrolled_at = now(), enrolled_by = excluded.enrolled_by
        """;

    /// <summary>Gives a node its own token, by a one-time token. The same call once more, after a lost answer, does nothing and is well.</summary>
    /// <param name="enrolment">SHA-256 of the one-time token.</param>
    /// <param name="node">The node's name.</param>
    /// <param name="token">What it will show, and be shown.</param>
    /// <param name="cancel">Up to the answer.</param>
    public async Task<Enrolment> EnrolAsync(byte[] enrolment, string node, string token, CancellationToken cancel)
    {
        var hash = BearerTokens.Hash(token);
        if (_files.IsOneOfThese(hash))
        {
            return Enrolment.Unfit;
        }

        await using var connection = await _database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        CommandDefinition Command(string sql, object parameters) => new(sql, parameters, transaction, cancellationToken: cancel);

        if (await connection.QuerySingleOrDefaultAsync<Waiting>(Command(WaitingSql, new { enrolment })) is not { } waiting)
        {
            return Enrolment.Unknown;
        }

        if (waiting.Node is not null && waiting.Node != node)
        {
            return Enrolment.ForAnother;
        }

        var known = await connection.QuerySingleOrDefaultAsync<byte[]>(Command(KnownSql, new { node }));
        if (known is null || !CryptographicOperations.FixedTimeEquals(known, hash))
        {
            if (waiting.UsedAt is not null)
            {
                return Enrolment.Unknown;
            }

            if (waiting.Node is null && (known is not null || !await connection.ExecuteScalarAsync<bool>(Command(IsNewSql, new { node, MostNodes }))))
            {
                return Enrolment.Taken;
            }

            var secret = _vault.Seal(SealOf(node), token);
            try
            {
                await connection.ExecuteAsync(Command(KeepSql, new { node, hash, secret.KeyId, secret.Nonce, secret.Ciphertext, by = waiting.CreatedBy }));
            }
            catch (PostgresException taken) when (taken.SqlState == PostgresErrorCodes.UniqueViolation)
            {
                return Enrolment.Unfit;
            }
        }

        await connection.ExecuteAsync(Command("update node_enrolment set used_at = coalesce(used_at, now()) where token_hash = @enrolment", new { enrolment }));
        await transaction.CommitAsync(cancel);
        _kept.Forget();
        return Enrolment.Done;
    }

    private const string RemoveSql = """
        with token as (delete from node_token where node = @node returning node),
            enrolment as (delete from node_enrolment where node = @node),
            gone as (update node set removed_at = now(), live = false where name = @node and removed_at is null and (not live or exists (select from token)) returning name)
        select exists (select from token) or exists (select from gone) as gone, exists (select from node where name = @node and removed_at is null) as known
        """;

    /// <summary>Ends a node's token, and forgets the node.</summary>
    /// <returns>False: it is live with the token that all share, which cannot be taken from one of them. Null: there is no such node.</returns>
    public async Task<bool?> RemoveAsync(string node, CancellationToken cancel)
    {
        await using var connection = await _database.OpenConnectionAsync(cancel);
        var (gone, known) = await connection.QuerySingleAsync<(bool, bool)>(new CommandDefinition(RemoveSql, new { node }, cancellationToken: cancel));
        _kept.Forget();
        return gone ? true : known ? false : null;
    }

    /// <summary>43 characters or more, as 256 random bits have.</summary>
    public static bool IsFit(string token) => Token().IsMatch(token);

    /// <summary>What a node's token is sealed under.</summary>
    internal static string SealOf(string node) => "node:" + node;

    public void Dispose() => _kept.Dispose();

    // In one statement: a node whose token has gone is never one that shows the shared one.
    private const string LoadSql = """
        select node, token_hash, key_id, nonce, ciphertext, enrolled_at from node_token
        union all
        select name, null, null, null, null, null from node where removed_at is not null and not exists (select from node_token where node = name)
        """;

    private async Task<Dictionary<string, Known>> LoadAsync(NpgsqlConnection connection, CancellationToken cancel)
    {
        var rows = await connection.QueryAsync<Row>(new CommandDefinition(LoadSql, cancellationToken: cancel));
        return _opened = rows.ToDictionary(row => row.Node, row =>
            row.TokenHash is null ? new Known(null, null, null)
            : _opened.GetValueOrDefault(row.Node) is { Token: not null } before && before.Hash.AsSpan().SequenceEqual(row.TokenHash) ? before
            : new Known(row.TokenHash, _vault.Open(new SealedSecret(SealOf(row.Node), row.KeyId!, row.Nonce!, row.Ciphertext!)), row.EnrolledAt));
    }

    [GeneratedRegex(@"^[A-Za-z0-9_-]{43,200}\z")]
    private static partial Regex Token();
}

internal static partial class NodeTokenLog
{
    [LoggerMessage(EventId = 711, Level = LogLevel.Warning, Message = "the nodes' tokens are not read, those known before hold: {Reason}")]
    public static partial void NotRead(ILogger log, string reason);

    [LoggerMessage(EventId = 712, Level = LogLevel.Information, Message = "node {Node} has enrolled")]
    public static partial void Enrolled(ILogger log, string node);

    [LoggerMessage(EventId = 713, Level = LogLevel.Warning, Message = "node {Node} is not enrolled: {Reason}")]
    public static partial void NotEnrolled(ILogger log, string node, string reason);

    [LoggerMessage(EventId = 714, Level = LogLevel.Information, Message = "node {Node} was removed by {Who}")]
    public static partial void Removed(ILogger log, string node, string who);
}
