using System.IO.Compression;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>Callers and providers who mean harm, byte for byte over a socket: each is refused in order, reaches nobody, and hurts no other caller.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class HostileInputTests(SharedStack shared)
{
    private const string Body = """{"model":"plain-model","messages":[{"role":"user","content":"Hello!"}]}""";
    private static readonly string Chunked = $"{Body.Length:x}\r\n{Body}\r\n0\r\n\r\n";

    [Theory]
    [InlineData("Content-Length: 71\r\nTransfer-Encoding: chunked", 400)]
    [InlineData("Transfer-Encoding: chunked\r\nContent-Length: 71", 400)]
    [InlineData("Content-Length: 71\r\nContent-Length: 71", 400)]
    [InlineData("Content-Length: 71\r\nContent-Length: 5", 400)]
    [InlineData("Content-Length: +71", 400)]
    [InlineData("Content-Length: 71, 71", 400)]
    [InlineData("Content-Length: 0x47", 400)]
    [InlineData("Content-Length: -1", 400)]
    [InlineData("Transfer-Encoding: chunked, identity", 501)]
    [InlineData("Transfer-Encoding: identity, chunked", 501)]
    [InlineData("Transfer-Encoding: xchunked", 501)]
    [InlineData("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400)]
    [InlineData("Transfer-Encoding : chunked", 400)]
    [InlineData("Content-Length : 71", 400)]
    [InlineData("Content-Length: 71\r\nHost: other", 400)]
    [InlineData("Content-Length: 71\r\nX-A: a\0b", 400)]
    [InlineData("Content-Length: 71\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b", 400)]
    public async Task A_request_whose_end_two_readers_could_see_differently_is_refused_and_its_connection_closed(string headers, int status)
    {
        var calls = shared.CallsOf("plain").Count;
        // What a confused reader would take for the next request follows at once.
        var answers = await TalkAsync($"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{(headers.Contains("chunked", StringComparison.Ordinal) ? Chunked : Body)}POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {Body.Length}\r\n\r\n{Body}");
        Assert.StartsWith($"HTTP/1.1 {status} ", answers);
        Assert.Equal(1, answers.Split("HTTP/1.1 ").Length - 1);
        Assert.Equal(calls, shared.CallsOf("plain").Count);
    }

    [Theory]
    [InlineData("""{"model":"plain-model","model":"renamed-model","messages":[]}""", "invalid_json")]
    [InlineData("""{"model":"plain-model","mod\u0065l":"renamed-model","messages":[]}""", "invalid_json")]
    [InlineData("""{"model":["plain-model"],"messages":[]}""", "invalid_value")]
    [InlineData("""{"model":{"a":1},"messages":[]}""", "invalid_value")]
    [InlineData("""{"model":7,"messages":[]}""", "invalid_value")]
    [InlineData("""{"model":null,"messages":[]}""", "invalid_value")]
    [InlineData("""{"messages":[]}""", "model_required")]
    [InlineData("""{"model":"plain-model\u0000","messages":[]}""", "model_not_found")]
    [InlineData("""{"model":"plain-model\r\nX-Injected: 1","messages":[]}""", "invalid_json|model_not_found")]
    [InlineData("""{"model":"plain-model\r\nX-Injected: 1","messages":[{"role":"user","content":"x"}]}""", "invalid_json|model_not_found")]
    [InlineData("""{"model":"../../etc/passwd","messages":[]}""", "model_not_found")]
    [InlineData("{\"model\":\"plain-model\",\"x\":\"\xff\"}", "invalid_json")]
    [InlineData("{\"model\":\"plain-model\",\"x\":\"\0\"}", "invalid_json")]
    [InlineData("""{"model":"plain-model","x":"\ud800"}""", "invalid_json")]
    [InlineData("""{"model":"plain-model"} {"model":"renamed-model"}""", "invalid_json")]
    [InlineData("""[{"model":"plain-model"}]""", "invalid_json")]
    [InlineData("DEEP", "invalid_json")]
    [InlineData("", "invalid_json")]
    public async Task A_body_that_two_readers_could_read_differently_reaches_no_provider(string body, string codes)
    {
        var calls = shared.Providers.Ledger.Entries("plain").Count + shared.Providers.Ledger.Entries("renamed").Count;
        if (body == "DEEP")
        {
            body = "{\"model\":\"plain-model\",\"x\":" + new string('[', 100_000) + new string(']', 100_000) + "}";
        }
        var answer = await shared.Gateway.SendAsync(HttpMethod.Post, "/v1/chat/completions", Encoding.Latin1.GetBytes(body));
        Assert.True(answer.Status is 400 or 404, $"{answer}");
        Assert.Contains((string)answer.Error["code"]!, codes.Split('|'));
        Assert.Null(answer.Header("X-Injected"));
        Assert.Equal(calls, shared.Providers.Ledger.Entries("plain").Count + shared.Providers.Ledger.Entries("renamed").Count);
    }

    [Fact]
    public async Task A_compressed_body_is_told_to_come_plain()
    {
        using var packed = new MemoryStream();
        await using (var gzip = new GZipStream(packed, CompressionMode.Compress, leaveOpen: true)) await gzip.WriteAsync(Encoding.UTF8.GetBytes(Body));
        var answer = await shared.Gateway.SendContentAsync(HttpMethod.Post, "/v1/chat/completions", new ByteArrayContent(packed.ToArray()) { Headers = { ContentEncoding = { "gzip" } } });
        Assert.Equal((415, "unsupported_encoding"), (answer.Status, (string)answer.Error["code"]!));
    }

    [Theory]
    [InlineData("X-Request-Id: ")]
    [InlineData("X-Request-Id: a\tb")]
    [InlineData("X-Request-Id: \"><script>")]
    [InlineData("X-Request-Id: \xff\xfe")]
    [InlineData("X-Ek-Call: 1,2,3\r\nX-Ek-Model: other\r\nX-Ek-Prefix: beta")]
    [InlineData("X-Evenkeel-Ghost: chat\r\nX-Evenkeel-Instance: other\r\nX-Ek-Outcome: ok")]
    [InlineData("X-Request-Timeout: 1e999\r\nX-Stainless-Timeout: -5")]
    [InlineData("X-Request-Timeout: nan")]
    public async Task Headers_of_a_caller_become_no_headers_of_ours(string headers)
    {
        var answer = await TalkAsync($"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {Body.Length}\r\n{headers}\r\n\r\n{Body}");
        Assert.StartsWith("HTTP/1.1 200 ", answer);
        Assert.Matches("(?i)x-request-id: [0-9a-f]{32}\r\n", answer);
        Assert.Contains("x-evenkeel-instance: plain\r\n", answer, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("X-Ek-", shared.CallsOf("plain")[^1].Head, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("script", answer);
    }

    [Theory]
    [InlineData("redirect=http%3A%2F%2F127.0.0.1%3A1%2F")]
    [InlineData("redirect=http%3A%2F%2F169.254.169.254%2Flatest;code=307")]
    public async Task A_providers_redirect_is_not_followed_and_not_passed_on(string fault)
    {
        await shared.Stack.Node.ForgiveAsync("first");       // by whichever test it failed before
        shared.Providers["first"].AddFault(fault, times: 5);
        try
        {
            var answer = await shared.Gateway.AskAsync("tiers-model");
            Expect.Served(answer);
            Assert.Equal("second", answer.Instance);
            Assert.Null(answer.Header("Location"));
        }
        finally
        {
            shared.Providers["first"].ClearFaults();
            await shared.Stack.Node.ForgiveAsync("first");
        }
    }

    [Theory]
    [InlineData("endless_headers=50000000")]
    [InlineData("endless_body=500000000")]
    [InlineData("decompression_bomb")]
    public async Task A_provider_whose_answer_has_no_end_or_no_measure_costs_one_attempt_and_memory_stays_bounded(string fault)
    {
        await shared.Stack.Node.ForgiveAsync("first");
        var before = shared.Stack.Workers.Sum(ResidentKiB);
        shared.Providers["first"].AddFault(fault, times: 1);
        try
        {
            // Once it may be an accident: it is asked again.
            var answer = await shared.Gateway.AskAsync("tiers-model");
            Expect.Served(answer);
            Assert.Equal(2, answer.Attempts);
            Assert.InRange(answer.Body.Length, 100, 10_000);
            var grown = shared.Stack.Workers.Sum(ResidentKiB) - before;
            Assert.True(grown < 300 * 1024, $"the workers grew by {grown} KiB");
        }
        finally
        {
            shared.Providers["first"].ClearFaults();
            await shared.Stack.Node.ForgiveAsync("first");
        }
    }

    [Fact]
    public async Task Ten_thousand_idle_and_a_thousand_slow_connections_cost_little_memory_and_other_callers_nothing()
    {
        var idle = new List<Socket>();
        var before = shared.Stack.Workers.Sum(ResidentKiB);
        try
        {
            for (var i = 0; i < 10_000; i++)
            {
                var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
                idle.Add(socket);
                await socket.ConnectAsync(IPAddress.Loopback, shared.Stack.Port);
                if (i % 10 == 0)
                {
                    // Slow: half a head, or a head whose body never comes.
                    await socket.SendAsync(Encoding.ASCII.GetBytes(i % 20 == 0 ? "POST /v1/chat/comple" : "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{\"model\":"));
                }
            }
            for (var i = 0; i < 20; i++)
            {
                Expect.Served(await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), ("Connection", "close")));
            }
            var grown = shared.Stack.Workers.Sum(ResidentKiB) - before;
            Assert.True(grown < 100 * 1024, $"the workers grew by {grown} KiB");
        }
        finally
        {
            idle.ForEach(socket => socket.Dispose());
        }
        await Wait.Until(async () => (await shared.Gateway.AskAsync("plain-model")).Status == 200, "all is as before");
    }

    [Fact]
    public async Task Each_kind_of_refusal_leaves_one_line_in_the_access_log_and_none_in_the_error_log()
    {
        var log = new RefusalLog(shared.Stack);
        foreach (var (kind, body) in new[] { ("no JSON", "hello"), ("no model", "{}"), ("two models", """{"model":"a","model":"b"}"""), ("a model that is no text", """{"model":["x"]}""") })
        {
            log.Add(kind, 400, await shared.Gateway.PostAsync("/v1/chat/completions", body));
        }
        log.Add("unknown model", 404, await shared.Gateway.AskAsync("no-such-model"));
        log.Add("unknown path", 404, await shared.Gateway.PostAsync("/v1/nothing", "{}"));
        log.Add("wrong method", 405, await shared.Gateway.GetAsync("/v1/chat/completions"));
        const string Head = "POST /v1/chat/completions HTTP/1.1\r\n";
        foreach (var (kind, status, request) in new[]
        {
            ("two lengths", 400, Head + "Host: x\r\nContent-Length: 71\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunked),
            ("too large", 413, Head + "Host: x\r\nContent-Length: 99999999\r\n\r\n"),
            ("no host", 400, Head + "\r\n"),
            ("a head without end", 400, Head + "Host: x\r\nX: " + new string('y', 20_000) + "\r\n\r\n"),
            ("unknown encoding", 501, Head + "Host: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
            ("unknown version", 505, "POST / HTTP/9.9\r\nHost: x\r\n\r\n"),
        })
        {
            log.Add(kind, status, await TalkAsync(request));
        }
        await log.AssertOneLineEachAsync();
    }

    /// <summary>Seeded: a failure names the seed of its request, and `new Random(seed)` makes it again.</summary>
    [Fact]
    public async Task Whatever_is_sent_the_edge_answers_as_HTTP_or_closes_and_no_worker_falls()
    {
        var workers = shared.Stack.Workers;
        for (var seed = 1; seed <= 400; seed++)
        {
            var request = Fuzzed(new Random(seed));
            var answer = await TalkAsync(request, TimeSpan.FromMilliseconds(100));
            Assert.True(answer.Length == 0 || answer.StartsWith("HTTP/1.1 ", StringComparison.Ordinal) || answer.StartsWith('<') || answer.StartsWith('{'), $"seed {seed}: {answer}");
            Assert.False(answer.StartsWith("HTTP/1.1 500", StringComparison.Ordinal) && answer.Contains("internal_error", StringComparison.Ordinal), $"seed {seed}: {answer}");
        }
        Assert.Equal(workers, shared.Stack.Workers);
        await Wait.Until(async () => (await shared.Gateway.AskAsync("plain-model")).Status == 200, "the edge serves");
    }

    private static readonly string[] Parts =
    [
        "POST", "GET", "HEAD", "PUT", "OPTIONS", "PRI", " ", "\t", "/v1/chat/completions", "/v1/models", "/v1/embeddings", "/v1/models/%00", "/v1/../admin", "//", "/%2e%2e/", "*",
        "http://x/v1/models", " HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/9.9\r\n", "\r\n", "\n", "\r", "\0", "Host: x\r\n", "Host: \r\n", "Content-Length: 71\r\n", "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n", "Range: bytes=0-0\r\n", "api-key: x\r\n", "X: " + new string('y', 5000) + "\r\n",
        "5\r\nhello\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "{\"model\":\"plain-model\"}", Body, "\x16\x03\x01\x02\x00\x01", "\xff\xfe",
    ];

    private static string Fuzzed(Random random)
    {
        var text = new StringBuilder();
        if (random.Next(4) > 0)
        {
            text.Append(Parts[random.Next(4)]).Append(' ').Append(Parts[random.Next(8, 17)]).Append(Parts[random.Next(17, 20)]);
        }
        for (var i = random.Next(12); i > 0; i--)
        {
            text.Append(Parts[random.Next(Parts.Length)]);
        }
        return text.Append(random.Next(2) == 0 ? "\r\n\r\n" : "").ToString();
    }

    /// <summary>Everything that comes back until the gateway closes, or until it has been silent for a while.</summary>
    private async Task<string> TalkAsync(string request, TimeSpan? silence = null)
    {
        using var socket = new TcpClient();
        await socket.ConnectAsync(IPAddress.Loopback, shared.Stack.Port);
        var stream = socket.GetStream();
        var answer = new StringBuilder();
        var buffer = new byte[16 * 1024];
        try
        {
            await stream.WriteAsync(Encoding.Latin1.GetBytes(request));
            while (true)
            {
                using var limit = new CancellationTokenSource(answer.Length == 0 && silence is null ? Wait.Patience : silence ?? TimeSpan.FromSeconds(1));
                var read = await stream.ReadAsync(buffer, limit.Token);
                if (read == 0)
                {
                    break;
                }
                answer.Append(Encoding.Latin1.GetString(buffer, 0, read));
            }
        }
        catch (Exception over) when (over is OperationCanceledException or IOException)
        {
            // Silent, or closed in the middle of what was sent.
        }
        return answer.ToString();
    }

    private static long ResidentKiB(int pid) => long.Parse(File.ReadLines($"/proc/{pid}/status").First(line => line.StartsWith("VmRSS:", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2]);
}
