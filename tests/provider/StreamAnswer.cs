using System.Text;

namespace Evenkeel.Provider;

/// <summary>A stream of server-sent events, played word by word at its pace, with the trouble the plan asks for.</summary>
internal sealed class StreamAnswer(Call call)
{
    private readonly AnswerPlan _plan = call.Plan;
    private readonly LedgerEntry _entry = call.Entry;
    private readonly Words _words = new(call);
    private readonly ByteBuffer _payload = new(512);
    private readonly ByteBuffer _event = new(512);
    private readonly byte[] _lineEnd = Encoding.ASCII.GetBytes(call.Plan.LineEnd);
    private ResponseWriter _writer = null!;
    private int _events;

    private bool UsageIsAsked => _plan.Usage is UsageMode.AsAsked && call.Request.IncludeUsage || _plan.Usage is UsageMode.On;

    /// <summary>Filler text of a big event: no spaces, so that it cannot be mistaken for words.</summary>
    public static string Filler(int bytes) => new('#', bytes);

    public async Task PlayAsync()
    {
        using var writer = _writer = new ResponseWriter(call.Connection, _plan, chunked: true);
        try
        {
            await PlayPartsAsync();
        }
        finally
        {
            _payload.Dispose();
            _event.Dispose();
        }
    }

    private async Task PlayPartsAsync()
    {
        var early = _plan.HeadersAtOnce || _plan.ResetAfterHeaders || _plan.KeepAliveMs != 0 || _plan.RoleOnlyMs is not null;
        var first = _plan.FirstTokenMs is { } ms ? ms : call.Pace.FirstTokenMs;
        if (!early)
        {
            await CallAnswer.DueAsync(call, first);
        }
        Head();
        if (early)
        {
            await _writer.FlushAsync();
        }
        if (_plan.ResetAfterHeaders)
        {
            await call.EndAsync(Ending.Reset);
            return;
        }
        await CommentsAsync(_plan.KeepAliveMs, _plan.KeepAliveEveryMs);
        if (_plan.ErrorEventAfterTokens == 0)
        {
            await CallAnswer.DueAsync(call, first);
            await ErrorEventAsync();
            return;
        }
        RoleChunks();
        if (_plan.RoleOnlyMs is { } silence)
        {
            await _writer.FlushAllAsync();
            await SilenceAsync(silence);
            if (_plan.RoleOnlyThen != Ending.Resume)
            {
                await call.EndAsync(_plan.RoleOnlyThen);
                return;
            }
        }
        if (early)
        {
            await CallAnswer.DueAsync(call, first);
        }
        if (!await WordsAsync(Math.Max(first, 0)))
        {
            return;
        }
        FinishChunks();
        if (UsageIsAsked)
        {
            UsageChunk();
        }
        if (!_plan.NoDone)
        {
            Event("[DONE]"u8);
        }
        if (_plan.DoubleDone)
        {
            Event("[DONE]"u8);
        }
        call.BillPrompt();
        _entry.CompletionTokensBilled = _words.Total;
        call.Release();
        await _writer.EndAsync();
        _entry.UsageTold = UsageIsAsked || _plan.Usage == UsageMode.Inline;
        _entry.Outcome = LedgerOutcome.Completed;
    }

    private void Head()
    {
        _writer.Head(200, "text/event-stream; charset=utf-8", null, "cache-control: no-cache\r\n" + CallAnswer.Headers(call));
        CallAnswer.Sent(call, 200);
        call.BillPrompt();
        if (_plan.SseStyle == SseStyle.Bom)
        {
            _writer.Body([0xEF, 0xBB, 0xBF]);
        }
    }

