using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace Evenkeel.Provider;

/// <summary>What an instance has counted since its start or the last reset.</summary>
public sealed record InstanceCounters(
    long Requests, long Calls, long Rejected, long ClientsGone, long TokensSent, long TokensBilled,
    int InFlight, int PeakInFlight, long ConnectionsAccepted, int ConnectionsOpen, long TlsFailures);

/// <summary>
/// One provider endpoint: a listener with its own settings, scripted faults and counters. In flight is every POST call
/// from its arrival until just before its last bytes (or until its client has left); the peak includes calls that were
/// rejected for the ceiling, so a peak above the ceiling shows who did not keep to it.
/// </summary>
public sealed class SimulatedInstance : IDisposable
{
    private static readonly string[] DefaultModels = ["deepseek-chat", "deepseek-reasoner", "deepseek-v3", "deepseek-v2-lite"];

    private readonly Ledger _ledger;
    private readonly Certificates _certificates;
    private readonly HttpServer _server;
    private readonly string _host;
    private readonly long _started = Stopwatch.GetTimestamp();
    private readonly List<ScriptedFault> _faults = [];
    private readonly Lock _lock = new();
    private Random _random;
    private InstanceSettings _settings;
    private int _inFlight;
    private int _peakInFlight;
    private long _requests;
    private long _calls;
    private long _rejected;
    private long _clientsGone;
    private long _tokensSent;
    private long _tokensBilled;

    internal SimulatedInstance(InstanceOptions options, Ledger ledger, Certificates certificates)
    {
        Name = options.Name;
        _host = options.Host;
        _settings = options.Settings;
        _ledger = ledger;
        _certificates = certificates;
        _random = SeededRandom();
        _server = new HttpServer(HandleAsync) { Tls = Tls, IdleCloseMs = () => _settings.IdleCloseMs };
        _server.Start(new IPEndPoint(Hosts.Address(options.Host), options.Port));
    }

    public string Name { get; }
    public IPEndPoint EndPoint => _server.EndPoint;
    public int Port => EndPoint.Port;
    /// <summary>Scheme, host and port, without a path.</summary>
    public string Origin => $"{(_settings.Tls == TlsMode.None ? "http" : "https")}://{(_settings.Sni.Length > 0 ? _settings.Sni[0] : Hosts.Authority(_host))}:{Port}";
    /// <summary>What a client takes as base URL.</summary>
    public string BaseUrl => Origin + "/v1";
    public bool IsUp => _server.IsUp;
    public InstanceSettings Settings => _settings;

    public InstanceCounters Counters => new(
        Interlocked.Read(ref _requests), Interlocked.Read(ref _calls), Interlocked.Read(ref _rejected), Interlocked.Read(ref _clientsGone),
        Interlocked.Read(ref _tokensSent), Interlocked.Read(ref _tokensBilled),
        Volatile.Read(ref _inFlight), Volatile.Read(ref _peakInFlight), _server.Accepted, _server.Open, _server.TlsFailures);

    /// <summary>The faults still in the queue.</summary>
    public IReadOnlyList<ScriptedFault> Faults
    {
        get
        {
            lock (_lock)
            {
                _faults.RemoveAll(fault => fault.IsSpent_NeedsLock);
                return [.. _faults];
            }
        }
    }

    /// <summary>Changes settings for requests from now on: <c>instance.Update(s => s with { LatencyMs = 12_000 })</c>.</summary>
    public void Update(Func<InstanceSettings, InstanceSettings> change)
    {
        lock (_lock)
        {
            var before = _settings;
            _settings = change(before);
            if (_settings.Seed != before.Seed)
            {
                _random = SeededRandom();
            }
        }
    }

    /// <summary>
    /// Enqueues a fault. A request takes the first in the queue that fits and is not spent.
    /// </summary>
    /// <param name="spec">e.g. <c>status=429;retry_after=2</c>; see <see cref="Provider.Fault"/>.</param>
    /// <param name="times">How many requests it takes; null = all.</param>
    /// <param name="after">How many fitting requests pass first.</param>
    /// <param name="lasts">How long it lasts from now; null = until spent or cleared.</param>
    /// <param name="match">Which requests; null = every POST call.</param>
    public ScriptedFault AddFault(string spec, int? times = null, int after = 0, TimeSpan? lasts = null, FaultMatch? match = null)
    {
        var fault = new ScriptedFault(Fault.Parse(spec), times, after, lasts, match);
        AddFault(fault);
        return fault;
    }

