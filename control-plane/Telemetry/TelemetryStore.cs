using System.Collections.Concurrent;
using System.Text;
using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>How far a node was read. Turn grows with every reading that was kept.</summary>
public sealed record TelemetryCursor
{
    public long Turn { get; init; }
    public long Seq { get; init; }
    public long TraceLife { get; init; }
    public long TraceNumber { get; init; }
    /// <summary>How long ago its counters were last read.</summary>
    public TimeSpan UnreadFor { get; init; }
}

/// <summary>
/// Writes what the nodes counted. One reading of a node is one transaction: what was added since the last one, the values that the next one
/// is compared with, and the cursor. Whoever comes second with the same turn changes nothing, so that nothing counts twice; counters are
/// cumulative, so that nothing is lost by a reading that failed. All writers hold one lock, and time is read under it: nothing comes late to a
/// stretch of time that is summed, unless the clock was set back; then it is added to the sums as well.
/// </summary>
public sealed class TelemetryStore(NpgsqlDataSource database)
{
    internal const long LockKey = 0x65766b_0004;

    private sealed record SeriesKey(string Family, SeriesLabels Labels, string Currency);

    private sealed record KnownSeries(int Id, DateTime Day);

    // What was last read of a node, as of a turn. Another turn: somebody else has read it since.
    private sealed record LastRead(long Turn, Dictionary<int, NodeSeries> Values);

    private readonly ConcurrentDictionary<SeriesKey, KnownSeries> known = new();
    private readonly ConcurrentDictionary<string, LastRead> lastReads = new();
    private (DateTime From, DateTime Until) prepared;

    private const string CursorSql = "select turn, seq, trace_life, trace_number, now() - read_at as unread_for from telemetry_cursor where node = @node";

    /// <summary>All zero: never read.</summary>
    public async Task<TelemetryCursor> CursorAsync(string node, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<TelemetryCursor>(new CommandDefinition(CursorSql, new { node }, cancellationToken: cancel)) ?? new TelemetryCursor();
    }

    private const string MoveSql = """
        insert into telemetry_cursor (node) select name from node where name = @node and @Turn = 0 on conflict do nothing;
        update telemetry_cursor set turn = turn + 1, seq = @seq, trace_life = @life, trace_number = @number, dropped_traces = dropped_traces + @dropped,
            sampled_out = coalesce(@sampledOut, sampled_out), dropped_series = coalesce(@droppedSeries, dropped_series), read_at = case when @isRead then now() else read_at end
        where node = @node and turn = @Turn
        """;

    // A node that counts nothing is read as well. Seldom: it moves nothing on.
    private const string NoNewsSql = "update telemetry_cursor set read_at = now() where node = @node and turn = @Turn";

    private static readonly TimeSpan NoNewsEvery = TimeSpan.FromSeconds(10);

