using System.Diagnostics;
using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>A case that is over.</summary>
internal sealed record Result(Case Case, Judgement Judgement, Evidence? Evidence, TimeSpan Wall)
{
    public Verdict Verdict => Judgement.Verdict;
    public double? FirstByteMs => Evidence?.Exchanges.FirstOrDefault()?.FirstByteMs;

    /// <summary>Role → tries, in the order of the tiers.</summary>
    public IEnumerable<(string Role, int Tries)> Tries => Evidence is null ? [] : Case.Setting.Members.Select(member => (member.Role, Evidence.Tries(member.Role).Count));
}

/// <summary>
/// Plays the cases. Single faults all run at once, begun a moment apart; load tests one after the other once the crowd
/// has gone; what disturbs everybody at the end.
/// </summary>
internal sealed class Runner(TimeScale time, ProviderSimulator simulator, GatewayClient client, OwnStack? stack, Progress progress)
{
    private static readonly TimeSpan Apart = TimeSpan.FromMilliseconds(25);
    private const int Crowd = 12;

    private readonly List<Result> _results = [];
    private int _running;

    public async Task<IReadOnlyList<Result>> RunAsync(IReadOnlyList<Case> cases, CancellationToken cancel)
    {
        foreach (var one in cases)
        {
            Topology.Script(one, simulator);
        }
        var faults = new List<Task>();
        foreach (var one in cases.Where(one => one.Phase == Phase.Faults))
        {
            faults.Add(PlayAsync(one, cancel));
            await Task.Delay(Apart, cancel);
        }
        foreach (var one in cases.Where(one => one.Phase == Phase.Load))
        {
            while (Volatile.Read(ref _running) > Crowd)
            {
                await Task.Delay(100, cancel);
            }
            await PlayAsync(one, cancel);
        }
        await Task.WhenAll(faults);
        foreach (var one in cases.Where(one => one.Phase == Phase.Alone))
        {
            await PlayAsync(one, cancel);
        }
        var order = cases.ToList();
        return [.. _results.OrderBy(result => order.IndexOf(result.Case))];
    }

    private async Task PlayAsync(Case one, CancellationToken cancel)
    {
        if (one.OwnStackOnly && stack is null)
        {
            End(new Result(one, new Judgement(Verdict.Skipped, "only where the kit started the gateway itself"), null, TimeSpan.Zero));
            return;
        }
        Interlocked.Increment(ref _running);
        progress.Begin(one);
        var clock = Stopwatch.StartNew();
        Evidence? evidence = null;
        Judgement judgement;
        try
        {
            var stage = new Stage(one, time, simulator, client, stack);
            await (one.Play?.Invoke(stage) ?? stage.AskAsync()).WaitAsync(cancel);
            clock.Stop();
            evidence = await stage.EvidenceAsync();
            judgement = one.Judge(evidence);
        }
        catch (Exception fault) when (fault is not OperationCanceledException)
        {
            judgement = new Judgement(Verdict.Fail, $"the case itself broke down: {fault.GetType().Name}: {fault.Message}");
        }
        finally
        {
            Interlocked.Decrement(ref _running);
        }
        End(new Result(one, judgement, evidence, clock.Elapsed));
    }

    private void End(Result result)
    {
        lock (_results)
        {
            _results.Add(result);
        }
        progress.End(result);
    }
}
