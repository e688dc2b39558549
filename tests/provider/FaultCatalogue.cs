namespace Evenkeel.Provider;

/// <summary>A kind of fault: its name, its parameters (the first may be given as name=value), what it does.</summary>
internal sealed record FaultKind(string Name, string[] Parameters, string Help, Action<AnswerPlan, FaultValues> Apply);

/// <summary>Every fault there is. Adding one = adding an entry here, and a field to <see cref="AnswerPlan"/> if it does something new.</summary>
internal static class FaultCatalogue
{
    public static readonly FaultKind[] All =
    [
        // Error answers.
        new("status", ["code", "retry_after", "body", "message", "delay_ms"],
            "answers with this status; retry_after = seconds | date:S | past | garbage | negative | huge; "
            + "body = json | html | text | empty | vllm | any error code (context_length_exceeded, content_policy_violation, model_not_found, insufficient_quota …)",
            (plan, values) =>
            {
                plan.Status = values.Int("code", 500);
                if (plan.Status is < 100 or > 999)
                {
                    throw new FormatException("fault 'status': code must be 100..999");
                }
                plan.RetryAfter = RetryAfter.Checked(values.Text("retry_after"));
                plan.BodyKind = values.Text("body") ?? "json";
                plan.Message = values.Text("message");
                plan.DelayMs = values.Ms("delay_ms", 0);
            }),
        new("prefill_rejected", [], "400 when the last message is of role assistant; without one the answer is normal",
            (plan, _) => plan.RejectPrefill = true),
        new("redirect", ["location", "code"], "answers with a redirect (302 unless told)",
            (plan, values) =>
            {
                plan.Location = values.Text("location") ?? "/elsewhere";
                plan.Status = values.Int("code", 302);
            }),
        new("error_json_200", ["error", "message"], "200 with {\"error\": …} as JSON body",
            (plan, values) =>
            {
                plan.ErrorJson200 = true;
                plan.ErrorCode = values.Text("error") ?? plan.ErrorCode;
                plan.Message = values.Text("message");
            }),
        new("error_event_first", ["error", "message", "done"], "200, then an SSE error event before anything else (JSON calls: as error_json_200)",
            (plan, values) => ErrorEvent(plan, values, 0)),
        new("error_event_after", ["tokens", "error", "message", "done"], "an SSE error event after this many tokens, then the end without [DONE] (unless done=true)",
            (plan, values) => ErrorEvent(plan, values, values.Int("tokens", 1))),

        // The connection.
        new("reset_before_headers", ["delay_ms"], "TCP reset before any byte",
            (plan, values) =>
            {
                plan.ResetBeforeHeaders = true;
                plan.DelayMs = values.Ms("delay_ms", 0);
            }),
        new("reset_after_headers", [], "sends the head, then resets",
            (plan, _) => plan.ResetAfterHeaders = true),
        new("accept_and_hang", ["ms", "then"], "takes the request and never answers (ms=forever), or then=close|reset after ms",
            (plan, values) =>
            {
                plan.HangMs = values.Ms("ms", AnswerPlan.Forever);
                plan.HangThen = values.Ending("then", Ending.Close);
            }),
        new("close_idle", ["ms", "how"], "answers, then closes the keep-alive connection after ms idle, without having said so; how=fin|rst",
            (plan, values) =>
            {
                plan.CloseIdleMs = values.Int("ms", 0);
                plan.CloseIdleResets = values.Ending("how", Ending.Close) == Ending.Reset;
            }),
        new("http10_close", [], "an HTTP/1.0 answer, delimited by the close of the connection",
            (plan, _) => plan.Http10Close = true),

        // Time.
        new("delay", ["ms"], "waits before anything else happens",
            (plan, values) => plan.DelayMs = values.Ms("ms", 1000)),
        new("headers_then_delay", ["ms"], "the head at once, the first token (or the JSON body) after ms",
            (plan, values) =>
            {
                plan.HeadersAtOnce = true;
                plan.FirstTokenMs = values.Ms("ms", 20_000);
            }),
        new("slow_drip", ["tokens_per_second"], "this pace after the first token (1 unless told)",
            (plan, values) => plan.TokensPerSecond = values.Number("tokens_per_second", 1)),
        new("stall_after_tokens", ["tokens", "stall_ms", "then", "keepalive_ms"], "silence after this many tokens, for stall_ms (30000, or forever), then=close|reset|resume; keepalive_ms: with a comment that often (streams)",
            (plan, values) =>
            {
                plan.StallAfterTokens = values.Int("tokens", 20);
                plan.StallMs = values.Ms("stall_ms", 30_000);
                plan.StallThen = values.Ending("then", Ending.Close);
                plan.SilenceKeepAliveMs = values.Int("keepalive_ms", 0);
            }),
        new("keepalive_comments", ["ms", "every_ms", "text"], "SSE comments for ms before the first token (\": keep-alive\" every 100 ms); JSON calls: blank lines",
            (plan, values) =>
            {
                plan.KeepAliveMs = values.Ms("ms", 1000);
                plan.KeepAliveEveryMs = Math.Max(1, values.Int("every_ms", 100));
                plan.KeepAliveText = values.Text("text") ?? plan.KeepAliveText;
                (plan.BlankLinesMs, plan.BlankLinesEveryMs) = (plan.KeepAliveMs, plan.KeepAliveEveryMs);
            }),
        new("blank_lines_before_json", ["ms", "every_ms"], "blank lines for ms before a JSON body",
            (plan, values) =>
            {
                plan.BlankLinesMs = values.Ms("ms", 1000);
                plan.BlankLinesEveryMs = Math.Max(1, values.Int("every_ms", 100));
            }),
        new("role_only_then_silence", ["ms", "then", "keepalive_ms"], "the role chunk, then silence for ms (forever), then=close|reset|resume; keepalive_ms as above",
            (plan, values) =>
            {
                plan.RoleOnlyMs = values.Ms("ms", AnswerPlan.Forever);
                plan.RoleOnlyThen = values.Ending("then", Ending.Close);
                plan.SilenceKeepAliveMs = values.Int("keepalive_ms", 0);
            }),

        // Cut and damaged answers.
        new("cut_after_tokens", ["tokens", "how", "inside_event"], "the connection ends after this many tokens without a terminating chunk; how=fin|rst; inside_event=true cuts within the next event",
            (plan, values) =>
            {
                plan.CutAfterTokens = values.Int("tokens", 10);
                plan.CutHow = values.Ending("how", Ending.Close);
                plan.CutInsideEvent = values.Flag("inside_event");
            }),
        new("truncated_json", ["how", "at"], "a JSON body that ends early: how=length (Content-Length unmet) | chunked (unterminated), after the share at (0.5); streams: as cut_after_tokens",
            (plan, values) =>
            {
                plan.TruncateAt = values.Number("at", 0.5);
                plan.TruncateChunked = values.Choice("how", "length", "length", "chunked") == "chunked";
            }),
        new("broken_event_at", ["event", "mode", "text"], "the n-th SSE event (10) is broken JSON; mode=insert (an extra event) | replace (the text it carried is lost)",
            (plan, values) =>
            {
                plan.BrokenEventAt = values.Int("event", 10);
                plan.BrokenReplaces = values.Choice("mode", "insert", "insert", "replace") == "replace";
                plan.BrokenText = values.Text("text") ?? plan.BrokenText;
            }),
        new("no_done", [], "a complete stream without [DONE]", (plan, _) => plan.NoDone = true),
        new("double_done", [], "[DONE] twice", (plan, _) => plan.DoubleDone = true),
        new("no_finish_reason", [], "no chunk carries a finish_reason", (plan, _) => plan.NoFinishReason = true),
        new("double_finish", [], "two chunks carry the finish_reason", (plan, _) => plan.DoubleFinish = true),
        new("unstable_id", [], "every chunk has another id", (plan, _) => plan.UnstableId = true),

        // What is said.
        new("answer", ["tokens", "text", "text_seed", "first_token_ms", "tokens_per_second", "model"],
            "no fault: another answer (length, wording, pace, reported model) than the instance's settings say",
            (plan, values) =>
            {
                plan.Tokens = values.Has("tokens") ? values.Int("tokens", 0) : plan.Tokens;
                plan.Text = values.Text("text") ?? plan.Text;
                plan.TextSeed = values.Has("text_seed") ? values.Int("text_seed", 0) : plan.TextSeed;
                plan.FirstTokenMs = values.Has("first_token_ms") ? values.Ms("first_token_ms", 0) : plan.FirstTokenMs;
                plan.TokensPerSecond = values.Has("tokens_per_second") ? values.Number("tokens_per_second", 1) : plan.TokensPerSecond;
                plan.Model = values.Text("model") ?? plan.Model;
            }),
        new("empty_content", [], "200 with empty content", (plan, _) => plan.Empty = true),
        new("null_content", [], "200 with null content and no tool call", (plan, _) => (plan.Empty, plan.NullContent) = (true, true)),
        new("reasoning_first", ["tokens"], "this many tokens (10) of reasoning_content before the content",
            (plan, values) => plan.ReasoningTokens = values.Int("tokens", 10)),
        new("tool_calls", ["count", "name", "arguments"], "a tool call instead of content (streams: as deltas); the name is that of the request's first tool unless told",
            (plan, values) =>
            {
                plan.ToolCalls = Math.Max(1, values.Int("count", 1));
                plan.ToolName = values.Text("name");
                plan.ToolArguments = values.Text("arguments") ?? plan.ToolArguments;
            }),
        new("choices", ["n"], "this many choices (at most 256) whatever n the request asks",
            (plan, values) => plan.Choices = Math.Clamp(values.Int("n", 2), 1, 256)),
        new("finish_reason", ["reason"], "another finish_reason (length, content_filter, insufficient_system_resource …)",
            (plan, values) => plan.FinishReason = values.Text("reason") ?? "length"),
        new("usage_chunk", ["mode"], "mode=off | on (own chunk with empty choices, asked or not; also: empty_choices) | inline (with the finish_reason)",
            (plan, values) => plan.Usage = values.Choice("mode", "on", "on", "off", "inline", "empty_choices") switch
            {
                "off" => UsageMode.Off,
                "inline" => UsageMode.Inline,
                _ => UsageMode.On,
            }),
        new("other_kind", [], "a stream is answered with JSON, a JSON call with a stream", (plan, _) => plan.OtherKind = true),
        new("big_event", ["bytes", "at", "mode"], "event of this size (1048576) at token number at (1); mode=content (its text) | padding (an extra field)",
            (plan, values) =>
            {
                plan.BigEventBytes = values.Int("bytes", 1 << 20);
                plan.BigEventAt = values.Int("at", 1);
                plan.BigEventIsPadding = values.Choice("mode", "content", "content", "padding") == "padding";
            }),

        // Shape on the wire.
        new("split_bytes", ["bytes", "gap_ms", "level"], "pieces of this many bytes, also inside UTF-8 characters; level=chunk (each an HTTP chunk of its own) | wire (only the packets)",
            (plan, values) =>
            {
                plan.SplitBytes = Math.Max(1, values.Int("bytes", 1));
                plan.SplitGapMs = values.Int("gap_ms", 1);
                plan.SplitOnWire = values.Choice("level", "chunk", "chunk", "wire") == "wire";
            }),
        new("coalesce", ["events"], "this many events in one packet and chunk (all, unless told)",
            (plan, values) => plan.Coalesce = Math.Max(1, values.Int("events", int.MaxValue))),
        new("crlf", ["end"], "SSE lines end with \\r\\n; end=cr: with \\r alone",
            (plan, values) => plan.LineEnd = values.Choice("end", "crlf", "crlf", "cr") == "cr" ? "\r" : "\r\n"),
        new("sse_style", ["style"], "style=no_space | named | multiline | bom",
            (plan, values) => plan.SseStyle = values.Choice("style", "no_space", "no_space", "named", "multiline", "bom") switch
            {
                "named" => SseStyle.Named,
                "multiline" => SseStyle.Multiline,
                "bom" => SseStyle.Bom,
                _ => SseStyle.NoSpace,
            }),
        new("gzip", [], "a gzip'd answer, asked for or not", (plan, _) => plan.Gzip = true),
        new("content_type", ["value"], "another Content-Type (text/html unless told)",
            (plan, values) => plan.ContentType = values.Text("value") ?? "text/html"),

        // Hostile HTTP.
        new("bad_status_line", ["line"], "a first line that is no HTTP status line",
            (plan, values) => plan.StatusLine = values.Text("line") ?? "HTTP/1.1 twohundred OK"),
        new("interim", ["code"], "an interim answer (103) before the real one",
            (plan, values) => plan.InterimStatus = values.Int("code", 103)),
        new("bad_framing", ["kind"], "kind=both (Content-Length and chunked) | double_length | negative_length | bad_chunk",
            (plan, values) => plan.BadFraming = values.Choice("kind", "both", "both", "double_length", "negative_length", "bad_chunk")),
        new("endless_headers", ["bytes_per_second"], "header lines without end (1 MB/s)",
            (plan, values) => plan.EndlessHeadersPerSecond = values.Int("bytes_per_second", 1_000_000)),
        new("endless_body", ["bytes_per_second"], "a body without end (10 MB/s); streams: events without end",
            (plan, values) => plan.EndlessBodyPerSecond = values.Int("bytes_per_second", 10_000_000)),
        new("decompression_bomb", ["bytes"], "a gzip'd body that unpacks to this many bytes (1 GiB)",
            (plan, values) => plan.BombBytes = values.Int("bytes", 1 << 30)),
    ];

