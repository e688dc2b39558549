namespace Evenkeel.Failover.Cases;

/// <summary>Cut answers: continued by a prefix, by a new start, or broken off in plain words.</summary>
internal static partial class Further
{
    private const string Cut = "cut_after_tokens=40";

    private static IEnumerable<Case[]> Continued(TimeScale time)
    {
        yield return [Stream("cut; the fallback completes prefixes (DeepSeek's way)", "whole; \"prefix\": true at …/beta; usage summed", [Primary(Cut)],
            e => ByPrefix(e, "prefix").Conduct(e.Tries("fallback").All(entry => entry.Path.StartsWith("/beta/", StringComparison.Ordinal)), "not asked at …/beta")) with
        {
            Setting = Completing("deepseek"), Play = AskUsage,
        }];
        yield return [Stream("cut; the fallback completes prefixes (assistant last)", "whole; usage summed", [Primary(Cut)], e => ByPrefix(e, "assistant_last")) with
        {
            Setting = Completing("self-hosted"), Play = AskUsage,
        }];
        yield return [Stream("cut; no prefix completion anywhere", "whole by a new start; usage summed", [Primary(Cut)],
            e => new Judge(e).Whole().UsageOf([.. e.AllTries.Where(entry => entry.TokensSent > 0)])
                .Conduct(e.AllTries.All(entry => entry.Prefill is null), "a prefix was sent to an instance that takes none")) with
        { Play = AskUsage }];
        yield return [Stream("cut with a reset (RST)", "whole", [Primary(Cut + ";how=rst")], e => new Judge(e).Whole())];
        yield return [Stream("cut inside an event", "whole", [Primary(Cut + ";inside_event=true")], e => new Judge(e).Whole())];
        yield return [Stream("cut after the last token, before the finish_reason", "whole", [Primary("cut_after_tokens=60")], e => new Judge(e).Whole())];
        yield return [Stream("cut after the last token; the fallback completes prefixes", "whole", [Primary("cut_after_tokens=60")], e => new Judge(e).Whole()) with { Setting = Completing("deepseek") }];
        yield return [Stream("error event in the middle", "whole", [Primary("error_event_after=20")], e => new Judge(e).Whole())];
        yield return [Stream("error event in the middle, then [DONE]", "whole", [Primary("error_event_after=20;done=true")], e => new Judge(e).Whole())];
        yield return [Stream("cut once, no other instance", "whole from the same instance", [Primary(Cut, 1)], e => new Judge(e).Whole()) with { Setting = Setting.Lone }];
        yield return [Stream("cut, and the next instance is cut as well", "whole from the third", [Primary("cut_after_tokens=20"), new("fallback", Cut)],
            e => new Judge(e).Whole()) with
        {
            Setting = new Setting([new Member("primary")], [new Member("fallback")], [new Member("third")]),
        }];
        yield return [Stream("always cut, no other instance", "the error event, no [DONE]; ≤ 6 tries", [Primary(Cut)],
            e => new Judge(e).BrokenOff(Expected.For(e.First).Text).TriesAtMost("primary", 6)) with { Setting = Setting.Lone }];
        yield return [Stream("cut, and the others say something else", "the error event, no [DONE]", [Primary(Cut)],
            e => new Judge(e).BrokenOff(Expected.For(e.First).Text)) with { Setting = Setting.Pair.Simulating("fallback", settings => settings with { TextSeed = 7 }) }];
        yield return [Stream("cut, and the client wants no continuation", "the error event, no [DONE]; 1 try", [Primary(Cut)],
            e => new Judge(e).BrokenOff(Expected.For(e.First).Text).TriesInAllAtMost(1)) with
        {
            Play = stage => stage.AskAsync(new Ask { Headers = [("x-evenkeel-resume", "off")] }),
        }];
        yield return [Stream("cut in a pool that buffers streams; the others say something else", "whole from the fallback", [Primary(Cut)],
            e => new Judge(e).WholeFrom("fallback", e.First, Expected.For(e.First, textSeed: 7))) with
        {
            Setting = Setting.Pair.Simulating("fallback", settings => settings with { TextSeed = 7 }) with { BufferStreams = true },
        }];
        foreach (var (what, delta) in new[] { ("a function call", "{\"function_call\":{\"arguments\":\"{\"}}"), ("a refusal", "{\"refusal\":\"I \"}") })
        {
            var piece = Event(5, "{\"index\":0,\"delta\":" + delta + ",\"finish_reason\":null}");
            yield return [Stream($"cut, and the answer held {what}", "the error event, no [DONE]; 1 try", [Primary($"{piece}+{Cut}")],
                e => new Judge(e).BrokenOff(Expected.For(e.First).Text).TriesInAllAtMost(1))];
            yield return [Stream($"cut, and the others say {what}", "the error event, no [DONE]", [Primary(Cut), new("fallback", piece)],
                e => new Judge(e).BrokenOff(Expected.For(e.First).Text))];
        }
        yield return [Stream("cut, and the next one's choices are null", "whole", [Primary(Cut), new("fallback", Event(50, "null"))], e => new Judge(e).Whole())];
        yield return [.. new[] { "self-hosted", "" }.Select((provider, i) =>
            Stream(i == 0 ? "cut, max_tokens 50, continued by a prefix" : "cut, max_tokens 50, continued by a new start", "50 words, finish_reason length", [Primary(Cut)],
                e => new Judge(e).Whole(e.First, Expected.For(e.First, tokens: 50) with { FinishReason = "length" })) with
            {
                Number = i == 0 ? "p" : "s",
                Setting = i == 0 ? Completing(provider) : Setting.Pair,
                Play = stage => stage.AskAsync(new Ask { Extra = new() { ["max_tokens"] = 50 } }),
            })];
        yield return [Stream("20 tokens, then silence; prefix completion", "whole", [Primary("stall_after_tokens=20;stall_ms=forever")],
            e => ByPrefix(e, "assistant_last").Within(e.First, time.BoundMs(15_000))) with { Setting = Completing("self-hosted"), Play = AskUsage }];
        // The window over which the pace is judged is not scaled.
        yield return [Stream("1 token/s under a floor of 5", "whole in ≤ 25 s", [Primary("slow_drip=1")], e => new Judge(e).Whole().Within(e.First, 25_000)) with
        {
            Setting = Setting.Pair.With("primary", member => member with { MinTokensPerSecond = 5 }),
        }];

        static Setting Completing(string provider) =>
            Setting.Pair.With("fallback", member => member with { Capabilities = ["prefix_completion"], Provider = provider });

        static Task AskUsage(Stage stage) => stage.AskAsync(new Ask { IncludeUsage = true });

        // What the delivered text costs as a part of a prompt is each vendor's own count.
        static Judge ByPrefix(Evidence e, string prefill) => new Judge(e).Whole()
            .Conduct(e.Tries("fallback") is [var only] && only.Prefill == prefill,
                "the fallback was asked " + string.Join(", ", e.Tries("fallback").Select(entry => entry.Prefill ?? "from the start")) + $", wanted {prefill} once")
            .UsageOf([.. e.AllTries.Where(entry => entry.TokensSent > 0)], promptTolerance: 4 + System.Text.Encoding.UTF8.GetByteCount(e.First.Text) / 4);
    }
}
