using System.Diagnostics;
using System.Text;

namespace Evenkeel.Provider;

internal enum CallKind
{
    Chat,
    Completion,
    Embedding,
}

/// <summary>One call while it is answered: what was asked, the script, the timing, and where its story is written.</summary>
internal sealed class Call
{
    public required HttpConnection Connection { get; init; }
    public required CallKind Kind { get; init; }
    public required CallRequest Request { get; init; }
    public required InstanceSettings Settings { get; init; }
    public required AnswerPlan Plan { get; init; }
    public required LedgerEntry Entry { get; init; }
    public required Pace Pace { get; init; }

    /// <summary>Stopwatch ticks at arrival.</summary>
    public required long Started { get; init; }

    /// <summary>
    /// Gives the call's place under the ceiling back. Called just before the last bytes go out: a client that has the
    /// whole answer may ask again at once.
    /// </summary>
    public required Action Release { get; init; }

    /// <summary>Of the prompt, from the cache.</summary>
    public int CachedTokens => (int)(Request.PromptTokens * Settings.CachedPromptShare);

    /// <summary>The prompt is billed from now on.</summary>
    public void BillPrompt() => (Entry.PromptTokensBilled, Entry.PromptTokensCached) = (Request.PromptTokens, CachedTokens);

    public double ElapsedMs => Stopwatch.GetElapsedTime(Started).TotalMilliseconds;

    public string Model => Plan.Model ?? Settings.ReportedModel ?? Request.Model;

    public Task DelayAsync(int ms) => ms == 0 ? Task.CompletedTask : Task.Delay(ms, Connection.Gone);

    public async Task UntilAsync(double dueMs)
    {
        // Timers may fire a little early; those who measure us count on lower bounds.
        for (var left = dueMs - ElapsedMs; left > 0; left = dueMs - ElapsedMs)
        {
            await Task.Delay((int)Math.Ceiling(left), Connection.Gone);
        }
    }

    public async Task EndAsync(Ending how)
    {
        Release();
        if (how == Ending.Reset)
        {
            Entry.Outcome = LedgerOutcome.ResetByUs;
            Connection.Reset();
        }
        else
        {
            Entry.Outcome = LedgerOutcome.CutByUs;
            Entry.EndMs = ElapsedMs;
            await Connection.CutAsync();
        }
    }
}

/// <summary>Plays an <see cref="AnswerPlan"/>: everything of an answer that is not a stream of events, and the way into that.</summary>
internal static class CallAnswer
{
    public static async Task PlayAsync(Call call)
    {
        var plan = call.Plan;
        call.Connection.IdleCloseMs = plan.CloseIdleMs;
        call.Connection.IdleCloseResets = plan.CloseIdleResets;
        await call.DelayAsync(plan.DelayMs);
        if (plan.HangMs is { } hang)
        {
            await call.DelayAsync(hang);
            await call.EndAsync(plan.HangThen);
        }
        else if (plan.ResetBeforeHeaders)
        {
            await call.EndAsync(Ending.Reset);
        }
        else if (plan.EndlessHeadersPerSecond is { } headerRate)
        {
            await EndlessHeadersAsync(call, headerRate);
        }
        else if (plan.RejectPrefill && call.Request.Prefill is not null)
        {
            await WholeAsync(call, 400, ErrorBody.Json("invalid_request_error", "prefill_not_supported",
                "This model does not support assistant message prefill. The conversation must end with a user message."));
        }
        else if (plan.Status is { } status)
        {
            await StatusAsync(call, status);
        }
        else if (plan.ErrorJson200)
        {
            await WholeAsync(call, 200, ErrorBody.ForCode(plan.ErrorCode, plan.Message));
        }
        else if (plan.BombBytes is { } size)
        {
            await BombAsync(call, size);
        }
        else if (call.Kind == CallKind.Embedding)
        {
            await call.UntilAsync(call.Pace.FirstTokenMs);
            call.Entry.PromptTokensBilled = call.Request.PromptTokens;      // nobody's embeddings come from a cache
            await WholeAsync(call, 200, Payloads.Embeddings(call));
            call.Entry.UsageTold = true;
        }
        else if (call.Request.Stream != plan.OtherKind)
        {
            await new StreamAnswer(call).PlayAsync();
        }
        else if (plan.ErrorEventAfterTokens is not null)
        {
            await WholeAsync(call, 200, ErrorBody.ForCode(plan.ErrorCode, plan.Message));
        }
        else
        {
            await JsonAsync(call);
        }
    }

