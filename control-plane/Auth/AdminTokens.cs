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
    /// <summary>What it is bound to; absent: it is for all areas.</summary>
    public IReadOnlyList<Area>? Areas { get; init; }
    public required DateTime CreatedAt { get; init; }
    public required string CreatedBy { get; init; }
    /// <summary>Absent: never.</summary>
    public DateTime? ExpiresAt { get; init; }
    /// <summary>To the minute; absent: never used.</summary>
    public DateTime? LastUsedAt { get; init; }
    public DateTime? RevokedAt { get; init; }
}

/// <summary>
/// Tokens and sessions in PostgreSQL, and a copy of the ones in force that is a second old at most: what is made or revoked here counts at
/// once; what another control plane made or revoked, within that second. It is renewed every few seconds even if nobody calls: with the
/// database away the last copy holds, each entry up to its expiry, and nothing can be changed with it. What another control plane revokes
/// meanwhile is not seen.
/// </summary>
public sealed class AdminTokens : IDisposable
{
    public const string BootstrapName = "admin";
    public const int MostTokens = 1_000;
    public static readonly TimeSpan SessionLasts = TimeSpan.FromHours(12);

    private const int MostSessions = 1_000;
    private const string TokenPrefix = "eka_";
    private const int RandomBytes = 32;
    private static readonly TimeSpan UseNotedEvery = TimeSpan.FromMinutes(1);
    private static readonly TimeSpan s_noteTimeout = TimeSpan.FromSeconds(2);

    private sealed record TokenRow
    {
        public long Id { get; init; }
        public string Name { get; init; } = "";
        public string Role { get; init; } = "";
        public string[]? Areas { get; init; }
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
            Areas = ToAreas(Areas),
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

    private sealed record Copy(IReadOnlyDictionary<string, TokenRow> Tokens, IReadOnlyDictionary<string, SessionRow> Sessions);

    private readonly NpgsqlDataSource _database;
    private readonly DatabaseState _databaseState;
    private readonly BearerTokens _files;
    private readonly TimeProvider _time;
    private readonly KeptCopy<Copy> _kept;

    public AdminTokens(NpgsqlDataSource database, DatabaseState databaseState, BearerTokens files, TimeProvider time, ILogger<AdminTokens> log)
    {
        (_database, _databaseState, _files, _time) = (database, databaseState, files, time);
        _kept = new(database, databaseState, LoadAsync, time, reason => AuthLog.NotRead(log, reason));
    }

    /// <summary>Whose token this is; null: nobody's that is in force.</summary>
    public async Task<Caller?> ByTokenAsync(byte[] tokenHash, CancellationToken cancel)
    {
        if (CryptographicOperations.FixedTimeEquals(tokenHash, _files.AdminHash))
        {
            return new Caller(BootstrapName, Role.Admin, tokenHash);
        }

        if (ByToken(await _kept.CurrentAsync(cancel), tokenHash) is not { } row)
        {
            return null;
        }

        await NoteUseAsync(row, cancel);
        return new Caller(row.Name, ConfigJson.Words<Role>()[row.Role], tokenHash, row.ExpiresAt, Areas: ToAreas(row.Areas));
    }

    /// <summary>Whose session this is; null: nobody's, or it is over, or its token is.</summary>
    public async Task<Caller?> BySessionAsync(string cookie, CancellationToken cancel)
    {
        var hash = BearerTokens.Hash(cookie);
        if ((await _kept.CurrentAsync(cancel)).Sessions.GetValueOrDefault(Key(hash)) is not { } session || session.ExpiresAt <= Now)
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

        await using var connection = await _database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(OpenSessionSql,
            new { sessionHash = BearerTokens.Hash(cookie), caller.TokenHash, expiresAt, keep = MostSessions - 1 }, cancellationToken: cancel));
        _kept.Forget();
        return (cookie, expiresAt);
    }

