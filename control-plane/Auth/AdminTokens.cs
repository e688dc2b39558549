using System.Security.Cryptography;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Database;
using Npgsql;

namespace Evenkeel.Auth;

/// <summary>A token of the REST API, without the token.</summary>
public sealed record AdminToken
{
    public required string Name { get; init; }
    public required Role Role { get; init; }
    public required DateTime CreatedAt { get; init; }
    public required string CreatedBy { get; init; }
    /// <summary>Absent: never.</summary>
    public DateTime? ExpiresAt { get; init; }
    /// <summary>To the minute; absent: never used.</summary>
    public DateTime? LastUsedAt { get; init; }
    public DateTime? RevokedAt { get; init; }
}

/// <summary>
/// Tokens and sessions in PostgreSQL, and a copy of the ones in force that is a second old at most: any number of callers with any tokens
/// cost one query a second. What is made or revoked here counts at once; what another control plane made or revoked, within that second.
/// It is renewed every few seconds even if nobody calls: with the database away the last copy holds, each entry up to its expiry, and nothing
/// can be changed with it. What another control plane revokes meanwhile is not seen.
/// </summary>
public sealed class AdminTokens(NpgsqlDataSource database, DatabaseState databaseState, BearerTokens files, TimeProvider time, ILogger<AdminTokens> log) : IDisposable
{
    public const string BootstrapName = "admin";
    public const int MostTokens = 1_000;
    public static readonly TimeSpan SessionLasts = TimeSpan.FromHours(12);

    private const int MostSessions = 1_000;
    private const string TokenPrefix = "eka_";
    private const int RandomBytes = 32;
    private static readonly TimeSpan CopyLasts = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LoadTimeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan UseNotedEvery = TimeSpan.FromMinutes(1);

    private sealed record TokenRow
    {
        public long Id { get; init; }
        public string Name { get; init; } = "";
        public string Role { get; init; } = "";
        public byte[] TokenHash { get; init; } = [];
        public DateTime CreatedAt { get; init; }
        public string CreatedBy { get; init; } = "";
        public DateTime? ExpiresAt { get; init; }
        public DateTime? LastUsedAt { get; init; }
        public DateTime? RevokedAt { get; init; }

        public AdminToken ToToken() => new()
        {
            Name = Name,
            Role = ConfigJson.Words<Role>()[Role],
            CreatedAt = CreatedAt,
            CreatedBy = CreatedBy,
            ExpiresAt = ExpiresAt,
            LastUsedAt = LastUsedAt,
            RevokedAt = RevokedAt,
        };
    }

    private sealed record SessionRow
    {
        public byte[] SessionHash { get; init; } = [];
        public byte[] TokenHash { get; init; } = [];
        public DateTime ExpiresAt { get; init; }
    }

    private sealed record Copy(IReadOnlyDictionary<string, TokenRow> Tokens, IReadOnlyDictionary<string, SessionRow> Sessions, long Generation, long At);

    private static readonly Copy s_none = new(new Dictionary<string, TokenRow>(), new Dictionary<string, SessionRow>(), -1, 0);

    private readonly SemaphoreSlim _loading = new(1);
    private volatile Copy _copy = s_none;
    private long _generation;       // grows with every change made here: a copy that was being read meanwhile does not count

    /// <summary>Whose token this is; null: nobody's that is in force.</summary>
    public async Task<Caller?> ByTokenAsync(byte[] tokenHash, CancellationToken cancel)
    {
        if (CryptographicOperations.FixedTimeEquals(tokenHash, files.AdminHash))
        {
            return new Caller(BootstrapName, Role.Admin, tokenHash);
        }

        if (ByToken(await CurrentAsync(cancel), tokenHash) is not { } row)
        {
            return null;
        }

        await NoteUseAsync(row, cancel);
        return new Caller(row.Name, ConfigJson.Words<Role>()[row.Role], tokenHash, row.ExpiresAt);
    }

