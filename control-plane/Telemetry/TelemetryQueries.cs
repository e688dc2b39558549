using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>Which requests to show; null: whichever. Limit: 1 or more.</summary>
public sealed record TraceFilter(string? Pool, string? Instance, string? Outcome, string? Client, DateTime Since, long Before, int Limit);

/// <summary>Reads what the nodes counted, as the dashboards show it.</summary>
public sealed class TelemetryQueries(NpgsqlDataSource database)
{
    /// <summary>Lines in one picture; those with the most calls.</summary>
    public const int MostSeries = 100;

    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(20);

    // What clients' requests led to; probes and ghosts are counted apart.
    private const string OfClients = "s.traffic not in ('probe', 'ghost')";

    private sealed record LatencyRow
    {
        public string Name { get; init; } = "";
        public DateTime At { get; init; }
        public long[] Buckets { get; init; } = [];
        public double P50Ms { get; init; }
        public double P90Ms { get; init; }
        public double P99Ms { get; init; }
    }

    /// <summary>Of what was answered as it should be: a fast refusal is no fast answer.</summary>
    public async Task<LatencyView> LatencyAsync(TelemetryWindow window, LatencyMeasure measure, LatencyBy by, string? pool, string? instance, string? mode, CancellationToken cancel = default)
    {
        // Pools are judged by what clients got, unless it is about one instance or about what only attempts have.
        var family = by == LatencyBy.Pool && instance is null && measure != LatencyMeasure.PerOutputToken ? "request" : "attempt";
        var bounds = measure == LatencyMeasure.PerOutputToken ? Histogram.ShortBounds : Histogram.LongBounds;
        var sql = $"""
            with rows as (
                select s.{ConfigJson.Word(by)} as name, date_bin(@step, c.at, @Origin) as at, sum_buckets(c.{ConfigJson.Word(measure)}) as buckets
                from telemetry_call_by_{window.LevelName} c join telemetry_series s on s.id = c.series
                where c.at >= @From and c.at < @To and s.family = @family and s.outcome = 'ok' and {OfClients}
                    and (@pool::text is null or s.pool = @pool) and (@instance::text is null or s.instance = @instance) and (@mode::text is null or s.mode = @mode)
                group by 1, 2 having sum_buckets(c.{ConfigJson.Word(measure)}) is not null),
            shown as (select name from rows, unnest(buckets) n group by name order by sum(n) desc, name limit @MostSeries)
            select name, at, buckets, telemetry_quantile(buckets, @bounds, 0.5) * 1000 as p50_ms, telemetry_quantile(buckets, @bounds, 0.9) * 1000 as p90_ms,
                telemetry_quantile(buckets, @bounds, 0.99) * 1000 as p99_ms
            from rows join shown using (name) where (select sum(n) from unnest(buckets) n) > 0 order by name, at
            """;
        var rows = await QueryAsync<LatencyRow>(sql, new { step = Step(window), TelemetryWindow.Origin, window.From, window.To, family, pool, instance, mode, bounds, MostSeries }, cancel);
        var sums = new long[bounds.Length + 1];
        foreach (var row in rows)
        {
            for (var i = 0; i < Math.Min(row.Buckets.Length, sums.Length); i++) sums[i] += row.Buckets[i];
        }
        return new LatencyView(measure, window.StepS, window.From, window.To,
            [.. rows.GroupBy(row => row.Name).Select(line => new LatencySeries(line.Key, [.. line.Select(row =>
                new LatencyPoint(row.At, row.Buckets.Sum(), Round(row.P50Ms), Round(row.P90Ms), Round(row.P99Ms)))]))],
            [.. sums.Select((count, i) => new LatencyBucket(i < bounds.Length ? Round(bounds[i] * 1000) : null, count))]);

        static double Round(double ms) => Math.Round(ms, 4);
    }

    private sealed record CountRow(DateTime At, string Outcome, long Count);

