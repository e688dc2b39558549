using System.Text;
using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Nodes;

/// <summary>The nodes and their reports in PostgreSQL.</summary>
public sealed class NodeStore(NpgsqlDataSource database)
{
    /// <summary>A node that nobody has heard of for so long is not live. Agents ask at least every 5 s.</summary>
    public static readonly TimeSpan LiveFor = TimeSpan.FromSeconds(15);

    private const int WordsMaxBytes = 16 * 1024;

    private sealed record Row(
        string Name, string AdminUrl, string? EdgeListen, string? AdminListen, string? Workers, DateTime LastSeenAt, bool Live, string Status);

    private sealed record Observation(NodeStatus? Status, string? Fault);

    private const string ListSql = """
        select name, admin_url, edge_listen, admin_listen, workers, last_seen_at, last_seen_at > now() - @LiveFor as live, status::text as status
        from node where removed_at is null and (@name is null or name = @name) order by name
        """;

    public Task<IReadOnlyList<Node>> ListAsync(CancellationToken cancel = default) => QueryAsync(null, cancel);

    public async Task<Node?> FindAsync(string name, CancellationToken cancel = default) => (await QueryAsync(name, cancel)).SingleOrDefault();

    private async Task<IReadOnlyList<Node>> QueryAsync(string? name, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<Row>(new CommandDefinition(ListSql, new { name, LiveFor }, cancellationToken: cancel));
        return [.. rows.Select(ToNode)];

        static Node ToNode(Row row)
        {
            var seen = JsonSerializer.Deserialize<Observation>(row.Status, ConfigJson.Options);
            return new Node
            {
                Name = row.Name,
                AdminUrl = row.AdminUrl,
                EdgeListen = row.EdgeListen,
                AdminListen = row.AdminListen,
                Workers = row.Workers,
                LastSeenAt = row.LastSeenAt,
                Live = row.Live,
                Status = seen?.Status,
                Fault = seen?.Fault,
            };
        }
    }

    // The old row is read first: what is new about the node decides whether it is pushed to at once.
    private const string SeenSql = """
        with before as (select admin_url, live from node where name = @Name)
        insert into node (name, admin_url, edge_listen, admin_listen, workers) values (@Name, @AdminUrl, @EdgeListen, @AdminListen, @Workers)
        on conflict (name) do update set
            admin_url = excluded.admin_url, edge_listen = excluded.edge_listen, admin_listen = excluded.admin_listen, workers = excluded.workers,
            last_seen_at = now(), live = true, removed_at = null
        returning not exists (select from before where live and admin_url = @AdminUrl)
        """;

    /// <summary>An agent has asked. True when the node is new, is back, or has moved.</summary>
    public async Task<bool> SeenAsync(Node node, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteScalarAsync<bool>(new CommandDefinition(
            SeenSql, new { node.Name, node.AdminUrl, node.EdgeListen, node.AdminListen, node.Workers }, cancellationToken: cancel));
    }

    private const string ObservedSql = """
        update node set
            status = @observation::jsonb, revision = @revision, text_digest = @textDigest,
            last_seen_at = case when @answered then now() else last_seen_at end, live = live or @answered
        where name = @name and removed_at is null
        """;

    /// <summary>What the node's admin listener said; null: it did not answer. Fault is what went wrong.</summary>
    public async Task ObservedAsync(string name, NodeStatus? status, string? fault, CancellationToken cancel = default)
    {
        var texts = status?.ActiveWorkers.Select(worker => worker.TextDigest).Distinct().ToList() ?? [];
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(ObservedSql, new
        {
            name,
            observation = JsonSerializer.Serialize(new Observation(status, fault), ConfigJson.Options),
            revision = status?.ActiveWorkers.Select(worker => (long?)worker.Revision).Min(),
            textDigest = texts is [var only] ? only : null,
            answered = status is not null,
        }, cancellationToken: cancel));
    }

    private const string LivenessSql = "update node set live = false where live and last_seen_at <= now() - @LiveFor returning name";

    /// <summary>The nodes that have gone away since the last call, whoever called.</summary>
    public async Task<IReadOnlyList<string>> GoneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<string>(new CommandDefinition(LivenessSql, new { LiveFor }, cancellationToken: cancel))];
    }

    private const string ReportSql = """
        insert into node_report (node, revision, text_digest, result, stage, words)
        select name, @Revision, @TextDigest, @Result, @Stage, @words from node where name = @node
        """;

    /// <summary>Keeps a report; false: there is no such node.</summary>
    public async Task<bool> ReportAsync(string node, NodeReport report, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteAsync(new CommandDefinition(ReportSql, new
        {
            node,
            report.Revision,
            report.TextDigest,
            report.Result,
            report.Stage,
            words = Bounded(report.Words),
        }, cancellationToken: cancel)) == 1;
    }

    private const string ReportsSql = """
        select revision, text_digest, result, stage, words, at from node_report where node = @node order by id desc limit @limit
        """;

    /// <summary>Newest first.</summary>
    public async Task<IReadOnlyList<NodeReport>> ReportsAsync(string node, int limit, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<NodeReport>(new CommandDefinition(ReportsSql, new { node, limit }, cancellationToken: cancel))];
    }

    private const string RefusalsSql = """
        select distinct on (node) node, revision, text_digest, result, stage, words, at from node_report where result = 'refused' order by node, id desc
        """;

    /// <summary>Each node's newest refusal.</summary>
    public async Task<IReadOnlyDictionary<string, NodeReport>> RefusalsAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<string, NodeReport, KeyValuePair<string, NodeReport>>(
            new CommandDefinition(RefusalsSql, cancellationToken: cancel), KeyValuePair.Create, splitOn: "revision");
        return rows.ToDictionary();
    }

    private const string PruneSql = """
        delete from node_report r using (select id, row_number() over (partition by node order by id desc) as nth from node_report) old
        where r.id = old.id and old.nth > @ReportsPerNode;
        delete from node where last_seen_at < now() - @ForgetNodeAfter;
        """;

    private const int ReportsPerNode = 200;
    private static readonly TimeSpan ForgetNodeAfter = TimeSpan.FromDays(7);

    /// <summary>Keeps the newest reports of each node, and forgets nodes that have been away for a week.</summary>
    public async Task PruneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { ReportsPerNode, ForgetNodeAfter }, cancellationToken: cancel));
    }

    // PostgreSQL holds no NUL; a cut must not split a character.
    private static string Bounded(string words)
    {
        var bytes = Encoding.UTF8.GetBytes(words.Replace('\0', ' '));
        if (bytes.Length <= WordsMaxBytes) return Encoding.UTF8.GetString(bytes);
        var length = WordsMaxBytes;
        while ((bytes[length] & 0xC0) == 0x80) length--;
        return Encoding.UTF8.GetString(bytes, 0, length);
    }
}
