using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Telemetry;

/// <summary>What clients have spent of their budgets. Periods are days and months in UTC. Everything that was paid for them counts, tries in vain as well.</summary>
public sealed class Spending(NpgsqlDataSource database, TimeProvider time)
{
    private sealed record Row(string Client, string Currency, decimal Month, decimal Day);

    private const string Sql = """
        select s.client, s.currency, sum(c.cost_nano) / 1e9 as month, coalesce(sum(c.cost_nano) filter (where c.at >= @day), 0) / 1e9 as day
        from telemetry_usage_by_day c join telemetry_series s on s.id = c.series
        where c.at >= @month and s.client = any(@clients) and s.traffic not in ('probe', 'ghost') group by 1, 2
        """;

    /// <summary>Clients with a budget, in the order of the configuration.</summary>
    public async Task<IReadOnlyList<BudgetView>> BudgetsAsync(ConfigDocument document, CancellationToken cancel = default)
    {
        var budgeted = document.Clients.Where(client => client.Budget is not null).ToList();
        if (budgeted.Count == 0) return [];
        var day = time.GetUtcNow().UtcDateTime.Date;
        var month = new DateTime(day.Year, day.Month, 1, 0, 0, 0, DateTimeKind.Utc);
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = (await connection.QueryAsync<Row>(new CommandDefinition(Sql, new { day, month, clients = budgeted.Select(client => client.Name).ToArray() }, cancellationToken: cancel)))
            .ToLookup(row => row.Client);
        return [.. budgeted.Select(client =>
        {
            var budget = client.Budget!;
            var (spent, unconverted) = ExchangeRates.Sum(rows[client.Name].Select(row => (budget.Per == "day" ? row.Day : row.Month, row.Currency)), budget.Currency, document.Gateway.ExchangeRates);
            return new BudgetView(client.Name, budget.Amount, budget.Currency, budget.Per, TelemetryQueries.Money(spent), (double)Math.Round(spent / budget.Amount, 6), unconverted);
        })];
    }
}
