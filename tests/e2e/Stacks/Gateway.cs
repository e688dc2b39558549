using System.ClientModel;
using System.ClientModel.Primitives;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using OpenAI;
using OpenAI.Chat;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>An answer of the gateway as the client saw it. Status 0: none came, <see cref="Fault"/> says why.</summary>
internal sealed record Reply(int Status, string Body, IReadOnlyDictionary<string, string> Headers, string? Fault = null)
{
    public string? Header(string name) => Headers.GetValueOrDefault(name);
    public string Instance => Header("x-evenkeel-instance") ?? "";
    public string Tier => Header("x-evenkeel-tier") ?? "";
    public int Attempts => int.TryParse(Header("x-evenkeel-attempts"), out var attempts) ? attempts : 0;
    public JsonObject Json => JsonNode.Parse(Body)!.AsObject();
    public JsonObject Error => Json["error"]!.AsObject();

    public override string ToString() => Fault ?? $"{Status} {(Body.Length > 300 ? Body[..300] : Body)}";
}

/// <summary>A streamed answer, read to its end. It is whole when it ended with [DONE].</summary>
internal sealed record StreamedReply(Reply Head, string Text, string? FinishReason, bool Done)
{
    public DateTime Began { get; init; }
    public DateTime Ended { get; } = DateTime.UtcNow;

    public override string ToString() => $"{Head}; {Text.Length} characters, finish_reason {FinishReason}, {(Done ? "whole" : "cut")}";
}

/// <summary>A caller of the gateway: the official OpenAI client where its behaviour matters, plain HTTP where bytes do. Nothing here ever retries.</summary>
internal sealed class Gateway : IDisposable
{
    private readonly HttpClient _http;
    private readonly RequestRecorder _recorder = new();

    public Gateway(Uri address)
    {
        Address = address;
        _http = new HttpClient(_recorder) { Timeout = TimeSpan.FromSeconds(60) };
    }

    public Uri Address { get; }

    /// <summary>
    /// Another client, without connections from before: a reload closes those that are kept, and a call that is on its way over one just then is
    /// lost. That is between nginx and HTTP.
    /// </summary>
    public Gateway Afresh() => new(Address);

    /// <summary>The body of the newest request, byte for byte as it left this process.</summary>
    public byte[] LastSent => _recorder.Last;

    public void Dispose() => _http.Dispose();

    // ---- the official client

    public OpenAIClient OpenAI(string key = "a-clients-own-key") => new(new ApiKeyCredential(key), new OpenAIClientOptions
    {
        Endpoint = new Uri(Address, "/v1"),
        Transport = new HttpClientPipelineTransport(_http),
        RetryPolicy = new ClientRetryPolicy(maxRetries: 0),
    });

    public ChatClient Chat(string model, string key = "a-clients-own-key") => OpenAI(key).GetChatClient(model);

    // ---- plain HTTP

    public static string ChatBody(string model, string prompt = "Hello!", bool stream = false) =>
        JsonSerializer.Serialize(new { model, messages = new[] { new { role = "user", content = prompt } }, stream });

    public Task<Reply> AskAsync(string model, string prompt = "Hello!") => PostAsync("/v1/chat/completions", ChatBody(model, prompt));

    public Task<Reply> PostAsync(string path, string body, params (string Name, string Value)[] headers) =>
        SendAsync(HttpMethod.Post, path, Encoding.UTF8.GetBytes(body), headers);

    public Task<Reply> GetAsync(string path, params (string Name, string Value)[] headers) => SendAsync(HttpMethod.Get, path, null, headers);

    public Task<Reply> SendAsync(HttpMethod method, string path, byte[]? body, params (string Name, string Value)[] headers)
    {
        var content = body is null ? null : new ByteArrayContent(body);
        content?.Headers.TryAddWithoutValidation("Content-Type", "application/json");
        return SendContentAsync(method, path, content, headers);
    }

    public async Task<Reply> SendContentAsync(HttpMethod method, string path, HttpContent? content, params (string Name, string Value)[] headers)
    {
        using var request = Request(method, path, content, headers);
        try
        {
            using var answer = await _http.SendAsync(request);
            return new Reply((int)answer.StatusCode, await answer.Content.ReadAsStringAsync(), Headers(answer));
        }
        catch (Exception fault) when (fault is HttpRequestException or IOException or OperationCanceledException)
        {
            return new Reply(0, "", new Dictionary<string, string>(), fault.GetBaseException().Message);
        }
    }

    /// <summary>Reads a stream to its end; what breaks it is in the answer's head.</summary>
    public Task<StreamedReply> StreamAsync(string model, string prompt = "Hello!", Action? onFirstText = null, CancellationToken leave = default, string? id = null) =>
        StreamAsync(model, prompt, pieces => { if (pieces == 1) onFirstText?.Invoke(); }, leave, id);

    /// <summary>Reads a stream until so many pieces of text have come, and leaves.</summary>
    public async Task<StreamedReply> LeaveAfterAsync(int pieces, string model, string prompt, string? id = null)
    {
        using var leave = new CancellationTokenSource();
        return await StreamAsync(model, prompt, come => { if (come == pieces) leave.Cancel(); }, leave.Token, id);
    }

