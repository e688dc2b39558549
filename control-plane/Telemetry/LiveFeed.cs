using Dapper;
using Evenkeel.Config;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>How the gateway stands right now, summed over the live nodes. Rates, shares and percentiles are of the last minute, cost of the last ten.</summary>
public sealed record LiveView(
    DateTime At, long Revision, IReadOnlyList<LiveNode> Nodes, IReadOnlyList<LivePool> Pools, IReadOnlyList<LiveInstance> Instances, int OpenIncidents);

public sealed record LiveNode(string Name, bool Live, long Revision, int Workers, bool Acknowledged);

/// <summary>Up: its first tier can be asked; degraded: only a later one; down: none.</summary>
public enum LivePoolState { Up, Degraded, Down }

/// <param name="Name">Of the pool.</param>
/// <param name="Algorithm">weighted, least_load or round_robin.</param>
/// <param name="Queued">Requests that wait for a free instance.</param>
/// <param name="RequestsPerS">Of clients.</param>
/// <param name="ErrorRate">Share of clients' requests that were let down.</param>
/// <param name="State">What it could answer with.</param>
/// <param name="Tiers">In their order, implied ones as well.</param>
public sealed record LivePool(string Name, Algorithm Algorithm, long Queued, double RequestsPerS, double ErrorRate, LivePoolState State, IReadOnlyList<LiveTier> Tiers);

/// <param name="Name">Of the tier.</param>
/// <param name="Position">1: primary.</param>
/// <param name="Model">Its own; absent: each instance's.</param>
/// <param name="Instances">Names.</param>
public sealed record LiveTier(string Name, int Position, string? Model, IReadOnlyList<string> Instances);

public sealed record LiveInstance
{
    public required string Name { get; init; }
    public string? Provider { get; init; }
    public required bool Healthy { get; init; }
    public required bool Enabled { get; init; }
    public required bool Drain { get; init; }
    public required bool Grey { get; init; }
    public required long InFlight { get; init; }
    /// <summary>Working limit.</summary>
    public required double Limit { get; init; }
    public required long MaxConnections { get; init; }
    public required double Weight { get; init; }
    /// <summary>Mean over nodes.</summary>
    public required double LiveWeight { get; init; }
    /// <summary>Of the live weights in the first tier that holds it, 0 to 1, by those nodes that would ask it now: 0 while none does.</summary>
    public required double Share { get; init; }
    /// <summary>The worst of the nodes': closed, half_open or open.</summary>
    public required string Breaker { get; init; }
    public required double CooldownS { get; init; }
    /// <summary>Key or account refused.</summary>
    public required bool Blocked { get; init; }
    public required double AttemptsPerS { get; init; }
    public required double ErrorRate { get; init; }
    public double? P50Ms { get; init; }
    public double? P99Ms { get; init; }
    public required IReadOnlyDictionary<string, decimal> CostPerHour { get; init; }
}

/// <summary>A node's GET /stats, as far as it is needed here.</summary>
public sealed record NodeStats
{
    public IReadOnlyDictionary<string, InstanceStats> Instances { get; init; } = new Dictionary<string, InstanceStats>();
    public IReadOnlyDictionary<string, PoolStats> Pools { get; init; } = new Dictionary<string, PoolStats>();
    /// <summary>Of the snapshot that it runs; 0: it has none yet, and serves nobody.</summary>
    public long Revision { get; init; }
    /// <summary>Of the shares that it holds; 0: it was never told any; null: it knows no shares.</summary>
    public long? SharesVersion { get; init; }
    /// <summary>Its fraction of the clients' limits.</summary>
    public double Share { get; init; } = 1;
}

public sealed record PoolStats(double Queued);

public sealed record InstanceStats
{
    public double InFlight { get; init; }
    public double Limit { get; init; }
    public double MaxConnections { get; init; }
    public double Weight { get; init; }
    public LiveWeights LiveWeight { get; init; } = new();
    public string Breaker { get; init; } = "closed";
    public bool Healthy { get; init; } = true;
    public double CooldownS { get; init; }
    /// <summary>Its share of the ceiling and of the half-open trials; null: none was dealt.</summary>
    public int? Permits { get; init; }
    public int? DealtTrials { get; init; }
    public Finding? Opening { get; init; }
    public Finding? Cooldown { get; init; }
    /// <summary>false, or the outcome that it is blocked for.</summary>
    public object? Blocked { get; init; }
    public bool IsBlocked => Blocked is System.Text.Json.JsonElement { ValueKind: System.Text.Json.JsonValueKind.True or System.Text.Json.JsonValueKind.String };
}

