using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class AnswerTests(OneInstance fixture) : IClassFixture<OneInstance>
{
    private SimulatedInstance A => fixture.Instance;

    private static string Content(RawAnswer answer) => answer.Json.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString()!;

    [Fact]
    public async Task Json_and_stream_say_the_same_text()
    {
        var json = await AskAsync(A);
        var stream = await AskAsync(A, body: Bodies.Stream);
        Assert.Equal(Bodies.Text, Content(json));
        Assert.Equal(Bodies.Text, stream.StreamedText());
        Assert.Equal("[DONE]", stream.DataLines[^1]);
        Assert.Equal(["stop"], stream.FinishReasons);
        Assert.True(stream.IsComplete);
    }

    [Fact]
    public async Task Instances_agree_byte_for_byte_unless_the_seed_differs()
    {
        await using var two = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            Instances = [new InstanceOptions("B"), new InstanceOptions("C") { Settings = new InstanceSettings { TextSeed = 7 } }],
        });
        Assert.Equal(Bodies.Text, Content(await AskAsync(two["B"])));
        Assert.Equal(Answer.TextForPrompt("hello", textSeed: 7), Content(await AskAsync(two["C"])));
        Assert.NotEqual(Bodies.Text, Content(await AskAsync(two["C"])));
    }

    [Fact]
    public async Task How_the_request_escapes_its_text_makes_no_difference()
    {
        var plain = await AskAsync(A, body: """{"model":"m","messages":[{"role":"user","content":"é"}]}""");
        var escaped = await AskAsync(A, body: """{ "messages":[{"content":"\u00e9","role":"user"}], "model":"m" }""");
        Assert.Equal(Content(plain), Content(escaped));
    }

    [Fact]
    public void Every_answer_holds_multi_byte_characters() =>
        Assert.All(Enumerable.Range(0, 50), i =>
        {
            var text = Answer.TextForPrompt("prompt " + i);
            Assert.True(Encoding.UTF8.GetByteCount(text) > text.Length);
        });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_prefill_is_continued_at_any_character(bool marked)
    {
        foreach (var length in new[] { 1, 5, Bodies.Text.IndexOf('3') + 1, Bodies.Text.Length - 1 })
        {
            var body = JsonSerializer.Serialize(new
            {
                model = "m",
                stream = true,
                messages = new object[]
                {
                    new { role = "user", content = "hello" },
                    marked ? new { role = "assistant", content = Bodies.Text[..length], prefix = true } : new { role = "assistant", content = Bodies.Text[..length] },
                },
            });
            var answer = await AskAsync(A, body: body, path: "/beta/chat/completions");
            Assert.Equal(Bodies.Text[length..], answer.StreamedText());
            Assert.Equal(marked ? "prefix" : "assistant_last", fixture.Simulator.Ledger.Entries()[^1].Prefill ?? "");
        }
    }

    [Fact]
    public async Task A_foreign_prefill_is_continued_by_position()
    {
        var answer = await AskAsync(A, body: """{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"one two three"}]}""");
        Assert.EndsWith(Content(answer), Bodies.Text);
        Assert.Equal(17, answer.Json.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task Usage_counts_what_was_sent_and_max_tokens_shortens()
    {
        var answer = await AskAsync(A, body: """{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hello"}]}""");
        var usage = answer.Json.GetProperty("usage");
        Assert.Equal(6, usage.GetProperty("prompt_tokens").GetInt32());
        Assert.Equal(5, usage.GetProperty("completion_tokens").GetInt32());
        Assert.Equal(11, usage.GetProperty("total_tokens").GetInt32());
        Assert.Equal("length", answer.Json.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 5), Content(answer));
    }

    [Fact]
    public async Task The_usage_chunk_comes_when_asked_with_empty_choices()
    {
        var with = await AskAsync(A, body: Bodies.StreamWithUsage);
        var last = JsonDocument.Parse(with.DataLines[^2]).RootElement;
        Assert.Equal(0, last.GetProperty("choices").GetArrayLength());
        Assert.Equal(20, last.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.DoesNotContain("usage", (await AskAsync(A, body: Bodies.Stream)).Text);
    }

    [Fact]
    public async Task N_choices_differ_and_the_first_is_the_usual_text()
    {
        var answer = await AskAsync(A, body: """{"n":2,"stream":true,"messages":[{"role":"user","content":"hello"}]}""");
        Assert.Equal(Bodies.Text, answer.StreamedText(0));
        Assert.NotEqual(Bodies.Text, answer.StreamedText(1));
        Assert.Equal(["stop", "stop"], answer.FinishReasons);
    }

    [Fact]
    public async Task Text_completions_stream_too()
    {
        var whole = await AskAsync(A, body: """{"model":"m","prompt":"hello"}""", path: "/v1/completions");
        var stream = await AskAsync(A, body: """{"model":"m","prompt":"hello","stream":true}""", path: "/v1/completions");
        var text = string.Concat(stream.Events.Select(e => e.GetProperty("choices")[0].GetProperty("text").GetString()));
        Assert.Equal(whole.Json.GetProperty("choices")[0].GetProperty("text").GetString(), text);
        Assert.Equal(20, text.Split(' ').Length);
    }

    [Fact]
    public async Task Embeddings_come_as_numbers_and_as_base64()
    {
        var numbers = await AskAsync(A, body: """{"model":"e","input":["a","b"]}""", path: "/v1/embeddings");
        var base64 = await AskAsync(A, body: """{"model":"e","input":"b","encoding_format":"base64"}""", path: "/v1/embeddings");
        var expected = numbers.Json.GetProperty("data")[1].GetProperty("embedding").EnumerateArray().Select(x => x.GetSingle());
        var bytes = base64.Json.GetProperty("data")[0].GetProperty("embedding").GetBytesFromBase64();
        Assert.Equal(expected, MemoryMarshal.Cast<byte, float>(bytes).ToArray());
    }

    [Fact]
    public async Task Models_and_balance_are_listed_and_unknown_paths_are_404()
    {
        Assert.Contains(A.Name, (await AskAsync(A, body: "", path: "/v1/models", method: "GET")).Header("x-sim-instance") ?? "A");
        var models = await AskAsync(A, body: "", path: "/v1/models", method: "GET");
        Assert.Equal("deepseek-chat", models.Json.GetProperty("data")[0].GetProperty("id").GetString());
        var balance = await AskAsync(A, body: "", path: "/user/balance", method: "GET");
        Assert.Equal("110.00", balance.Json.GetProperty("balance_infos")[0].GetProperty("total_balance").GetString());
        Assert.Equal(404, (await AskAsync(A, body: "", path: "/v1/nothing", method: "GET")).Status);
        Assert.Equal(400, (await AskAsync(A, body: "{no json")).Status);
    }

    [Fact]
    public async Task A_request_body_may_come_in_chunks_and_requests_follow_on_one_connection()
    {
        using var client = await ConnectAsync(A);
        var body = Bodies.Chat;
        await client.Stream.WriteAsync(Encoding.UTF8.GetBytes(
            $"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{body[..5]}\r\n{body.Length - 5:x}\r\n{body[5..]}\r\n0\r\n\r\n"));
        await client.ReadUntilAsync("total_tokens");
        await client.SendAsync();
        Assert.Equal(Bodies.Text, Content(await client.ReadAllAsync()));
    }

    [Fact]
    public async Task An_http10_client_gets_no_chunks()
    {
        using var client = await ConnectAsync(A);
        await client.Stream.WriteAsync(Encoding.UTF8.GetBytes($"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {Bodies.Stream.Length}\r\n\r\n{Bodies.Stream}"));
        var answer = await client.ReadAllAsync();
        Assert.False(answer.IsChunked);
        Assert.Equal(Bodies.Text, answer.StreamedText());
    }
}
