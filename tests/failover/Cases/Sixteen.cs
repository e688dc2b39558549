using Evenkeel.Provider;

namespace Evenkeel.Failover.Cases;

/// <summary>The sixteen faults of the public yardstick: one primary instance, one fallback tier, streaming.</summary>
internal static class Sixteen
{
    private const string ContextError = "status=400;body=context_length_exceeded";

    public static IEnumerable<Case> All(TimeScale time) =>
    [
        One(1, "429 with Retry-After: 2, once", "whole from the primary after ≥ 1.8 s; second try not before 1.8 s",
            [new("primary", "status=429;retry_after=2", Times: 1)],
            e => new Judge(e).WholeFrom("primary").NotBefore(e.First, 1800).SecondTryNotBefore("primary", 1.8).TriesWithinAtMost("primary", 2, 1.5)),

        One(2, "always 429, no Retry-After", "whole from the fallback; ≤ 6 tries, ≤ 4 in 3 s",
            [new("primary", "status=429")],
            e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6).TriesWithinAtMost("primary", 4, 3)),

        One(3, "500 once, then fine", "whole; one more try at the same instance",
            [new("primary", "status=500", Times: 1)],
            e => new Judge(e).WholeFrom("primary").TriesExactly("primary", 2).TriesExactly("fallback", 0)),

