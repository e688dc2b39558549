using System.Data;
using System.Text.Json;
using System.Text.Json.Nodes;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Incidents;

/// <summary>A portion of a node's list of events. Begin tells one life of the list from another.</summary>
public sealed record NodeEvents
{
    public IReadOnlyList<NodeEvent> Events { get; init; } = [];
    public long Begin { get; init; }
    /// <summary>Events that were gone before and among these.</summary>
    public long Dropped { get; init; }
}

/// <summary>At is in seconds since 1970.</summary>
public sealed record NodeEvent(long Id, double At, string Kind, string Subject, JsonElement Detail);

/// <summary>How far a node's list was read; life 0, number 0 at first.</summary>
public sealed record EventCursor(long Life, long Number);

/// <summary>What to list; null: whatever.</summary>
public sealed record IncidentFilter(string? Kind, string? Subject, string? Node, bool? Open, DateTime? Since, DateTime? Until, long Before, int Limit);

/// <summary>Events and incidents in PostgreSQL.</summary>
public sealed class IncidentStore(NpgsqlDataSource database)
{
    private const long LockKey = 0x65766b_0003;

    public async Task<EventCursor> CursorAsync(string node, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<EventCursor>(new CommandDefinition("select life, number from event_cursor where node = @node", new { node }, cancellationToken: cancel))
            ?? new EventCursor(0, 0);
    }

    // The cursor is locked first, so that two control planes that drain one node count nothing twice. Who comes second finds another
    // cursor than it began with, and leaves all as it is.
    private const string MoveSql = """
        insert into event_cursor (node, life, number) select name, @life, @number from node where name = @node and @fromLife = 0 and @fromNumber = 0
        on conflict (node) do update set life = @life, number = @number, dropped = event_cursor.dropped + @dropped
            where event_cursor.life = @fromLife and event_cursor.number = @fromNumber
        """;

    private const string MoveOnSql = """
        update event_cursor set life = @life, number = @number, dropped = dropped + @dropped where node = @node and life = @fromLife and number = @fromNumber
        """;

    private const string OwnSql = "insert into event (kind, subject, detail) values (@kind, @subject, @detail::jsonb)";

    private const string KeepSql = """
        insert into event (node, life, number, at, kind, subject, detail)
        select @node, @life, e.id, to_timestamp(e.at), left(e.kind, 48), left(e.subject, 200), case jsonb_typeof(e.detail) when 'object' then e.detail else '{}' end
        from jsonb_to_recordset(@events::jsonb) as e(id bigint, at float8, kind text, subject text, detail jsonb)
        order by e.id
        on conflict (node, life, number) do nothing
        """;

    /// <summary>Keeps what is new of a portion, and moves the cursor with it, all or nothing. False: somebody else was faster.</summary>
    public async Task<bool> KeepAsync(string node, EventCursor from, NodeEvents portion, CancellationToken cancel = default)
    {
        var last = portion.Events.Count > 0 ? portion.Events[^1].Id : portion.Begin == from.Life ? from.Number : portion.Begin;
        var isFirst = from is { Life: 0, Number: 0 };
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        var moved = await connection.ExecuteAsync(new CommandDefinition(isFirst ? MoveSql : MoveOnSql,
            new { node, life = portion.Begin, number = last, dropped = portion.Dropped, fromLife = from.Life, fromNumber = from.Number }, transaction, cancellationToken: cancel));
        if (moved == 0) return false;
        if (!isFirst && portion.Begin != from.Life) await OwnAsync("node_restarted", "{}");
        if (portion.Dropped > 0) await OwnAsync("events_dropped", $$"""{"count":{{portion.Dropped}}}""");
        if (portion.Events.Count > 0)
        {
            var events = JsonSerializer.Serialize(portion.Events, ConfigJson.Options);
            await connection.ExecuteAsync(new CommandDefinition(KeepSql, new { node, life = portion.Begin, events }, transaction, cancellationToken: cancel));
        }
        await transaction.CommitAsync(cancel);
        return true;

        Task OwnAsync(string kind, string detail) => connection.ExecuteAsync(new CommandDefinition(OwnSql, new { kind, subject = node, detail }, transaction, cancellationToken: cancel));
    }

