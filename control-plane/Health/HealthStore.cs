using System.Diagnostics;
using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Database;
using Npgsql;

namespace Evenkeel.Health;

/// <summary>An instance to probe, and how often: what one control plane wants of the due-list.</summary>
public sealed record ProbeWish(string Instance, TimeSpan Interval, TimeSpan Lease);

/// <summary>The right to probe an instance once, <see cref="Wait"/> from now. Whoever holds a later turn has it instead.</summary>
public sealed record ProbeClaim(string Instance, HealthState State, long Turn, TimeSpan Wait);

/// <summary>What a claim came to.</summary>
public sealed record ProbeOutcome(ProbeClaim Claim, HealthState State, ProbeResult Result, ProbeKind Kind, string Node, int LatencyMs, int Completions);

/// <summary>The health of one instance for the operator.</summary>
public sealed record InstanceHealth
{
    public required string Instance { get; init; }
    /// <summary>unknown, up or down.</summary>
    public required string Status { get; init; }
    public DateTime Since { get; init; }
    /// <summary>Results in a row that speak against the status.</summary>
    public int Consecutive { get; init; }
    /// <summary>Of the newest probe that got as far as the instance.</summary>
    public string? Outcome { get; init; }
    /// <summary>What the newest probe was told.</summary>
    public string? Words { get; init; }
    /// <summary>What was asked for: models, balance or completion.</summary>
    public string? Kind { get; init; }
    public int? LatencyMs { get; init; }
    /// <summary>The node that the newest probe went through.</summary>
    public string? Node { get; init; }
    public DateTime? ProbedAt { get; init; }
    public DateTime NextAt { get; init; }
    public long Probes { get; init; }
    /// <summary>Those among the probes that cost tokens.</summary>
    public long Completions { get; init; }
}

/// <summary>The due-list and the state of every instance in PostgreSQL. Its clock is the database's, so that all control planes have one.</summary>
public sealed class HealthStore(NpgsqlDataSource database, DatabaseState databaseState)
{
    private volatile IReadOnlyList<InstanceHealth>? remembered;

    // The due-list follows a change of the wishes at once, and what another control plane or a hand has done to it after a while.
    private static readonly TimeSpan SyncEvery = TimeSpan.FromSeconds(10);

    private sealed record Listed(string Rows, long At);

    private volatile Listed? listed;

    private const string FleetSql = """
        select number, array(select instance from instance_health where status = 'down' order by instance)::text[] as down,
            coalesce((select jsonb_object_agg(instance, weight_factor) from ghost_state where weight_factor < 1), '{}')::text as factors
        from fleet_state
        """;

