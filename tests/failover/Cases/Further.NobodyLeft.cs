using Evenkeel.Provider;

namespace Evenkeel.Failover.Cases;

/// <summary>All saturated, or everything down.</summary>
internal static partial class Further
{
    private static IEnumerable<Case[]> NobodyLeft() => [.. Saturated(), .. EverythingDown()];

    private static IEnumerable<Case[]> Saturated()
    {
        // Two run, two wait a second in vain, two find the queue full.
        yield return [.. Both("all saturated: 6 at once, room for 2, queue of 2 for 1 s", "2 whole; 4 × 429 with Retry-After, two at once, two after 1 s", [Primary("delay=1400")], e =>
        {
            var refused = e.Exchanges.Where(x => x.Status == 429).OrderBy(x => x.EndMs).ToList();
            var judge = new Judge(e).Must(refused.Count == 4, $"{refused.Count} × 429: " + string.Join(", ", e.Exchanges.Select(x => x.Status)))
                .Conduct(e.Counters["primary"].PeakInFlight <= 2, $"{e.Counters["primary"].PeakInFlight} at once at the provider");
            foreach (var x in e.Exchanges.Where(x => x.Status != 429))
            {
                judge.Whole(x);
            }
            foreach (var x in refused)
            {
                judge.GatewaysError(x, 429).Must(int.TryParse(x.Header("retry-after"), out var s) && s >= 1, "429 without Retry-After");
            }
            return refused.Count != 4 ? judge
                : judge.Must(refused[1].EndMs < 700, $"the queue was full, yet it took {Judge.Seconds(refused[1].EndMs)}")
                    .Must(refused[2].EndMs is > 800 and < 2500 && refused[3].EndMs is > 800 and < 2500, $"left the queue after {Judge.Seconds(refused[2].EndMs)} and {Judge.Seconds(refused[3].EndMs)}");
        }).Select(one => one with { Setting = Narrow(2, size: 2, timeoutS: 1), Play = stage => Task.WhenAll(Enumerable.Range(0, 6).Select(_ => stage.AskAsync(one.Number == "s"))) })];

        yield return [.. Both("all saturated for a moment: 5 at once, room for 1", "all whole, one after the other", [],
            e => new Judge(e).AllWhole().Conduct(e.Counters["primary"].PeakInFlight <= 1, $"{e.Counters["primary"].PeakInFlight} at once at the provider"))
            .Select(one => one with { Setting = Narrow(1, size: 10, timeoutS: 10), Play = stage => Task.WhenAll(Enumerable.Range(0, 5).Select(_ => stage.AskAsync(one.Number == "s"))) })];

        yield return [Stream("client leaves the queue", "its place is free, the provider never hears of it", [Primary("delay=1200", 1)],
            e => new Judge(e).Whole(e.First).Whole(e.Last).TriesExactly("primary", 2).Within(e.Last, 3000)) with
        {
            Setting = Narrow(1, size: 1, timeoutS: 10),
            Play = async stage =>
            {
                var running = stage.AskAsync();
                await Stage.UntilAsync(() => stage.Tries("primary").Any(), TimeSpan.FromSeconds(2));
                await stage.AskAsync(new Ask { LeaveAfter = TimeSpan.FromSeconds(0.4) });
                await Task.Delay(300);
                await Task.WhenAll(running, stage.AskAsync());
            },
        }];

        yield return [.. Both("primary and backup saturated: 8 at once, room for 2 and 2", "never above a limit; whole or 429", [Primary("delay=1000"), new("fallback", "delay=1000")], e =>
        {
            var judge = new Judge(e).Must(e.Exchanges.Count(x => x.Status == 200) >= 4, $"{e.Exchanges.Count(x => x.Status == 200)} answered");
            foreach (var (role, counters) in e.Counters)
            {
                judge.Conduct(counters.PeakInFlight <= 2, $"{counters.PeakInFlight} at once at the {role}");
            }
            foreach (var x in e.Exchanges)
            {
                _ = x.Status == 200 ? judge.Whole(x) : judge.GatewaysError(x, 429);
            }
            return judge;
        }).Select(one => one with
        {
            Setting = Setting.Pair.WithAll(member => member with { MaxConnections = 2 }) with { QueueTimeoutS = 0.3 },
            Play = stage => Task.WhenAll(Enumerable.Range(0, 8).Select(_ => stage.AskAsync(one.Number == "s"))),
        })];

        static Setting Narrow(int room, int size, double timeoutS) =>
            Setting.Lone.With("primary", member => member with { MaxConnections = room }) with { QueueSize = size, QueueTimeoutS = timeoutS };
    }