    public async Task<ErrorsView> ErrorsAsync(TelemetryWindow window, ErrorLevel level, string? pool, string? instance, CancellationToken cancel = default)
    {
        var sql = $"""
            select date_bin(@step, c.at, @Origin) as at, s.outcome, sum(c.count)::bigint as count
            from telemetry_call_by_{window.LevelName} c join telemetry_series s on s.id = c.series
            where c.at >= @From and c.at < @To and s.family = @family and {OfClients}
                and (@pool::text is null or s.pool = @pool) and (@instance::text is null or s.instance = @instance)
            group by 1, 2 having sum(c.count) > 0 order by 1, 2
            """;
        var rows = await QueryAsync<CountRow>(sql, new { step = Step(window), TelemetryWindow.Origin, window.From, window.To, family = ConfigJson.Word(level), pool, instance }, cancel);
        var byAt = rows.ToLookup(row => row.At);
        return new ErrorsView(level, window.StepS, window.From, window.To, [.. window.Ats.Select(at => new ErrorPoint(
            at, byAt[at].Sum(row => row.Count), byAt[at].ToDictionary(row => row.Outcome, row => row.Count)))]);
    }

    private sealed record KnownRow(string Instance, DateTime? KnownSince);

    private sealed record AttemptRow(string Instance, DateTime At, long Attempts, long Failed);

    private sealed record IncidentRow(long Id, string Kind, string Instance, DateTime Since, DateTime? Until);

    private sealed record DrainRow(string Instance, DateTime Since, DateTime Until);

    private const string KnownSql = """
        select i.name::text as instance, case when h.status <> 'unknown' then h.known_since end as known_since
        from instance i left join instance_health h on h.instance = i.name order by i.position
        """;

    private const string IncidentsSql = """
        select id, kind, subject as instance, since, until from incident
        where kind in ('probe', 'breaker', 'blocked', 'cooldown', 'grey') and since < @To and coalesce(until, 'infinity') > @From order by id limit 100000
        """;

    // While a revision was in force that drained or disabled it.
    private const string DrainsSql = """
        select held ->> 'name' as instance, r.since, r.until
        from (select created_at as since, coalesce(lead(created_at) over (order by number), 'infinity') as until, document from revision
              where number >= (select coalesce(max(number), 0) from revision where created_at <= @From)) r,
            jsonb_path_query(r.document, '$.instances[*] ? (@.drain == true || @.enabled == false)') held
        where r.since < @To limit 100000
        """;

    public async Task<HeatmapView> HeatmapAsync(TelemetryWindow window, DateTime now, CancellationToken cancel = default)
    {
        var attemptsSql = $"""
            select s.instance, date_bin(@step, c.at, @Origin) as at, sum(c.count)::bigint as attempts, coalesce(sum(c.count) filter (where outcome_is_failure(s.outcome)), 0)::bigint as failed
            from telemetry_call_by_{window.LevelName} c join telemetry_series s on s.id = c.series
            where c.at >= @From and c.at < @To and s.family = 'attempt' and {OfClients} and s.instance <> '' group by 1, 2
            """;
        var parameters = new { step = Step(window), TelemetryWindow.Origin, window.From, window.To };
        var known = await QueryAsync<KnownRow>(KnownSql, null, cancel);
        var attempts = (await QueryAsync<AttemptRow>(attemptsSql, parameters, cancel)).ToLookup(row => row.Instance);
        var incidents = (await QueryAsync<IncidentRow>(IncidentsSql, parameters, cancel)).ToLookup(row => row.Instance);
        var drains = (await QueryAsync<DrainRow>(DrainsSql, parameters, cancel)).ToLookup(row => row.Instance);
        var names = known.Select(row => row.Instance).Concat(attempts.Select(group => group.Key).Order(StringComparer.Ordinal)).Distinct();
        var since = known.ToDictionary(row => row.Instance, row => row.KnownSince);
        return new HeatmapView(window.StepS, window.From, window.To, [.. names.Select(name => new HeatmapInstance(name, [.. Cells(name)]))]);

        IEnumerable<HeatmapCell> Cells(string name)
        {
            var counted = attempts[name].ToDictionary(row => row.At);
            var (itsIncidents, itsDrains) = (incidents[name].ToList(), drains[name].ToList());
            foreach (var at in window.Ats)
            {
                var end = at.AddSeconds(window.StepS);
                var row = counted.GetValueOrDefault(at);
                var open = itsIncidents.Where(incident => incident.Since < end && (incident.Until ?? DateTime.MaxValue) > at).ToList();
                var state = at >= now ? HeatmapState.Unknown
                    : open.Exists(incident => incident.Kind is "probe" or "breaker" or "blocked") ? HeatmapState.Out
                    : itsDrains.Exists(drain => drain.Since < end && drain.Until > at) ? HeatmapState.Draining
                    : open.Count > 0 ? HeatmapState.Degraded
                    : row is not null || since.GetValueOrDefault(name) is { } heard && heard < end ? HeatmapState.Up
                    : HeatmapState.Unknown;
                yield return new HeatmapCell(at, row?.Attempts ?? 0, row?.Failed ?? 0,
                    row is { Attempts: > 0 } ? Math.Round((double)row.Failed / row.Attempts, 6) : 0, state, [.. open.Select(incident => incident.Id)]);
            }
        }
    }

