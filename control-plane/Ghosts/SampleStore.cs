using System.Text.Json;
using System.Text.Json.Nodes;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Ghosts;

/// <summary>A redacted request of a client.</summary>
public sealed record GhostSample(long Id, string Pool, DateTime At, JsonElement Body);

/// <summary>Samples in PostgreSQL: redacted before they come here, bounded in number and age, gone when somebody says so.</summary>
public sealed class SampleStore(NpgsqlDataSource database)
{
    private const string AddSql = "insert into ghost_sample (pool, body) select @pool, body from unnest(@bodies::jsonb[]) as body";

    /// <param name="pool">Whose.</param>
    /// <param name="bodies">Redacted.</param>
    /// <param name="cancel">Before they are kept.</param>
    public async Task AddAsync(string pool, IReadOnlyList<JsonObject> bodies, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(AddSql, new { pool, bodies = bodies.Select(body => body.ToJsonString(ConfigJson.Options)).ToArray() }, cancellationToken: cancel));
    }

    private const string PruneSql = """
        delete from ghost_sample s where not exists (select from jsonb_to_recordset(@pools::jsonb) as p(pool text, age_ms bigint)
            where p.pool = s.pool and s.at > now() - p.age_ms * interval '1 ms');
        delete from ghost_sample s using (
            select id, row_number() over (partition by pool order by id desc) as place, pool from ghost_sample) as ranked
        join jsonb_to_recordset(@pools::jsonb) as p(pool text, count integer) using (pool)
        where s.id = ranked.id and ranked.place > p.count;
        """;

    /// <summary>Forgets what is too old or too much, and all samples of pools that take none any more.</summary>
    public async Task PruneAsync(ConfigDocument document, CancellationToken cancel = default)
    {
        var pools = JsonSerializer.Serialize(document.Pools.Where(pool => pool.Ghost.Sample > 0)
            .Select(pool => new { Pool = pool.Name, pool.Ghost.Keep.Count, AgeMs = (long)pool.Ghost.Keep.Age.TotalMilliseconds }), ConfigJson.Options);
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { pools }, cancellationToken: cancel));
    }

    private const string PickSql = "select id, body::text from ghost_sample where pool = @pool and length(body::text) <= @longest order by random() limit 1";

    /// <summary>One of a pool's samples at random, of at most so many characters.</summary>
    public async Task<GhostPrompt?> PickAsync(string pool, int longest, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var (id, body) = await connection.QuerySingleOrDefaultAsync<(long, string?)>(new CommandDefinition(PickSql, new { pool, longest }, cancellationToken: cancel));
        return body is null ? null : GhostPrompt.Of(id, JsonNode.Parse(body)!.AsObject());
    }

    private const string ListSql = "select id, pool, at, body::text from ghost_sample where (@pool::text is null or pool = @pool) and id < @before order by id desc limit @limit";

    public async Task<IReadOnlyList<GhostSample>> ListAsync(string? pool, long before, int limit, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<(long Id, string Pool, DateTime At, string Body)>(new CommandDefinition(ListSql, new { pool, before, limit }, cancellationToken: cancel));
        return [.. rows.Select(row => new GhostSample(row.Id, row.Pool, row.At, JsonSerializer.Deserialize<JsonElement>(row.Body)))];
    }

    private const string DeleteSql = "delete from ghost_sample where (@pool::text is null or pool = @pool) and (@id::bigint is null or id = @id)";

    /// <returns>How many there were.</returns>
    public async Task<int> DeleteAsync(string? pool, long? id, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteAsync(new CommandDefinition(DeleteSql, new { pool, id }, cancellationToken: cancel));
    }
}