    /// <summary>The counters were read, and there is nothing new.</summary>
    public async Task NoNewsAsync(string node, TelemetryCursor from, CancellationToken cancel = default)
    {
        if (from.UnreadFor < NoNewsEvery) return;
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(NoNewsSql, new { node, from.Turn }, cancellationToken: cancel));
    }

    // What comes now was counted since then, not within the last seconds.
    private const string GapSql = """
        insert into telemetry_gap (node, at, since) select node, @at, read_at from telemetry_cursor where node = @node and turn = @Turn on conflict do nothing
        """;

    /// <summary>Whoever did not read a node for so long cannot say when it counted what.</summary>
    private static readonly TimeSpan LongestGap = TimeSpan.FromSeconds(30);

    private const string LastSql = "select series, value::text from telemetry_last where node = @node";

    private const string KeepLastSql = """
        insert into telemetry_last (node, series, born, value) select @node, * from unnest(@series::integer[], @born::bigint[], @value::jsonb[])
        on conflict (node, series) do update set born = excluded.born, value = excluded.value, read_at = now()
        """;

    private const string CallsSql = """
        insert into telemetry_call as c
        select @level, @at, d.* from unnest(@series::integer[], @count::bigint[], @retried::bigint[], @degraded::bigint[], @totalS::float8[], @total::text[], @firstTokenS::float8[], @firstToken::text[],
            @perOutputTokenS::float8[], @perOutputToken::text[], @overheadS::float8[], @overhead::text[], @queuedS::float8[], @queued::text[])
            as t(series, count, retried, degraded, total_s, total, first_token_s, first_token, per_output_token_s, per_output_token, overhead_s, overhead, queued_s, queued),
            lateral (select t.series, t.count, t.retried, t.degraded, t.total_s, t.total::bigint[], t.first_token_s, t.first_token::bigint[], t.per_output_token_s, t.per_output_token::bigint[],
                t.overhead_s, t.overhead::bigint[], t.queued_s, t.queued::bigint[]) d
        order by t.series
        on conflict (level, at, series) do update set count = c.count + excluded.count, retried = c.retried + excluded.retried, degraded = c.degraded + excluded.degraded,
            total_s = c.total_s + excluded.total_s, total = add_buckets(c.total, excluded.total),
            first_token_s = c.first_token_s + excluded.first_token_s, first_token = add_buckets(c.first_token, excluded.first_token),
            per_output_token_s = c.per_output_token_s + excluded.per_output_token_s, per_output_token = add_buckets(c.per_output_token, excluded.per_output_token),
            overhead_s = c.overhead_s + excluded.overhead_s, overhead = add_buckets(c.overhead, excluded.overhead),
            queued_s = c.queued_s + excluded.queued_s, queued = add_buckets(c.queued, excluded.queued)
        """;

    private const string UsageSql = """
        insert into telemetry_usage as u
        select @level, @at, d.* from unnest(@series::integer[], @attempts::bigint[], @input::bigint[], @cachedInput::bigint[], @output::bigint[], @reasoning::bigint[],
            @estimatedInput::bigint[], @estimatedOutput::bigint[], @costNano::bigint[], @estimatedCostNano::bigint[]) d(series)
        order by d.series
        on conflict (level, at, series) do update set attempts = u.attempts + excluded.attempts, input = u.input + excluded.input, cached_input = u.cached_input + excluded.cached_input,
            output = u.output + excluded.output, reasoning = u.reasoning + excluded.reasoning, estimated_input = u.estimated_input + excluded.estimated_input,
            estimated_output = u.estimated_output + excluded.estimated_output, cost_nano = u.cost_nano + excluded.cost_nano,
            estimated_cost_nano = u.estimated_cost_nano + excluded.estimated_cost_nano
        """;

    // Where what is counted at a time goes: among the rows of ten seconds, and to each level that has summed that time already.
    private const string LevelsSql = """
        select 0::int as level, @at::timestamptz as at
        union all select level, date_bin((array['1 minute', '1 hour', '1 day'])[level]::interval, @at, '2000-01-01Z') from telemetry_rollup where until > @at
        order by level
        """;

    // A node whose clock is far off would write where no partition is.
    private const string TracesSql = """
        insert into telemetry_trace (at, node, request_id, client, pool, model, kind, mode, status, outcome, tier, degraded, duration_ms, queued_ms, first_token_ms, reason, revision, instances, failed, attempts)
        select greatest(least(to_timestamp(t.at), now() + interval '1 hour'), now() - interval '1 day'), @node, left(t.request_id, 200), left(coalesce(t.client, ''), 200), left(coalesce(t.pool, ''), 200),
            left(coalesce(t.model, ''), 200), left(coalesce(t.kind, ''), 48), left(coalesce(t.mode, ''), 48), t.status, left(coalesce(t.outcome, ''), 48), t.tier, t.degraded,
            t.duration_ms, t.queued_ms, t.first_token_ms, left(t.reason, 500), t.revision,
            array(select a ->> 'instance' from jsonb_array_elements(t.attempts) a), array(select a ->> 'instance' from jsonb_array_elements(t.attempts) a where outcome_is_failure(a ->> 'outcome')), t.attempts
        from jsonb_to_recordset(@traces::jsonb) as t(id bigint, at float8, request_id text, client text, pool text, model text, kind text, mode text, status integer, outcome text, tier smallint,
            degraded boolean, duration_ms float8, queued_ms float8, first_token_ms float8, reason text, revision bigint, attempts jsonb)
        order by t.id
        """;

    /// <summary>Keeps one reading of a node, all or nothing. False: somebody else has read the node since the cursor was.</summary>
    /// <param name="node">Its name.</param>
    /// <param name="from">Where the reading began.</param>
    /// <param name="telemetry">Null: it was not asked.</param>
    /// <param name="traces">Null: it was not asked.</param>
    /// <param name="cancel">Up to the commit.</param>
    public async Task<bool> KeepAsync(string node, TelemetryCursor from, NodeTelemetry? telemetry, NodeTraces? traces, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await connection.ExecuteAsync(Command("select pg_advisory_xact_lock(@LockKey)", new { LockKey }));
        var now = await connection.ExecuteScalarAsync<DateTime>(Command("select clock_timestamp()", null));
        if (from.UnreadFor > LongestGap && telemetry is { Series.Count: > 0 }) await connection.ExecuteAsync(Command(GapSql, new { node, from.Turn, at = TelemetryWindow.Floor(now, 10) }));
        var moved = await connection.ExecuteAsync(Command(MoveSql, new
        {
            node,
            from.Turn,
            isRead = telemetry is not null,
            seq = telemetry?.Seq ?? from.Seq,
            life = traces?.Begin ?? from.TraceLife,
            number = traces is null ? from.TraceNumber : traces.Traces.Count > 0 ? traces.Traces[^1].Id : traces.Begin == from.TraceLife ? from.TraceNumber : traces.Begin,
            dropped = traces?.Dropped ?? 0,
            sampledOut = traces?.SampledOut,
            droppedSeries = telemetry?.DroppedSeries,
        }));
        if (moved == 0) return false;
        var isPrepared = now >= prepared.From && now < prepared.Until;
        if (!isPrepared) await connection.ExecuteAsync(Command("select telemetry_make_partitions(clock_timestamp())", null));

        var ids = new Dictionary<SeriesKey, KnownSeries>();
        var last = lastReads.GetValueOrDefault(node);
        if (telemetry is { Series.Count: > 0 })
        {
            ids = await SeriesAsync(connection, transaction, telemetry.Series, now.Date, cancel);
            if (last?.Turn != from.Turn) last = new LastRead(from.Turn, await LastAsync());
            await AddAsync(telemetry, last.Values);
        }
        if (traces is { Traces.Count: > 0 }) await connection.ExecuteAsync(Command(TracesSql, new { node, traces = JsonSerializer.Serialize(traces.Traces, ConfigJson.Options) }));
        await transaction.CommitAsync(cancel);

        // Nothing is remembered that was not kept. Partitions begin with this hour and reach two hours ahead.
        if (!isPrepared) prepared = (TelemetryWindow.Floor(now, 3_600), now.AddMinutes(30));
        foreach (var (key, id) in ids) known[key] = id;
        if (last?.Turn == from.Turn)
        {
            foreach (var series in telemetry?.Series ?? []) last.Values[ids[KeyOf(series)].Id] = series;
            lastReads[node] = last with { Turn = from.Turn + 1 };
        }
        return true;

        async Task<Dictionary<int, NodeSeries>> LastAsync() =>
            (await connection.QueryAsync<(int Series, string Value)>(Command(LastSql, new { node })))
            .ToDictionary(row => row.Series, row => JsonSerializer.Deserialize<NodeSeries>(row.Value, NodeTelemetry.Options)!);

        async Task AddAsync(NodeTelemetry told, Dictionary<int, NodeSeries> before)
        {
            var read = told.Series.Select(series => (Id: ids[KeyOf(series)].Id, Series: series)).GroupBy(row => row.Id, (_, same) => same.Last()).OrderBy(row => row.Id).ToList();
            var added = read.Select(row => (row.Id, Delta: row.Series.Since(before.GetValueOrDefault(row.Id)))).Where(row => !row.Delta.AddsNothing).ToList();
            var calls = added.Where(row => row.Delta.Family != "usage").ToList();
            var usage = added.Where(row => row.Delta.Family == "usage").ToList();
            foreach (var (level, at) in await connection.QueryAsync<(int Level, DateTime At)>(Command(LevelsSql, new { at = TelemetryWindow.Floor(now, 10) })))
            {
                if (calls.Count > 0) await connection.ExecuteAsync(Command(CallsSql, CallColumns(level, at, calls, told.BoundsS)));
                if (usage.Count > 0) await connection.ExecuteAsync(Command(UsageSql, UsageColumns(level, at, usage)));
            }
            await connection.ExecuteAsync(Command(KeepLastSql, new
            {
                node,
                series = read.Select(row => row.Id).ToArray(),
                born = read.Select(row => row.Series.Born).ToArray(),
                value = read.Select(row => JsonSerializer.Serialize(row.Series, ConfigJson.Options)).ToArray(),
            }));
        }

        CommandDefinition Command(string sql, object? parameters) => new(sql, parameters, transaction, commandTimeout: 30, cancellationToken: cancel);
    }

    private static object CallColumns(int level, DateTime at, List<(int Id, NodeSeries Delta)> rows, NodeBounds bounds)
    {
        var longIsOurs = bounds.Long.SequenceEqual(Histogram.LongBounds);
        var shortIsOurs = bounds.Short.SequenceEqual(Histogram.ShortBounds);
        return new
        {
            level,
            at,
            series = Of(row => row.Id),
            count = Of(row => row.Delta.Count),
            retried = Of(row => row.Delta.Retried),
            degraded = Of(row => row.Delta.Degraded),
            totalS = Of(row => row.Delta.Total?.Sum ?? 0),
            total = Of(row => Long(row.Delta.Total)),
            firstTokenS = Of(row => row.Delta.FirstToken?.Sum ?? 0),
            firstToken = Of(row => Long(row.Delta.FirstToken)),
            perOutputTokenS = Of(row => row.Delta.PerOutputToken?.Sum ?? 0),
            perOutputToken = Of(row => Short(row.Delta.PerOutputToken)),
            overheadS = Of(row => row.Delta.Overhead?.Sum ?? 0),
            overhead = Of(row => Short(row.Delta.Overhead)),
            queuedS = Of(row => row.Delta.Queued?.Sum ?? 0),
            queued = Of(row => Long(row.Delta.Queued)),
        };

        T[] Of<T>(Func<(int Id, NodeSeries Delta), T> column) => [.. rows.Select(column)];

        string? Long(NodeHistogram? histogram) => Literal(histogram is null || longIsOurs ? histogram?.Buckets : Histogram.Rebucket(histogram.Buckets, bounds.Long, Histogram.LongBounds));

        string? Short(NodeHistogram? histogram) => Literal(histogram is null || shortIsOurs ? histogram?.Buckets : Histogram.Rebucket(histogram.Buckets, bounds.Short, Histogram.ShortBounds));

        static string? Literal(IReadOnlyList<long>? buckets) => buckets is null ? null : new StringBuilder("{").AppendJoin(',', buckets).Append('}').ToString();
    }

    private static object UsageColumns(int level, DateTime at, List<(int Id, NodeSeries Delta)> rows)
    {
        return new
        {
            level,
            at,
            series = rows.Select(row => row.Id).ToArray(),
            attempts = Of(delta => delta.Attempts),
            input = Of(delta => delta.Input),
            cachedInput = Of(delta => delta.CachedInput),
            output = Of(delta => delta.Output),
            reasoning = Of(delta => delta.Reasoning),
            estimatedInput = Of(delta => delta.EstimatedInput),
            estimatedOutput = Of(delta => delta.EstimatedOutput),
            costNano = Of(delta => delta.CostNano),
            estimatedCostNano = Of(delta => delta.EstimatedCostNano),
        };

        long[] Of(Func<NodeSeries, long> column) => [.. rows.Select(row => column(row.Delta))];
    }

    private static SeriesKey KeyOf(NodeSeries series) => new(series.Family, series.Labels, series.Currency ?? "");

    private sealed record SeriesRow
    {
        public int Id { get; init; }
        public string Family { get; init; } = "";
        public string Pool { get; init; } = "";
        public string Instance { get; init; } = "";
        public string Client { get; init; } = "";
        public string Model { get; init; } = "";
        public string Kind { get; init; } = "";
        public string Mode { get; init; } = "";
        public short Tier { get; init; }
        public string Outcome { get; init; } = "";
        public string Traffic { get; init; } = "";
        public string Waste { get; init; } = "";
        public string Currency { get; init; } = "";

        public SeriesKey Key => new(Family, new SeriesLabels
        {
            Pool = Pool,
            Instance = Instance,
            Client = Client,
            Model = Model,
            Kind = Kind,
            Mode = Mode,
            Tier = Tier < 0 ? null : Tier,
            Outcome = Outcome,
            Traffic = Traffic,
            Waste = Waste,
        }, Currency);
    }

    private const string SeriesSql = """
        insert into telemetry_series (family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency)
        select family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency
        from jsonb_to_recordset(@series::jsonb) as s(family text, pool text, instance text, client text, model text, kind text, mode text, tier smallint, outcome text, traffic text, waste text, currency text)
        on conflict (family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency) do update set last_day = excluded.last_day
        returning id, family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency
        """;

    // Once a day each one is told to be in use.
    private async Task<Dictionary<SeriesKey, KnownSeries>> SeriesAsync(NpgsqlConnection connection, NpgsqlTransaction transaction, IEnumerable<NodeSeries> told, DateTime day, CancellationToken cancel)
    {
        var ids = new Dictionary<SeriesKey, KnownSeries>();
        var missing = new HashSet<SeriesKey>();
        foreach (var key in told.Select(KeyOf))
        {
            if (known.TryGetValue(key, out var id) && id.Day == day) ids[key] = id;
            else missing.Add(key);
        }
        if (missing.Count == 0) return ids;
        var rows = JsonSerializer.Serialize(missing.Select(key => new
        {
            key.Family,
            key.Labels.Pool,
            key.Labels.Instance,
            key.Labels.Client,
            key.Labels.Model,
            key.Labels.Kind,
            key.Labels.Mode,
            Tier = key.Labels.Tier ?? -1,
            key.Labels.Outcome,
            key.Labels.Traffic,
            key.Labels.Waste,
            key.Currency,
        }), ConfigJson.Options);
        foreach (var row in await connection.QueryAsync<SeriesRow>(new CommandDefinition(SeriesSql, new { series = rows }, transaction, cancellationToken: cancel))) ids[row.Key] = new KnownSeries(row.Id, day);
        return ids;
    }

    /// <summary>Sums what is complete into minutes, hours and days, and adds to incidents what they cost.</summary>
    public Task RollUpAsync(CancellationToken cancel = default) => UnderLockAsync("select telemetry_roll_up(); select incident_impact_add();", null, cancel);

    // What is not summed into the next level yet is kept, however old.
    private const string MaintainSql = """
        set local lock_timeout = '5s';
        select telemetry_make_partitions(clock_timestamp());
        select telemetry_drop_partitions('telemetry_' || family || '_' || level, least(now() - kept, (select until from telemetry_rollup r where r.level = k.level + 1)))
        from unnest(array['call', 'usage']) family, unnest(array[0, 1, 2, 3], array[@TenSeconds, @Minutes, @Hours, @Days]::interval[]) k(level, kept);
        select telemetry_drop_partitions('telemetry_trace', now() - @Traces);
        delete from outage_prevented where at < now() - @Days;
        delete from telemetry_gap where at < now() - interval '40 days';
        delete from telemetry_last where read_at < now() - interval '7 days';
        delete from telemetry_series where last_day < now() - @Days - interval '400 days';
        """;

    /// <summary>Makes the partitions that are needed next and drops those that are past their time.</summary>
    public Task MaintainAsync(RetentionConfig retention, CancellationToken cancel = default) =>
        UnderLockAsync(MaintainSql, new { retention.TenSeconds, retention.Minutes, retention.Hours, retention.Days, retention.Traces }, cancel);

    private async Task UnderLockAsync(string sql, object? parameters, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition("select pg_advisory_xact_lock(@LockKey)", new { LockKey }, transaction, cancellationToken: cancel));
        await connection.ExecuteAsync(new CommandDefinition(sql, parameters, transaction, commandTimeout: 120, cancellationToken: cancel));
        await transaction.CommitAsync(cancel);
    }
}
