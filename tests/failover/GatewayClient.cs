using System.Diagnostics;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;

namespace Evenkeel.Failover;

/// <summary>A caller that retries nothing, repairs nothing and writes everything down.</summary>
internal sealed class GatewayClient : IDisposable
{
    private static readonly string Run = Guid.NewGuid().ToString("n")[..8];
    private static int _topics;

    private readonly HttpClient _http;
    private readonly Uri _completions;
    private readonly string? _key;

    public GatewayClient(Uri gateway, string? key)
    {
        Gateway = gateway;
        _completions = new Uri(gateway.ToString().TrimEnd('/') + "/v1/chat/completions");
        _key = key;
        // No connection outlives a pause in which the gateway may have closed it: such a failure would be ours.
        // Whoever leaves closes at once, without reading the rest first.
        var handler = new SocketsHttpHandler
        {
            UseProxy = false,
            PooledConnectionIdleTimeout = TimeSpan.FromSeconds(5),
            MaxResponseDrainSize = 0,
            ResponseDrainTimeout = TimeSpan.Zero,
        };
        _http = new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
    }

    public Uri Gateway { get; }

    public void Dispose() => _http.Dispose();

    /// <summary>The body of a request for this model; what is said depends on run and topic alone.</summary>
    public static string Body(string model, Ask ask)
    {
        var topic = ask.Topic ?? $"topic {Interlocked.Increment(ref _topics)}";
        var body = new JsonObject
        {
            ["model"] = model,
            ["messages"] = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = $"Run {Run}, {model}: tell me about {topic}." }),
            ["stream"] = ask.Stream,
        };
        if (ask.IncludeUsage)
        {
            body["stream_options"] = new JsonObject { ["include_usage"] = true };
        }
        foreach (var (name, value) in ask.Extra ?? [])
        {
            body[name] = value?.DeepClone();
        }
        return body.ToJsonString();
    }

    public async Task<Exchange> AskAsync(string model, Ask ask)
    {
        var exchange = new Exchange(ask, Body(model, ask));
        var clock = Stopwatch.StartNew();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(ask.Leave);
        limit.CancelAfter(ask.LeaveAfter ?? ask.Limit);
        try
        {
            using var request = new HttpRequestMessage(HttpMethod.Post, _completions)
            {
                Content = new StringContent(exchange.RequestJson, Encoding.UTF8, MediaTypeHeaderValue.Parse("application/json")),
            };
            if (_key is not null)
            {
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", _key);
            }
            foreach (var (name, value) in ask.Headers)
            {
                request.Headers.TryAddWithoutValidation(name, value);
            }
            using var answer = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, limit.Token);
            exchange.Status = (int)answer.StatusCode;
            foreach (var (name, values) in answer.Headers.Concat(answer.Content.Headers))
            {
                exchange.Headers[name] = string.Join(", ", values);
            }
            await using var body = await answer.Content.ReadAsStreamAsync(limit.Token);
            await ReadAsync(exchange, body, clock, limit.Token);
        }
        catch (OperationCanceledException)
        {
            exchange.Hung = ask.LeaveAfter is null && !ask.Leave.IsCancellationRequested;
            exchange.LeftAt = exchange.Hung ? null : DateTimeOffset.UtcNow;
        }
        catch (Exception fault) when (fault is HttpRequestException or IOException)
        {
            exchange.Break = fault is HttpIOException io ? io.HttpRequestError.ToString() : fault.GetBaseException().Message;
        }
        exchange.EndMs = clock.Elapsed.TotalMilliseconds;
        return exchange;
    }

    private static async Task ReadAsync(Exchange exchange, Stream body, Stopwatch clock, CancellationToken cancel)
    {
        var events = new EventReader(exchange);
        var whole = exchange.IsEventStream ? null : new MemoryStream();
        var buffer = new byte[16 * 1024];
        try
        {
            int read;
            while ((read = await body.ReadAsync(buffer, cancel)) > 0)
            {
                var ms = clock.Elapsed.TotalMilliseconds;
                exchange.FirstByteMs ??= ms;
                if (whole is not null)
                {
                    whole.Write(buffer, 0, read);
                    continue;
                }
                events.Take(buffer.AsSpan(0, read), ms);
                if (exchange.Pieces >= exchange.Ask.LeaveAfterPieces)
                {
                    exchange.LeftAt = DateTimeOffset.UtcNow;
                    return;
                }
            }
            events.End();
        }
        finally
        {
            if (whole is not null)
            {
                exchange.Body = Encoding.UTF8.GetString(whole.ToArray());
            }
        }
        if (whole is not null)
        {
            exchange.TakeBody(clock.Elapsed.TotalMilliseconds);
        }
    }

    /// <summary>Server-sent events by the letter, as strict as the strictest SDK.</summary>
    private sealed class EventReader(Exchange exchange)
    {
        private readonly MemoryStream _line = new();
        private readonly StringBuilder _data = new();
        private bool _hasData;

        public void Take(ReadOnlySpan<byte> bytes, double ms)
        {
            for (var end = bytes.IndexOf((byte)'\n'); end >= 0; end = bytes.IndexOf((byte)'\n'))
            {
                _line.Write(bytes[..end]);
                Line(Encoding.UTF8.GetString(_line.GetBuffer(), 0, (int)_line.Length).TrimEnd('\r'), ms);
                _line.SetLength(0);
                bytes = bytes[(end + 1)..];
            }
            _line.Write(bytes);
        }

        public void End()
        {
            if (_line.Length > 0 || _hasData)
            {
                exchange.Oddities.Add("an event without its end");
            }
        }

        private void Line(string line, double ms)
        {
            if (line.Length == 0)
            {
                if (_hasData)
                {
                    exchange.TakeEvent(ms, _data.ToString());
                }
                _data.Clear();
                _hasData = false;
            }
            else if (line[0] == ':')
            {
                exchange.Comments++;
            }
            else if (line.StartsWith("data:", StringComparison.Ordinal))
            {
                _data.Append(_hasData ? "\n" : "").Append(line.AsSpan(line.StartsWith("data: ", StringComparison.Ordinal) ? 6 : 5));
                _hasData = true;
            }
            else if (!line.StartsWith("event:", StringComparison.Ordinal) && !line.StartsWith("id:", StringComparison.Ordinal) && !line.StartsWith("retry:", StringComparison.Ordinal))
            {
                exchange.Oddities.Add("a line that is no event");
            }
        }
    }
}