    /// <summary>Plays all words; false when the script ended the connection on the way.</summary>
    private async Task<bool> WordsAsync(double firstMs)
    {
        var tokenMs = _plan.TokensPerSecond is { } rate ? 1000 / rate : call.Pace.TokenMs;
        var (sent, pauseMs) = (0, 0.0);
        for (var position = 0; position < _words.PerChoice; position++)
        {
            var due = firstMs + pauseMs + position * tokenMs;
            if (due - call.ElapsedMs >= 1)
            {
                await _writer.FlushAsync();
                await call.UntilAsync(due);
            }
            else if (_writer.Pending > 64 * 1024)
            {
                await _writer.FlushAsync();
            }
            for (var choice = 0; choice < _words.Choices; choice++)
            {
                if (_plan.StallAfterTokens == sent)
                {
                    await _writer.FlushAllAsync();
                    await SilenceAsync(_plan.StallMs);
                    if (_plan.StallThen != Ending.Resume)
                    {
                        await call.EndAsync(_plan.StallThen);
                        return false;
                    }
                    pauseMs += _plan.StallMs;
                }
                if (_plan.CutAfterTokens == sent || _plan.TruncateAt is { } share && sent >= share * _words.Total)
                {
                    await CutAsync(choice, position);
                    return false;
                }
                if (_plan.ErrorEventAfterTokens == sent)
                {
                    await ErrorEventAsync();
                    return false;
                }
                WordChunk(choice, position);
                sent++;
                _entry.FirstTokenMs ??= call.ElapsedMs;
                _entry.TokensSent = _entry.CompletionTokensBilled = sent;
                _entry.ReasoningTokens += position < _words.Reasoning ? 1 : 0;
            }
        }
        if (_plan.EndlessBodyPerSecond is { } bytesPerSecond)
        {
            _payload.Clear();
            Payload(0, "\"delta\":{\"content\":\" again\"}"u8, "null"u8);
            await CallAnswer.EndlessAsync(call, _writer, Encoding.UTF8.GetBytes("data: " + Encoding.UTF8.GetString(_payload.Span) + "\n\n"), bytesPerSecond);
        }
        if (_plan.CutAfterTokens is { } cut && cut >= sent)
        {
            await CutAsync(0, -1);
            return false;
        }
        if (_plan.ErrorEventAfterTokens is { } error && error >= sent)
        {
            await ErrorEventAsync();
            return false;
        }
        return true;
    }

    private Task SilenceAsync(int ms) =>
        _plan.SilenceKeepAliveMs > 0 ? CommentsAsync(ms, _plan.SilenceKeepAliveMs) : call.DelayAsync(ms);

    private Task CommentsAsync(int forMs, int everyMs) =>
        CallAnswer.RepeatAsync(call, _writer, Encoding.UTF8.GetBytes(_plan.KeepAliveText + _plan.LineEnd + _plan.LineEnd), forMs, everyMs);

    private async Task CutAsync(int choice, int position)
    {
        if (_plan.CutInsideEvent && position >= 0)
        {
            WordPayload(choice, position);
            _writer.Body([.. "data: "u8, .. _payload.Span[..(_payload.Length / 2)]]);
        }
        await _writer.FlushAllAsync();
        await call.EndAsync(_plan.CutHow);
    }

    private void RoleChunks()
    {
        if (call.Kind != CallKind.Chat)
        {
            return;
        }
        for (var choice = 0; choice < _words.Choices; choice++)
        {
            Chunk(choice, _plan.NullContent || _words.ToolPieces is not null
                ? "\"delta\":{\"role\":\"assistant\",\"content\":null}"u8
                : "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"u8);
        }
    }

    private void FinishChunks()
    {
        using var reason = new ByteBuffer(32);
        Payloads.AppendFinishReason(reason, call, _words);
        for (var round = 0; round < (_plan.DoubleFinish ? 2 : 1); round++)
        {
            for (var choice = 0; choice < _words.Choices; choice++)
            {
                Payload(choice, call.Kind == CallKind.Chat ? "\"delta\":{}"u8 : "\"text\":\"\""u8, reason.Span, withUsage: _plan.Usage == UsageMode.Inline);
                Event(_payload.Span);
            }
        }
    }

    private void UsageChunk()
    {
        _payload.Clear();
        Payloads.Opening(_payload, call, chunk: true, _events);
        _payload.Append("],"u8);
        Payloads.Usage(_payload, call, _words.Total, _words.Reasoning * _words.Choices);
        _payload.Append("}"u8);
        Event(_payload.Span);
    }

    private async Task ErrorEventAsync()
    {
        Event(Encoding.UTF8.GetBytes(ErrorBody.ForCode(_plan.ErrorCode, _plan.Message)));
        if (_entry.TokensSent == 0)
        {
            (_entry.PromptTokensBilled, _entry.PromptTokensCached) = (0, 0);
        }
        if (_plan.ErrorThenDone)
        {
            Event("[DONE]"u8);
        }
        call.Release();
        await _writer.EndAsync();
        _entry.Outcome = LedgerOutcome.Completed;
    }

    private void WordChunk(int choice, int position)
    {
        WordPayload(choice, position);
        Event(_payload.Span);
    }

