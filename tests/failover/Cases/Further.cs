using Evenkeel.Provider;

namespace Evenkeel.Failover.Cases;

/// <summary>The further faults, in the order of FAILOVER.md. A number stands for a fault, "s" for a stream, "j" for a JSON answer.</summary>
internal static partial class Further
{
    public static IEnumerable<Case> All(TimeScale time)
    {
        var number = 0;
        foreach (var group in Groups(time))
        {
            number++;
            foreach (var one in group)
            {
                yield return one with { Number = $"F{number}{one.Number}" };
            }
        }
    }

    private static IEnumerable<IEnumerable<Case>> Groups(TimeScale time) =>
        [.. Connections(), .. Dressed(), .. Waiting(time), .. Kinds(time), .. Shapes(), .. Statuses(), .. Continued(time), .. Clients(time), .. NobodyLeft(), .. Wishes()];

    // ---- how cases are written

    private static Case Stream(string name, string wanted, Trouble[] troubles, Func<Evidence, Judgement> judge) => new()
    {
        Number = "s",
        Name = name,
        Wanted = wanted,
        Section = Section.Further,
        Troubles = troubles,
        Judge = judge,
    };

    private static Case Json(string name, string wanted, Trouble[] troubles, Func<Evidence, Judgement> judge) =>
        Stream(name, wanted, troubles, judge) with { Number = "j", Play = stage => stage.AskAsync(stream: false) };

    private static Case[] Both(string name, string wanted, Trouble[] troubles, Func<Evidence, Judgement> judge) =>
        [Stream(name, wanted, troubles, judge), Json(name, wanted, troubles, judge)];

    private static Case[] In(Setting setting, params Case[] cases) => [.. cases.Select(one => one with { Setting = setting })];

    private static Trouble Primary(string spec, int? times = null) => new("primary", spec, times);

    private static Judge FromFallback(Evidence e, int triesAtPrimary) => new Judge(e).WholeFrom("fallback").TriesAtMost("primary", triesAtPrimary);

    // ---- connections

