using System.Text.Json.Nodes;

namespace Evenkeel.Failover.Cases;

/// <summary>Clients that leave or have little time, and operators who write nonsense.</summary>
internal static partial class Further
{
    private static IEnumerable<Case[]> Clients(TimeScale time)
    {
        const string wanted = "the provider connection closed within 1 s; nothing counts against the instance";
        yield return [Leaving("client leaves in mid-answer", wanted, [Primary("slow_drip=20")], new Ask { LeaveAfterPieces = 10 }, "primary")];
        yield return
        [
            Leaving("client leaves before the first token", wanted, [Primary("delay=8000")], new Ask { LeaveAfter = TimeSpan.FromSeconds(0.5) }, "primary"),
            Leaving("client leaves before the JSON answer", wanted, [Primary("delay=8000")], new Ask(Stream: false) { LeaveAfter = TimeSpan.FromSeconds(0.5) }, "primary") with { Number = "j" },
        ];
        yield return [Leaving("client leaves while its cut answer is continued", wanted, [Primary("cut_after_tokens=10"), new("fallback", "slow_drip=20")],
            new Ask { LeaveAfterPieces = 15 }, "fallback")];
        yield return [Leaving("client leaves a pool that buffers streams", wanted, [Primary("slow_drip=5")], new Ask { LeaveAfter = TimeSpan.FromSeconds(1) }, "primary") with
        {
            Setting = Setting.Pair with { BufferStreams = true },
        }];
        yield return [Stream("client leaves while Retry-After is waited for", "no further try", [Primary("status=429;retry_after=2", 1)],
            e => new Judge(e).TriesInAllAtMost(1)) with
        {
            Play = async stage =>
            {
                await stage.AskAsync(new Ask { LeaveAfter = TimeSpan.FromSeconds(0.5) });
                await Task.Delay(2500);
            },
        }];

        yield return [.. Both("client's own deadline of 1 s, the provider hangs", "an error in ≤ 2 s; 1 try; nothing counts against the instance", [Primary("accept_and_hang=forever")],
            e => new Judge(e).GatewaysError(e.First, 408, 502, 503, 504).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")).Select(one => one with
            {
                Play = stage => stage.AskAsync(new Ask(one.Number == "s") { Headers = [("x-request-timeout", "1")] }),
                AsksNode = true,
            })];
        yield return [Stream("client's own deadline of 1 s, in mid-answer", "the error event, no [DONE], in ≤ 2 s; nothing counts against the instance", [Primary("slow_drip=10")],
            e => new Judge(e).BrokenOff(Expected.For(e.First).Text).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")) with
        {
            Play = stage => stage.AskAsync(new Ask { Headers = [("x-request-timeout", "1")] }),
            AsksNode = true,
        }];
        yield return [Json("client's own deadline of 1 s, blank lines and no answer", "an error in ≤ 2 s; 1 try; nothing counts against the instance",
            [Primary("blank_lines_before_json=forever")],
            e => new Judge(e).GatewaysError(e.First, 408, 502, 503, 504).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")) with
        {
            Play = stage => stage.AskAsync(new Ask(false) { Headers = [("x-request-timeout", "1")] }),
            AsksNode = true,
        }];
        yield return [Json("a client of no patience, a hundred times, and then another", "the other one is answered", [Primary("delay=300")],
            e => new Judge(e).WholeFrom("primary", e.Last)) with
        {
            Play = async stage =>
            {
                for (var turn = 0; turn < 5; turn++)
                {
                    await Task.WhenAll(Enumerable.Range(0, 20).Select(_ => stage.AskAsync(new Ask(false) { Headers = [("x-request-timeout", "0.05")] })));
                }
                await stage.AskAsync(false);
            },
        }];
        yield return [.. Both("client's own deadline of 1 s, Retry-After: 2", "whole from the fallback in ≤ 1.5 s", [Primary("status=429;retry_after=2")],
            e => new Judge(e).WholeFrom("fallback").Within(e.First, 1500).TriesExactly("primary", 1)).Select(one => one with
            {
                Play = stage => stage.AskAsync(new Ask(one.Number == "s") { Headers = [("x-request-timeout", "1")] }),
            })];

        yield return [Refused("the same instance listed twice in a tier", "pools[0].tiers[0].instances[1]", document => Tiers(document)[0]!["instances"]!.AsArray().Add("a"))];
        yield return [Refused("a tier without instances", "pools[0].tiers[0].instances", document => Tiers(document)[0]!["instances"] = new JsonArray())];
        yield return [Refused("a limit of zero", "instances[0].max_connections", document => document["instances"]![0]!["max_connections"] = 0)];
        yield return [Refused("a retry budget of 5000 %", "pools[0].retry.budget_ratio", document => document["pools"]![0]!["retry"] = new JsonObject { ["budget_ratio"] = "5000%" })];
        yield return [Refused("a first token later than the whole answer", "instances[0].timeouts", document =>
            document["instances"]![0]!["timeouts"] = new JsonObject { ["first_token"] = "2m", ["total"] = "1m" })];

        static JsonArray Tiers(JsonObject document) => document["pools"]![0]!["tiers"]!.AsArray();
    }

    private static Case Leaving(string name, string wanted, Trouble[] troubles, Ask ask, string servedBy) => Stream(name, wanted, troubles, e =>
    {
        var last = e.Tries(servedBy).LastOrDefault();
        var lateS = (last?.ClientGoneAt - e.First.LeftAt)?.TotalSeconds;
        return new Judge(e).Must(e.First.LeftAt is not null, "the answer ended before the client left: " + Judge.Outcome(e.First))
            .Conduct(lateS is not null, $"the {servedBy} saw nobody leave ({last?.Outcome})")
            .Conduct(lateS is not > 1, $"closed {lateS:0.0} s after the client left")
            .Conduct(e.AllTries.Count(entry => entry.At > e.First.LeftAt) == 0, "asked again for a client that had left")
            .NothingAgainst(servedBy);
    }) with
    {
        AsksNode = true,
        Play = async stage =>
        {
            await stage.AskAsync(ask);
            await Stage.UntilAsync(() => stage.Tries(servedBy).LastOrDefault()?.ClientGoneAt is not null, TimeSpan.FromSeconds(3));
            await Task.Delay(500);
        },
    };

    private static Case Refused(string name, string path, Action<JsonObject> mistake) => new()
    {
        Number = "",
        Name = name,
        Wanted = $"refused at config time, with the path {path}",
        Section = Section.Further,
        OwnStackOnly = true,
        Judge = e => new Judge(e).Must(e.Words.GetValueOrDefault("faults", "").Split('\n').Any(line => line.StartsWith(path, StringComparison.Ordinal)),
            e.Words.GetValueOrDefault("faults") is { Length: > 0 } words ? "refused with: " + words.ReplaceLineEnding() : "accepted"),
        Play = async stage =>
        {
            var document = JsonNode.Parse("""
                {"instances": [{"name": "a", "base_url": "http://127.0.0.1:1/v1"}],
                 "pools": [{"name": "p", "models": ["m"], "tiers": [{"name": "primary", "instances": ["a"]}]}]}
                """)!.AsObject();
            mistake(document);
            var answer = await stage.Stack!.ValidateAsync(document.ToJsonString());
            stage.Note("faults", string.Join('\n', answer["errors"]?.AsArray().Select(fault => $"{fault!["path"]}: {fault["message"]}") ?? []));
        },
    };

    private static string ReplaceLineEnding(this string text) => text.ReplaceLineEndings(" | ");
}