/// <summary>Something that holds for a while. By is the node that it was told of; null: it found that itself.</summary>
public sealed record Finding(string Id, double ForS, string? By = null);

public sealed record LiveWeights { public double Stream { get; init; } public double Json { get; init; } }

/// <summary>Asks nodes and database at most once in two seconds, however many listen, and not at all while nobody does.</summary>
public sealed class LiveFeed(NpgsqlDataSource database, NodeViews views, NodeAdmin admin, DesiredState state, TimeProvider time) : IDisposable
{
    private const int MostListeners = 200;
    private static readonly TimeSpan FreshFor = TimeSpan.FromSeconds(1.5);

    private readonly SemaphoreSlim gate = new(1, 1);
    private LiveView? current;
    private int listeners;

    /// <summary>False: there are too many.</summary>
    public bool Join()
    {
        if (Interlocked.Increment(ref listeners) <= MostListeners) return true;
        Leave();
        return false;
    }

    public void Leave() => Interlocked.Decrement(ref listeners);

    public async Task<LiveView> CurrentAsync(CancellationToken cancel)
    {
        await gate.WaitAsync(cancel);
        try
        {
            var now = time.GetUtcNow().UtcDateTime;
            if (current is null || now - current.At is var age && (age > FreshFor || age < TimeSpan.Zero)) current = await LookAsync(now, cancel);
            return current;
        }
        finally
        {
            gate.Release();
        }
    }

    public void Dispose() => gate.Dispose();

    private sealed record CallRow
    {
        public string Family { get; init; } = "";
        public string Name { get; init; } = "";
        public long Count { get; init; }
        public long Failed { get; init; }
        public double? P50Ms { get; init; }
        public double? P99Ms { get; init; }
    }

    private sealed record CostSum(string Instance, string Currency, decimal Amount);

    private sealed record GreyRow(string Subject);

    private const string CallsSql = """
        select s.family, case s.family when 'request' then s.pool else s.instance end as name, sum(c.count)::bigint as count,
            coalesce(sum(c.count) filter (where case s.family when 'request' then outcome_is_loss(s.outcome) else outcome_is_failure(s.outcome) end), 0)::bigint as failed,
            telemetry_quantile(sum_buckets(c.total) filter (where s.outcome = 'ok'), @bounds, 0.5) * 1000 as p50_ms,
            telemetry_quantile(sum_buckets(c.total) filter (where s.outcome = 'ok'), @bounds, 0.99) * 1000 as p99_ms
        from telemetry_call_by_10s c join telemetry_series s on s.id = c.series
        where c.at >= @minute and s.traffic not in ('probe', 'ghost') group by 1, 2
        """;

    private const string CostSql = """
        select s.instance, s.currency, sum(c.cost_nano) / 1e9 as amount from telemetry_usage_by_10s c join telemetry_series s on s.id = c.series
        where c.at >= @tenMinutes and c.cost_nano > 0 group by 1, 2
        """;

    private const string GreySql = "select subject from incident where kind = 'grey' and until is null";

    private const string OpenSql = "select count(*)::int from incident where until is null or until > now()";