    private async Task<StreamedReply> StreamAsync(string model, string prompt, Action<int> onText, CancellationToken leave, string? id)
    {
        var began = DateTime.UtcNow;
        var content = new StringContent(ChatBody(model, prompt, stream: true), Encoding.UTF8, "application/json");
        using var request = Request(HttpMethod.Post, "/v1/chat/completions", content, [("Connection", "close"), .. id is null ? [] : new[] { ("x-request-id", id) }]);
        var text = new StringBuilder();
        var (status, headers) = (0, (IReadOnlyDictionary<string, string>)new Dictionary<string, string>());
        string? finishReason = null;
        var (done, pieces) = (false, 0);
        try
        {
            using var answer = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, leave);
            (status, headers) = ((int)answer.StatusCode, Headers(answer));
            using var reader = new StreamReader(await answer.Content.ReadAsStreamAsync(leave));
            var rest = new StringBuilder();
            while (await reader.ReadLineAsync(leave) is { } line)
            {
                if (!line.StartsWith("data:", StringComparison.Ordinal))
                {
                    rest.AppendLine(line);
                    continue;
                }
                var data = line[5..].Trim();
                if (data == "[DONE]")
                {
                    done = true;
                    continue;
                }
                var chunk = JsonNode.Parse(data)!;
                if (chunk["choices"]?.AsArray() is [var choice, ..])
                {
                    if ((string?)choice!["delta"]?["content"] is { Length: > 0 } piece)
                    {
                        text.Append(piece);
                        onText(++pieces);
                    }
                    finishReason = (string?)choice["finish_reason"] ?? finishReason;
                }
            }
            return new StreamedReply(new Reply(status, rest.ToString().Trim(), headers), text.ToString(), finishReason, done) { Began = began };
        }
        catch (Exception fault) when (fault is HttpRequestException or IOException or OperationCanceledException)
        {
            var head = new Reply(status, "", headers, fault.GetBaseException().Message);
            return new StreamedReply(head, text.ToString(), finishReason, done) { Began = began };
        }
    }

    /// <summary>So many calls, so many of them at a time.</summary>
    public async Task<IReadOnlyList<Reply>> AskManyAsync(string model, int calls, int atATime)
    {
        var answers = new Reply[calls];
        var next = -1;
        await Task.WhenAll(Enumerable.Range(0, atATime).Select(async _ =>
        {
            for (var i = Interlocked.Increment(ref next); i < calls; i = Interlocked.Increment(ref next))
            {
                answers[i] = await AskAsync(model);
            }
        }));
        return answers;
    }

    /// <summary>Callers that ask again and again until they are stopped.</summary>
    /// <param name="model">What they ask for.</param>
    /// <param name="callers">How many of them.</param>
    /// <param name="afresh">A new connection per call, see <see cref="Afresh"/>.</param>
    public Load StartLoad(string model, int callers, bool afresh = false) => new(this, model, callers, afresh);

    private HttpRequestMessage Request(HttpMethod method, string path, HttpContent? content, (string Name, string Value)[] headers)
    {
        var request = new HttpRequestMessage(method, new Uri(Address, path)) { Content = content };
        foreach (var (name, value) in headers)
        {
            request.Headers.TryAddWithoutValidation(name, value);
        }
        return request;
    }

    private static Dictionary<string, string> Headers(HttpResponseMessage answer) =>
        answer.Headers.Concat(answer.Content.Headers).ToDictionary(h => h.Key, h => string.Join(", ", h.Value), StringComparer.OrdinalIgnoreCase);

    // Who leaves, leaves at once: no reading on for the sake of the connection.
    private sealed class RequestRecorder() : DelegatingHandler(new SocketsHttpHandler { ResponseDrainTimeout = TimeSpan.Zero })
    {
        private byte[] _last = [];

        public byte[] Last => Volatile.Read(ref _last);

        protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancel)
        {
            // Bodies whose length is not known are streams that can be read only once.
            if (request.Content?.Headers.ContentLength is < 1_000_000)
            {
                Volatile.Write(ref _last, await request.Content.ReadAsByteArrayAsync(cancel));
            }
            return await base.SendAsync(request, cancel);
        }
    }
}

/// <summary>Steady load in the background of a test.</summary>
internal sealed class Load : IAsyncDisposable
{
    private readonly List<Reply> _answers = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _callers;

    public Load(Gateway gateway, string model, int callers, bool afresh)
    {
        (string, string)[] headers = afresh ? [("Connection", "close")] : [];
        _callers = Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
        {
            while (!_stop.IsCancellationRequested)
            {
                var answer = await gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody(model), headers);
                lock (_answers)
                {
                    _answers.Add(answer);
                }
                if (answer.Status == 0)
                {
                    await Task.Delay(20);      // nobody listens: no busy loop
                }
            }
        }));
    }

    public int Count
    {
        get
        {
            lock (_answers)
            {
                return _answers.Count;
            }
        }
    }

    /// <summary>Until so many more answers have come.</summary>
    public async Task MoreAsync(int answers)
    {
        var enough = Count + answers;
        await Wait.Until(() => Count >= enough, $"{answers} more answers under load");
    }

    /// <summary>Stops the callers, lets the last calls end, and gives all answers.</summary>
    public async Task<IReadOnlyList<Reply>> StopAsync()
    {
        await _stop.CancelAsync();
        await _callers;
        return [.. _answers];
    }

    public async ValueTask DisposeAsync()
    {
        await StopAsync();
        _stop.Dispose();
    }
}