    private sealed record CostSum(string Name, string Currency, DateTime At, decimal Amount, decimal Estimated);

    public async Task<IReadOnlyList<CostRow>> CostAsync(TelemetryWindow window, CostBy by, DateTime now, CancellationToken cancel = default)
    {
        var sql = $"""
            select s.{ConfigJson.Word(by)} as name, s.currency, date_bin(@step, c.at, @Origin) as at, sum(c.cost_nano) / 1e9 as amount, sum(c.estimated_cost_nano) / 1e9 as estimated
            from telemetry_usage_by_{window.LevelName} c join telemetry_series s on s.id = c.series
            where c.at >= @From and c.at < @To and c.cost_nano > 0 group by 1, 2, 3 order by 3
            """;
        var rows = await QueryAsync<CostSum>(sql, new { step = Step(window), TelemetryWindow.Origin, window.From, window.To }, cancel);
        var hours = (decimal)((now < window.To ? now : window.To) - window.From).TotalHours;
        return [.. rows.GroupBy(row => (row.Name, row.Currency)).Select(line =>
        {
            var total = line.Sum(row => row.Amount);
            var perHour = hours > 0 ? total / hours : 0;
            return new CostRow(line.Key.Name, line.Key.Currency, Money(total), Money(line.Sum(row => row.Estimated)), Money(perHour), Money(perHour * 730),
                [.. line.Select(row => new CostPoint(row.At, Money(row.Amount)))]);
        }).OrderByDescending(row => row.Total).ThenBy(row => row.Name, StringComparer.Ordinal).Take(1_000)];
    }

    private sealed record SpentRow(string Currency, decimal Total, decimal Failed, decimal Cut, decimal Probes, decimal Ghosts);

    public async Task<IReadOnlyList<RoiSpent>> SpentAsync(TelemetryWindow window, CancellationToken cancel = default)
    {
        var sql = $"""
            select s.currency, sum(c.cost_nano) / 1e9 as total,
                coalesce(sum(c.cost_nano) filter (where {OfClients} and s.waste = 'failed'), 0) / 1e9 as failed, coalesce(sum(c.cost_nano) filter (where {OfClients} and s.waste = 'cut'), 0) / 1e9 as cut,
                coalesce(sum(c.cost_nano) filter (where s.traffic = 'probe'), 0) / 1e9 as probes, coalesce(sum(c.cost_nano) filter (where s.traffic = 'ghost'), 0) / 1e9 as ghosts
            from telemetry_usage_by_{window.LevelName} c join telemetry_series s on s.id = c.series
            where c.at >= @From and c.at < @To and s.currency <> '' group by 1 order by 1
            """;
        var rows = await QueryAsync<SpentRow>(sql, new { window.From, window.To }, cancel);
        return [.. rows.Select(row => new RoiSpent(
            row.Currency, Money(row.Total), Money(row.Failed + row.Cut + row.Probes + row.Ghosts), Money(row.Failed), Money(row.Cut), Money(row.Probes), Money(row.Ghosts)))];
    }

