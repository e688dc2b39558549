using System.Collections.Concurrent;
using System.Threading.Channels;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Npgsql;

namespace Evenkeel.Health;

/// <summary>
/// Probes every instance in service by its own interval, through the door that real traffic takes: a node's admin listener and the
/// instance's adapter. A Quartz job calls <see cref="TickAsync"/> every second, on one control plane at a time; what is due is claimed
/// in the database, so that nothing is probed twice, and asked from memory at its own moment within that second.
/// The nodes take turns, so that with several of them it takes the view of more than one to take an instance out; a node that does
/// not answer is passed over and says nothing about an instance. Without a live node nothing is probed and all stays as it is; without
/// the database the control plane that leads goes on from memory, and keeps what it has found when the database is back.
/// </summary>
public sealed class Prober(
    HealthStore store, HealthMemory memory, DatabaseState database, NodeStore nodes, NodeMemory nodeMemory, NodeAdmin admin, DesiredState state, Publisher publisher, TimeProvider time, ILogger<Prober> log)
    : BackgroundService
{
    public static readonly TimeSpan Tick = TimeSpan.FromSeconds(1);

    private static readonly TimeSpan AskMissingAgainAfter = TimeSpan.FromHours(1);
    private static readonly TimeSpan StoreTimeout = TimeSpan.FromSeconds(5);

    // What says what is known already waits for more of its kind: of a thousand instances a hundred are probed each second.
    private static readonly TimeSpan NoNewsWaits = TimeSpan.FromMilliseconds(100);

    private readonly Channel<ProbeOutcome> outcomes = Channel.CreateUnbounded<ProbeOutcome>(new UnboundedChannelOptions { SingleReader = true });
    private readonly ConcurrentDictionary<(string Instance, string BaseUrl, ProbeKind Kind), long> missing = new();
    private readonly CancellationTokenSource ending = new();

    private sealed record Plan(InstanceConfig Instance, HealthCheckConfig Check, string? Model);

    private sealed record Planned(Desired Of, IReadOnlyDictionary<string, Plan> Plans);

    private volatile Planned? planned;
    private readonly ConcurrentDictionary<string, bool> underWay = new();      // of the probes from memory
    private long turn;

    /// <summary>Claims what is due within the next second and begins with it; returns before it is done.</summary>
    public async Task TickAsync(CancellationToken cancel)
    {
        if (state.Current is not { } desired) return;
        var live = (await nodes.ListAsync(cancel)).Where(node => node.Live).ToList();
        if (live.Count == 0) return;
        var plans = PlansOf(desired);

        // Up to three kinds are tried one after the other, and a status is asked for when the time is over.
        var wishes = plans.Values.Select(plan => new ProbeWish(plan.Instance.Name, plan.Check.Interval, 3 * (plan.Check.Timeout + TimeSpan.FromSeconds(5))));
        foreach (var claim in await store.ClaimAsync(wishes, Tick, cancel)) _ = RunAsync(claim, plans[claim.Instance], live, ending.Token);
    }

    public override async Task StopAsync(CancellationToken cancel)
    {
        await ending.CancelAsync();
        await base.StopAsync(cancel);
    }

    public override void Dispose()
    {
        ending.Dispose();
        base.Dispose();
    }

    protected override Task ExecuteAsync(CancellationToken stopping) => Task.WhenAll(KeepAsync(stopping), GoOnFromMemoryAsync(stopping));

    private async Task GoOnFromMemoryAsync(CancellationToken stopping)
    {
        var due = new Dictionary<string, long>();
        using var clock = new PeriodicTimer(Tick, time);
        while (true)
        {
            try
            {
                await clock.WaitForNextTickAsync(stopping);
                if (database.IsAway)
                {
                    if (nodeMemory.Leads && state.Current is { } desired) ProbeWhatIsDue(desired, due, stopping);
                    continue;
                }
                due.Clear();
                if (memory.Waiting is not { Count: > 0 } waiting) continue;
                await store.ReturnAsync(waiting, memory.Fleet.Number, stopping);
                memory.Kept();
                publisher.Wake();
            }
            catch (Exception failure) when (!stopping.IsCancellationRequested)
            {
                if (failure is not NpgsqlException) HealthLog.Failed(log, failure);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private void ProbeWhatIsDue(Desired desired, Dictionary<string, long> due, CancellationToken stopping)
    {
        var live = nodeMemory.Nodes.Where(node => node.Live).ToList();
        if (live.Count == 0) return;
        foreach (var (name, plan) in PlansOf(desired))
        {
            var isDown = memory.Of(name).Status == HealthStatus.Down;
            var interval = isDown && plan.Check.Interval > Tick ? Tick : plan.Check.Interval;
            long In(double intervals) => time.GetTimestamp() + (long)(interval.TotalSeconds * intervals * time.TimestampFrequency);
            due.TryAdd(name, In(isDown ? 0 : Random.Shared.NextDouble()));
            if (due[name] > time.GetTimestamp() || !underWay.TryAdd(name, true)) continue;
            due[name] = In(0.9 + (0.2 * Random.Shared.NextDouble()));
            _ = ProbeFromMemoryAsync(new ProbeClaim(name, memory.Of(name), turn++, TimeSpan.Zero), plan, live, stopping);
        }
    }

    private async Task ProbeFromMemoryAsync(ProbeClaim claim, Plan plan, IReadOnlyList<Node> live, CancellationToken stopping)
    {
        try
        {
            var outcome = await ProbeAsync(claim, plan, live, stopping);
            if (!memory.Found(claim.Instance, outcome.State, time.GetUtcNow().UtcDateTime)) return;
            Say(outcome);
            publisher.Wake();
        }
        catch (Exception failure) when (failure is not OperationCanceledException)
        {
            HealthLog.Failed(log, failure);
        }
        finally
        {
            underWay.TryRemove(claim.Instance, out _);
        }
    }

    // Results that come while others are being written are written together.
    private async Task KeepAsync(CancellationToken stopping)
    {
        var batch = new List<ProbeOutcome>();
        while (true)
        {
            try
            {
                await outcomes.Reader.WaitToReadAsync(stopping);
                batch.Clear();
                Take();
                if (batch.All(outcome => outcome.State == outcome.Claim.State)) await Task.Delay(NoNewsWaits, stopping);
                Take();
                using var bounded = CancellationTokenSource.CreateLinkedTokenSource(stopping);
                bounded.CancelAfter(StoreTimeout);
                await store.KeepAsync(batch, bounded.Token);
                foreach (var outcome in batch) Say(outcome);
            }
            catch (Exception failure) when (!stopping.IsCancellationRequested)
            {
                // Their claims run out, and they are probed anew.
                if (failure is NpgsqlException or OperationCanceledException) HealthLog.NotKept(log, batch.Count, failure.Message);
                else HealthLog.Failed(log, failure);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }

        void Take()
        {
            while (outcomes.Reader.TryRead(out var outcome)) batch.Add(outcome);
        }
    }

    private IReadOnlyDictionary<string, Plan> PlansOf(Desired desired)
    {
        if (planned is { } known && known.Of == desired) return known.Plans;
        var blocks = desired.Document.FailoverByInstance();
        var plans = desired.Document.Instances.Where(instance => instance.Enabled && !instance.Drain)
            .ToDictionary(instance => instance.Name, instance => new Plan(instance, blocks[instance.Name].HealthCheck, Probe.ModelOf(desired.Document, instance)));
        planned = new Planned(desired, plans);
        return plans;
    }

    private async Task RunAsync(ProbeClaim claim, Plan plan, IReadOnlyList<Node> live, CancellationToken cancel)
    {
        try
        {
            await Task.Delay(claim.Wait, time, cancel);
            outcomes.Writer.TryWrite(await ProbeAsync(claim, plan, live, cancel));
        }
        catch (OperationCanceledException)
        {
        }
        catch (Exception failure)
        {
            HealthLog.Failed(log, failure);
        }
    }

    private async Task<ProbeOutcome> ProbeAsync(ProbeClaim claim, Plan plan, IReadOnlyList<Node> live, CancellationToken cancel)
    {
        var (result, kind, latencyMs, completions) = (ProbeResult.NotTold("no live node answers"), plan.Instance.Probe.Kind, 0, 0);
        var node = live[0];
        for (var i = 0; i < live.Count && result.Outcome is null; i++)
        {
            node = live[(int)((claim.Turn + i) % live.Count)];
            foreach (var next in Probe.Order(plan.Instance.Probe.Kind))
            {
                var mark = (plan.Instance.Name, plan.Instance.BaseUrl, next);
                if (missing.TryGetValue(mark, out var since) && time.GetElapsedTime(since) < AskMissingAgainAfter) continue;
                if (Probe.Call(next, plan.Model) is not { } call) break;
                kind = next;
                if (next == ProbeKind.Completion) completions++;
                var began = time.GetTimestamp();
                var answer = await admin.KnockAsync(node.Address, plan.Instance.Name, call, plan.Check.Timeout, cancel);
                latencyMs = (int)time.GetElapsedTime(began).TotalMilliseconds;
                if (answer.TimedOut && (await admin.StatusAsync(node.Address, cancel)).Fault is { } fault) answer = new DoorAnswer(null, null, "", fault);
                result = Probe.Judge(next, answer);
                if (!result.Missing) break;
                missing[mark] = time.GetTimestamp();
            }
        }
        // Nothing is left to ask of a provider that lists no models and whose model nobody names: it answers.
        if (result.Missing) result = new ProbeResult(ProbeVerdict.Good, "ok", result.Words);
        var now = claim.State.After(result.Verdict, plan.Check, time.GetUtcNow().UtcDateTime);
        return new ProbeOutcome(claim, now, result, kind, node.Name, latencyMs, completions);
    }

    private void Say(ProbeOutcome outcome)
    {
        var (before, now) = (outcome.Claim.State.Status, outcome.State.Status);
        if (before != now && now == HealthStatus.Down) HealthLog.Down(log, outcome.Claim.Instance, outcome.Result.Outcome, outcome.Result.Words);
        if (before == HealthStatus.Down && now == HealthStatus.Up) HealthLog.Up(log, outcome.Claim.Instance);
    }
}

internal static partial class HealthLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "instance {Instance} is out: its probes fail ({Outcome}: {Words})")]
    public static partial void Down(ILogger log, string instance, string? outcome, string words);

    [LoggerMessage(Level = LogLevel.Information, Message = "instance {Instance} is back: its probes succeed")]
    public static partial void Up(ILogger log, string instance);

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Count} probe results are not kept: {Reason}")]
    public static partial void NotKept(ILogger log, int count, string reason);

    [LoggerMessage(Level = LogLevel.Error, Message = "a probe failed; it is tried again")]
    public static partial void Failed(ILogger log, Exception failure);
}
