using Dapper;
using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Database;
using Npgsql;

namespace Evenkeel.Audit;

/// <summary>One change, or an attempt.</summary>
public sealed record AuditEntry
{
    public required long Id { get; init; }
    public required DateTime At { get; init; }
    /// <summary>The token's name.</summary>
    public required string Who { get; init; }
    public string? Role { get; init; }
    /// <summary>The address it came from.</summary>
    public string? Source { get; init; }
    /// <summary>Method and path.</summary>
    public required string Action { get; init; }
    public long? FromRevision { get; init; }
    public long? ToRevision { get; init; }
    /// <summary>What the caller was answered; absent for a change that minted a revision.</summary>
    public int? Status { get; init; }
    /// <summary>done or refused.</summary>
    public required string Result { get; init; }
}

/// <summary>Marks an endpoint that takes POST and changes nothing.</summary>
public sealed record ChangesNothing;

/// <summary>
/// Who changed what, and who tried to. A new revision's row is written with it, in one transaction (<see cref="ConfigStore"/>); every
/// other change is noted when it is done. Rows are never changed; those older than 400 days go.
/// </summary>
public sealed class AuditLog(NpgsqlDataSource database, DatabaseState databaseState, ILogger<AuditLog> log)
{
    private static readonly TimeSpan AddTimeout = TimeSpan.FromSeconds(5);

    private const string AddSql = "insert into audit_log (who, role, source, action, status) values (@who, @role, @source, @action, @status)";

    /// <summary>After an authenticated request: notes it unless it only read, or its row is there.</summary>
    public async Task NoteAsync(HttpContext context, Caller caller, Role needed)
    {
        var status = context.Response.StatusCode;
        var metadata = context.GetEndpoint()!.Metadata;
        var isRead = !Gate.IsChange(context.Request.Method) || metadata.GetMetadata<ChangesNothing>() is not null;
        if (isRead ? status != StatusCodes.Status403Forbidden : status < 400 && metadata.GetMetadata<WritesConfig>() is not null)
        {
            return;
        }

        await AddAsync(context, caller.Name, ConfigJson.Word(caller.Role), status);
    }

    /// <summary>A node enrolled, or tried to with a one-time token that is none of its.</summary>
    public Task NoteNodeAsync(HttpContext context, string node, int status) => AddAsync(context, node, "node", status);

    private async Task AddAsync(HttpContext context, string who, string role, int status)
    {
        var action = ConfigApi.Note(context.Request).Action;
        try
        {
            var row = new { who, role, source = Gate.SourceOf(context), action, status };
            await databaseState.AskAsync(async asked =>
            {
                await using var connection = await database.OpenConnectionAsync(asked);
                await connection.ExecuteAsync(new CommandDefinition(AddSql, row, cancellationToken: asked));
            }, AddTimeout, CancellationToken.None);
        }
        catch (NpgsqlException away)
        {
            AuthLog.NotAudited(log, who, action, status, away.Message);
        }
    }

    private const string ListSql = """
        select id, at, who, role, source, action, from_revision, to_revision, status, result from report.audit
        where id < @before and (@who::text is null or who = @who) order by id desc limit @limit
        """;

    /// <summary>Newest first, those below an id.</summary>
    public async Task<IReadOnlyList<AuditEntry>> ListAsync(long before, string? who, int limit, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<AuditEntry>(new CommandDefinition(ListSql, new { before, who, limit }, cancellationToken: cancel))];
    }
}
