using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>Whatever goes wrong before a provider is asked, the client gets an error in OpenAI's shape that says what to do.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class ErrorAnswerTests(SharedStack shared)
{
    private const int MiB = 1024 * 1024;

    [Theory]
    [InlineData("")]
    [InlineData("hello")]
    [InlineData("{\"model\":\"plain-model\"")]
    [InlineData("{\"model\":\"plain-model\",}")]
    [InlineData("{'model':'plain-model'}")]
    [InlineData("[{\"model\":\"plain-model\"}]")]
    [InlineData("{\"model\":\"plain-model\"} trailing")]
    [InlineData("{\"model\":42}")]
    [InlineData("{\"messages\":[]}")]
    [InlineData("{\"model\":\"plain-model\",\"model\":\"renamed-model\"}")]
    public async Task A_body_that_is_no_usable_JSON_object_is_a_400(string body) =>
        AssertError(await shared.Gateway.PostAsync("/v1/chat/completions", body), 400);

    [Fact]
    public async Task An_unknown_model_is_a_404_that_names_it()
    {
        var answer = await shared.Gateway.AskAsync("no-such-model");
        AssertError(answer, 404, "model_not_found");
        Assert.Contains("no-such-model", (string?)answer.Error["message"]);
    }

    [Theory]
    [InlineData("GET", "/v1/chat/completions", "POST")]
    [InlineData("PUT", "/v1/completions", "POST")]
    [InlineData("DELETE", "/v1/embeddings", "POST")]
    [InlineData("POST", "/v1/models", "GET")]
    public async Task A_wrong_method_is_a_405_that_names_the_right_one(string method, string path, string right)
    {
        var answer = await shared.Gateway.SendAsync(new HttpMethod(method), path, method == "GET" ? null : "{}"u8.ToArray());
        AssertError(answer, 405, "method_not_allowed");
        Assert.Contains(right, answer.Header("Allow"));
    }

    [Theory]
    [InlineData("/")]
    [InlineData("/v1")]
    [InlineData("/v1/chat")]
    [InlineData("/v1/chat/completions/")]
    [InlineData("/v1/audio/speech")]
    [InlineData("/nginx_status")]
    public async Task An_unknown_path_is_a_404(string path) => AssertError(await shared.Gateway.PostAsync(path, "{}"), 404, "unknown_url");

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_body_above_20_MiB_is_a_413_with_and_without_a_Content_Length(bool chunked)
    {
        var before = shared.Providers["plain"].Counters.Calls;
        AssertError(await SendAsync(BodyOf(20 * MiB + 1), chunked), 413, "request_too_large");
        Assert.Equal(before, shared.Providers["plain"].Counters.Calls);
    }

    [Theory]
    [InlineData(19, false)]
    [InlineData(19, true)]
    [InlineData(20, false)]
    public async Task A_body_of_up_to_20_MiB_reaches_the_provider_whole(int mebibytes, bool chunked)
    {
        var body = BodyOf(mebibytes * MiB);
        var answer = await SendAsync(body, chunked);

        Expect.Served(answer);
        var call = shared.CallsOf("plain")[^1];
        Assert.Equal((body.Length, Convert.ToHexStringLower(SHA256.HashData(body))), (call.BodyBytes, call.BodySha256));
    }

    [Theory]
    [InlineData("POST /v1/chat/completions HTTP/1.1\r\n\r\n", 400)]
    [InlineData("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400)]
    [InlineData("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\nExpect: 100-continue\r\n\r\n", 413)]
    [InlineData("GET /v1/models?LONG HTTP/1.1\r\nHost: x\r\n\r\n", 414)]
    [InlineData("GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: LONG\r\n\r\n", 400)]
    [InlineData("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405)]
    [InlineData("GARBAGE\r\n\r\n", 400)]
    public async Task What_is_no_proper_HTTP_is_refused_in_the_same_shape(string request, int status)
    {
        using var socket = new TcpClient();
        await socket.ConnectAsync(IPAddress.Loopback, shared.Stack.Port);
        var stream = socket.GetStream();
        await stream.WriteAsync(Encoding.ASCII.GetBytes(request.Replace("LONG", new string('x', 40_000))));
        var (head, body) = await ReadAnswerAsync(stream);

        Assert.StartsWith($"HTTP/1.1 {status} ", head);
        var error = JsonNode.Parse(body)!["error"]!;
        Assert.False(string.IsNullOrEmpty((string?)error["message"]) || string.IsNullOrEmpty((string?)error["code"]), body);
    }

    /// <summary>By its Content-Length: nginx lingers before it closes.</summary>
    private static async Task<(string Head, string Body)> ReadAnswerAsync(NetworkStream stream)
    {
        using var limit = new CancellationTokenSource(Wait.Patience);
        var reader = new StreamReader(stream, Encoding.ASCII);
        var (head, length) = (new StringBuilder(), 0);
        while (await reader.ReadLineAsync(limit.Token) is { Length: > 0 } line)
        {
            head.AppendLine(line);
            if (line.StartsWith("Content-Length: ", StringComparison.OrdinalIgnoreCase))
            {
                length = int.Parse(line[16..]);
            }
        }
        var body = new char[length];
        await reader.ReadBlockAsync(body, limit.Token);
        return (head.ToString(), new string(body));
    }

    [Fact]
    public async Task The_providers_own_400_comes_through_unchanged_and_is_not_tried_elsewhere()
    {
        const string Fault = "status=400;message=messages%5B0%5D.content%3A%20expected%20a%20string";
        shared.Providers["first"].AddFault(Fault, times: 2);
        using var direct = new HttpClient { DefaultRequestHeaders = { Authorization = new AuthenticationHeaderValue("Bearer", SharedStack.KeyOf("first")) } };
        using var wanted = await direct.PostAsync(shared.Providers["first"].BaseUrl + "/chat/completions",
            new StringContent(Gateway.ChatBody("tiers-model"), Encoding.UTF8, "application/json"));

        var answer = await shared.Gateway.AskAsync("tiers-model");

        Assert.Equal((400, await wanted.Content.ReadAsStringAsync()), (answer.Status, answer.Body));
        Assert.Equal(("first", 1), (answer.Instance, answer.Attempts));
    }

    [Fact]
    public async Task Where_clients_have_keys_a_call_without_a_known_one_is_a_401()
    {
        var guarded = shared.Config.Document.DeepClone().AsObject();
        guarded["clients"] = new JsonArray(
            Config.Json(new { name = "web-app", key = "the-key-of-web-app" }),
            Config.Json(new { name = "batch", key = "the-key-of-batch", models = new[] { "renamed-model" } }));
        await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(guarded));
        try
        {
            AssertError(await shared.Gateway.AskAsync("plain-model"), 401, "invalid_api_key");
            AssertError(await AskAs("a-guess"), 401, "invalid_api_key");
            AssertError(await shared.Gateway.GetAsync("/v1/models"), 401, "invalid_api_key");
            Assert.Equal(200, (await AskAs("the-key-of-web-app")).Status);
            Assert.Equal(200, (await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), ("api-key", "the-key-of-web-app"))).Status);
            Assert.Null(shared.CallsOf("plain")[^1].AuthorizationSha256);

            // A client that may ask for some models does not even learn of the others.
            AssertError(await AskAs("the-key-of-batch"), 404, "model_not_found");
            var list = await shared.Gateway.GetAsync("/v1/models", ("Authorization", "Bearer the-key-of-batch"));
            Assert.Equal("renamed-model", (string?)Assert.Single(list.Json["data"]!.AsArray())!["id"]);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
        Assert.Equal(200, (await shared.Gateway.AskAsync("plain-model")).Status);

        Task<Reply> AskAs(string key) =>
            shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), ("Authorization", "Bearer " + key));
    }

    private Task<Reply> SendAsync(byte[] body, bool chunked)
    {
        HttpContent content = chunked ? new UnknownLength(body) : new ByteArrayContent(body);
        content.Headers.TryAddWithoutValidation("Content-Type", "application/json");
        return shared.Gateway.SendContentAsync(HttpMethod.Post, "/v1/chat/completions", content);
    }

    private static byte[] BodyOf(int bytes)
    {
        const string Head = "{\"model\":\"plain-model\",\"messages\":[{\"role\":\"user\",\"content\":\"", Tail = "\"}]}";
        var body = Encoding.UTF8.GetBytes(Head + new string('x', bytes - Head.Length - Tail.Length) + Tail);
        Assert.Equal(bytes, body.Length);
        return body;
    }

    private static void AssertError(Reply answer, int status, string? code = null)
    {
        Assert.True(answer.Status == status, $"expected {status}: {answer}");
        Assert.StartsWith("application/json", answer.Header("Content-Type"));
        Assert.False(string.IsNullOrWhiteSpace((string?)answer.Error["message"]), "an error without words");
        Assert.False(string.IsNullOrWhiteSpace((string?)answer.Error["type"]), "an error without a type");
        Assert.False(string.IsNullOrWhiteSpace((string?)answer.Error["code"]), "an error without a code");
        if (code is not null)
        {
            Assert.Equal(code, (string?)answer.Error["code"]);
        }
    }

    private sealed class UnknownLength(byte[] body) : HttpContent
    {
        protected override Task SerializeToStreamAsync(Stream stream, TransportContext? context) => stream.WriteAsync(body, 0, body.Length);

        protected override bool TryComputeLength(out long length)
        {
            length = 0;
            return false;
        }
    }
}
