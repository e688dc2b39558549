using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Database;
using Npgsql;

namespace Evenkeel.Alerts;

/// <summary>What to list; null: whatever.</summary>
public sealed record AlertFilter(string? State, string? Rule, string? Pool, string? Instance, long Before, int Limit);

/// <summary>Alerts and silences in PostgreSQL. Its clock is the database's.</summary>
public sealed class AlertStore(NpgsqlDataSource database)
{
    private const long LockKey = 0x65766b_0005;

    private sealed record AlertRow
    {
        public long Id { get; init; }
        public string Rule { get; init; } = "";
        public string? Pool { get; init; }
        public string? Instance { get; init; }
        public string? Client { get; init; }
        public string Phase { get; init; } = "";
        public DateTime Since { get; init; }
        public DateTime? FiredAt { get; init; }
        public DateTime? ResolvedAt { get; init; }
        public DateTime? ClearSince { get; init; }
        public double? Value { get; init; }
        public double? Worst { get; init; }
        public string? Cause { get; init; }
        public DateTime SeenAt { get; init; }
        public DateTime? ToldAt { get; init; }
        public DateTime? ResolveToldAt { get; init; }

        public static AlertRow Of(Alert a) => new()
        {
            Id = a.Id,
            Rule = a.Rule,
            Pool = a.Subject.Pool,
            Instance = a.Subject.Instance,
            Client = a.Subject.Client,
            Phase = ConfigJson.Word(a.Phase),
            Since = a.Since,
            FiredAt = a.FiredAt,
            ResolvedAt = a.ResolvedAt,
            ClearSince = a.ClearSince,
            Value = a.Value,
            Worst = a.Worst,
            Cause = a.Cause is null ? null : KeptText.Of(a.Cause, 200),
            SeenAt = a.SeenAt,
            ToldAt = a.ToldAt,
            ResolveToldAt = a.ResolveToldAt,
        };

        public Alert ToAlert() => new()
        {
            Id = Id,
            Rule = Rule,
            Subject = new AlertSubject(Pool, Instance, Client),
            Phase = ConfigJson.Words<AlertPhase>()[Phase],
            Since = Since,
            FiredAt = FiredAt,
            ResolvedAt = ResolvedAt,
            ClearSince = ClearSince,
            Value = Value,
            Worst = Worst,
            Cause = Cause,
            SeenAt = SeenAt,
            ToldAt = ToldAt,
            ResolveToldAt = ResolveToldAt,
        };
    }

    // What a round has to know; the second part keeps the distance between notices and tells what is not told yet.
    private const string RoundSql = """
        select now();
        select * from alert where phase <> 'resolved' or resolved_at > now() - @Recent;
        select rule, pool, instance, until from silence where until > now();
        """;

    private static readonly TimeSpan Recent = TimeSpan.FromHours(1);

    private const string KeepSql = """
        insert into alert (rule, pool, instance, client, phase, since, fired_at, resolved_at, clear_since, value, worst, cause, seen_at, told_at, resolve_told_at)
        select rule, pool, instance, client, phase, since, fired_at, resolved_at, clear_since, value, worst, cause, seen_at, told_at, resolve_told_at
        from jsonb_populate_recordset(null::alert, @rows::jsonb) where id = 0;
        update alert a set phase = r.phase, since = r.since, fired_at = r.fired_at, resolved_at = r.resolved_at, clear_since = r.clear_since, value = r.value,
            worst = r.worst, cause = r.cause, seen_at = r.seen_at, told_at = r.told_at, resolve_told_at = r.resolve_told_at
        from jsonb_populate_recordset(null::alert, @rows::jsonb) r where a.id = r.id;
        delete from alert where id = any(@dropped);
        """;

    private const string SendSql = """
        insert into webhook_delivery (webhook, notice_id, notice) select w, @id, @notice from unnest(@webhooks::text[]) w
        """;

    /// <summary>One round over what is stored, and its notices into the outbox of every webhook, all or nothing; rounds come one after the other.</summary>
    /// <param name="rules">In force.</param>
    /// <param name="readings">As <see cref="AlertRound.Run"/> takes them.</param>
    /// <param name="poolsOf">The pools that hold an instance.</param>
    /// <param name="webhooks">Their names.</param>
    /// <param name="cancel">Nothing is changed then.</param>
    public async Task<RoundResult> RunAsync(
        IReadOnlyList<AlertRule> rules, IReadOnlyDictionary<string, IReadOnlyList<Reading>> readings, Func<string, IReadOnlyCollection<string>> poolsOf,
        IReadOnlyList<string> webhooks, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition("select pg_advisory_xact_lock(@LockKey)", new { LockKey }, transaction, cancellationToken: cancel));
        DateTime now;
        List<Alert> alerts;
        List<Silence> silences;
        await using (var tables = await connection.QueryMultipleAsync(new CommandDefinition(RoundSql, new { Recent }, transaction, cancellationToken: cancel)))
        {
            now = await tables.ReadSingleAsync<DateTime>();
            alerts = [.. (await tables.ReadAsync<AlertRow>()).Select(row => row.ToAlert())];
            silences = [.. await tables.ReadAsync<Silence>()];
        }