    public void AddFault(ScriptedFault fault)
    {
        lock (_lock)
        {
            _faults.Add(fault);
        }
    }

    public void ClearFaults()
    {
        lock (_lock)
        {
            _faults.Clear();
        }
    }

    /// <summary>Refuses connections and resets the open ones; the port stays reserved.</summary>
    public void Down() => _server.Down();

    public void Up() => _server.Up();

    /// <summary>Sets the counters back; the peak starts from what is in flight now.</summary>
    public void ResetCounters()
    {
        Interlocked.Exchange(ref _requests, 0);
        Interlocked.Exchange(ref _calls, 0);
        Interlocked.Exchange(ref _rejected, 0);
        Interlocked.Exchange(ref _clientsGone, 0);
        Interlocked.Exchange(ref _tokensSent, 0);
        Interlocked.Exchange(ref _tokensBilled, 0);
        Interlocked.Exchange(ref _peakInFlight, Volatile.Read(ref _inFlight));
    }

    public void Dispose() => _server.Dispose();

    private TlsListener? Tls()
    {
        var settings = _settings;
        return settings.Tls == TlsMode.None ? null : new TlsListener(_certificates, settings.Tls, _host, settings.Sni);
    }

    private Random SeededRandom() => new(Name.Aggregate(_settings.Seed, (hash, c) => unchecked(hash * 31 + c)));

    private async Task HandleAsync(HttpConnection connection, HttpRequest request)
    {
        var started = Stopwatch.GetTimestamp();
        Interlocked.Increment(ref _requests);
        var settings = _settings;
        CallKind? kind = request.Method != "POST" ? null
            : request.Path.EndsWith("/chat/completions", StringComparison.Ordinal) ? CallKind.Chat
            : request.Path.EndsWith("/completions", StringComparison.Ordinal) ? CallKind.Completion
            : request.Path.EndsWith("/embeddings", StringComparison.Ordinal) ? CallKind.Embedding
            : null;
        var asked = kind is null ? new CallRequest() : CallRequest.Parse(request.Body);
        var entry = Enter(connection, request, asked, settings);
        var admitted = kind is null || Admit(entry, settings);
        var released = kind is null ? 1 : 0;
        void Release()
        {
            if (Interlocked.Exchange(ref released, 1) == 0)
            {
                Interlocked.Decrement(ref _inFlight);
            }
        }
        try
        {
            if (!admitted)
            {
                entry.Status = 429;
                Release();
                var retryAfter = RetryAfter.Value(settings.CeilingRetryAfter) is { } value ? $"retry-after: {value}\r\n" : "";
                await connection.WriteAsync(HttpAnswer.Json(429, ErrorBody.ForStatus(429, null), extraHeaders: retryAfter));
                entry.Outcome = LedgerOutcome.Rejected;
                return;
            }
            await AnswerAsync(connection, request, kind, asked, entry, settings, started, Release);
        }
        catch (Exception fault) when (fault is OperationCanceledException or IOException or SocketException or ObjectDisposedException)
        {
            if (connection.EndedByUs)
            {
                entry.Outcome = LedgerOutcome.ResetByUs;
            }
            else
            {
                entry.Outcome = LedgerOutcome.ClientGone;
                entry.ClientGoneAt = connection.GoneAt ?? DateTimeOffset.UtcNow;
                Interlocked.Increment(ref _clientsGone);
            }
            connection.KeepAlive = false;
        }
        finally
        {
            Release();
            entry.EndMs ??= Stopwatch.GetElapsedTime(started).TotalMilliseconds;
            Interlocked.Add(ref _tokensSent, entry.TokensSent);
            Interlocked.Add(ref _tokensBilled, entry.TokensBilled);
        }
    }

