using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using OpenAI.Chat;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What an application that uses the official OpenAI client gets, and what reaches the provider of what it sent.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class OpenAiClientTests(SharedStack shared)
{
    private static readonly ChatTool Weather = ChatTool.CreateFunctionTool("get_weather", "The weather somewhere",
        BinaryData.FromString("""{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}"""));

    private SimulatedInstance Plain => shared.Providers["plain"];

    [Fact]
    public async Task A_chat_completion_comes_whole_and_its_request_goes_byte_for_byte()
    {
        var result = await shared.Gateway.Chat("plain-model").CompleteChatAsync("Tell me of the sea.");

        Assert.Equal(Answer.TextForPrompt("Tell me of the sea."), result.Value.Content[0].Text);
        Assert.Equal(ChatFinishReason.Stop, result.Value.FinishReason);
        Assert.True(result.Value.Usage.OutputTokenCount > 0);
        Assert.Equal(Sha256(shared.Gateway.LastSent), LastCallOf("plain").BodySha256);
        Assert.True(result.GetRawResponse().Headers.TryGetValue("x-evenkeel-instance", out var instance));
        Assert.Equal("plain", instance);
    }

    [Fact]
    public async Task A_stream_comes_whole_with_its_usage_and_its_request_goes_byte_for_byte()
    {
        var (text, finish, usage) = (new StringBuilder(), (ChatFinishReason?)null, (ChatTokenUsage?)null);
        await foreach (var update in shared.Gateway.Chat("plain-model").CompleteChatStreamingAsync("Tell me of the wind."))
        {
            text.Append(string.Concat(update.ContentUpdate.Select(part => part.Text)));
            finish = update.FinishReason ?? finish;
            usage = update.Usage ?? usage;
        }

        Assert.Equal(Answer.TextForPrompt("Tell me of the wind."), text.ToString());
        Assert.Equal(ChatFinishReason.Stop, finish);
        Assert.True(usage?.OutputTokenCount > 0);
        Assert.Equal(Sha256(shared.Gateway.LastSent), LastCallOf("plain").BodySha256);
    }

    [Fact]
    public async Task A_provider_that_knows_no_stream_options_is_asked_without_them_from_then_on()
    {
        shared.Providers["no-options"].AddFault("status=400;message=Unrecognized request argument: stream_options", times: 1);
        var first = await shared.Gateway.StreamAsync("no-options-model", "Tell me of the tide.");
        var second = await shared.Gateway.StreamAsync("no-options-model", "Tell me of the tide.");

        Assert.True(first.Done && second.Done, $"{first}; {second}");
        var bodies = shared.CallsOf("no-options").Select(entry => entry.Body ?? "").ToList();
        Assert.Equal([true, false, false], bodies.Select(body => body.Contains("stream_options")));
    }

    [Fact]
    public async Task A_stream_is_passed_on_as_it_arrives()
    {
        Plain.AddFault("answer;first_token_ms=10;tokens_per_second=10", times: 1);
        var arrivals = new List<DateTime>();
        await foreach (var update in shared.Gateway.Chat("plain-model").CompleteChatStreamingAsync("Slowly, please."))
        {
            if (update.ContentUpdate.Count > 0)
            {
                arrivals.Add(DateTime.UtcNow);
            }
        }
        // Twenty tokens at 10 a second: held back to the end they would all come at once.
        Assert.True(arrivals[^1] - arrivals[0] > TimeSpan.FromMilliseconds(600), $"all within {arrivals[^1] - arrivals[0]}");
        Assert.True(arrivals.Zip(arrivals.Skip(1)).Count(pair => pair.Second - pair.First > TimeSpan.FromMilliseconds(20)) >= 10, "in a few heaps");
    }

    [Fact]
    public async Task A_client_that_leaves_in_the_middle_of_a_stream_frees_the_provider_at_once()
    {
        Plain.AddFault("answer;tokens=1000;first_token_ms=10;tokens_per_second=20", times: 1);
        using var leave = new CancellationTokenSource();
        await shared.Gateway.StreamAsync("plain-model", "A very long one.", leave.Cancel, leave.Token);

        await Wait.Until(() => LastCallOf("plain") is { Ended: true, Outcome: LedgerOutcome.ClientGone }, "the provider sees its client leave", TimeSpan.FromSeconds(2));
        await Wait.Until(async () => await shared.Stack.Node.InFlightAsync("plain") == 0, "nothing is counted any more", TimeSpan.FromSeconds(2));
    }

    [Fact]
    public async Task A_tool_call_comes_through()
    {
        Plain.AddFault("tool_calls", times: 1);
        var result = await shared.Gateway.Chat("plain-model").CompleteChatAsync([new UserChatMessage("The weather in Zürich?")], new ChatCompletionOptions { Tools = { Weather } });

        Assert.Equal(ChatFinishReason.ToolCalls, result.Value.FinishReason);
        var call = Assert.Single(result.Value.ToolCalls);
        Assert.Equal("get_weather", call.FunctionName);
        Assert.Equal("Zürich", (string?)JsonNode.Parse(call.FunctionArguments)!["city"]);
        Assert.Equal(Sha256(shared.Gateway.LastSent), LastCallOf("plain").BodySha256);
    }

    [Fact]
    public async Task A_streamed_tool_call_comes_through()
    {
        Plain.AddFault("tool_calls", times: 1);
        var (name, arguments, finish) = ("", new StringBuilder(), (ChatFinishReason?)null);
        await foreach (var update in shared.Gateway.Chat("plain-model").CompleteChatStreamingAsync(
            [new UserChatMessage("The weather in Zürich?")], new ChatCompletionOptions { Tools = { Weather } }))
        {
            foreach (var call in update.ToolCallUpdates)
            {
                name += call.FunctionName;
                arguments.Append(call.FunctionArgumentsUpdate);
            }
            finish = update.FinishReason ?? finish;
        }

        Assert.Equal(("get_weather", ChatFinishReason.ToolCalls), (name, finish));
        Assert.Equal("Zürich", (string?)JsonNode.Parse(arguments.ToString())!["city"]);
    }

    [Fact]
    public async Task Embeddings_come_through()
    {
        var result = await shared.Gateway.OpenAI().GetEmbeddingClient("plain-model").GenerateEmbeddingsAsync(["the keel", "the sail"]);

        Assert.Equal(2, result.Value.Count);
        Assert.All(result.Value, embedding => Assert.Equal(Plain.Settings.EmbeddingDimensions, embedding.ToFloats().Length));
        Assert.Equal("/v1/embeddings", LastCallOf("plain").Path);
        Assert.Equal(Sha256(shared.Gateway.LastSent), LastCallOf("plain").BodySha256);
    }

    [Fact]
    public async Task The_older_completions_come_through_streamed_or_not()
    {
        var whole = await shared.Gateway.PostAsync("/v1/completions", """{"model":"plain-model","prompt":"Once upon a time"}""");
        Assert.Equal(200, whole.Status);
        Assert.NotEqual("", (string?)whole.Json["choices"]![0]!["text"]);

        var streamed = await shared.Gateway.PostAsync("/v1/completions", """{"model":"plain-model","prompt":"Once upon a time","stream":true}""");
        Assert.Equal(200, streamed.Status);
        var text = string.Concat(Events(streamed.Body).Select(chunk => chunk["choices"] is JsonArray { Count: > 0 } choices ? (string?)choices[0]!["text"] : ""));
        Assert.Equal((string?)whole.Json["choices"]![0]!["text"], text);
        Assert.EndsWith("data: [DONE]\n\n", streamed.Body);
    }

    [Fact]
    public async Task Models_are_the_public_names()
    {
        var models = shared.Gateway.OpenAI().GetOpenAIModelClient();

        var names = (await models.GetModelsAsync()).Value.Select(model => model.Id).ToList();
        Assert.Contains("plain-model", names);
        Assert.Contains("renamed-model", names);
        Assert.DoesNotContain("vendor/DeepSeek-V3:beta", names);
        Assert.Equal("plain-model", (await models.GetModelAsync("plain-model")).Value.Id);

        var unknown = await shared.Gateway.GetAsync("/v1/models/no-such-model");
        Assert.Equal((404, "model_not_found"), (unknown.Status, (string?)unknown.Error["code"]));
    }

    [Theory]
    // The name first, last and in between; names inside other values; odd space; escapes in every form; numbers that no parser would give back.
    [InlineData("""{"model":@,"messages":[{"role":"user","content":"hi"}]}""")]
    [InlineData("""{"messages":[{"role":"user","content":"hi"}],"model":@}""")]
    [InlineData("\t{ \r\n \"temperature\" : 1.0e-1 ,\n\"model\"\t:\t@ , \"messages\":[ { \"role\":\"user\", \"content\":\"hi\" } ] }\n\n")]
    [InlineData("""{"metadata":{"model":"renamed-model","deep":[{"model":"x"}]},"messages":[{"role":"user","content":"the \"model\":\"renamed-model\" of {it}"}],"model":@}""")]
    [InlineData("""{"model":@,"messages":[{"role":"user","content":"\u00e9\uD83D\uDE42\/\b\f\n\r\t\"\\ é🙂 日本 𝄞 \u2028"}],"seed":12345678901234567890,"x":1.10000000000000000001E+2}""")]
    [InlineData("""{"\u006dodel":@,"messages":[{"role":"user","content":"an escaped key"}]}""")]
    [InlineData("""{"model":@,"messages":[{"role":"user","content":"an escaped name"}]}""", """ "renamed\u002dmodel" """)]
    public async Task Only_the_model_name_is_replaced(string body, string name = "\"renamed-model\"")
    {
        Expect.Served(await shared.Gateway.PostAsync("/v1/chat/completions", body.Replace("@", name.Trim())));

        Assert.Equal(body.Replace("@", "\"vendor/DeepSeek-V3:beta\""), LastCallOf("renamed").Body);
    }

    [Fact]
    public async Task A_stream_that_asks_for_no_usage_gets_none_although_the_gateway_asks_the_provider()
    {
        var body = Gateway.ChatBody("renamed-model", "no usage, please", stream: true);
        var answer = await shared.Gateway.PostAsync("/v1/chat/completions", body);

        Assert.Equal(200, answer.Status);
        Assert.All(Events(answer.Body), chunk => Assert.True(chunk["usage"] is null && chunk["choices"]!.AsArray().Count == 1, chunk.ToJsonString()));
        const string Asked = ",\"stream_options\":{\"include_usage\":true}";
        Assert.Equal(body.Replace("renamed-model", "vendor/DeepSeek-V3:beta")[..^1] + Asked + "}", LastCallOf("renamed").Body);
    }

    [Fact]
    public async Task The_clients_key_never_reaches_a_provider_and_the_instances_key_does()
    {
        await shared.Gateway.Chat("renamed-model", "the-clients-secret").CompleteChatAsync("Hello!");
        Assert.Equal(Sha256(Encoding.UTF8.GetBytes("Bearer " + SharedStack.KeyOf("renamed")))[..12], LastCallOf("renamed").AuthorizationSha256);

        await shared.Gateway.Chat("plain-model", "the-clients-secret").CompleteChatAsync("Hello!");
        Assert.Null(LastCallOf("plain").AuthorizationSha256);

        await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"),
            ("api-key", "the-clients-secret"), ("Cookie", "session=the-clients-secret"), ("OpenAI-Organization", "the-clients-secret"));
        Assert.DoesNotContain("the-clients-secret", LastCallOf("plain").Head);
        Assert.DoesNotContain("cookie", LastCallOf("plain").Head, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task The_request_id_of_the_client_goes_all_the_way_and_comes_back()
    {
        var answer = await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), ("x-request-id", "order-4711"));
        Assert.Equal("order-4711", answer.Header("x-request-id"));
        Assert.Equal("order-4711", LastCallOf("plain").RequestId);

        Assert.NotEqual("", (await shared.Gateway.AskAsync("plain-model")).Header("x-request-id"));
    }

    private LedgerEntry LastCallOf(string instance) => shared.CallsOf(instance)[^1];

    private static IEnumerable<JsonNode> Events(string body) =>
        body.Split("\n\n").Where(text => text.StartsWith("data: {", StringComparison.Ordinal)).Select(text => JsonNode.Parse(text[6..])!);

    private static string Sha256(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));
}