        var result = AlertRound.Run(rules, readings, alerts, alert => silences.Any(silence => silence.Covers(alert, poolsOf, now)), now);
        if (result.Kept.Count > 0 || result.Dropped.Count > 0)
        {
            var rows = JsonSerializer.Serialize(result.Kept.Select(AlertRow.Of), ConfigJson.Options);
            await connection.ExecuteAsync(new CommandDefinition(KeepSql, new { rows, dropped = result.Dropped.Select(alert => alert.Id).ToArray() }, transaction, cancellationToken: cancel));
        }
        foreach (var telling in result.Tellings)
        {
            var notice = Notices.Of(telling, Guid.CreateVersion7(now), now);
            await connection.ExecuteAsync(new CommandDefinition(
                SendSql, new { id = notice.Id, notice = JsonSerializer.Serialize(notice, ConfigJson.Options), webhooks }, transaction, cancellationToken: cancel));
        }
        await transaction.CommitAsync(cancel);
        return result;
    }

    private const string ListSql = """
        select * from alert
        where id < @Before and (case @State when 'open' then phase <> 'resolved' when 'all' then true else phase = @State end)
            and (@Rule::text is null or rule = @Rule) and (@Pool::text is null or pool = @Pool) and (@Instance::text is null or instance = @Instance)
        order by id desc limit @Limit;
        select rule, pool, instance, until from silence where until > now();
        """;

    /// <summary>Newest first, each with whether it is silenced.</summary>
    public async Task<IReadOnlyList<(Alert Alert, bool Silenced)>> ListAsync(
        AlertFilter filter, Func<string, IReadOnlyCollection<string>> poolsOf, DateTime now, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var tables = await connection.QueryMultipleAsync(new CommandDefinition(ListSql, filter, cancellationToken: cancel));
        var alerts = (await tables.ReadAsync<AlertRow>()).Select(row => row.ToAlert()).ToList();
        var silences = (await tables.ReadAsync<Silence>()).ToList();
        return [.. alerts.Select(alert => (alert, silences.Any(silence => silence.Covers(alert, poolsOf, now))))];
    }

    private const string SilencesSql = """
        select id, rule, pool, instance, until, reason, created_by, created_at, until > now() as active from silence
        where @all or until > now() order by id desc limit 1000
        """;

    public async Task<IReadOnlyList<SilenceView>> SilencesAsync(bool all, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<SilenceView>(new CommandDefinition(SilencesSql, new { all }, cancellationToken: cancel))];
    }

    private const string SilenceSql = """
        insert into silence (rule, pool, instance, until, reason, created_by)
        select @Rule, @Pool, @Instance, @until, @Reason, @by where (select count(*) from silence where until > now()) < 1000
        returning id, rule, pool, instance, until, reason, created_by, created_at, true as active
        """;

    /// <summary>Null: there are too many in force.</summary>
    public async Task<SilenceView?> SilenceAsync(NewSilence silence, DateTime until, string by, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<SilenceView>(new CommandDefinition(
            SilenceSql, new { silence.Rule, silence.Pool, silence.Instance, until, silence.Reason, by }, cancellationToken: cancel));
    }

    private const string EndSql = """
        update silence set until = least(until, now()) where id = @id
        returning id, rule, pool, instance, until, reason, created_by, created_at, false as active
        """;

    /// <summary>Ends a silence now. Null: there is no such one.</summary>
    public async Task<SilenceView?> EndSilenceAsync(long id, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<SilenceView>(new CommandDefinition(EndSql, new { id }, cancellationToken: cancel));
    }

    private const string PruneSql = """
        delete from alert where phase = 'resolved' and resolved_at < now() - @KeepAlerts;
        delete from silence where until < now() - @KeepAlerts;
        """;

    private static readonly TimeSpan KeepAlerts = TimeSpan.FromDays(90);

    public async Task PruneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { KeepAlerts }, cancellationToken: cancel));
    }
}