    private const string RefusedSql = "select subject from incident where kind = 'revision_refused' and until is null";

    /// <summary>The nodes that have refused a revision and are not known to run one since.</summary>
    public async Task<IReadOnlyList<string>> RefusingNodesAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<string>(new CommandDefinition(RefusedSql, cancellationToken: cancel))];
    }

    /// <summary>An event of the control plane's own.</summary>
    public async Task TellAsync(string kind, string subject, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(OwnSql, new { kind, subject, detail = "{}" }, cancellationToken: cancel));
    }

    private sealed record EventRow(long Id, string? Node, DateTime At, string Kind, string Subject, string Detail)
    {
        public Event ToEvent() => new(Id, Node, At, Kind, Subject, JsonNode.Parse(Detail)!.AsObject());
    }

    private sealed record IncidentRow(
        long Id, string Kind, string Subject, string? Node, DateTime Since, DateTime? Until, string? Cause, string Evidence, long Events, DateTime LastEventAt)
    {
        public Incident ToIncident() => new()
        {
            Id = Id,
            Kind = Kind,
            Subject = Subject,
            Node = Node,
            Since = Since,
            Until = Until,
            Cause = Cause,
            Evidence = JsonSerializer.Deserialize<Evidence>(Evidence, ConfigJson.Options)!,
            Events = Events,
            LastEventAt = LastEventAt,
        };
    }

    private const string PendingSql = "select id, node, at, kind, subject, detail::text as detail from event where not applied order by id limit @Portion";

    private const string IncidentColumns = "id, kind, subject, node, since, until, cause, evidence::text as evidence, events, last_event_at";

    // The one without an end (there is one at most), else the newest that had begun by then: what ended later by a clock that was set back
    // since is another one.
    private const string LatestSql = $"""
        select * from (
            (select {IncidentColumns} from incident where kind = @Kind and subject = @Subject and node is not distinct from @Node and until is null)
            union all (select {IncidentColumns} from incident where kind = @Kind and subject = @Subject and node is not distinct from @Node and since <= @At
                order by since desc, id desc limit 1)) i
        order by until is not null limit 1
        """;

    private const string OpenSql = $"select {IncidentColumns} from incident where (until is null or until > @At) and (subject = @Subject or node = @Subject)";

    private const string InsertSql = """
        insert into incident (kind, subject, node, since, until, cause, evidence, events, last_event_at, revision)
        values (@Kind, @Subject, @Node, @Since, @Until, left(@Cause, 200), @evidence::jsonb, @Events, @LastEventAt, (select max(number) from revision where created_at <= @Since))
        returning id
        """;

    private const string UpdateSql = """
        update incident set until = @Until, evidence = @evidence::jsonb, events = @Events, last_event_at = @LastEventAt where id = @Id returning id
        """;

    private const int Portion = 500;

    /// <summary>Makes incidents of the events that came since, in their order, each once. False: there are more.</summary>
    public async Task<bool> ApplyAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition("select pg_advisory_xact_lock(@LockKey)", new { LockKey }, transaction, cancellationToken: cancel));
        var pending = (await connection.QueryAsync<EventRow>(new CommandDefinition(PendingSql, new { Portion }, transaction, cancellationToken: cancel))).ToList();
        foreach (var happened in pending.Select(row => row.ToEvent())) await Apply_NeedsLock(connection, transaction, happened, cancel);
        await transaction.CommitAsync(cancel);
        return pending.Count < Portion;
    }

    private static async Task Apply_NeedsLock(NpgsqlConnection connection, NpgsqlTransaction transaction, Event happened, CancellationToken cancel)
    {
        long? touched = null;
        foreach (var meaning in IncidentRules.Of(happened.Kind))
        {
            var latest = await connection.QuerySingleOrDefaultAsync<IncidentRow>(new CommandDefinition(
                LatestSql, new { meaning.Kind, happened.Subject, happened.Node, happened.At }, transaction, cancellationToken: cancel));
            if (IncidentRules.Apply(latest?.ToIncident(), happened, meaning) is { } incident) touched = await KeepAsync(incident);
        }
        if (happened.Kind is "instance_removed" or "node_restarted" or "node_removed")
        {
            var open = await connection.QueryAsync<IncidentRow>(new CommandDefinition(OpenSql, new { happened.At, happened.Subject }, transaction, cancellationToken: cancel));
            foreach (var row in open.ToList())
            {
                var incident = row.ToIncident();
                if (IncidentRules.Sweeps(happened, incident)) await KeepAsync(IncidentRules.Closed(incident, happened));
            }
        }
        await connection.ExecuteAsync(new CommandDefinition(
            "update event set applied = true, incident = @touched where id = @Id", new { touched, happened.Id }, transaction, cancellationToken: cancel));

        Task<long> KeepAsync(Incident incident) => connection.ExecuteScalarAsync<long>(new CommandDefinition(incident.Id == 0 ? InsertSql : UpdateSql, new
        {
            incident.Id,
            incident.Kind,
            incident.Subject,
            incident.Node,
            incident.Since,
            incident.Until,
            incident.Cause,
            evidence = JsonSerializer.Serialize(incident.Evidence, ConfigJson.Options),
            incident.Events,
            incident.LastEventAt,
        }, transaction, cancellationToken: cancel));
    }

    private const string ViewColumns = """
        i.id, i.kind, i.subject, i.node, i.since, i.until, (i.until is null or i.until > now()) as open, i.cause, i.evidence::text as evidence, i.events, i.last_event_at,
        i.revision, i.acknowledged_at, i.acknowledged_by, i.requests_affected, i.requests_degraded, i.requests_lost, i.cost, i.currency, (select count(*)::int from incident_comment c where c.incident = i.id) as comments
        """;

    private const string ListSql = $"""
        select {ViewColumns} from incident i
        where i.id < @Before and (@Kind::text is null or i.kind = @Kind) and (@Subject::text is null or i.subject = @Subject) and (@Node::text is null or i.node = @Node)
            and (@Open::boolean is null or (i.until is null or i.until > now()) = @Open)
            and (@Since::timestamptz is null or i.until is null or i.until >= @Since) and (@Until::timestamptz is null or i.since < @Until)
        order by i.id desc limit @Limit
        """;

    /// <summary>Newest first.</summary>
    public async Task<IReadOnlyList<IncidentView>> ListAsync(IncidentFilter filter, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. (await connection.QueryAsync<IncidentViewRow>(new CommandDefinition(ListSql, filter, cancellationToken: cancel))).Select(row => row.ToView([]))];
    }

    private const string FindSql = $"""
        select {ViewColumns} from incident i where i.id = @id;
        select at, author, text from incident_comment where incident = @id order by id;
        """;

    /// <summary>One incident with its comments.</summary>
    public async Task<IncidentView?> FindAsync(long id, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var tables = await connection.QueryMultipleAsync(new CommandDefinition(FindSql, new { id }, cancellationToken: cancel));
        var row = await tables.ReadSingleOrDefaultAsync<IncidentViewRow>();
        return row?.ToView([.. await tables.ReadAsync<IncidentComment>()]);
    }

    /// <summary>The first one to see it counts. False: there is no such incident.</summary>
    public Task<bool> AcknowledgeAsync(long id, string by, CancellationToken cancel = default) => ChangeAsync("""
        update incident set acknowledged_by = coalesce(acknowledged_by, @by), acknowledged_at = coalesce(acknowledged_at, now()) where id = @id
        """, new { id, by }, cancel);

    public Task<bool> CommentAsync(long id, string author, string text, CancellationToken cancel = default) => ChangeAsync("""
        insert into incident_comment (incident, author, text) select id, @author, @text from incident where id = @id
        """, new { id, author, text }, cancel);

    private async Task<bool> ChangeAsync(string sql, object parameters, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteAsync(new CommandDefinition(sql, parameters, cancellationToken: cancel)) == 1;
    }

    private const string PruneSql = """
        delete from event where applied and at < now() - @KeepEvents;
        delete from incident where until < now() - @KeepIncidents;
        """;

    private static readonly TimeSpan KeepEvents = TimeSpan.FromDays(30);
    private static readonly TimeSpan KeepIncidents = TimeSpan.FromDays(400);

    public async Task PruneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { KeepEvents, KeepIncidents }, cancellationToken: cancel));
    }
}
