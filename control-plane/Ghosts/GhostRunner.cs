using Evenkeel.Config;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Npgsql;

namespace Evenkeel.Ghosts;

/// <summary>
/// Sends ghosts: requests of real shape, a few a day to each instance, at random times, through the door that real traffic takes. A Quartz
/// job calls <see cref="TickAsync"/> on one control plane at a time; what is due is claimed in the database, so that no ghost goes out
/// twice, and sent at its own moment. Each spends of its pool's tokens, which are reserved before and settled after. The nodes take turns.
/// </summary>
public sealed class GhostRunner(
    GhostStore store, SampleStore samples, PromptFiles files, NodeStore nodes, NodeAdmin admin, DesiredState state, TimeProvider time, ILogger<GhostRunner> log) : IDisposable
{
    public static readonly TimeSpan Tick = TimeSpan.FromSeconds(1);

    private static readonly TimeSpan Slack = TimeSpan.FromSeconds(15);
    private readonly CancellationTokenSource ending = new();
    private (Desired Of, IReadOnlyDictionary<string, GhostTarget> Targets)? planned;

    /// <summary>Claims what is due within the next second and begins with it; returns before it is done.</summary>
    public async Task TickAsync(CancellationToken cancel)
    {
        if (state.Current is not { } desired) return;
        var live = (await nodes.ListAsync(cancel)).Where(node => node.Live).ToList();
        if (live.Count == 0) return;
        var targets = TargetsOf(desired);
        var wishes = targets.Values.Where(target => target.Instance.Enabled && !target.Instance.Drain)
            .Select(target => new GhostWish(target.Instance.Name, target.Pool.Ghost.PerDay, target.Timeout + Slack)).ToList();
        foreach (var claim in await store.ClaimAsync(wishes, targets.Keys, Tick, Random.Shared, cancel)) _ = RunAsync(claim, targets[claim.Instance], live, ending.Token);
    }

    /// <summary>Sends ghosts now, so many to each target, one after the other at one instance.</summary>
    /// <returns>What became of them; fewer than asked for when the pool has no tokens left today.</returns>
    public async Task<IReadOnlyList<GhostResult>> RunAsync(IReadOnlyList<GhostTarget> targets, int count, CancellationToken cancel)
    {
        var scheduled = state.Current is { } desired ? TargetsOf(desired) : new Dictionary<string, GhostTarget>();
        var live = (await nodes.ListAsync(cancel)).Where(node => node.Live).ToList();
        if (live.Count == 0) return [];
        var results = await Task.WhenAll(targets.Select(async target =>
        {
            var done = new List<GhostResult>();
            for (var i = 0; i < count; i++)
            {
                if (await SendAsync(target, GhostTrigger.Run, null, i, scheduled.GetValueOrDefault(target.Instance.Name)?.Pool.Ghost.PerDay, live, cancel) is { } result) done.Add(result);
            }
            return done;
        }));
        return [.. results.SelectMany(done => done)];
    }

    public void Dispose()
    {
        ending.Cancel();
        ending.Dispose();
    }

    private IReadOnlyDictionary<string, GhostTarget> TargetsOf(Desired desired)
    {
        if (planned is { } known && known.Of == desired) return known.Targets;
        var targets = GhostTarget.Scheduled(desired.Document);
        planned = (desired, targets);
        return targets;
    }

    private async Task RunAsync(GhostClaim claim, GhostTarget target, IReadOnlyList<Node> live, CancellationToken cancel)
    {
        try
        {
            await Task.Delay(claim.Wait, time, cancel);
            var trigger = claim.State.Status is GhostStatus.Unknown or GhostStatus.Ok ? GhostTrigger.Schedule : GhostTrigger.Extra;
            if (await SendAsync(target, trigger, claim.Turn, claim.Turn, target.Pool.Ghost.PerDay, live, cancel) is null) await store.ReleaseAsync(claim, cancel);
        }
        catch (OperationCanceledException)
        {
        }
        catch (Exception failure)
        {
            // The claim runs out, and the next one is planned already.
            if (failure is NpgsqlException) GhostLog.NotKept(log, claim.Instance, failure.Message);
            else GhostLog.Failed(log, failure);
        }
    }

    /// <summary>One ghost. Null: there are no tokens for it.</summary>
    private async Task<GhostResult?> SendAsync(GhostTarget target, GhostTrigger trigger, long? turn, long nodeTurn, int? perDay, IReadOnlyList<Node> live, CancellationToken cancel)
    {
        var (pool, ghost) = (target.Pool, target.Pool.Ghost);
        var prompt = await ChooseAsync(pool, cancel);
        var most = trigger == GhostTrigger.Schedule ? GhostPlan.Allowance(ghost.MaxTokensPerDay, time.GetUtcNow().UtcDateTime) : ghost.MaxTokensPerDay;
        if (await store.ReserveAsync(pool.Name, prompt.Estimate, most, cancel) is not { } day) return null;

        var body = prompt.Body(target.Model);
        var answer = AnswerReader.Failed(null, "no live node answers", 0);
        var node = live[0];
        for (var i = 0; i < live.Count && answer.Outcome is null; i++)
        {
            node = live[(int)((nodeTurn + i) % live.Count)];
            answer = await admin.AskAsync(node.Address, pool.Name, target.Instance.Name, body, target.Timeout, cancel);
        }

        var judged = GhostJudge.Judge(prompt, answer, await store.HistoryAsync(target, prompt, cancel), target.Instance.BaseLatency);
        // What a provider told no usage for is counted by its bytes; what failed before it said anything was not billed.
        var isBilled = answer.Outcome == "ok" || answer.FirstTokenMs is not null;
        var (input, output) = (answer.InputTokens ?? (isBilled ? body.Length / 4 : 0), answer.OutputTokens ?? (answer.Content.Length / 4));
        var result = new GhostResult
        {
            Instance = target.Instance.Name,
            Pool = pool.Name,
            Node = node.Name,
            Model = target.Model,
            Prompt = prompt.Name,
            Trigger = ConfigJson.Word(trigger),
            Stream = prompt.Stream,
            Verdict = ConfigJson.Word(judged.Verdict),
            Outcome = answer.Outcome,
            Faults = [.. judged.Faults],
            Words = answer.Words.Length == 0 ? null : answer.Words,
            FirstTokenMs = answer.FirstTokenMs,
            TotalMs = answer.TotalMs,
            TokensPerSecond = answer.TokensPerSecond(prompt.Stream),
            InputTokens = input,
            OutputTokens = output,
            Length = answer.Content.Length,
            FinishReason = answer.FinishReason,
            Held = judged.Held,
        };
        var (kept, before, after) = await store.KeepAsync(result, turn, perDay, input + output - prompt.Estimate, day, Random.Shared, cancel);
        if (before is not null && after!.WeightFactor < before.WeightFactor) GhostLog.Lighter(log, result.Instance, after.WeightFactor, string.Join(", ", judged.Faults));
        if (before is not null && after!.WeightFactor > before.WeightFactor) GhostLog.Heavier(log, result.Instance, after.WeightFactor);
        return kept;
    }

    // First where it comes from, then which: many samples do not push the others out. Nothing may eat a twentieth of the day's tokens.
    private async Task<GhostPrompt> ChooseAsync(PoolConfig pool, CancellationToken cancel)
    {
        var most = Math.Max(pool.Ghost.MaxTokensPerDay / 20, GhostPrompt.BuiltIn.Max(prompt => prompt.Estimate));
        var own = files.Of(pool.Ghost).Prompts.Where(prompt => prompt.Estimate <= most).ToList();
        var source = Random.Shared.Next(3);
        if (source == 2 && pool.Ghost.Sample > 0 && await samples.PickAsync(pool.Name, Math.Max(most - 64, 0) * 4, cancel) is { } sample) return sample;
        return own.Count > 0 && source > 0 ? own[Random.Shared.Next(own.Count)] : GhostPrompt.BuiltIn[Random.Shared.Next(GhostPrompt.BuiltIn.Count)];
    }
}

internal static partial class GhostLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "instance {Instance} is grey: its ghosts are bad ({Faults}); {Factor} of its weight is left")]
    public static partial void Lighter(ILogger log, string instance, double factor, string faults);

    [LoggerMessage(Level = LogLevel.Information, Message = "instance {Instance} recovers: its ghosts are good; {Factor} of its weight is back")]
    public static partial void Heavier(ILogger log, string instance, double factor);

    [LoggerMessage(Level = LogLevel.Warning, Message = "ghost prompts: {Fault}")]
    public static partial void PromptFault(ILogger log, string fault);

    [LoggerMessage(Level = LogLevel.Warning, Message = "a ghost's result at {Instance} is not kept: {Reason}")]
    public static partial void NotKept(ILogger log, string instance, string reason);

    [LoggerMessage(Level = LogLevel.Warning, Message = "the samples of node {Node} are not kept: {Reason}")]
    public static partial void NotSampled(ILogger log, string node, string reason);

    [LoggerMessage(Level = LogLevel.Error, Message = "a ghost failed; the next one is planned")]
    public static partial void Failed(ILogger log, Exception failure);
}