    private static IEnumerable<Case[]> EverythingDown()
    {
        yield return [.. Both("everything down, nothing kept", "503 with Retry-After in OpenAI's shape; never cached", [], e => new Judge(e)
            .GatewaysError(e.First, 503).Must(int.TryParse(e.First.Header("retry-after"), out var s) && s is >= 1 and <= 600, $"Retry-After: {e.First.Header("retry-after")}")
            .Must(e.First.Errors.Contains(Setting.DefaultResponse), "not the predefined words").Noted(NotToBeKept(e.First), "no Cache-Control: no-store"))
            .Select(one => one with { Play = stage => DownAsync(stage, one.Number == "s") })];

        yield return [.. Both("everything down, the predefined answer as a completion", "whole, in the form that was asked for; billed at nothing, never cached", [], e => new Judge(e)
            .Whole(e.First, new Expected { Text = Setting.DefaultResponse }).Noted(NotToBeKept(e.First), "no Cache-Control: no-store")
            .Must(e.First.Usages.All(usage => usage.Total == 0), "billed"))
            .Select(one => one with { Setting = Setting.Pair with { DefaultIsCompletion = true }, Play = stage => DownAsync(stage, one.Number == "s") })];

        yield return [.. Both("everything down, the same was answered before", "the kept answer, marked stale with its Age; another question gets 503; fresh again when they are back", [], e =>
        {
            var (_, kept, other, crossed) = (e.Exchanges[0], e.Exchanges[1], e.Exchanges[2], e.Exchanges[3]);
            var judge = new Judge(e).Whole(e.First).GatewaysError(other, 503);
            foreach (var x in new[] { kept, crossed })
            {
                judge.Whole(x, Expected.For(e.First)).Must(x.Header("x-evenkeel-cache") == "stale", "not marked stale")
                    .Must(int.TryParse(x.Header("age"), out var age) && age is >= 0 and < 60, $"Age: {x.Header("age")}").Noted(NotToBeKept(x), "no Cache-Control: no-store");
            }
            return judge.Whole(e.Last).Must(e.Last.Header("x-evenkeel-cache") is null, "still stale after the return")
                .Noted(e.Facts["fresh_s"] <= 5, $"fresh only {e.Facts["fresh_s"]:0.0} s after the return");
        }).Select(one => one with
        {
            Play = async stage =>
            {
                var stream = one.Number == "s";
                var same = new Ask(stream) { Topic = "what is kept" };
                await stage.AskAsync(same);
                All(stage, instance => instance.Down());
                await stage.AskAsync(same);
                await stage.AskAsync(stream);
                await stage.AskAsync(same with { Stream = !stream });
                All(stage, instance => instance.Up());
                var back = DateTimeOffset.UtcNow;
                Exchange last;
                do
                {
                    await Task.Delay(400);
                    last = await stage.AskAsync(new Ask(stream) { Topic = "what is kept" });
                }
                while ((last.Status != 200 || last.Header("x-evenkeel-cache") is not null) && DateTimeOffset.UtcNow < back.AddSeconds(12));
                stage.Fact("fresh_s", (last.At - back).TotalSeconds);
            },
        })];

        static async Task DownAsync(Stage stage, bool stream)
        {
            All(stage, instance => instance.Down());
            await stage.AskAsync(stream);
        }

        static void All(Stage stage, Action<SimulatedInstance> act)
        {
            foreach (var role in stage.Case.Setting.Members.Select(member => member.Role))
            {
                act(stage[role]);
            }
        }

        static bool NotToBeKept(Exchange x) => x.Header("cache-control")?.Contains("no-store", StringComparison.OrdinalIgnoreCase) == true;
    }
}