    /// <summary>Number and instances are of one moment.</summary>
    public async Task<FleetState> FleetAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        var (number, down, factors) = await connection.QuerySingleAsync<(long, string[], string)>(new CommandDefinition(FleetSql, cancellationToken: cancel));
        return new FleetState(number, down.ToHashSet()) { WeightFactors = JsonSerializer.Deserialize<Dictionary<string, double>>(factors)! };
    }

    // The list follows the configuration in force, not what this process believes of it. First probes are spread over the interval.
    private const string SyncSql = """
        insert into instance_health (instance, next_at)
        select w.instance, now() + random() * least(w.interval_ms, 10000) * interval '1 ms'
        from jsonb_to_recordset(@wishes::jsonb) as w(instance text, interval_ms bigint)
        where exists (select from instance i where i.name = w.instance)
        on conflict do nothing;
        delete from instance_health h where not exists (select from instance i where i.name = h.instance);
        """;

    // Each interval is drawn anew, within a tenth, so that probes never march in step. What is further away than its interval or its lease
    // allows was claimed under a longer one, or by a clock that was set back since. What is out is watched closely, so that it is back within seconds of its recovery.
    private const string ClaimSql = """
        with due as (
            select h.instance, w.interval_ms, w.lease_ms,
                case when h.next_at > now() + @ahead then now() + random() * @ahead else greatest(h.next_at, now()) end as due_at
            from instance_health h join jsonb_to_recordset(@wishes::jsonb) as w(instance text, interval_ms bigint, lease_ms bigint) using (instance)
            where (h.next_at <= now() + @ahead or h.next_at > now() + w.interval_ms * 1.2 * interval '1 ms')
                and (h.claimed_until is null or h.claimed_until < now() or h.claimed_until > now() + @ahead + 2 * w.lease_ms * interval '1 ms')
            order by h.next_at for update of h skip locked)
        update instance_health h set
            turn = h.turn + 1,
            claimed_until = due.due_at + due.lease_ms * interval '1 ms',
            next_at = due.due_at + case when h.status = 'down' then least(due.interval_ms, 1000) else due.interval_ms end
                * (0.9 + 0.2 * random()) * interval '1 ms'
        from due where h.instance = due.instance
        returning h.instance, h.status, h.since, h.consecutive, h.turn, extract(epoch from due.due_at - now())::float8 as wait_s
        """;

    private sealed record ClaimRow(string Instance, string Status, DateTime Since, int Consecutive, long Turn, double WaitS);

    /// <summary>Takes what is due within <paramref name="ahead"/> and nobody probes: each claim is given once, whoever asks.</summary>
    public async Task<IReadOnlyList<ProbeClaim>> ClaimAsync(IEnumerable<ProbeWish> wishes, TimeSpan ahead, CancellationToken cancel = default)
    {
        var rows = JsonSerializer.Serialize(wishes.Select(wish => new { wish.Instance, IntervalMs = (long)wish.Interval.TotalMilliseconds, LeaseMs = (long)wish.Lease.TotalMilliseconds }), ConfigJson.Options);
        await using var connection = await database.OpenConnectionAsync(cancel);
        if (listed is not { } last || last.Rows != rows || Stopwatch.GetElapsedTime(last.At) > SyncEvery)
        {
            await connection.ExecuteAsync(new CommandDefinition(SyncSql, new { wishes = rows }, cancellationToken: cancel));
            listed = new Listed(rows, Stopwatch.GetTimestamp());
        }
        var claimed = await connection.QueryAsync<ClaimRow>(new CommandDefinition(ClaimSql, new { wishes = rows, ahead }, cancellationToken: cancel));
        return [.. claimed.Select(row => new ProbeClaim(
            row.Instance,
            new HealthState(ConfigJson.Words<HealthStatus>()[row.Status], row.Consecutive, row.Since),
            row.Turn,
            TimeSpan.FromSeconds(Math.Max(row.WaitS, 0))))];
    }

    private const string KeepSql = """
        update instance_health h set
            status = r.status, since = r.since, consecutive = r.consecutive, outcome = coalesce(r.outcome, h.outcome), words = r.words, kind = r.kind,
            latency_ms = r.latency_ms, node = r.node, probed_at = now(), claimed_until = null, probes = h.probes + 1, completions = h.completions + r.completions
        from jsonb_to_recordset(@results::jsonb) as r(
            instance text, turn bigint, status text, since timestamptz, consecutive integer, outcome text, words text, kind text, latency_ms integer, node text,
            completions integer)
        where h.instance = r.instance and h.turn = r.turn
        """;

    /// <summary>Keeps results, all or none. A result whose turn is over is dropped. What goes out or comes back is announced to all control planes.</summary>
    public async Task KeepAsync(IReadOnlyList<ProbeOutcome> outcomes, CancellationToken cancel = default)
    {
        var results = JsonSerializer.Serialize(outcomes.OrderBy(outcome => outcome.Claim.Instance, StringComparer.Ordinal).Select(outcome => new
        {
            outcome.Claim.Instance,
            outcome.Claim.Turn,
            Status = ConfigJson.Word(outcome.State.Status),
            outcome.State.Since,
            outcome.State.Consecutive,
            outcome.Result.Outcome,
            Words = KeptText.Of(outcome.Result.Words),
            Kind = ConfigJson.Word(outcome.Kind),
            outcome.LatencyMs,
            outcome.Node,
            outcome.Completions,
        }), ConfigJson.Options);
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(KeepSql, new { results }, cancellationToken: cancel));
    }

    // Whoever probes by an older claim has missed what was found since.
    private const string ReturnSql = """
        update instance_health h set
            since = case when h.status = r.status then h.since else r.since end, status = r.status, consecutive = r.consecutive, turn = h.turn + 1, claimed_until = null
        from jsonb_to_recordset(@found::jsonb) as r(instance text, status text, since timestamptz, consecutive integer)
        where h.instance = r.instance;
        update fleet_state set number = greatest(number, @number) + 1;
        """;

    /// <summary>Keeps what was found while the database was away, under a number above the nodes'.</summary>
    public async Task ReturnAsync(IReadOnlyDictionary<string, HealthState> states, long number, CancellationToken cancel = default)
    {
        var found = JsonSerializer.Serialize(states.Select(one => new { Instance = one.Key, Status = ConfigJson.Word(one.Value.Status), one.Value.Since, one.Value.Consecutive }), ConfigJson.Options);
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(ReturnSql, new { found, number }, cancellationToken: cancel));
    }

    private const string OutbidSql = "update fleet_state set number = @number + 1 where number < @number";

    /// <summary>A node goes by a finding that the database does not know of: what the database says gets a higher number than that.</summary>
    public async Task OutbidAsync(long number, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(OutbidSql, new { number }, cancellationToken: cancel));
    }

    private const string ListSql = """
        select instance, status, since, consecutive, outcome, words, kind, latency_ms, node, probed_at, next_at, probes, completions
        from instance_health order by instance
        """;

    /// <summary>While the database is away, as it was told last.</summary>
    public async Task<IReadOnlyList<InstanceHealth>> ListAsync(CancellationToken cancel = default)
    {
        if (databaseState.IsAway) return remembered ?? throw DatabaseState.IsAwayNow();
        return remembered = await databaseState.AskAsync<IReadOnlyList<InstanceHealth>>(async asked =>
        {
            await using var connection = await database.OpenConnectionAsync(asked);
            return [.. await connection.QueryAsync<InstanceHealth>(new CommandDefinition(ListSql, cancellationToken: asked))];
        }, cancel);
    }
}
