using System.Text.Json.Nodes;

namespace Evenkeel.Failover.Cases;

/// <summary>What a client asks for and how long it waits must not be held against an instance, and must not take it out of the gateway's sight.</summary>
internal static partial class Further
{
    private static IEnumerable<Case[]> Wishes()
    {
        yield return [.. Both("n that is no whole number from 1 to 128", "400 that names n; nobody is asked", [], e =>
        {
            var judge = new Judge(e).TriesInAllAtMost(0);
            foreach (var x in e.Exchanges)
            {
                judge.GatewaysError(x, 400).Must(x.Body.Contains("\"param\":\"n\"", StringComparison.Ordinal), "the error does not name n");
            }
            return judge;
        }).Select(one => one with
        {
            Play = async stage =>
            {
                foreach (var n in new[] { "-1", "0", "1.5", "129", "1e15", "1e400", "\"x\"" })
                {
                    await stage.AskAsync(new Ask(one.Number == "s") { Extra = new() { ["n"] = JsonNode.Parse(n) } });
                }
            },
            OwnStackOnly = true,
        })];

        yield return [Stream("400 that quotes stream_options from the request itself", "the provider's error; the next stream is asked for its usage all the same",
            [Primary("status=400;message=" + Uri.EscapeDataString("temperature: not a number: 'stream_options'"), 2)],
            e => new Judge(e).ProvidersError(400, "not a number").WholeFrom("primary", e.Last)
                .Must(e.Tries("primary")[^1].UsageTold, "the next stream was not asked for its usage").TriesExactly("primary", 3)) with
        {
            Play = async stage =>
            {
                await stage.AskAsync(new Ask());
                await stage.AskAsync(new Ask());
            },
            // Only Evenkeel asks for what its client has not asked for.
            OwnStackOnly = true,
        }];

        yield return [.. Both("empty content, the request has stop words", "whole from the fallback; nothing counts against the instance", [Primary("empty_content")],
            e => FromFallback(e, 2).NothingAgainst("primary")).Select(one => one with
            {
                Play = stage => stage.AskAsync(new Ask(one.Number == "s") { Extra = new() { ["stop"] = new JsonArray("a") } }),
                AsksNode = true,
            })];

        yield return [Json("a whole answer with 129 choices", "all of them, from the primary; nothing counts against it", [Primary("choices=129+answer;tokens=2")],
            e => new Judge(e).WholeFrom("primary", e.First, new Expected { Choices = 129 }).TriesExactly("primary", 1).NothingAgainst("primary")) with
        {
            AsksNode = true,
        }];

        yield return [Stream("x-stainless-timeout of 1 s, the stream takes 3 s", "whole from the primary", [Primary("slow_drip=20")],
            e => new Judge(e).WholeFrom("primary").TriesInAllAtMost(1)) with { Play = stage => stage.AskAsync(Impatient(stream: true)) }];
        yield return [.. Both("x-stainless-timeout of 1 s, the provider hangs", "an error in ≤ 2 s; 1 try; nothing counts against the instance", [Primary("accept_and_hang=forever")],
            e => new Judge(e).GatewaysError(e.First, 408, 502, 503, 504).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")).Select(one => one with
            {
                Play = stage => stage.AskAsync(Impatient(one.Number == "s")),
                AsksNode = true,
            })];
        yield return [Json("x-stainless-timeout of 1 s, the JSON answer takes 3 s", "an error in ≤ 2 s; 1 try; nothing counts against the instance", [Primary("slow_drip=20")],
            e => new Judge(e).GatewaysError(e.First, 408, 502, 503, 504).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")) with
        {
            Play = stage => stage.AskAsync(Impatient(stream: false)),
            AsksNode = true,
        }];
        yield return [Stream("x-stainless-timeout of 1 s, the pool buffers streams", "an error in ≤ 2 s; 1 try; nothing counts against the instance", [Primary("slow_drip=20")],
            e => new Judge(e).GatewaysError(e.First, 408, 502, 503, 504).Within(e.First, 2000).TriesInAllAtMost(1).NothingAgainst("primary")) with
        {
            Setting = Setting.Pair with { BufferStreams = true },
            Play = stage => stage.AskAsync(Impatient(stream: true)),
            AsksNode = true,
        }];

        static Ask Impatient(bool stream) => new(stream) { Headers = [("x-stainless-timeout", "1")] };
    }
}
