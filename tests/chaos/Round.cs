using System.Diagnostics;
using Evenkeel.Failover;

namespace Evenkeel.Chaos;

/// <summary>What came of one blow.</summary>
internal sealed record Outcome(IReadOnlyDictionary<Got, int> Answers, TimeSpan Back, TimeSpan Took, IReadOnlyList<string> Faults);

/// <summary>One blow under load, and whether all is well afterwards.</summary>
internal static class Round
{
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(60);
    private const int AnswersAround = 20;

    /// <param name="scene">Where.</param>
    /// <param name="blow">What.</param>
    /// <param name="seed">Fixes what the blow and the callers draw.</param>
    /// <param name="isLast">Nobody needs the counters at rest afterwards.</param>
    /// <param name="at">Is told where the round stands.</param>
    /// <param name="cancel">Ends it early.</param>
    public static async Task<Outcome> PlayAsync(Scene scene, Blow blow, int seed, bool isLast, Action<string> at, CancellationToken cancel)
    {
        var clock = Stopwatch.StartNew();
        var faults = new List<string>();
        void Note(string what, string? fault)
        {
            if (fault is not null) faults.Add(what.Length > 0 ? $"{what}: {fault}" : fault);
        }
        var (calls, node, stored) = (scene.Calls.Count, await scene.NodeAttemptsAsync(), await scene.StoredAttemptsAsync());
        var load = new Load(scene.Client, seed);
        DateTimeOffset struck;
        TimeSpan back;
        IReadOnlyList<Judged> answers;
        try
        {
            at("before the blow");
            Note("before the blow", await MoreAsync(AnswersAround));
            struck = DateTimeOffset.UtcNow;
            at("the blow");
            await blow.StrikeAsync(scene, new Random(seed), cancel);

            // The supervisor's turn. It may meet a part on its way down or up: it comes again, as supervisors do.
            at("./evenkeel up");
            var recovery = Stopwatch.StartNew();
            Note("./evenkeel up", await Scene.SettledAsync(async () =>
            {
                var (code, words) = await scene.Stack.UpAsync(cancel);
                return code == 0 ? "" : words.Trim();
            }, Bound, cancel));
            at("load after the blow");
            Note("after the blow", await MoreAsync(AnswersAround));
            Note("under load", await Scene.SettledAsync(async () => await scene.BreakersAreClosedAsync() ? "" : "not every breaker is closed", Bound, cancel));
            back = recovery.Elapsed;
        }
        finally
        {
            at("the last answers");
            answers = await load.StopAsync();
        }
        if (answers.Any(judged => judged.Got == Got.Broken))
        {
            var wasRead = await scene.ReadRequestsAsync(cancel);
            answers = [.. answers.Select(judged => judged.Known(wasRead))];
        }
        at("rest");
        faults.AddRange(scene.TakeNotes());
        Note("at rest", await Scene.SettledAsync(() => scene.UnrestAsync(closed: false), Bound, cancel));
        Note("", Verdicts.Of(blow.Cost, answers));
        at("what comes afterwards");
        Note("afterwards", await Scene.SettledAsync(() => blow.Afterwards(scene, struck), Bound, cancel));
        at("the comparison of what was counted");
        await CompareAsync();
        return new Outcome(answers.CountBy(judged => judged.Got).ToDictionary(), back, clock.Elapsed, faults);

        async Task<string?> MoreAsync(int more)
        {
            var enough = load.Whole + more;
            return await Scene.SettledAsync(() => Task.FromResult(load.Whole >= enough ? "" : $"{load.Whole - enough + more} of {more} answers were whole"), Bound, cancel);
        }

        async Task CompareAsync()
        {
            if (isLast && blow.Counters > Counters.LastMomentsLost) return;      // nobody needs them at rest
            if (blow.Counters == Counters.BegunAnew)
            {
                // A control plane that has just come up may read nodes only after a while: what it has not read yet would count in the next round.
                await StandsStillAsync(scene.NodeAttemptsAsync, 3);
                var before = await scene.StoredAttemptsAsync();
                await scene.Client.AskAsync(Scene.Model, new Ask(Stream: false) { KeepEvents = false });
                Note("counters", await Scene.SettledAsync(async () => await scene.StoredAttemptsAsync() > before ? "" : "one call more is not stored", Bound, cancel));
                await StandsStillAsync(scene.StoredAttemptsAsync, 3);
                return;
            }
            if (blow.Counters == Counters.LedgerDiffers)
            {
                await StandsStillAsync(scene.NodeAttemptsAsync, 3);
            }
            else
            {
                var entries = scene.Calls.Skip(calls).ToList();
                Note("node", await Scene.SettledAsync(async () => Verdicts.OfNode(blow.Counters, await scene.NodeAttemptsAsync() - node, entries, struck) ?? "", Bound, cancel));
            }
            Note("database", await Scene.SettledAsync(async () =>
            {
                var told = await scene.NodeAttemptsAsync() - node;
                return Verdicts.OfDatabase(told, await scene.StoredAttemptsAsync() - stored) ?? "";
            }, Bound, cancel));
        }

        // The node adds what its workers counted once a second, the database reads it every two.
        async Task StandsStillAsync(Func<Task<long>> read, int seconds)
        {
            var (last, since) = (-1L, 0);
            Note("counters", await Scene.SettledAsync(async () =>
            {
                var now = await read();
                since = now == last ? since + 1 : 0;
                last = now;
                await Task.Delay(1000, cancel);
                return since >= seconds ? "" : "they do not stand still";
            }, Bound, cancel));
        }
    }
}