    /// <summary>Minutes, whatever the number of pools.</summary>
    public async Task<long> OutagePreventedMinutesAsync(DateTime from, DateTime to, CancellationToken cancel = default) =>
        (await QueryAsync<long>("select count(distinct at) from outage_prevented where at >= @from and at < @to", new { from, to }, cancel)).Single();

    private sealed record TraceRow
    {
        public long Id { get; init; }
        public DateTime At { get; init; }
        public string Node { get; init; } = "";
        public string RequestId { get; init; } = "";
        public string Client { get; init; } = "";
        public string Pool { get; init; } = "";
        public string Model { get; init; } = "";
        public string Kind { get; init; } = "";
        public string Mode { get; init; } = "";
        public int Status { get; init; }
        public string Outcome { get; init; } = "";
        public short? Tier { get; init; }
        public bool Degraded { get; init; }
        public double DurationMs { get; init; }
        public double QueuedMs { get; init; }
        public double? FirstTokenMs { get; init; }
        public string? Reason { get; init; }
        public long Revision { get; init; }
        public string Attempts { get; init; } = "[]";

        public TraceView ToView() => new()
        {
            Id = Id,
            At = At,
            Node = Node,
            RequestId = RequestId,
            Client = Client,
            Pool = Pool,
            Model = Model,
            Kind = Kind,
            Mode = Mode,
            Status = Status,
            Outcome = Outcome,
            Tier = Tier,
            Degraded = Degraded,
            DurationMs = DurationMs,
            QueuedMs = QueuedMs,
            FirstTokenMs = FirstTokenMs,
            Reason = Reason,
            Revision = Revision,
            Attempts = JsonSerializer.Deserialize<IReadOnlyList<TraceAttempt>>(Attempts, ConfigJson.Options) ?? [],
        };
    }

    private const string TraceColumns =
        "id, at, node, request_id, client, pool, model, kind, mode, status, outcome, tier, degraded, duration_ms, queued_ms, first_token_ms, reason, revision, attempts::text as attempts";

    private const string TracesSql = $"""
        select {TraceColumns} from telemetry_trace
        where id < @Before and at >= @Since and (@Pool::text is null or pool = @Pool) and (@Instance::text is null or instances @> array[@Instance::text])
            and (@Outcome::text is null or outcome = @Outcome) and (@Client::text is null or client = @Client)
        order by id desc limit @Limit
        """;

    /// <summary>Newest first.</summary>
    public async Task<IReadOnlyList<TraceView>> TracesAsync(TraceFilter filter, CancellationToken cancel = default) =>
        [.. (await QueryAsync<TraceRow>(TracesSql, filter, cancel)).Select(row => row.ToView())];

    /// <summary>The newest of that id; null: not kept.</summary>
    public async Task<TraceView?> TraceAsync(string requestId, CancellationToken cancel = default) =>
        (await QueryAsync<TraceRow>($"select {TraceColumns} from telemetry_trace where request_id = @requestId order by id desc limit 1", new { requestId }, cancel)).SingleOrDefault()?.ToView();

    private static TimeSpan Step(TelemetryWindow window) => TimeSpan.FromSeconds(window.StepS);

    /// <summary>Exact to a billionth, without trailing zeros.</summary>
    internal static decimal Money(decimal amount) => Math.Round(amount, 9) / 1.0000000000000000000000000000m;

    private async Task<IReadOnlyList<T>> QueryAsync<T>(string sql, object? parameters, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<T>(new CommandDefinition(sql, parameters, commandTimeout: (int)Timeout.TotalSeconds, cancellationToken: cancel))];
    }
}
