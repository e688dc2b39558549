using Dapper;
using Evenkeel.Config;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Npgsql;
using Quartz;

namespace Evenkeel.Clients;

/// <summary>What one life of a node has spent of a client's budget in a period, in billionths of the budget's currency.</summary>
public sealed record Spent(string Client, string Period, string Node, long Born, decimal SpentNano);

/// <param name="Share">The node's part of every limit.</param>
/// <param name="Born">The life of its counters that the sums leave out; another life does not take them.</param>
/// <param name="Clients">What all others have spent; who is not named has spent nothing elsewhere.</param>
public sealed record SpendingOrder(decimal Share, long Born, IReadOnlyDictionary<string, SpendingOrder.Others> Clients)
{
    public sealed record Others(string Period, decimal OthersNano);
}

/// <summary>What a node has spent itself since <paramref name="Born"/>.</summary>
public sealed record SpendingAnswer(long Born, IReadOnlyDictionary<string, SpendingAnswer.Own> Clients)
{
    public sealed record Own(string Period, decimal SpentNano);
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
        select client, period, node, born, spent_nano as SpentNano from client_spending where period = any(@periods);
        """;

    private const string StoreSql = """
        insert into client_spending (client, period, node, born, spent_nano) values (@Client, @Period, @Node, @Born, @SpentNano)
        on conflict (client, period, node, born) do update set spent_nano = excluded.spent_nano, at = now()
        where excluded.spent_nano > client_spending.spent_nano
        """;

    public async Task RunAsync(CancellationToken cancel)
    {
        if (state.Current?.Document.Clients is not { } clients || !clients.Any(IsLimited)) return;
        var live = (await nodes.ListAsync(cancel)).Where(node => node.Live).ToList();
        if (live.Count == 0) return;

        await using var connection = await database.OpenConnectionAsync(cancel);
        var now = time.GetUtcNow().UtcDateTime;
        var spent = (await connection.QueryAsync<Spent>(new CommandDefinition(ReadSql, new { periods = new[] { Period("day", now), Period("month", now) } }, cancellationToken: cancel))).AsList();
        var answers = await Task.WhenAll(live.Select(async node =>
            (Node: node.Name, Answer: await admin.ExchangeSpendingAsync(node.Address, OrderFor(node.Name, live.Count, clients, spent, now), cancel))));
        var rows = answers
            .Where(answer => answer.Answer is not null)
            .SelectMany(answer => answer.Answer!.Clients
                .Where(own => own.Value.SpentNano > 0 && ConfigValidator.IsName(own.Key) && own.Value.Period.Length is > 0 and <= 10)
                .Select(own => new Spent(own.Key, own.Value.Period, answer.Node, answer.Answer.Born, own.Value.SpentNano)));
        await connection.ExecuteAsync(new CommandDefinition(StoreSql, rows, cancellationToken: cancel));
    }

    /// <summary>The running period of a budget: "2026-11-25" or "2026-11".</summary>
    public static string Period(string per, DateTime utc) => per == "day" ? $"{utc:yyyy-MM-dd}" : $"{utc:yyyy-MM}";

    /// <summary>Pure. The life of the node's counters is the newest that it has told of.</summary>
    public static SpendingOrder OrderFor(string node, int liveNodes, IReadOnlyList<ClientConfig> clients, IReadOnlyList<Spent> spent, DateTime utc)
    {
        var born = spent.Where(row => row.Node == node).Select(row => row.Born).DefaultIfEmpty().Max();
        var others = spent.Where(row => (row.Node, row.Born) != (node, born)).ToLookup(row => (row.Client, row.Period), row => row.SpentNano);
        return new SpendingOrder(1m / liveNodes, born, clients
            .Where(client => client.Budget is not null)
            .Select(client => (client.Name, Period: Period(client.Budget!.Per, utc)))
            .Where(of => others.Contains(of))
            .ToDictionary(of => of.Name, of => new SpendingOrder.Others(of.Period, others[of].Sum())));
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