    private static async Task StatusAsync(Call call, int status)
    {
        var plan = call.Plan;
        if (plan.Location is { } location)
        {
            await WholeAsync(call, status, "", extraHeaders: $"location: {location}\r\n");
            return;
        }
        var (contentType, body) = plan.BodyKind switch
        {
            "json" => ("application/json", ErrorBody.ForStatus(status, plan.Message)),
            "vllm" => ("application/json", $"{{\"object\":\"error\",\"message\":\"{plan.Message ?? "failed"}\",\"type\":\"BadRequestError\",\"param\":null,\"code\":{status}}}"),
            "html" => ("text/html", $"<html>\r\n<head><title>{status} {HttpAnswer.Reason(status)}</title></head>\r\n<body>\r\n<center><h1>{status} {HttpAnswer.Reason(status)}</h1></center>\r\n</body>\r\n</html>\r\n"),
            "text" => ("text/plain", plan.Message ?? "upstream connect error or disconnect/reset before headers"),
            "empty" => ("text/plain", ""),
            var code => ("application/json", ErrorBody.ForCode(code, plan.Message)),
        };
        var header = RetryAfter.Value(plan.RetryAfter) is { } value ? $"retry-after: {value}\r\n" : "";
        await WholeAsync(call, status, body, contentType, header);
    }

    private static async Task WholeAsync(Call call, int status, string body, string contentType = "application/json", string extraHeaders = "")
    {
        var bytes = Encoding.UTF8.GetBytes(body);
        using var writer = new ResponseWriter(call.Connection, call.Plan, chunked: call.Plan.Gzip || call.Plan.BadFraming == "bad_chunk");
        writer.Head(status, contentType, bytes.Length, extraHeaders + Headers(call));
        Sent(call, status);
        call.Release();
        if (bytes.Length > 0)
        {
            writer.Body(bytes);
        }
        await writer.EndAsync();
        call.Entry.Outcome = LedgerOutcome.Completed;
    }

    private static async Task JsonAsync(Call call)
    {
        var (plan, entry) = (call.Plan, call.Entry);
        var words = new Words(call);
        var body = Encoding.UTF8.GetBytes(plan.Body ?? Payloads.Json(call, words));
        var cut = plan.TruncateAt is { } share ? (int)(body.Length * Math.Min(share, 1))
            : plan.CutAfterTokens is { } tokens ? body.Length * Math.Min(tokens, words.Total) / Math.Max(1, words.Total)
            : (int?)null;
        var stall = plan.StallAfterTokens is { } at ? body.Length * Math.Min(at, words.Total) / Math.Max(1, words.Total) : (int?)null;
        var chunked = plan.Gzip || plan.BlankLinesMs > 0 || plan.TruncateChunked || plan.BadFraming == "bad_chunk" || plan.EndlessBodyPerSecond is not null;
        using var writer = new ResponseWriter(call.Connection, plan, chunked);

        var due = plan.FirstTokenMs is { } first ? first
            : plan.Body is not null ? 0
            : plan.TokensPerSecond is { } drip ? call.Pace.FirstTokenMs + Math.Max(0, words.PerChoice - 1) * 1000 / drip
            : call.Pace.DueMs(Math.Max(0, words.PerChoice - 1));
        if (!plan.HeadersAtOnce && !plan.ResetAfterHeaders && plan.BlankLinesMs == 0)
        {
            await DueAsync(call, due);
        }
        writer.Head(200, "application/json", body.Length, Headers(call));
        Sent(call, 200);
        if (plan.HeadersAtOnce || plan.ResetAfterHeaders || plan.BlankLinesMs != 0)
        {
            await writer.FlushAsync();
        }
        if (plan.ResetAfterHeaders)
        {
            await call.EndAsync(Ending.Reset);
            return;
        }
        await RepeatAsync(call, writer, Encoding.UTF8.GetBytes(plan.LineEnd), plan.BlankLinesMs, plan.BlankLinesEveryMs);
        await DueAsync(call, due);
        entry.FirstTokenMs = call.ElapsedMs;
        if (plan.EndlessBodyPerSecond is { } rate)
        {
            writer.Body("{\"padding\":\""u8);
            await EndlessAsync(call, writer, Encoding.ASCII.GetBytes(new string('x', 16 * 1024)), rate);
        }
        if (stall is { } stallAt)
        {
            writer.Body(body.AsSpan(0, stallAt));
            await writer.FlushAllAsync();
            await call.DelayAsync(plan.StallMs);
            if (plan.StallThen != Ending.Resume)
            {
                await call.EndAsync(plan.StallThen);
                return;
            }
        }
        if (cut is { } end)
        {
            writer.Body(body.AsSpan(0, end));
            await writer.FlushAllAsync();
            await call.EndAsync(plan.CutHow);
            return;
        }
        call.Release();
        writer.Body(body.AsSpan(stall ?? 0));
        if (plan.Body is null)
        {
            call.BillPrompt();
            entry.TokensSent = entry.CompletionTokensBilled = words.Total;
            entry.ReasoningTokens = words.Reasoning * words.Choices;
        }
        await writer.EndAsync();
        entry.UsageTold = plan.Body is null && plan.Usage != UsageMode.Off;
        entry.Outcome = LedgerOutcome.Completed;
    }

