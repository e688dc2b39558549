using System.Diagnostics;
using Evenkeel.Provider;

namespace Evenkeel.Chaos;

/// <summary>What came of one blow.</summary>
internal sealed record Outcome(IReadOnlyDictionary<Got, int> Answers, TimeSpan Back, TimeSpan Took, IReadOnlyList<string> Faults);

/// <summary>One blow under load, and whether all is well afterwards.</summary>
internal static class Round
{
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(60);
    private const int AnswersAround = 20;

    public static async Task<Outcome> PlayAsync(Scene scene, Blow blow, int seed, bool isLast, CancellationToken cancel)
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
            Note("before the blow", await MoreAsync(AnswersAround));
            struck = DateTimeOffset.UtcNow;
            await blow.StrikeAsync(scene, new Random(seed), cancel);

            // The supervisor's turn. It may meet a part on its way down or up: it comes again, as supervisors do.
            var recovery = Stopwatch.StartNew();
            Note("./evenkeel up", await Scene.SettledAsync(async () =>
            {
                var (code, words) = await scene.Stack.UpAsync(cancel);
                return code == 0 ? "" : words.Trim();
            }, Bound, cancel));
            Note("after the blow", await MoreAsync(AnswersAround));
            Note("under load", await Scene.SettledAsync(async () => await scene.BreakersAreClosedAsync() ? "" : "not every breaker is closed", Bound, cancel));
            back = recovery.Elapsed;
        }
        finally
        {
            answers = await load.StopAsync();
        }
        Note("at rest", await Scene.SettledAsync(() => scene.UnrestAsync(closed: false), Bound, cancel));
        Note("", Costs(blow.Cost, answers));
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
                await StandsStillAsync(scene.NodeAttemptsAsync, 3);
                await StandsStillAsync(scene.StoredAttemptsAsync, 10);
                return;
            }
            if (blow.Counters == Counters.LedgerDiffers)
            {
                await StandsStillAsync(scene.NodeAttemptsAsync, 3);
            }
            else
            {
                var entries = scene.Calls.Skip(calls).ToList();
                // What a killed worker had under way, or had counted in its last moments.
                var lost = blow.Counters == Counters.Exact ? 0 : entries.Count(entry => entry.At <= struck.AddSeconds(1) && EndedAt(entry) > struck.AddSeconds(-3));
                Note("node", await Scene.SettledAsync(async () =>
                {
                    var counted = await scene.NodeAttemptsAsync() - node;
                    return counted <= entries.Count && counted >= entries.Count - lost ? "" : $"{counted} attempts counted, {entries.Count} calls in the providers' ledger";
                }, Bound, cancel));
            }
            Note("database", await Scene.SettledAsync(async () =>
            {
                var (told, kept) = (await scene.NodeAttemptsAsync() - node, await scene.StoredAttemptsAsync() - stored);
                return told == kept ? "" : $"{kept} attempts stored, {told} counted at the node";
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

    private static DateTimeOffset EndedAt(LedgerEntry entry) => entry.EndMs is { } ms ? entry.At.AddMilliseconds(ms) : DateTimeOffset.MaxValue;

    /// <summary>What clients had to bear beyond what the blow may cost. Pure.</summary>
    private static string? Costs(Cost cost, IReadOnlyList<Judged> answers)
    {
        var worst = cost switch { Cost.Nothing => Got.Left, Cost.Errors => Got.CleanError, _ => Got.Broken };
        var beyond = answers.Where(judged => judged.Got > worst).ToList();
        return beyond.Count == 0 ? null : $"{beyond.Count} answers that the blow may not cost: "
            + string.Join(" | ", beyond.DistinctBy(judged => (judged.Got, judged.Why)).Take(3).Select(judged => $"{judged.Got}: {judged.Why} [{judged.Exchange.Header("x-request-id")}]"));
    }
}
