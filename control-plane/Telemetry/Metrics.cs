using Dapper;
using Evenkeel.Publishing;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>
/// Single numbers over the last stretch of time, for alert rules. About clients' requests: what clients got, with failovers done. Null:
/// there were none. Pool null: all pools.
/// </summary>
public sealed class Metrics(NpgsqlDataSource database, Spending spending, DesiredState state, TimeProvider time)
{
    public Task<double?> P99LatencyMs(string? pool, TimeSpan window, CancellationToken cancel = default) => QuantileMs("total", 0.99, pool, window, cancel);

    public Task<double?> P90FirstTokenMs(string? pool, TimeSpan window, CancellationToken cancel = default) => QuantileMs("first_token", 0.9, pool, window, cancel);

    /// <summary>The share (0 to 1) of requests whose client was let down; with an outcome, the share of attempts (of requests at level request) that had it.</summary>
    public Task<double?> ErrorRate(string? pool, string? outcome, TimeSpan window, CancellationToken cancel = default, ErrorLevel level = ErrorLevel.Attempt)
    {
        var family = outcome is null || level == ErrorLevel.Request ? "request" : "attempt";
        var failed = outcome is null ? "outcome_is_loss(s.outcome)" : "s.outcome = @outcome";
        return ScalarAsync($"""
            select coalesce(sum(c.count) filter (where {failed}), 0)::float8 / nullif(sum(c.count), 0)
            from telemetry_call_by_{Level(window)} c join telemetry_series s on s.id = c.series
            where c.at >= @since and s.family = @family and s.traffic not in ('probe', 'ghost') and (@pool::text is null or s.pool = @pool)
            """, new { since = Since(window), family, pool, outcome }, cancel);
    }

    /// <summary>The share (0 to 1) of requests whose client was not let down.</summary>
    public async Task<double?> Availability(string? pool, TimeSpan window, CancellationToken cancel = default) => 1 - await ErrorRate(pool, null, window, cancel);

    /// <summary>What a client has spent since then (UTC; on whole minutes), in its budget's currency.</summary>
    public async Task<decimal> SpentAsync(string client, DateTime since, CancellationToken cancel = default)
    {
        var document = state.Current?.Document;
        var currency = document?.Clients.FirstOrDefault(c => c.Name == client)?.Budget?.Currency;
        await using var connection = await database.OpenConnectionAsync(cancel);
        var sums = await connection.QueryAsync<(decimal Amount, string Currency)>(new CommandDefinition("""
            select sum(c.cost_nano) / 1e9, s.currency from telemetry_usage_by_minute c join telemetry_series s on s.id = c.series
            where c.at >= @since and s.client = @client and s.traffic not in ('probe', 'ghost') group by 2
            """, new { since, client }, cancellationToken: cancel));
        var amounts = sums.ToList();
        return ExchangeRates.Sum(amounts, currency ?? amounts.FirstOrDefault().Currency ?? "USD", document?.Gateway.ExchangeRates).Sum;
    }

    /// <summary>Spent / budget of the present period of every client that has one.</summary>
    public async Task<IReadOnlyList<BudgetView>> BudgetsAsync(CancellationToken cancel = default) =>
        state.Current is { } desired ? await spending.BudgetsAsync(desired.Document, cancel) : [];

    private Task<double?> QuantileMs(string histogram, double q, string? pool, TimeSpan window, CancellationToken cancel) => ScalarAsync($"""
        select telemetry_quantile(sum_buckets(c.{histogram}), @bounds, @q) * 1000
        from telemetry_call_by_{Level(window)} c join telemetry_series s on s.id = c.series
        where c.at >= @since and s.family = 'request' and s.outcome = 'ok' and s.traffic not in ('probe', 'ghost') and (@pool::text is null or s.pool = @pool)
        """, new { since = Since(window), bounds = Histogram.LongBounds, q, pool }, cancel);

    private async Task<double?> ScalarAsync(string sql, object parameters, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteScalarAsync<double?>(new CommandDefinition(sql, parameters, commandTimeout: 10, cancellationToken: cancel));
    }

    // Rows fine enough for the window: at least some thirty of them.
    private static string Level(TimeSpan window) => window <= TimeSpan.FromHours(2) ? "10s" : window <= TimeSpan.FromDays(2) ? "minute" : "hour";

    private DateTime Since(TimeSpan window) => TelemetryWindow.Floor(time.GetUtcNow().UtcDateTime - window, Level(window) switch { "10s" => 10, "minute" => 60, _ => 3_600 });
}