    private static async Task EndlessHeadersAsync(Call call, int bytesPerSecond)
    {
        await call.Connection.WriteAsync("HTTP/1.1 200 OK\r\n"u8.ToArray());
        Sent(call, 200);
        var lines = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Repeat("x-endless: " + new string('x', 87) + "\r\n", 10)));
        while (true)
        {
            await call.Connection.WriteAsync(lines);
            await call.DelayAsync(Math.Max(1, lines.Length * 1000 / Math.Max(1, bytesPerSecond)));
        }
    }

    private static async Task BombAsync(Call call, int size)
    {
        var gzip = new AnswerPlan { Gzip = true };
        using var writer = new ResponseWriter(call.Connection, gzip, chunked: true);
        writer.Head(200, call.Request.Stream ? "text/event-stream" : "application/json", null, Headers(call));
        Sent(call, 200);
        var block = new byte[1 << 20];
        block.AsSpan().Fill((byte)' ');
        for (var sent = 0; sent < size; sent += block.Length)
        {
            writer.Body(block.AsSpan(0, Math.Min(block.Length, size - sent)));
            await writer.FlushAsync();
        }
        call.Release();
        await writer.EndAsync();
        call.Entry.Outcome = LedgerOutcome.Completed;
    }

    /// <summary>Sends the piece over and over until the client leaves.</summary>
    internal static async Task EndlessAsync(Call call, ResponseWriter writer, byte[] piece, int bytesPerSecond)
    {
        var begin = call.ElapsedMs;
        for (var sent = (long)piece.Length; ; sent += piece.Length)
        {
            writer.Body(piece);
            await writer.FlushAllAsync();
            var aheadMs = (sent * 1000.0 / Math.Max(1, bytesPerSecond)) - (call.ElapsedMs - begin);
            if (aheadMs >= 1)
            {
                await call.DelayAsync((int)aheadMs);
            }
        }
    }

    /// <summary>Sends the piece every so often for a while; it is no part of the answer (comments, blank lines).</summary>
    internal static async Task RepeatAsync(Call call, ResponseWriter writer, byte[] piece, int forMs, int everyMs)
    {
        var end = call.ElapsedMs + forMs;
        while (forMs == AnswerPlan.Forever || call.ElapsedMs < end)
        {
            writer.Body(piece);
            await writer.FlushAllAsync();
            await call.DelayAsync(everyMs);
        }
    }

    /// <summary>Waits for a due time; -1 = until the client leaves.</summary>
    internal static Task DueAsync(Call call, double dueMs) =>
        dueMs == AnswerPlan.Forever ? Task.Delay(Timeout.Infinite, call.Connection.Gone) : call.UntilAsync(dueMs);

    internal static string Headers(Call call) =>
        $"server: evenkeel-provider\r\nx-sim-instance: {call.Entry.Instance}\r\nx-request-id: {call.Entry.RequestId ?? "sim-" + call.Entry.Sequence}\r\n";

    internal static void Sent(Call call, int status)
    {
        call.Entry.Status = status;
        call.Entry.HeadersMs = call.ElapsedMs;
    }
}