    private static IEnumerable<Case[]> Connections()
    {
        yield return [.. Both("connection refused", "whole from the fallback", [], e => new Judge(e).WholeFrom("fallback"))
            .Select(one => one with
            {
                Play = async stage =>
                {
                    stage["primary"].Down();
                    await stage.AskAsync(one.Number == "s");
                },
            })];

        foreach (var (mode, name) in new[]
        {
            (TlsMode.HandshakeFailure, "TLS handshake failure"),
            (TlsMode.HandshakeReset, "reset in the TLS handshake"),
            (TlsMode.HandshakeHang, "TLS handshake never answered"),
            (TlsMode.Expired, "expired certificate"),
            (TlsMode.WrongName, "certificate for another name"),
            (TlsMode.Selfsigned, "certificate of an unknown authority"),
        })
        {
            yield return In(Tls(mode), Both(name, "whole from the fallback; nothing said to the impostor", [],
                e => new Judge(e).WholeFrom("fallback").Conduct(e.Ledger["primary"].Count == 0, "the request was sent all the same")
                    .Must(e.Counters["primary"].ConnectionsAccepted > 0, "nobody tried")));
        }
        yield return In(Tls(TlsMode.Good), Both("certificate that holds (no fault)", "whole from the primary", [],
            e => new Judge(e).WholeFrom("primary").TriesExactly("primary", 1))
            // Another gateway does not know the kit's authority, which is made anew for every run.
            .Select(one => one with { OwnStackOnly = true }).ToArray());

        foreach (var how in new[] { "fin", "rst" })
        {
            yield return [.. Both($"idle keep-alive connection closed ({how.ToUpperInvariant()})", "both requests whole from the primary", [Primary($"close_idle=100;how={how}")],
                e => new Judge(e).AllWhole().WholeFrom("primary", e.Last).TriesExactly("fallback", 0))
                .Select(one => one with { Play = stage => TwiceAsync(stage, one.Number == "s") })];
        }
        yield return [.. Both("keep-alive connection reset as it is used again", "both requests whole from the primary",
            [new("primary", "reset_before_headers", Match: new FaultMatch(Reused: true))],
            e => new Judge(e).AllWhole().WholeFrom("primary", e.Last).TriesExactly("fallback", 0))
            .Select(one => one with { Play = stage => TwiceAsync(stage, one.Number == "s") })];
        yield return Both("reset after the head", "whole", [Primary("reset_after_headers", 1)], e => new Judge(e).Whole());

        static Setting Tls(TlsMode mode) => Setting.Pair.Simulating("primary", settings => settings with { Tls = mode });

        static async Task TwiceAsync(Stage stage, bool stream)
        {
            // Several at once open as many connections, so that whichever worker takes the second round has one to use again.
            await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => stage.AskAsync(stream)));
            await Task.Delay(500);
            await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => stage.AskAsync(stream)));
        }
    }

    // ---- failures dressed as a success

    private static IEnumerable<Case[]> Dressed()
    {
        yield return [Json("a Content-Type of 9,000 bytes", "whole from the primary; 1 try", [Primary("content_type=application/json" + new string('x', 9000))],
            e => new Judge(e).WholeFrom("primary").TriesInAllAtMost(1))];
        yield return Both("200 with {\"error\": …}", "whole from the fallback", [Primary("error_json_200")], e => FromFallback(e, 2));
        yield return [Stream("200, the first event is an error", "whole from the fallback", [Primary("error_event_first")], e => FromFallback(e, 2))];
        yield return [Stream("200, the first event is an error, then [DONE]", "whole from the fallback", [Primary("error_event_first;done=true")], e => FromFallback(e, 2))];
        yield return Both("200 with a rate limit as its body", "whole from the fallback", [Primary("error_event_first=rate_limit_exceeded")], e => FromFallback(e, 4));
        yield return Both("200 with empty content", "whole from the fallback", [Primary("empty_content")], e => FromFallback(e, 2));
        yield return Both("200 with null content and no tool call", "whole from the fallback", [Primary("null_content")], e => FromFallback(e, 2));
        yield return [Json("JSON body cut short of its Content-Length", "whole from the fallback", [Primary("truncated_json=length")], e => FromFallback(e, 2))];
        yield return [Json("chunked JSON body without its end", "whole from the fallback", [Primary("truncated_json=chunked")], e => FromFallback(e, 2))];
        yield return [Json("chunked JSON body, complete but without the last chunk", "whole", [Primary("truncated_json=chunked;at=1")], e => new Judge(e).Whole().TriesAtMost("primary", 2))];
    }

    // ---- waiting for the first token

    private static IEnumerable<Case[]> Waiting(TimeScale time)
    {
        var (patient, budget) = (time.Ms(5000), time.BoundMs(15_000));
        yield return
        [
            Stream("\": keep-alive\" comments, then the answer within the budget", "whole from the primary", [Primary($"keepalive_comments={patient}")],
                e => new Judge(e).WholeFrom("primary").TriesExactly("primary", 1)),
            Json("blank lines, then the JSON answer", "whole from the primary", [Primary($"blank_lines_before_json={patient}")],
                e => new Judge(e).WholeFrom("primary").TriesExactly("primary", 1)),
        ];
        yield return
        [
            Stream("\": keep-alive\" comments for minutes", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary($"keepalive_comments={time.Ms(120_000)}")],
                e => FromFallback(e, 1).Within(e.First, budget)),
            Json("blank lines for minutes (total: 12 s)", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary($"blank_lines_before_json={time.Ms(120_000)}")],
                e => FromFallback(e, 1).Within(e.First, budget)) with { Setting = Total(12) },
        ];
        // Where the framing asks for no waiting between the pieces of a body, as chunks do.
        var delimited = $"http10_close+keepalive_comments={time.Ms(120_000)}";
        yield return [Stream("the same, delimited by the close of the connection", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary(delimited)],
            e => FromFallback(e, 1).Within(e.First, budget))];
        yield return [Json("the same, as blank lines before JSON (total: 12 s)", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try",
            [Primary($"http10_close+blank_lines_before_json={time.Ms(120_000)}")], e => FromFallback(e, 1).Within(e.First, budget)) with { Setting = Total(12) }];
        yield return [Stream("role-only first chunk, then silence", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary("role_only_then_silence=forever")],
            e => FromFallback(e, 1).Within(e.First, budget))];
        yield return [Stream("role-only first chunk, then comments", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary("role_only_then_silence=forever;keepalive_ms=100")],
            e => FromFallback(e, 1).Within(e.First, budget))];
        yield return [Json("accepts, never answers (total: 12 s)", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary("accept_and_hang=forever")],
            e => FromFallback(e, 1).Within(e.First, budget)) with { Setting = Total(12) }];
        yield return [Json("half a JSON body, then silence (total: 12 s)", $"whole from the fallback in ≤ {budget / 1000.0} s; 1 try", [Primary("stall_after_tokens=30;stall_ms=forever")],
            e => FromFallback(e, 1).Within(e.First, budget)) with
        { Setting = Total(12) }];
        yield return [Stream("comments in the middle instead of tokens", $"whole in ≤ {budget / 1000.0} s", [Primary("stall_after_tokens=20;stall_ms=forever;keepalive_ms=100")],
            e => new Judge(e).Whole().Within(e.First, budget))];

        static Setting Total(double seconds) => Setting.Pair.With("primary", member => member with { TotalS = seconds });
    }

    // ---- kinds of content

    private static IEnumerable<Case[]> Kinds(TimeScale time)
    {
        // Thirty words of reasoning last longer than the first-token budget, and begin at once.
        var slowly = time.IsFast ? 12 : 2.5;
        var thinking = new Func<Exchange, Expected>(x => Expected.For(x) with { ReasoningWords = 30 });
        yield return
        [
            Stream("reasoning_content for longer than the first-token budget", "whole from the primary, reasoning from the start",
                [Primary($"reasoning_first=30+slow_drip={slowly.ToString(System.Globalization.CultureInfo.InvariantCulture)}+answer;tokens=5")],
                e => new Judge(e).WholeFrom("primary", e.First, Expected.For(e.First, tokens: 5) with { ReasoningWords = 30 }).TriesExactly("primary", 1)
                    .Noted(e.First.FirstTextMs < 2000, $"first reasoning after {Judge.Seconds(e.First.FirstTextMs ?? double.NaN)}")),
            Json("reasoning_content and content", "whole, with its reasoning", [Primary("reasoning_first=30")],
                e => new Judge(e).WholeFrom("primary", e.First, thinking(e.First))),
        ];
        yield return [Stream("reasoning_content only before the cut", "whole, reasoning and content once", [Primary("reasoning_first=30+cut_after_tokens=15"), new("fallback", "reasoning_first=30")],
            e => new Judge(e).Whole(e.First, thinking(e.First)))];
        yield return [Stream("reasoning_content, cut in the content", "whole, reasoning and content once", [Primary("reasoning_first=30+cut_after_tokens=50"), new("fallback", "reasoning_first=30")],
            e => new Judge(e).Whole(e.First, thinking(e.First)))];

        const string arguments = "{\"city\":\"Zürich\",\"unit\":\"celsius\"}";
        yield return Both("tool call (no fault)", "the whole call, finish_reason tool_calls", [Primary("tool_calls")],
            e => new Judge(e).WholeFrom("primary", e.First, new Expected { ToolArguments = arguments, FinishReason = "tool_calls" }).TriesExactly("primary", 1));
        yield return [Stream("tool call cut in the middle", "the whole call or a clean error event; never continued by a prefix", [Primary("tool_calls+cut_after_tokens=4"), new("fallback", "tool_calls")],
            e => WholeOrBrokenOff(e, new Expected { ToolArguments = arguments, FinishReason = "tool_calls" })) with { Setting = Prefixing }];
        yield return [.. Both("n = 2 (no fault)", "two whole choices", [], e => new Judge(e).WholeFrom("primary", e.First, new Expected { Choices = 2 })
                .Must(e.First.Choices.Count == 2 && e.First.Text == Expected.For(e.First).Text, "the first choice is not whole"))
            .Select(one => one with { Play = stage => stage.AskAsync(new Ask(one.Number == "s") { Extra = new() { ["n"] = 2 } }) })];
        yield return [Stream("n = 2, cut in the middle", "whole or a clean error event; never continued by a prefix", [Primary("cut_after_tokens=40")],
            e => WholeOrBrokenOff(e, new Expected { Choices = 2 })) with { Setting = Prefixing, Play = stage => stage.AskAsync(new Ask { Extra = new() { ["n"] = 2 } }) }];

        // Choice 1 has said all at once; choice 0 goes on for longer than an end is waited for.
        var second = Event(3, "{\"index\":1,\"delta\":{\"content\":\"short\"},\"finish_reason\":\"stop\"}");
        yield return [Stream("two choices, one finished long before the other", "two whole choices", [Primary($"{second}+slow_drip=5+answer;tokens=15")],
            e => new Judge(e).WholeFrom("primary", e.First, new Expected { Choices = 2 })
                .Must(e.First.Text == Expected.For(e.First, tokens: 15).Text, "the first choice is not whole"))];
        yield return [Stream("two choices, one finished, the other cut", "the error event, no [DONE]", [Primary($"{second}+cut_after_tokens=10")],
            e => new Judge(e).Must(e.First is { Dones: 0, Errors.Count: 1, Break: null }, Judge.Outcome(e.First)).TriesInAllAtMost(1))];

        yield return [Stream("usage chunk with empty choices, asked for", "whole, usage once", [Primary("usage_chunk=on")],
            e => new Judge(e).WholeFrom("primary").UsageOf(e.Tries("primary"))) with { Play = AskUsage }];
        yield return [Stream("usage chunk with empty choices, not asked for", "whole, no such chunk", [Primary("usage_chunk=on")],
            e => new Judge(e).WholeFrom("primary").Must(e.First.ChunksWithoutChoices == 0, $"{e.First.ChunksWithoutChoices} chunks without choices"))];
        yield return [Stream("usage inside the last chunk (DeepSeek's way)", "whole, usage once", [Primary("usage_chunk=inline")],
            e => new Judge(e).WholeFrom("primary").UsageOf(e.Tries("primary"))) with { Play = AskUsage }];
        yield return [Stream("no finish_reason", "whole, one finish_reason", [Primary("no_finish_reason")], e => new Judge(e).Whole())];
        yield return [Stream("two finish_reasons", "whole, one finish_reason", [Primary("double_finish")], e => new Judge(e).Whole())];
        yield return [Stream("[DONE] twice", "whole, one [DONE]", [Primary("double_done")], e => new Judge(e).Whole())];
        yield return [Stream("a first chunk without id, model and choices (Azure's way)", "whole, one id and model",
            [Primary(Event(1, "", "{\"id\":\"\",\"object\":\"\",\"created\":0,\"model\":\"\",\"prompt_filter_results\":[],\"choices\":[]}"))],
            e => new Judge(e).Whole().Must(!e.First.Ids.Contains("") && !e.First.Models.Contains(""), "all chunks are as nameless as the first"))];
        yield return [Stream("another id in every chunk", "whole, one id", [Primary("unstable_id")], e => new Judge(e).Whole())];

        static Task AskUsage(Stage stage) => stage.AskAsync(new Ask { IncludeUsage = true });

        static Judgement WholeOrBrokenOff(Evidence e, Expected expected) => new Judge(e)
            .Must(Wholeness.Defects(e.First, expected).Count == 0 || Wholeness.IsCleanError(e.First), Judge.Outcome(e.First))
            .Conduct(e.AllTries.All(entry => entry.Prefill is null), "continued by a prefix");
    }

    /// <summary>One event more, before the one of this number: with these choices, or with this text.</summary>
    private static string Event(int number, string choices, string? text = null) => $"broken_event_at={number};text=" + Uri.EscapeDataString(
        text ?? "{\"id\":\"chatcmpl-more\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"more\",\"choices\":[" + choices + "]}");

    private static Setting Prefixing => Setting.Pair.WithAll(member => member with { Capabilities = ["prefix_completion"] });

    // ---- shapes on the wire

    private static IEnumerable<Case[]> Shapes()
    {
        yield return One("events split at every byte, each an HTTP chunk", "split_bytes=1;gap_ms=0");
        yield return One("events split at every third byte, across packets", "split_bytes=3;gap_ms=0;level=wire");
        yield return One("events split at every seventh byte, with pauses", "split_bytes=7;gap_ms=1+answer;tokens=10", 10);
        yield return One("all events in one packet", "coalesce");
        yield return One("\\r\\n line ends", "crlf");
        yield return One("\\r line ends", "crlf;end=cr");
        yield return One("\\r\\n line ends, split at every byte", "crlf+split_bytes=1;gap_ms=0");
        yield return One("\"data:\" without a space", "sse_style=no_space");
        yield return One("events with event: and id: lines", "sse_style=named");
        yield return One("events over two data: lines", "sse_style=multiline");
        yield return One("a byte order mark before the first event", "sse_style=bom");
        yield return Both("an event (a body) of 1 MiB, its content", "whole from the primary", [Primary("big_event=1048576;at=5+answer;tokens=10")],
            e => new Judge(e).WholeFrom("primary", e.First, Expected.For(e.First) with { Text = Big(e.First) }));
        yield return [Stream("an event of 1 MiB, padding", "whole from the primary", [Primary("big_event=1048576;mode=padding")], e => new Judge(e).WholeFrom("primary"))];
        yield return Both("a gzip'd answer", "whole from the primary", [Primary("gzip")], e => new Judge(e).WholeFrom("primary"));
        yield return [Stream("a gzip'd answer, split at every third byte", "whole from the primary", [Primary("gzip+split_bytes=3;gap_ms=0")], e => new Judge(e).WholeFrom("primary"))];
        yield return Both("an HTTP/1.0 answer, ended by the close", "whole from the primary", [Primary("http10_close")], e => new Judge(e).WholeFrom("primary"));
        yield return Both("an interim answer (103) before the real one", "whole from the primary", [Primary("interim")], e => new Judge(e).WholeFrom("primary"));
        yield return Both("a stream for JSON, JSON for a stream", "whole, in the form that was asked for", [Primary("other_kind")], e => new Judge(e).Whole());

        static Case[] One(string name, string spec, int tokens = 60) =>
            [Stream(name, "whole from the primary", [Primary(spec)], e => new Judge(e).WholeFrom("primary", e.First, Expected.For(e.First, tokens)).TriesExactly("primary", 1))];

        static string Big(Exchange x)
        {
            var (before, whole) = (Answer.Text(x.RequestJson, 5), Answer.Text(x.RequestJson, 10));
            return before + new string('#', 1 << 20) + whole[before.Length..];
        }
    }

    // ---- statuses

    private static IEnumerable<Case[]> Statuses()
    {
        foreach (var (status, what) in new[] { (401, "unauthorized"), (402, "no balance"), (403, "forbidden"), (404, "model not found") })
        {
            yield return Both($"{status} {what}", "whole from the fallback; 1 try", [Primary($"status={status}")], e => FromFallback(e, 1));
        }
        yield return Both("429 for an empty account", "whole from the fallback; 1 try", [Primary("status=429;body=insufficient_quota")], e => FromFallback(e, 1));
        yield return Both("408", "whole; ≤ 2 tries", [Primary("status=408")], e => new Judge(e).Whole().TriesAtMost("primary", 2));
        yield return Both("529 overloaded", "whole from the fallback; ≤ 6 tries, ≤ 4 in 3 s", [Primary("status=529")],
            e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6).TriesWithinAtMost("primary", 4, 3));
        // Not our own code for this status, and a request that is not forgotten with what it holds.
        yield return [.. Both("413 too large", "the provider's error, unchanged; 1 try, no fallback; nothing stays in flight", [Primary("status=413;body=too_many_images")],
            e => new Judge(e).ProvidersError(413, "too_many_images").TriesExactly("primary", 1).TriesExactly("fallback", 0).NothingAgainst("primary"))
            .Select(one => one with { AsksNode = true })];
        yield return Both("422 invalid parameters", "the provider's error, unchanged; 1 try, no fallback", [Primary("status=422")],
            e => new Judge(e).ProvidersError(422, "invalid_parameters").TriesExactly("primary", 1).TriesExactly("fallback", 0));
        yield return In(Setting.Lone, Both("400 context_length_exceeded and no next tier", "the provider's error; 1 try", [Primary("status=400;body=context_length_exceeded")],
            e => new Judge(e).ProvidersError(400, "context_length_exceeded").TriesExactly("primary", 1)));
        yield return Both("context length told in vLLM's words", "whole from the next tier; 1 try",
            [Primary("status=400;body=vllm;message=" + Uri.EscapeDataString("This model's maximum context length is 4096 tokens."))],
            e => new Judge(e).WholeFrom("fallback").TriesExactly("primary", 1));

        yield return Both("Retry-After as a date", "whole; second try not before the date", [Primary("status=429;retry_after=date:3", 1)],
            e => new Judge(e).Whole().SecondTryNotBefore("primary", 1.9));
        yield return [.. Both("Retry-After absurdly large", "whole from the fallback at once; the primary is left alone", [Primary("status=429;retry_after=huge")],
            e => new Judge(e).AllWhole().TriesExactly("primary", 1).Within(e.First, 2000)).Select(one => one with
            {
                Play = async stage =>
                {
                    await stage.AskAsync(one.Number == "s");
                    await Task.Delay(1500);
                    await stage.AskAsync(one.Number == "s");
                },
            })];
        foreach (var form in new[] { "negative", "garbage", "past" })
        {
            yield return Both($"Retry-After: {form}", "whole; ≤ 6 tries, ≤ 4 in 3 s", [Primary($"status=429;retry_after={form}")],
                e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6).TriesWithinAtMost("primary", 4, 3));
        }
        foreach (var status in new[] { 500, 502, 504 })
        {
            yield return Both($"{status} with an HTML page", "whole from the fallback; ≤ 6 tries", [Primary($"status={status};body=html")],
                e => new Judge(e).WholeFrom("fallback").TriesInAllAtMost(6));
        }
        yield return In(Setting.Lone, Both("503 with an HTML page and no next tier", "a clean JSON error, no HTML; ≤ 6 tries", [Primary("status=503;body=html")],
            e => new Judge(e).GatewaysError(e.First, 502, 503).TriesAtMost("primary", 6)));
        yield return Both("302 to elsewhere", "whole from the fallback; not followed", [Primary("redirect")],
            e => FromFallback(e, 2).Conduct(e.Ledger["primary"].All(entry => entry.Path != "/elsewhere"), "the redirect was followed"));
    }
}