        One(4, "always 503", "whole from the fallback; ≤ 6 tries",
            [new("primary", "status=503")],
            e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6)),

        One(5, "TCP reset before any byte, once", "whole",
            [new("primary", "reset_before_headers", Times: 1)],
            e => new Judge(e).Whole()),

        One(6, "accepts, never answers (120 s)", "whole from the fallback, well under 100 s; 1 try",
            [new("primary", $"accept_and_hang={time.Ms(120_000)}")],
            e => new Judge(e).WholeFrom("fallback").Within(e.First, time.BoundMs(100_000))
                .Noted(e.First.EndMs <= time.BoundMs(30_000), $"took {Judge.Seconds(e.First.EndMs)}").TriesExactly("primary", 1)),

        One(7, "headers at once, first token after 20 s", $"whole from the fallback in ≤ {time.BoundMs(15_000) / 1000.0} s",
            [new("primary", $"headers_then_delay={time.Ms(20_000)}")],
            e => new Judge(e).WholeFrom("fallback").Within(e.First, time.BoundMs(15_000))),

        One(8, "stream cut after 40 of 60 tokens", "whole, once, nothing doubled",
            [new("primary", "cut_after_tokens=40")],
            e => new Judge(e).Whole()),

        One(9, "20 tokens, 30 s silence, close", $"whole in ≤ {time.BoundMs(45_000) / 1000.0} s; the gateway stays healthy",
            [new("primary", $"stall_after_tokens=20;stall_ms={time.Ms(30_000)};then=close", Times: 1)],
            e => new Judge(e).AllWhole().Within(e.First, time.BoundMs(45_000)).Within(e.Last, 5000)) with
        {
            Play = async stage =>
            {
                await stage.AskAsync();
                await stage.AskAsync();
            },
        },

        One(10, "tenth event is broken JSON", "whole, the broken event gone",
            [new("primary", "broken_event_at=10")],
            e => new Judge(e).Whole()),

        One(11, "complete stream without [DONE]", "finalised in ≤ 8 s, usage reported, [DONE] supplied",
            [new("primary", "no_done")],
            e => new Judge(e).WholeFrom("primary").Within(e.First, 8000).UsageOf(e.Tries("primary"))) with
        {
            Play = stage => stage.AskAsync(new Ask { IncludeUsage = true }),
        },

        One(12, "400 context_length_exceeded", "whole from the next tier; exactly 1 try",
            [new("primary", ContextError)],
            e => new Judge(e).WholeFrom("fallback").TriesExactly("primary", 1)),

        One(13, "400 content_policy_violation", "the provider's error, unchanged; exactly 1 try, no fallback",
            [new("primary", "status=400;body=content_policy_violation")],
            e => new Judge(e).ProvidersError(400, "content_policy_violation").TriesExactly("primary", 1).TriesExactly("fallback", 0)),

        One(14, "as 8, and the fallback rejects a prefill with 400", "whole; never that 400",
            [new("primary", "cut_after_tokens=40")],
            e => new Judge(e).Whole()) with
        {
            Setting = Setting.Pair.WithAll(member => member with { Capabilities = ["prefix_completion"] })
                .Simulating("primary", settings => settings with { RejectPrefill = true })
                .Simulating("fallback", settings => settings with { RejectPrefill = true }),
        },

        Outage(time),

        One(16, "always 503 (what is said and billed)", "model and usage of whoever answered; ≤ 6 tries",
            [new("primary", "status=503")],
            e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6).UsageOf(e.Tries("fallback"))
                .Noted(e.First.Models.SetEquals([e.Tries("fallback").LastOrDefault()?.Model ?? ""]), "model says " + string.Join(", ", e.First.Models))
                .Conduct(e.Tries("primary").Sum(entry => entry.TokensBilled) == 0, "failed tries were billed")) with
        {
            Play = stage => stage.AskAsync(new Ask { IncludeUsage = true }),
        },
    ];

    /// <summary>
    /// 503 for a minute, for whatever is asked of it. The requests are laid so that one comes 3.5 s after the recovery: a
    /// gateway that needs 4 s passes, whatever the phase of its probes.
    /// </summary>
    private static Case Outage(TimeScale time) => One(15, $"503 for {time.Ms(60_000) / 1000.0} s, a request every {time.Ms(4000) / 1000.0} s",
        "every request answered, ≤ 4 tries in the outage, back on the primary ≤ 4 s after", [], e =>
        {
            var recovered = e.Exchanges[0].At.AddSeconds(e.Facts["recovered_s"]);
            var back = e.Tries("primary").FirstOrDefault(entry => entry.Status == 200)?.At;
            var tries = e.Tries("primary").Count(entry => entry.At < recovered);
            var backS = back is { } at ? (at - recovered).TotalSeconds : double.PositiveInfinity;
            return new Judge(e).AllWhole()
                .Conduct(tries <= 4, $"{tries} tries during the outage, allowed are 4")
                .Noted(backS <= 4, double.IsInfinity(backS) ? "never back on the primary" : $"back {backS:0.0} s after the recovery")
                .Noted(double.IsInfinity(backS) || e.Tries("fallback").All(entry => entry.At <= back), "not on the primary for good")
                .Remark($"{tries} tries in the outage, back after {backS:0.0} s");
        }) with
    {
        Play = async stage =>
        {
            var primary = stage["primary"];
            var trouble = new ScriptedFault(Fault.Parse("status=503"), match: new FaultMatch(Path: "*"));
            primary.AddFault(trouble);
            var (began, outage, every) = (DateTimeOffset.UtcNow, time.Seconds(60), time.Seconds(4));
            var first = began + TimeSpan.FromSeconds(3.5);
            while (first - every > began)
            {
                first -= every;
            }
            var asked = new List<Task<Exchange>>();
            var recovered = RecoverAsync();
            // Twenty, and in a fast run as many more as it takes to see the return.
            for (var i = 0; i < 20 || first + i * every < began + outage + TimeSpan.FromSeconds(4.5); i++)
            {
                await UntilAsync(first + i * every);
                asked.Add(stage.AskAsync());
            }
            var exchanges = await Task.WhenAll(asked);
            stage.Fact("recovered_s", (await recovered - exchanges.Min(exchange => exchange.At)).TotalSeconds);

            async Task<DateTimeOffset> RecoverAsync()
            {
                await UntilAsync(began + outage);
                primary.ClearFaults();
                return DateTimeOffset.UtcNow;
            }
            static Task UntilAsync(DateTimeOffset at) => Task.Delay(at - DateTimeOffset.UtcNow is var left && left > TimeSpan.Zero ? left : TimeSpan.Zero);
        },
    };

    private static Case One(int number, string name, string wanted, Trouble[] troubles, Func<Evidence, Judgement> judge) => new()
    {
        Number = $"{number}",
        Name = name,
        Wanted = wanted,
        Section = Section.Sixteen,
        Troubles = troubles,
        Judge = judge,
    };
}