    private void WordPayload(int choice, int position)
    {
        _payload.Clear();
        Payloads.Opening(_payload, call, chunk: true, _events);
        _payload.Append("{\"index\":"u8);
        _payload.AppendNumber(choice);
        if (_words.ToolPieces is { } pieces && position >= _words.Reasoning)
        {
            AppendToolDelta(pieces, position - _words.Reasoning);
        }
        else
        {
            var isContent = position >= _words.Reasoning;
            _payload.Append(call.Kind == CallKind.Completion ? ",\"text\":\""u8
                : isContent ? ",\"delta\":{\"content\":\""u8 : ",\"delta\":{\"reasoning_content\":\""u8);
            if (isContent && position == _plan.BigEventAt && _plan.BigEventBytes > 0 && !_plan.BigEventIsPadding)
            {
                _payload.AppendText(Filler(_plan.BigEventBytes));
            }
            _words.AppendJson(_payload, choice, position);
            _payload.Append(call.Kind == CallKind.Completion ? "\""u8 : "\"}"u8);
        }
        _payload.Append(",\"logprobs\":null,\"finish_reason\":null}]"u8);
        if (position == _plan.BigEventAt && _plan.BigEventBytes > 0 && _plan.BigEventIsPadding)
        {
            _payload.AppendText(",\"padding\":\"" + Filler(_plan.BigEventBytes) + "\"");
        }
        ClosePayload(withUsage: false);
    }

    private void AppendToolDelta(string[] pieces, int piece)
    {
        var toolCall = piece / (1 + pieces.Length);
        var part = piece % (1 + pieces.Length);
        _payload.Append(",\"delta\":{\"tool_calls\":[{\"index\":"u8);
        _payload.AppendNumber(toolCall);
        if (part == 0)
        {
            _payload.AppendText($",\"id\":\"{Payloads.ToolCallId(call, toolCall)}\",\"type\":\"function\",\"function\":{{\"name\":\"");
            _payload.AppendJsonText(Payloads.ToolName(call));
            _payload.Append("\",\"arguments\":\"\"}}]}"u8);
            return;
        }
        _payload.Append(",\"function\":{\"arguments\":\""u8);
        _payload.AppendJsonText(pieces[part - 1]);
        _payload.Append("\"}}]}"u8);
    }

    private void Chunk(int choice, ReadOnlySpan<byte> delta)
    {
        Payload(choice, delta, "null"u8);
        Event(_payload.Span);
    }

    private void Payload(int choice, ReadOnlySpan<byte> delta, ReadOnlySpan<byte> finishReason, bool withUsage = false)
    {
        _payload.Clear();
        Payloads.Opening(_payload, call, chunk: true, _events);
        _payload.Append("{\"index\":"u8);
        _payload.AppendNumber(choice);
        _payload.Append(","u8);
        _payload.Append(delta);
        _payload.Append(",\"logprobs\":null,\"finish_reason\":"u8);
        _payload.Append(finishReason);
        _payload.Append("}]"u8);
        ClosePayload(withUsage);
    }

    private void ClosePayload(bool withUsage)
    {
        if (withUsage)
        {
            _payload.Append(","u8);
            Payloads.Usage(_payload, call, _words.Total, _words.Reasoning * _words.Choices);
        }
        else if (UsageIsAsked)
        {
            _payload.Append(",\"usage\":null"u8);
        }
        _payload.Append("}"u8);
    }

    /// <summary>Writes one event, or at the scripted place the broken one before or instead of it.</summary>
    private void Event(ReadOnlySpan<byte> payload)
    {
        if (++_events == _plan.BrokenEventAt)
        {
            Write(Encoding.UTF8.GetBytes(_plan.BrokenText));
            if (_plan.BrokenReplaces)
            {
                return;
            }
        }
        Write(payload);
    }

    private void Write(ReadOnlySpan<byte> payload)
    {
        _event.Clear();
        if (_plan.SseStyle == SseStyle.Named)
        {
            _event.Append("event: message"u8);
            _event.Append(_lineEnd);
            _event.Append("id: "u8);
            _event.AppendNumber(_events);
            _event.Append(_lineEnd);
        }
        var comma = _plan.SseStyle == SseStyle.Multiline ? payload.IndexOf((byte)',') + 1 : 0;
        if (comma > 0)
        {
            Line(payload[..comma]);
        }
        Line(payload[comma..]);
        _event.Append(_lineEnd);
        _writer.Body(_event.Span);
    }

    private void Line(ReadOnlySpan<byte> text)
    {
        _event.Append(_plan.SseStyle == SseStyle.NoSpace ? "data:"u8 : "data: "u8);
        _event.Append(text);
        _event.Append(_lineEnd);
    }
}
