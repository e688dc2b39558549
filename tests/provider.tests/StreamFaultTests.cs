using System.Text.Json;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class StreamFaultTests(OneInstance fixture) : IClassFixture<OneInstance>
{
    private SimulatedInstance A => fixture.Instance;

    private Task<RawAnswer> StreamAsync(string fault, string body = Bodies.Stream) => AskAsync(A, fault, body);

    [Theory]
    [InlineData("cut_after_tokens=7", End.Fin)]
    [InlineData("cut-after=7;how=rst", End.Reset)]
    internal async Task A_cut_comes_after_so_many_tokens_without_a_last_chunk(string fault, End end)
    {
        var answer = await StreamAsync(fault);
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 7), answer.StreamedText());
        Assert.Equal(end, answer.End);
        Assert.False(answer.IsComplete);
        Assert.Empty(answer.FinishReasons);
    }

    [Fact]
    public async Task A_cut_may_fall_inside_an_event()
    {
        var answer = await StreamAsync("cut_after=3;inside_event=true");
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 3), answer.StreamedText());
        Assert.False(answer.Text.EndsWith("\n\n", StringComparison.Ordinal));
        Assert.False(answer.IsComplete);
    }

    [Fact]
    public async Task A_stall_is_silence_between_tokens_and_then_what_was_scripted()
    {
        var started = DateTime.UtcNow;
        var closed = await StreamAsync("stall_after_tokens=4;stall_ms=150;then=close");
        Assert.True((DateTime.UtcNow - started).TotalMilliseconds >= 145);
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 4), closed.StreamedText());
        Assert.Equal((false, End.Fin), (closed.IsComplete, closed.End));

        var resumed = await StreamAsync("stall_after_tokens=4;stall_ms=50;then=resume");
        Assert.Equal(Bodies.Text, resumed.StreamedText());
        Assert.True(resumed.IsComplete);
    }

    [Fact]
    public async Task A_stall_may_be_dressed_up_with_comments()
    {
        var answer = await StreamAsync("stall_after_tokens=2;stall_ms=100;keepalive_ms=20");
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 2), answer.StreamedText());
        Assert.EndsWith("}\n\n: keep-alive\n\n", answer.Text[..(answer.Text.IndexOf(':', answer.Text.LastIndexOf('}')) + 14)]);
    }

    [Fact]
    public async Task The_first_tokens_are_out_while_the_stall_lasts()
    {
        using var client = await ConnectAsync(A);
        await client.SendAsync(Bodies.Stream, "x-sim-fault: stall_after=2;stall_ms=forever\r\n");
        var seen = await client.ReadUntilAsync(Bodies.Text.Split(' ')[1].Replace("\"", "\\\"").Replace("\n", "\\n"));
        Assert.DoesNotContain("finish_reason\":\"stop", seen);
    }

    [Fact]
    public async Task The_tenth_event_is_broken_and_the_text_whole()
    {
        var answer = await StreamAsync("broken_event_at=10");
        Assert.Throws<JsonReaderException>(() => Unwrap(() => JsonDocument.Parse(answer.DataLines[9])));
        Assert.Equal(Bodies.Text, answer.StreamedText());
        var replaced = await StreamAsync("broken_event_at=10;mode=replace;text={oops");
        Assert.Equal("{oops", replaced.DataLines[9]);
        Assert.Equal(19, replaced.StreamedText().Split(' ').Length);

        static void Unwrap(Action action)
        {
            try
            {
                action();
            }
            catch (JsonException fault)
            {
                throw new JsonReaderException(fault.Message);
            }
        }
    }

    [Fact]
    public async Task Endings_may_lack_or_repeat_their_marks()
    {
        var noDone = await StreamAsync("no_done");
        Assert.Equal((true, Bodies.Text), (noDone.IsComplete, noDone.StreamedText()));
        Assert.DoesNotContain("[DONE]", noDone.Text);
        Assert.Equal(2, (await StreamAsync("double_done")).DataLines.Count(line => line == "[DONE]"));
        Assert.Empty((await StreamAsync("no_finish_reason")).FinishReasons);
        Assert.Equal(["stop", "stop"], (await StreamAsync("double_finish")).FinishReasons);
        Assert.Equal(["content_filter"], (await StreamAsync("finish_reason=content_filter")).FinishReasons);
        Assert.True((await StreamAsync("unstable_id")).Events.Select(e => e.GetProperty("id").GetString()).Distinct().Count() > 10);
        Assert.Single((await StreamAsync("crlf")).Events.Select(e => e.GetProperty("id").GetString()).Distinct());
    }

    [Fact]
    public async Task An_error_event_may_come_in_the_middle()
    {
        var answer = await StreamAsync("error_event_after=3;error=server_error");
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 3), answer.StreamedText());
        Assert.Equal("server_error", answer.Events.Last().GetProperty("error").GetProperty("code").GetString());
        Assert.True(answer.IsComplete);
    }

    [Fact]
    public async Task Content_may_be_empty_or_null()
    {
        var empty = await AskAsync(A, "empty_content");
        Assert.Equal("", empty.Json.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString());
        var none = await AskAsync(A, "null_content");
        Assert.Equal(JsonValueKind.Null, none.Json.GetProperty("choices")[0].GetProperty("message").GetProperty("content").ValueKind);
        var stream = await StreamAsync("empty_content");
        Assert.Equal(("", "[DONE]"), (stream.StreamedText(), stream.DataLines[^1]));
        Assert.Equal(JsonValueKind.Null, (await StreamAsync("null_content")).Deltas().First().GetProperty("content").ValueKind);
    }

    [Fact]
    public async Task Keepalive_comments_come_before_the_first_token()
    {
        var answer = await StreamAsync("keepalive_comments=120;every_ms=40");
        var firstData = answer.Text.IndexOf("data:", StringComparison.Ordinal);
        Assert.StartsWith(": keep-alive\n\n", answer.Text);
        Assert.Equal("", answer.Text[..firstData].Replace(": keep-alive\n\n", ""));
        Assert.DoesNotContain(": keep-alive", answer.Text[firstData..]);
        Assert.Equal(Bodies.Text, answer.StreamedText());
    }

    [Fact]
    public async Task Blank_lines_come_before_a_json_body()
    {
        var answer = await AskAsync(A, "blank_lines_before_json=120;every_ms=40");
        Assert.StartsWith("\n", answer.Text);
        Assert.StartsWith("{", answer.Text.TrimStart('\n'));
        Assert.Equal("chat.completion", answer.Json.GetProperty("object").GetString());
    }

    [Fact]
    public async Task The_head_may_come_long_before_the_first_token()
    {
        foreach (var body in new[] { Bodies.Chat, Bodies.Stream })
        {
            using var client = await ConnectAsync(A);
            await client.SendAsync(body, "x-sim-fault: headers_then_delay=150\r\nx-request-id: late\r\n");
            var head = await client.ReadUntilAsync("\r\n\r\n");
            Assert.EndsWith("\r\n\r\n", head);
            await client.ReadAllAsync();
        }
        Assert.All(fixture.Simulator.Ledger.Entries().Where(e => e.RequestId == "late"), e => Assert.True(e.FirstTokenMs >= 150 && e.FirstTokenMs > e.HeadersMs));
    }

    [Fact]
    public async Task A_role_chunk_may_be_all_there_is()
    {
        var answer = await StreamAsync("role_only_then_silence=60");
        Assert.Equal("assistant", Assert.Single(answer.Deltas()).GetProperty("role").GetString());
        Assert.False(answer.IsComplete);
    }

    [Fact]
    public async Task Reasoning_comes_before_content()
    {
        var answer = await StreamAsync("reasoning_first=5", Bodies.StreamWithUsage);
        var kinds = answer.Deltas().Select(d => d.TryGetProperty("reasoning_content", out _) ? 'r' : d.TryGetProperty("content", out _) ? 'c' : '-');
        Assert.Equal("c" + "rrrrr" + new string('c', 20) + "-", string.Concat(kinds));
        Assert.Equal(Bodies.Text, answer.StreamedText());
        var usage = answer.Events.Last().GetProperty("usage");
        Assert.Equal(25, usage.GetProperty("completion_tokens").GetInt32());
        Assert.Equal(5, usage.GetProperty("completion_tokens_details").GetProperty("reasoning_tokens").GetInt32());
    }

    [Fact]
    public async Task Tool_calls_come_as_deltas_that_join_to_the_arguments()
    {
        const string tools = ""","tools":[{"type":"function","function":{"name":"look_up"}}]}""";
        var stream = await StreamAsync("tool_calls=2", Bodies.Stream[..^1] + tools);
        var calls = stream.Deltas().Where(d => d.TryGetProperty("tool_calls", out _)).Select(d => d.GetProperty("tool_calls")[0]).ToList();
        var arguments = string.Concat(calls.Where(c => c.GetProperty("index").GetInt32() == 1).Select(c => c.GetProperty("function").GetProperty("arguments").GetString()));
        Assert.Equal("Zürich", JsonDocument.Parse(arguments).RootElement.GetProperty("city").GetString());
        Assert.Equal("look_up", calls[0].GetProperty("function").GetProperty("name").GetString());
        Assert.Equal(["tool_calls"], stream.FinishReasons);
        Assert.Equal("", stream.StreamedText());

        var json = await AskAsync(A, "tool_calls", Bodies.Chat[..^1] + tools);
        var message = json.Json.GetProperty("choices")[0].GetProperty("message");
        Assert.Equal(JsonValueKind.Null, message.GetProperty("content").ValueKind);
        Assert.Equal("look_up", message.GetProperty("tool_calls")[0].GetProperty("function").GetProperty("name").GetString());
    }

    [Fact]
    public async Task The_usage_chunk_may_be_forced_withheld_or_inlined()
    {
        Assert.Equal(0, (await StreamAsync("usage_chunk=on")).Events.Last().GetProperty("choices").GetArrayLength());
        Assert.DoesNotContain("usage", (await StreamAsync("usage_chunk=off", Bodies.StreamWithUsage)).Text);
        var inline = (await StreamAsync("usage_chunk=inline")).Events.Last();
        Assert.Equal("stop", inline.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(20, inline.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task An_answer_may_be_of_another_length_wording_model_or_kind()
    {
        Assert.Equal(60, (await StreamAsync("answer;tokens=60")).StreamedText().Split(' ').Length);
        Assert.Equal("Hello, world; twice", (await StreamAsync("answer;text=Hello%2C%20world%3B%20twice")).StreamedText());
        Assert.Equal("other", (await StreamAsync("answer;model=other")).Events.First().GetProperty("model").GetString());
        Assert.Equal(2, (await AskAsync(A, "choices=2")).Json.GetProperty("choices").GetArrayLength());
        Assert.Equal("chat.completion", (await StreamAsync("other_kind")).Json.GetProperty("object").GetString());
        Assert.Equal(Bodies.Text, (await AskAsync(A, "other_kind")).StreamedText());
    }

    [Fact]
    public async Task A_slow_drip_keeps_its_pace()
    {
        var started = DateTime.UtcNow;
        var answer = await StreamAsync("slow_drip=20+answer;tokens=5");
        Assert.True((DateTime.UtcNow - started).TotalMilliseconds >= 195);
        Assert.Equal(5, answer.StreamedText().Split(' ').Length);
    }

    [Theory]
    [InlineData("truncated_json", false)]
    [InlineData("truncated_json=chunked", true)]
    public async Task A_json_body_may_end_early(string fault, bool chunked)
    {
        var answer = await AskAsync(A, fault);
        Assert.Equal(chunked, answer.IsChunked);
        Assert.NotEmpty(answer.Body);
        Assert.False(answer.IsComplete);
        Assert.Equal(End.Fin, answer.End);
        Assert.ThrowsAny<JsonException>(() => answer.Json);
    }

    private sealed class JsonReaderException(string message) : Exception(message);
}