    private async Task<LiveView> LookAsync(DateTime now, CancellationToken cancel)
    {
        var desired = state.Current;
        var nodes = await views.ListAsync(desired, cancel);
        var asking = Task.WhenAll(nodes.Where(node => node.Live).Select(node => admin.StatsAsync(new NodeAddress(node.Name, node.AdminUrl), cancel)));
        var (minute, tenMinutes) = (TelemetryWindow.Floor(now.AddSeconds(-60), 10), TelemetryWindow.Floor(now.AddMinutes(-10), 10));
        await using var connection = await database.OpenConnectionAsync(cancel);
        var calls = (await QueryAsync<CallRow>(CallsSql, new { minute, bounds = Histogram.LongBounds })).ToDictionary(row => (row.Family, row.Name));
        var costs = (await QueryAsync<CostSum>(CostSql, new { tenMinutes })).ToLookup(row => row.Instance);
        var grey = (await QueryAsync<GreyRow>(GreySql, null)).Select(row => row.Subject).ToHashSet();
        var open = (await QueryAsync<int>(OpenSql, null)).Single();
        var stats = (await asking).OfType<NodeStats>().ToList();
        var (seconds, hours) = ((now - minute).TotalSeconds, (decimal)(now - tenMinutes).TotalHours);

        var document = desired?.Document ?? new ConfigDocument();
        var tiers = document.Pools.ToDictionary(pool => pool.Name, document.EffectiveTiers);
        var instances = document.Instances.Select(Instance).ToDictionary(instance => instance.Name);
        var weights = document.Instances.ToDictionary(instance => instance.Name, WeightWhereAsked);
        foreach (var tier in tiers.Values.SelectMany(list => list).Reverse())
        {
            var sum = tier.Instances.Sum(name => weights[name]);
            foreach (var name in tier.Instances) instances[name] = instances[name] with { Share = sum > 0 ? Math.Round(weights[name] / sum, 4) : 0 };
        }
        return new LiveView(now, desired?.Revision ?? 0,
            [.. nodes.Select(node => new LiveNode(node.Name, node.Live, node.Revision, node.Workers.Count, node.Acknowledged))],
            [.. document.Pools.Select(Pool)], [.. document.Instances.Select(instance => instances[instance.Name])], open);

        async Task<List<T>> QueryAsync<T>(string sql, object? parameters) => [.. await connection.QueryAsync<T>(new CommandDefinition(sql, parameters, commandTimeout: 10, cancellationToken: cancel))];

        List<InstanceStats> Seen(InstanceConfig instance) => [.. stats.Select(node => node.Instances.GetValueOrDefault(instance.Name)).OfType<InstanceStats>()];

        double WeightWhereAsked(InstanceConfig instance) => instance is { Enabled: true, Drain: false }
            ? Seen(instance).Where(view => view is { Healthy: true, IsBlocked: false, CooldownS: 0, Breaker: not "open" }).Sum(view => view.LiveWeight.Stream)
            : 0;

        LiveInstance Instance(InstanceConfig instance)
        {
            var seen = Seen(instance);
            var calling = calls.GetValueOrDefault(("attempt", instance.Name));
            return new LiveInstance
            {
                Name = instance.Name,
                Provider = instance.Provider,
                Healthy = seen.TrueForAll(view => view.Healthy),
                Enabled = instance.Enabled,
                Drain = instance.Drain,
                Grey = grey.Contains(instance.Name),
                InFlight = (long)seen.Sum(view => view.InFlight),
                Limit = seen.Count == 0 ? instance.MaxConnections : seen.Sum(view => view.Limit),
                MaxConnections = seen.Count == 0 ? instance.MaxConnections : (long)seen.Sum(view => view.MaxConnections),
                Weight = instance.Weight,
                LiveWeight = Math.Round(seen.Select(view => view.LiveWeight.Stream).DefaultIfEmpty(0).Average(), 4),
                Share = 0,
                Breaker = seen.Exists(view => view.Breaker == "open") ? "open" : seen.Exists(view => view.Breaker == "half_open") ? "half_open" : "closed",
                CooldownS = Math.Round(seen.Select(view => view.CooldownS).DefaultIfEmpty(0).Max(), 1),
                Blocked = seen.Exists(view => view.IsBlocked),
                AttemptsPerS = Math.Round((calling?.Count ?? 0) / seconds, 2),
                ErrorRate = Rate(calling),
                P50Ms = calling?.P50Ms,
                P99Ms = calling?.P99Ms,
                CostPerHour = costs[instance.Name].ToDictionary(row => row.Currency, row => Math.Round(row.Amount / hours, 6)),
            };
        }

        LivePool Pool(PoolConfig pool)
        {
            var calling = calls.GetValueOrDefault(("request", pool.Name));
            var first = tiers[pool.Name].Index().Where(tier => tier.Item.Instances.Any(name => CanBeAsked(instances[name]))).Select(tier => (int?)tier.Index).FirstOrDefault();
            return new LivePool(pool.Name, pool.Algorithm, (long)stats.Sum(node => node.Pools.GetValueOrDefault(pool.Name)?.Queued ?? 0), Math.Round((calling?.Count ?? 0) / seconds, 2), Rate(calling),
                first switch { 0 => LivePoolState.Up, null => LivePoolState.Down, _ => LivePoolState.Degraded },
                [.. tiers[pool.Name].Select((tier, i) => new LiveTier(tier.Name, i + 1, tier.Model, tier.Instances))]);
        }

        static bool CanBeAsked(LiveInstance instance) => instance is { Enabled: true, Drain: false, Healthy: true, Blocked: false, CooldownS: 0, Breaker: not "open" };

        static double Rate(CallRow? row) => row is { Count: > 0 } ? Math.Round((double)row.Failed / row.Count, 6) : 0;
    }
}