    public async Task CloseSessionAsync(byte[] sessionHash, CancellationToken cancel)
    {
        await using var connection = await _database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition("delete from admin_session where session_hash = @sessionHash", new { sessionHash }, cancellationToken: cancel));
        _kept.Forget();
    }

    private const string AllSql = "select id, name, role, areas, created_at, created_by, expires_at, last_used_at, revoked_at from admin_token order by name";

    /// <summary>All, revoked and expired ones too.</summary>
    public async Task<IReadOnlyList<AdminToken>> ListAsync(CancellationToken cancel)
    {
        await using var connection = await _database.OpenConnectionAsync(cancel);
        return [.. (await connection.QueryAsync<TokenRow>(new CommandDefinition(AllSql, cancellationToken: cancel))).Select(row => row.ToToken())];
    }

    // A name that is revoked or expired is free again.
    private const string AddSql = """
        delete from admin_token where name = @name and (revoked_at is not null or expires_at <= now());
        insert into admin_token (name, role, areas, token_hash, created_by, expires_at)
        select @name, @role, @areas, @hash, @by, @expiresAt where (select count(*) from admin_token) < @MostTokens
        on conflict (name) do nothing
        returning id, name, role, areas, created_at, created_by, expires_at
        """;

    /// <returns>The token, which nothing keeps, and its row; null: the name is taken, or there are too many.</returns>
    public async Task<(string Token, AdminToken Row)?> AddAsync(string name, Role role, IReadOnlyList<Area>? areas, DateTime? expiresAt, string by, CancellationToken cancel)
    {
        var token = TokenPrefix + Random();
        await using var connection = await _database.OpenConnectionAsync(cancel);
        var row = await connection.QuerySingleOrDefaultAsync<TokenRow>(new CommandDefinition(AddSql,
            new { name, role = ConfigJson.Word(role), areas = areas?.Select(area => ConfigJson.Word(area)).ToArray(), hash = BearerTokens.Hash(token), by, expiresAt, MostTokens }, cancellationToken: cancel));
        _kept.Forget();
        return row is null ? null : (token, row.ToToken());
    }

    /// <returns>False: there is no such token.</returns>
    public async Task<bool> RevokeAsync(string name, CancellationToken cancel)
    {
        await using var connection = await _database.OpenConnectionAsync(cancel);
        var rows = await connection.ExecuteAsync(new CommandDefinition(
            "update admin_token set revoked_at = coalesce(revoked_at, now()) where name = @name", new { name }, cancellationToken: cancel));
        _kept.Forget();
        return rows > 0;
    }

    public void Dispose() => _kept.Dispose();

    private DateTime Now => _time.GetUtcNow().UtcDateTime;

    // A word that this version does not know opens nothing.
    private static IReadOnlyList<Area>? ToAreas(string[]? words) => words is null ? null : [.. words.Where(ConfigJson.Words<Area>().ContainsKey).Select(word => ConfigJson.Words<Area>()[word])];

    private static string Key(byte[] hash) => Convert.ToHexStringLower(hash);

    internal static string Random() => System.Buffers.Text.Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(RandomBytes));

    private TokenRow? ByToken(Copy copy, byte[] hash) =>
        copy.Tokens.GetValueOrDefault(Key(hash)) is { } row && !(row.ExpiresAt <= Now) ? row : null;

    private const string LoadSql = """
        select id, name, role, areas, token_hash, created_at, created_by, expires_at, last_used_at from admin_token where revoked_at is null;
        select session_hash, token_hash, expires_at from admin_session where expires_at > now();
        """;

    /// <summary>Renews the copy, for as long as it may be the last one.</summary>
    public async Task RememberAsync(CancellationToken cancel) => await _kept.CurrentAsync(cancel);

    /// <summary>How many tokens and sessions are in the copy.</summary>
    internal (int Tokens, int Sessions) Known => (_kept.Last?.Tokens.Count ?? 0, _kept.Last?.Sessions.Count ?? 0);

    private static async Task<Copy> LoadAsync(NpgsqlConnection connection, CancellationToken cancel)
    {
        await using var rows = await connection.QueryMultipleAsync(new CommandDefinition(LoadSql, cancellationToken: cancel));
        var tokens = (await rows.ReadAsync<TokenRow>()).ToDictionary(t => Key(t.TokenHash));
        return new Copy(tokens, (await rows.ReadAsync<SessionRow>()).ToDictionary(s => Key(s.SessionHash)));
    }

    private async Task NoteUseAsync(TokenRow row, CancellationToken cancel)
    {
        if (row.LastUsedAt > Now - UseNotedEvery || _databaseState.IsAway)
        {
            return;
        }

        try
        {
            await _databaseState.AskAsync(async asked =>
            {
                await using var connection = await _database.OpenConnectionAsync(asked);
                await connection.ExecuteAsync(new CommandDefinition("update admin_token set last_used_at = now() where id = @Id and (last_used_at is null or last_used_at < now() - interval '50 s')",
                    new { row.Id }, cancellationToken: asked));
            }, s_noteTimeout, cancel);
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
