using System.Collections.Concurrent;
using System.Diagnostics;
using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>Where one case is played: its instances, its model, and what is written down.</summary>
internal sealed class Stage(Case @case, TimeScale time, ProviderSimulator simulator, GatewayClient client, OwnStack? stack)
{
    private readonly List<Exchange> _exchanges = [];
    private readonly ConcurrentDictionary<string, double> _facts = new();
    private readonly ConcurrentDictionary<string, string> _words = new();

    public Case Case => @case;
    public TimeScale Time => time;

    /// <summary>Null when another gateway is judged.</summary>
    public OwnStack? Stack => stack;

    public GatewayClient Client => client;

    public SimulatedInstance this[string role] => simulator[@case.InstanceName(@case.Setting.Members.First(member => member.Role == role))];

    public void Fact(string name, double value) => _facts[name] = value;

    public void Note(string name, string words) => _words[name] = words;

    public Task<Exchange> AskAsync(bool stream = true) => AskAsync(new Ask(stream));

    public async Task<Exchange> AskAsync(Ask ask)
    {
        if (time.IsFast && ask.Limit == new Ask().Limit)
        {
            ask = ask with { Limit = TimeSpan.FromSeconds(35) };
        }
        var exchange = await client.AskAsync(@case.Model, ask);
        lock (_exchanges)
        {
            _exchanges.Add(exchange);
        }
        return exchange;
    }

    /// <summary>Keeps so many callers busy until so many requests have been made, or until told to stop.</summary>
    public Task LoadAsync(int callers, Func<int, Ask?> next)
    {
        var number = -1;
        return Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
        {
            while (next(Interlocked.Increment(ref number)) is { } ask)
            {
                await AskAsync(ask);
            }
        }));
    }

    /// <summary>Waits for a condition; false when it does not hold by the deadline.</summary>
    public static async Task<bool> UntilAsync(Func<bool> condition, TimeSpan deadline)
    {
        var clock = Stopwatch.StartNew();
        while (!condition())
        {
            if (clock.Elapsed > deadline)
            {
                return false;
            }
            await Task.Delay(20);
        }
        return true;
    }

    public IReadOnlyList<LedgerEntry> Ledger(string role) => simulator.Ledger.Entries(this[role].Name);

    /// <summary>Of the ledger what is no probe: those come when they come.</summary>
    public IEnumerable<LedgerEntry> Tries(string role) => Ledger(role).Where(entry => entry.Method == "POST");

    /// <summary>What was seen, once the ledger stands still (or 2 s have passed: some calls are never to end).</summary>
    public async Task<Evidence> EvidenceAsync()
    {
        var roles = @case.Setting.Members.Select(member => member.Role).Distinct().ToList();
        await UntilAsync(() => roles.All(role => Ledger(role).All(entry => entry.Ended)), TimeSpan.FromSeconds(2));
        var node = new Dictionary<string, NodeView>();
        if (stack is not null && @case.AsksNode)
        {
            // The node's counts follow the end of an answer by a moment.
            var deadline = DateTime.UtcNow.AddSeconds(1);
            do
            {
                var stats = await stack.StatsAsync();
                foreach (var role in roles)
                {
                    node[role] = NodeView.Read(stats["instances"]![this[role].Name]!);
                }
            }
            while (node.Values.Any(view => view.InFlight > 0) && DateTime.UtcNow < deadline && await Pause());
        }
        lock (_exchanges)
        {
            return new Evidence(@case, time)
            {
                Exchanges = [.. _exchanges.OrderBy(exchange => exchange.At)],
                Ledger = roles.ToDictionary(role => role, Ledger),
                Counters = roles.ToDictionary(role => role, role => this[role].Counters),
                Node = node,
                Facts = new Dictionary<string, double>(_facts),
                Words = new Dictionary<string, string>(_words),
            };
        }

        static async Task<bool> Pause()
        {
            await Task.Delay(50);
            return true;
        }
    }
}