    private async Task AnswerAsync(
        HttpConnection connection, HttpRequest request, CallKind? kind, CallRequest asked, LedgerEntry entry,
        InstanceSettings settings, long started, Action release)
    {
        byte[]? simple = null;
        // An HTTP/1.0 client (nginx by default) understands no chunks.
        var plan = new AnswerPlan { RejectPrefill = settings.RejectPrefill, Http10Close = request.IsHttp10 };
        try
        {
            var fault = FaultFor(connection, request, kind, asked);
            fault?.Apply(plan);
            entry.Fault = fault?.Spec;
            if (fault is null && kind is not null && settings.ErrorRate > 0 && Draw(random => random.NextDouble()) < settings.ErrorRate)
            {
                plan.Status = settings.ErrorStatus;
                entry.Fault = "error_rate";
            }
        }
        catch (FormatException words)
        {
            simple = Error(400, ErrorBody.Json("simulator_error", "bad_fault", words.Message));
        }
        if (entry.Fault is null)
        {
            simple ??= Refusal(request, kind, asked, settings) ?? (kind is null ? Simple(request, settings) : null);
        }
        if (simple is not null)
        {
            entry.Status = int.Parse(Encoding.ASCII.GetString(simple, 9, 3), CultureInfo.InvariantCulture);
            release();
            await connection.WriteAsync(simple);
            entry.Outcome = LedgerOutcome.Completed;
            return;
        }
        if (kind is null && plan.Status is null && !plan.ErrorJson200)
        {
            // A fault of the connection or the shape applies to the simple answers too: they go through as a scripted body.
            var whole = Simple(request, settings);
            plan.Body = Encoding.UTF8.GetString(whole, whole.AsSpan().IndexOf("\r\n\r\n"u8) + 4, whole.Length - whole.AsSpan().IndexOf("\r\n\r\n"u8) - 4);
        }
        await CallAnswer.PlayAsync(new Call
        {
            Connection = connection,
            Kind = kind ?? CallKind.Chat,
            Request = asked,
            Settings = settings,
            Plan = plan,
            Entry = entry,
            Pace = Draw(random => Pace.Draw(settings, plan.Tokens ?? settings.Tokens, Stopwatch.GetElapsedTime(_started).TotalMilliseconds, random)),
            Started = started,
            Release = release,
        });
    }

    private LedgerEntry Enter(HttpConnection connection, HttpRequest request, CallRequest asked, InstanceSettings settings)
    {
        var entry = new LedgerEntry
        {
            Sequence = _ledger.NextSequence(),
            Instance = Name,
            At = DateTimeOffset.UtcNow,
            ConnectionId = connection.Id,
            RequestOnConnection = connection.Requests,
            Sni = connection.Sni,
            Method = request.Method,
            Path = request.Path,
            Host = request.Header("Host"),
            Model = asked.Model,
            Stream = asked.Stream,
            User = asked.User,
            Prefill = asked.Prefill is null ? null : asked.PrefillIsMarked ? "prefix" : "assistant_last",
            RequestId = request.Header("x-request-id"),
            AuthorizationSha256 = request.Header("Authorization") is { } secret ? Sha256(Encoding.UTF8.GetBytes(secret))[..12] : null,
            BodySha256 = Sha256(request.Body),
            BodyBytes = request.Body.Length,
            Body = settings.RecordBodies ? Encoding.UTF8.GetString(request.Body) : null,
            Head = settings.RecordBodies ? WithoutCredentials(request.Head) : null,
        };
        _ledger.Add(entry);
        return entry;
    }

    private bool Admit(LedgerEntry entry, InstanceSettings settings)
    {
        Interlocked.Increment(ref _calls);
        var inFlight = Interlocked.Increment(ref _inFlight);
        entry.InFlight = inFlight;
        for (var peak = Volatile.Read(ref _peakInFlight); inFlight > peak;)
        {
            var seen = Interlocked.CompareExchange(ref _peakInFlight, inFlight, peak);
            if (seen == peak)
            {
                break;
            }
            peak = seen;
        }
        if (settings.Ceiling == 0 || inFlight <= settings.Ceiling)
        {
            return true;
        }
        Interlocked.Increment(ref _rejected);
        return false;
    }

