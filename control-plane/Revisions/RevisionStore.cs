using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Revisions;

/// <param name="Number">Grows with every change; may have gaps.</param>
/// <param name="CreatedAt">When it came into force.</param>
/// <param name="Author">Whose token wrote it.</param>
/// <param name="Message">Why, in the author's words; may be empty.</param>
/// <param name="Digest">sha256 of the configuration.</param>
public sealed record RevisionSummary(long Number, DateTime CreatedAt, string Author, string Message, string Digest);

/// <summary>The history of the configuration, read only; <see cref="ConfigStore"/> writes it.</summary>
public sealed class RevisionStore(NpgsqlDataSource database)
{
    private const string ListSql = """
        select number, created_at, author, message, digest from revision
        where number < @before order by number desc limit @limit
        """;

    /// <summary>Newest first, those below a number.</summary>
    public async Task<IReadOnlyList<RevisionSummary>> ListAsync(long before, int limit, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<RevisionSummary>(new CommandDefinition(ListSql, new { before, limit }, cancellationToken: cancel));
        return [.. rows];
    }

    private const string FindSql = """
        select number, created_at, author, message, digest from revision where number = @number;
        select document::text from revision where number = @number;
        """;

    /// <summary>One revision with its document (secrets are references), or null.</summary>
    public async Task<(RevisionSummary Summary, ConfigDocument Document)?> FindAsync(long number, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var rows = await connection.QueryMultipleAsync(new CommandDefinition(FindSql, new { number }, cancellationToken: cancel));
        var summary = await rows.ReadSingleOrDefaultAsync<RevisionSummary>();
        return summary is null ? null : (summary, ConfigWriter.FromCanonical(await rows.ReadSingleAsync<string>()));
    }
}