    private static readonly Dictionary<string, string> Aliases = new()
    {
        ["cut_after"] = "cut_after_tokens",
        ["stall_after"] = "stall_after_tokens",
        ["hang"] = "accept_and_hang",
        ["reset"] = "reset_before_headers",
        ["n"] = "choices",
    };

    public static FaultKind? Find(string name) => Array.Find(All, kind => kind.Name == Aliases.GetValueOrDefault(name, name));

    private static void ErrorEvent(AnswerPlan plan, FaultValues values, int after)
    {
        plan.ErrorEventAfterTokens = after;
        plan.ErrorCode = values.Text("error") ?? plan.ErrorCode;
        plan.Message = values.Text("message");
        plan.ErrorThenDone = values.Flag("done");
    }
}

/// <summary>The forms a Retry-After header is scripted in.</summary>
internal static class RetryAfter
{
    public static string? Checked(string? form)
    {
        if (form is not null && form is not ("past" or "garbage" or "negative" or "huge") && !double.TryParse(form, out _)
            && !(form.StartsWith("date:", StringComparison.Ordinal) && int.TryParse(form[5..], out _)))
        {
            throw new FormatException("retry_after must be seconds | date:SECONDS | past | garbage | negative | huge");
        }
        return form;
    }

    /// <summary>The header's value, or null for none.</summary>
    public static string? Value(string? form) => form switch
    {
        null => null,
        "garbage" => "soon, perhaps",
        "negative" => "-5",
        "huge" => "99999999999",
        "past" => DateTime.UtcNow.AddHours(-1).ToString("R"),
        _ when form.StartsWith("date:", StringComparison.Ordinal) => DateTime.UtcNow.AddSeconds(int.Parse(form[5..])).ToString("R"),
        _ => form,
    };
}