    /// <summary>Header before model name before queue.</summary>
    private Fault? FaultFor(HttpConnection connection, HttpRequest request, CallKind? kind, CallRequest asked)
    {
        if (request.Header("x-sim-fault") is { Length: > 0 } header)
        {
            return Fault.Parse(header);
        }
        if (asked.Model.StartsWith("sim-", StringComparison.Ordinal))
        {
            return Fault.Parse(asked.Model[4..]);
        }
        lock (_lock)
        {
            return _faults.Find(fault => fault.Take_NeedsLock(kind, request.Path, asked.Model, asked.Stream, connection.Requests))?.Fault;
        }
    }

    /// <summary>What a healthy provider refuses by itself.</summary>
    private static byte[]? Refusal(HttpRequest request, CallKind? kind, CallRequest asked, InstanceSettings settings)
    {
        if (settings.ApiKey is { } key && request.Header("Authorization") != "Bearer " + key)
        {
            return Error(401, ErrorBody.ForStatus(401, null));
        }
        if (kind is null)
        {
            return null;
        }
        if (asked.Error is { } words)
        {
            return Error(400, ErrorBody.ForStatus(400, words));
        }
        return settings.Models.Length > 0 && !settings.Models.Contains(asked.Model)
            ? Error(404, ErrorBody.ForCode("model_not_found", $"The model `{asked.Model}` does not exist or you do not have access to it."))
            : null;
    }

    private static byte[] Simple(HttpRequest request, InstanceSettings settings)
    {
        var models = settings.Models.Length > 0 ? settings.Models : DefaultModels;
        if (request.Method != "GET")
        {
            return Error(404, ErrorBody.Json("invalid_request_error", "unknown_url", $"Unknown request URL: {request.Method} {request.Path}"));
        }
        if (request.Path.EndsWith("/models", StringComparison.Ordinal))
        {
            return HttpAnswer.Json(200, "{\"object\":\"list\",\"data\":[" + string.Join(',', models.Select(Model)) + "]}");
        }
        if (request.Path.Split("/models/") is [_, var asked])
        {
            return models.Contains(asked) ? HttpAnswer.Json(200, Model(asked)) : Error(404, ErrorBody.ForCode("model_not_found", null));
        }
        if (request.Path.EndsWith("/user/balance", StringComparison.Ordinal))
        {
            var balance = settings.Balance.ToString("F2", CultureInfo.InvariantCulture);
            return HttpAnswer.Json(200, $"{{\"is_available\":{(settings.Balance > 0 ? "true" : "false")},\"balance_infos\":[{{\"currency\":\"{settings.BalanceCurrency}\",\"total_balance\":\"{balance}\",\"granted_balance\":\"0.00\",\"topped_up_balance\":\"{balance}\"}}]}}");
        }
        return Error(404, ErrorBody.Json("invalid_request_error", "unknown_url", $"Unknown request URL: {request.Method} {request.Path}"));

        static string Model(string name) => $"{{\"id\":\"{name}\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"evenkeel-provider\"}}";
    }

    private T Draw<T>(Func<Random, T> draw)
    {
        lock (_lock)
        {
            return draw(_random);
        }
    }

    private static byte[] Error(int status, string json) => HttpAnswer.Json(status, json);

    private static string Sha256(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static string WithoutCredentials(string head) => string.Join("\r\n", head.Split("\r\n").Select(line =>
        line.Split(':')[0].ToLowerInvariant() is "authorization" or "proxy-authorization" or "cookie" or "api-key" or "x-api-key" ? line.Split(':')[0] + ": ***" : line));
}

/// <summary>Host names as the listeners take them.</summary>
internal static class Hosts
{
    public static IPAddress Address(string host) => host == "localhost" ? IPAddress.Loopback
        : IPAddress.TryParse(host, out var address) ? address : throw new FormatException($"'{host}' is not an IP address");

    public static string Authority(string host) => host.Contains(':') ? $"[{host}]" : host;

    /// <summary>host:port, [v6]:port.</summary>
    public static (string Host, int Port) Split(string text)
    {
        var at = text.LastIndexOf(':');
        return at > 0 && ushort.TryParse(text[(at + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out var port)
            ? (text[..at].Trim('[', ']'), port)
            : throw new FormatException($"'{text}' is not host:port");
    }
}