    /// <summary>Whose session this is; null: nobody's, or it is over, or its token is.</summary>
    public async Task<Caller?> BySessionAsync(string cookie, CancellationToken cancel)
    {
        var hash = BearerTokens.Hash(cookie);
        if ((await CurrentAsync(cancel)).Sessions.GetValueOrDefault(Key(hash)) is not { } session || session.ExpiresAt <= Now)
        {
            return null;
        }

        return await ByTokenAsync(session.TokenHash, cancel) is { } caller ? caller with { ExpiresAt = session.ExpiresAt, SessionHash = hash } : null;
    }

    // The 1,000 newest sessions live: whoever has a token can open sessions, but not fill the table.
    private const string OpenSessionSql = """
        delete from admin_session where expires_at <= now();
        delete from admin_session where session_hash in (select session_hash from admin_session order by created_at desc offset @keep);
        insert into admin_session (session_hash, token_hash, expires_at) values (@sessionHash, @TokenHash, @expiresAt);
        """;

    /// <returns>The cookie, and when it ends: after twelve hours, or with the token.</returns>
    public async Task<(string Cookie, DateTime ExpiresAt)> OpenSessionAsync(Caller caller, CancellationToken cancel)
    {
        var cookie = Random();
        var expiresAt = Now + SessionLasts;
        if (caller.ExpiresAt < expiresAt)
        {
            expiresAt = caller.ExpiresAt.Value;
        }

        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(OpenSessionSql,
            new { sessionHash = BearerTokens.Hash(cookie), caller.TokenHash, expiresAt, keep = MostSessions - 1 }, cancellationToken: cancel));
        Forget();
        return (cookie, expiresAt);
    }

    public async Task CloseSessionAsync(byte[] sessionHash, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition("delete from admin_session where session_hash = @sessionHash", new { sessionHash }, cancellationToken: cancel));
        Forget();
    }

    private const string AllSql = "select id, name, role, created_at, created_by, expires_at, last_used_at, revoked_at from admin_token order by name";

    /// <summary>All, revoked and expired ones too.</summary>
    public async Task<IReadOnlyList<AdminToken>> ListAsync(CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. (await connection.QueryAsync<TokenRow>(new CommandDefinition(AllSql, cancellationToken: cancel))).Select(row => row.ToToken())];
    }

    // A name that is revoked or expired is free again.
    private const string AddSql = """
        delete from admin_token where name = @name and (revoked_at is not null or expires_at <= now());
        insert into admin_token (name, role, token_hash, created_by, expires_at)
        select @name, @role, @hash, @by, @expiresAt where (select count(*) from admin_token) < @MostTokens
        on conflict (name) do nothing
        returning id, name, role, created_at, created_by, expires_at
        """;

    /// <returns>The token, which nothing keeps, and its row; null: the name is taken, or there are too many.</returns>
    public async Task<(string Token, AdminToken Row)?> AddAsync(string name, Role role, DateTime? expiresAt, string by, CancellationToken cancel)
    {
        var token = TokenPrefix + Random();
        await using var connection = await database.OpenConnectionAsync(cancel);
        var row = await connection.QuerySingleOrDefaultAsync<TokenRow>(new CommandDefinition(AddSql,
            new { name, role = ConfigJson.Word(role), hash = BearerTokens.Hash(token), by, expiresAt, MostTokens }, cancellationToken: cancel));
        Forget();
        return row is null ? null : (token, row.ToToken());
    }

    /// <returns>False: there is no such token.</returns>
    public async Task<bool> RevokeAsync(string name, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.ExecuteAsync(new CommandDefinition(
            "update admin_token set revoked_at = coalesce(revoked_at, now()) where name = @name", new { name }, cancellationToken: cancel));
        Forget();
        return rows > 0;
    }

    public void Dispose() => _loading.Dispose();

    private DateTime Now => time.GetUtcNow().UtcDateTime;

    private static string Key(byte[] hash) => Convert.ToHexStringLower(hash);

    private static string Random() => System.Buffers.Text.Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(RandomBytes));

    private TokenRow? ByToken(Copy copy, byte[] hash) =>
        copy.Tokens.GetValueOrDefault(Key(hash)) is { } row && !(row.ExpiresAt <= Now) ? row : null;

    private void Forget() => Interlocked.Increment(ref _generation);

    private const string LoadSql = """
        select id, name, role, token_hash, created_at, created_by, expires_at, last_used_at from admin_token where revoked_at is null;
        select session_hash, token_hash, expires_at from admin_session where expires_at > now();
        """;

    /// <summary>Renews the copy, for as long as it may be the last one.</summary>
    public Task RememberAsync(CancellationToken cancel) => CurrentAsync(cancel);

    /// <summary>How many tokens and sessions are in the copy.</summary>
    internal (int Tokens, int Sessions) Known => (_copy.Tokens.Count, _copy.Sessions.Count);

    private bool IsFresh(Copy copy) => copy.Generation == Interlocked.Read(ref _generation) && time.GetElapsedTime(copy.At) < CopyLasts;

    private async Task<Copy> CurrentAsync(CancellationToken cancel)
    {
        if (_copy is var copy && (IsFresh(copy) || databaseState.IsAway))
        {
            return copy;
        }

        await _loading.WaitAsync(cancel);
        long generation = 0, at = 0;
        try
        {
            if (IsFresh(_copy))
            {
                return _copy;
            }

            (generation, at) = (Interlocked.Read(ref _generation), time.GetTimestamp());
            Copy? read = null;
            await databaseState.AskAsync(async asked =>
            {
                await using var connection = await database.OpenConnectionAsync(asked);
                await using var rows = await connection.QueryMultipleAsync(new CommandDefinition(LoadSql, cancellationToken: asked));
                var tokens = (await rows.ReadAsync<TokenRow>()).ToDictionary(t => Key(t.TokenHash));
                read = new Copy(tokens, (await rows.ReadAsync<SessionRow>()).ToDictionary(s => Key(s.SessionHash)), generation, at);
            }, LoadTimeout, cancel);
            return _copy = read!;
        }
        catch (NpgsqlException away)
        {
            AuthLog.NotRead(log, away.Message);
            return _copy = _copy with { Generation = generation, At = time.GetTimestamp() };   // asked again in a second, not by every caller
        }
        finally
        {
            _loading.Release();
        }
    }

    private async Task NoteUseAsync(TokenRow row, CancellationToken cancel)
    {
        if (row.LastUsedAt > Now - UseNotedEvery || databaseState.IsAway)
        {
            return;
        }

        try
        {
            await databaseState.AskAsync(async asked =>
            {
                await using var connection = await database.OpenConnectionAsync(asked);
                await connection.ExecuteAsync(new CommandDefinition("update admin_token set last_used_at = now() where id = @Id and (last_used_at is null or last_used_at < now() - interval '50 s')",
                    new { row.Id }, cancellationToken: asked));
            }, LoadTimeout, cancel);
        }
        catch (NpgsqlException)
        {
            // When it was last used is worth no refusal.
        }
    }
}

internal static partial class AuthLog
{
    [LoggerMessage(EventId = 701, Level = LogLevel.Warning, Message = "tokens and sessions are not read, those known before hold: {Reason}")]
    public static partial void NotRead(ILogger log, string reason);

    [LoggerMessage(EventId = 702, Level = LogLevel.Warning, Message = "refused: no valid token from {Source} for {Method} {Path}")]
    public static partial void Refused(ILogger log, string source, string method, string path);

    [LoggerMessage(EventId = 703, Level = LogLevel.Warning, Message = "the audit log does not take {Who} {Action} {Status}: {Reason}")]
    public static partial void NotAudited(ILogger log, string who, string action, int status, string reason);
}
