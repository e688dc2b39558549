using Dapper;
using Evenkeel.Config;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Telemetry;
using Npgsql;
using Quartz;

namespace Evenkeel.Clients;

/// <summary>What one life of a node has spent of a client's budget in a period, in billionths of a currency; null: of the budget's, whichever that was.</summary>
public sealed record Spent(string Client, string Period, string Node, long Born, decimal SpentNano, string? Currency = null);

/// <param name="Share">The node's part of every limit.</param>
/// <param name="Born">The life of its counters that the sums leave out; another life does not take them.</param>
/// <param name="Clients">What all others have spent, and the node itself while the budget was in another currency; who is not named has spent nothing elsewhere.</param>
public sealed record SpendingOrder(decimal Share, long Born, IReadOnlyDictionary<string, SpendingOrder.Others> Clients)
{
    public sealed record Others(string Period, string Currency, decimal OthersNano);
}

/// <summary>What a node has spent itself since <paramref name="Born"/>.</summary>
public sealed record SpendingAnswer(long Born, IReadOnlyDictionary<string, SpendingAnswer.Own> Clients)
{
    public sealed record Own(string Period, decimal SpentNano, string? Currency = null)
    {
        public bool IsFit => SpentNano > 0 && Period.Length is > 0 and <= 10 && (Currency is null || (Currency.Length == 3 && Currency.All(char.IsAsciiLetterUpper)));
    }
}

/// <summary>
/// Holds clients to their limits across nodes: deals the live nodes equal shares, collects what each has spent and tells it what the others
/// have. A node counts on its own in between, so a budget is exceeded by what is spent within two rounds and by what is in flight.
/// </summary>
public sealed class SpendingExchange(NpgsqlDataSource database, NodeStore nodes, NodeAdmin admin, DesiredState state, TimeProvider time)
{
    public static readonly TimeSpan Every = TimeSpan.FromSeconds(2);

    private const string ReadSql = """
        delete from client_spending where at < now() - interval '40 days';
        select client, split_part(period, ':', 1) as period, node, born, spent_nano as SpentNano, nullif(split_part(period, ':', 2), '') as currency
        from client_spending where split_part(period, ':', 1) = any(@periods);
        """;

    private const string StoreSql = """
        insert into client_spending (client, period, node, born, spent_nano) values (@Client, concat_ws(':', @Period, @Currency::text), @Node, @Born, @SpentNano)
        on conflict (client, period, node, born) do update set spent_nano = excluded.spent_nano, at = now()
        where excluded.spent_nano > client_spending.spent_nano
        """;

    public async Task RunAsync(CancellationToken cancel)
    {
        if (state.Current?.Document is not { Clients: var clients, Gateway.ExchangeRates: var rates } || !clients.Any(IsLimited)) return;
        var live = (await nodes.ListAsync(cancel)).Where(node => node.Live).ToList();
        if (live.Count == 0) return;

        await using var connection = await database.OpenConnectionAsync(cancel);
        var now = time.GetUtcNow().UtcDateTime;
        var spent = (await connection.QueryAsync<Spent>(new CommandDefinition(ReadSql, new { periods = new[] { Period("day", now), Period("month", now) } }, cancellationToken: cancel))).AsList();
        var answers = await Task.WhenAll(live.Select(async node =>
            (Node: node.Name, Answer: await admin.ExchangeSpendingAsync(node.Address, OrderFor(node.Name, live.Count, clients, spent, now, rates), cancel))));
        var rows = answers
            .Where(answer => answer.Answer is not null)
            .SelectMany(answer => answer.Answer!.Clients
                .Where(own => own.Value.IsFit && ConfigValidator.IsName(own.Key))
                .Select(own => new Spent(own.Key, own.Value.Period, answer.Node, answer.Answer.Born, own.Value.SpentNano, own.Value.Currency)));
        await connection.ExecuteAsync(new CommandDefinition(StoreSql, rows, cancellationToken: cancel));
    }

    /// <summary>The running period of a budget: "2026-11-25" or "2026-11".</summary>
    public static string Period(string per, DateTime utc) => per == "day" ? $"{utc:yyyy-MM-dd}" : $"{utc:yyyy-MM}";

    /// <summary>
    /// Pure. The life of the node's counters is the newest that it has told of. Without a rate between two currencies, one counts as the other:
    /// rather too much than nothing, as a node does.
    /// </summary>
    public static SpendingOrder OrderFor(
        string node, int liveNodes, IReadOnlyList<ClientConfig> clients, IReadOnlyList<Spent> spent, DateTime utc, IReadOnlyDictionary<string, decimal>? rates = null)
    {
        var born = spent.Where(row => row.Node == node).Select(row => row.Born).DefaultIfEmpty().Max();
        var rows = spent.ToLookup(row => (row.Client, row.Period));
        return new SpendingOrder(1m / liveNodes, born, clients
            .Where(client => client.Budget is not null)
            .Select(client => (client.Name, Others: OthersOf(client.Name, client.Budget!.Currency, Period(client.Budget.Per, utc))))
            .Where(of => of.Others.OthersNano > 0)
            .ToDictionary(of => of.Name, of => of.Others));

        SpendingOrder.Others OthersOf(string client, string currency, string period) => new(period, currency, rows[(client, period)]
            .Where(row => (row.Node, row.Born, row.Currency ?? currency) != (node, born, currency))
            .Sum(row => decimal.Round(ExchangeRates.Convert(row.SpentNano, row.Currency ?? currency, currency, rates) ?? row.SpentNano)));
    }

    private static bool IsLimited(ClientConfig client) =>
        client.RequestsPerMinute is not null || client.TokensPerMinute is not null || client.MaxConcurrent is not null || client.Budget is not null;
}

/// <summary>One round; a failed one is made up for by the next.</summary>
[DisallowConcurrentExecution]
public sealed class SpendingJob(SpendingExchange exchange) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await exchange.RunAsync(cancel);
}
