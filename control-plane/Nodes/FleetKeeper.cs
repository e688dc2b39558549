using System.Collections.Concurrent;
using Evenkeel.Config;
using Evenkeel.Publishing;
using Evenkeel.Telemetry;

namespace Evenkeel.Nodes;

/// <summary>
/// Looks at all nodes a few times a second, deals them their shares and tells each what the others have found out. What it goes by are
/// the nodes' own words: nothing of it is stored, and whoever leads next goes on from there. A node to which nobody listens any more is
/// left out at once; one that is silent keeps its share for as long as it counts as live, for it may serve with it.
/// </summary>
public sealed class FleetKeeper(NodeMemory memory, NodeAdmin admin, DesiredState state, TimeProvider time, ILogger<FleetKeeper> log) : BackgroundService
{
    private static readonly TimeSpan Every = TimeSpan.FromMilliseconds(300);

    // Refusals in a row until its part goes to the others: so long its calls take to end at their providers, too.
    private const int GoneAfterRefusals = 3;
    private const int MostTold = 50_000;

    // With whom would a lone node share, and who would tell it anything? It is looked at now and then: a thousand instances take it, and us, a while.
    private static readonly TimeSpan LoneEvery = TimeSpan.FromSeconds(3);

    private sealed record Lone(ConfigDocument Document, string Node, long At);

    /// <summary>The last word of a node, when it came, and how often nobody has listened there since.</summary>
    private sealed record Known(NodeAddress Address, NodeStats? Stats, long At, int Refusals);

    private readonly ConcurrentDictionary<string, Known> known = new();
    private readonly HashSet<(string Node, Hint Hint)> told = [];
    private Lone? hasAll;

    protected override async Task ExecuteAsync(CancellationToken stopping)
    {
        using var clock = new PeriodicTimer(Every, time);
        try
        {
            do
            {
                try
                {
                    if (memory.Leads && state.Current is { } desired) await RoundAsync(desired.Document, stopping);
                    else known.Clear();
                }
                catch (Exception failure) when (failure is not OperationCanceledException)
                {
                    FleetLog.Failed(log, failure);
                }
            }
            while (await clock.WaitForNextTickAsync(stopping));
        }
        catch (OperationCanceledException)
        {
        }
    }

    private async Task RoundAsync(ConfigDocument document, CancellationToken cancel)
    {
        var nodes = memory.Nodes;
        if (hasAll is { } last && ReferenceEquals(last.Document, document) && nodes is [{ } only] && only.Name == last.Node && time.GetElapsedTime(last.At) < LoneEvery) return;
        hasAll = null;
        foreach (var gone in known.Keys.Except(nodes.Select(node => node.Name))) known.TryRemove(gone, out _);
        var answering = new ConcurrentDictionary<string, NodeStats>();
        await Task.WhenAll(nodes.Where(node => node.Live || known.ContainsKey(node.Name)).Select(async node =>
        {
            var before = known.GetValueOrDefault(node.Name);
            var (stats, isGone) = await admin.GlanceAsync(node.Address, cancel);
            if (stats is not null) answering[node.Name] = stats;
            known[node.Name] = stats is not null
                ? new Known(node.Address, stats, time.GetTimestamp(), 0)
                : new Known(node.Address, before?.Stats, before?.At ?? time.GetTimestamp(), isGone ? (before?.Refusals ?? 0) + 1 : 0);
        }));
        var counting = known.Where(node => node.Value.Refusals < GoneAfterRefusals && time.GetElapsedTime(node.Value.At) < NodeStore.LiveFor)
            .ToDictionary(node => node.Key, node => node.Value);
        var orders = OrdersFor(document, counting, answering).ToList();
        if (orders.Count == 0 && nodes is [{ } alone] && answering.ContainsKey(alone.Name) && counting.Count == 1) hasAll = new Lone(document, alone.Name, time.GetTimestamp());
        await Task.WhenAll(orders.Select(order => admin.OrderSharesAsync(known[order.Node].Address, order.Order, cancel))
            .Concat(NewHints(answering).Select(hints => TellAsync(hints.Key, [.. hints], cancel))));
    }

    private static IEnumerable<(string Node, ShareOrder Order)> OrdersFor(ConfigDocument document, Dictionary<string, Known> counting, IReadOnlyDictionary<string, NodeStats> answering)
    {
        // An older node that knows no shares holds everything; there is nothing to be dealt with it. One that has no snapshot yet is told a
        // newcomer's shares before it gets one, which an order without a single instance would forestall.
        var takers = answering.Where(node => node.Value is { SharesVersion: not null, Revision: > 0 } && counting.ContainsKey(node.Key)).ToDictionary();
        if (takers.Count == 0) yield break;
        var silent = counting.Where(node => !answering.ContainsKey(node.Key)).ToList();
        var fractions = Shares.DealFractions([.. takers.Select(node => (node.Key, node.Value.Share, node.Value.Instances.Values.Sum(instance => instance.InFlight))),
            .. silent.Select(node => (node.Key, node.Value.Stats?.Share ?? 1.0 / counting.Count, 0.0))]);
        var parts = takers.Keys.ToDictionary(node => node, _ => new Dictionary<string, InstanceShare>());
        var breakers = document.FailoverByInstance();
        foreach (var instance in document.Instances)
        {
            var holders = takers.Where(node => node.Value.Instances.ContainsKey(instance.Name))
                .Select(node => (node.Key, Stats: node.Value.Instances[instance.Name]))
                .Select(node => new Holder(node.Key, node.Stats.Permits, (int)node.Stats.InFlight))
                .Concat(silent.Select(node => (node.Key, Stats: node.Value.Stats?.Instances.GetValueOrDefault(instance.Name)))
                    .Select(node => new Holder(node.Key, node.Stats?.Permits, (int)(node.Stats?.InFlight ?? 0), Answers: false)))
                .ToList();
            var trials = Shares.DealTrials(breakers[instance.Name].CircuitBreaker.HalfOpenMaxRequests, instance.Name, holders.Where(holder => holder.Answers).Select(holder => holder.Node));
            foreach (var (node, permits) in Shares.Deal(instance.MaxConnections, holders)) parts[node][instance.Name] = new InstanceShare(permits, trials[node]);
        }
        foreach (var (node, stats) in takers)
        {
            var isSame = stats.SharesVersion > 0 && Math.Abs(stats.Share - fractions[node]) < 1e-9
                && parts[node].All(part => stats.Instances[part.Key] is var holds && holds.Permits == part.Value.Permits && holds.DealtTrials == part.Value.Trials);
            if (!isSame) yield return (node, new ShareOrder(stats.SharesVersion!.Value, fractions[node], parts[node]));
        }
    }

    private ILookup<string, Hint> NewHints(IReadOnlyDictionary<string, NodeStats> answering)
    {
        if (told.Count > MostTold) told.Clear();
        return Hints.Of(answering).Where(hint => !told.Contains(Mark(hint.Node, hint.Hint))).ToLookup(hint => hint.Node, hint => hint.Hint);
    }

    private async Task TellAsync(string node, IReadOnlyList<Hint> hints, CancellationToken cancel)
    {
        if (!await admin.HintAsync(known[node].Address, hints, cancel)) return;
        lock (told) told.UnionWith(hints.Select(hint => Mark(node, hint)));
    }

    // The time that is left differs from round to round.
    private static (string, Hint) Mark(string node, Hint hint) => (node, hint with { ForS = 0 });
}

internal static partial class FleetLog
{
    [LoggerMessage(Level = LogLevel.Error, Message = "a look at the nodes failed; the next one comes")]
    public static partial void Failed(ILogger log, Exception failure);
}
