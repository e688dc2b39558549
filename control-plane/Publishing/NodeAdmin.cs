using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Security;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Evenkeel.Auth;
using Evenkeel.Clients;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Ghosts;
using Evenkeel.Health;
using Evenkeel.Incidents;
using Evenkeel.Nodes;
using Evenkeel.Telemetry;

namespace Evenkeel.Publishing;

/// <summary>What a node says to a snapshot.</summary>
public abstract record PushResult
{
    /// <summary>New to it, or known already.</summary>
    public sealed record Taken : PushResult;

    /// <summary>It holds a newer revision.</summary>
    public sealed record Older : PushResult;

    public sealed record Refused(string Words) : PushResult;

    /// <summary>It did not answer, or not as a node does.</summary>
    public sealed record Failed(string Fault) : PushResult;
}

/// <summary>What POST /samples/_take answers: bodies of clients' requests, as they came.</summary>
public sealed record NodeSamples(IReadOnlyList<NodeSample> Samples);

public sealed record NodeSample(string Pool, string Body);

/// <summary>Calls to the admin listeners of nodes, each with that node's token, and bounded in time and size.</summary>
public sealed class NodeAdmin : IDisposable
{
    private static readonly TimeSpan ConnectTimeout = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan PushTimeout = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan GlanceTimeout = TimeSpan.FromMilliseconds(700);
    private static readonly TimeSpan StatusTimeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan EventsTimeout = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan TelemetryTimeout = TimeSpan.FromSeconds(10);
    private const int AnswerMaxBytes = 16 * 1024 * 1024;
    private const int DoorAnswerMaxBytes = 64 * 1024;
    private const int GhostAnswerMaxBytes = 1024 * 1024;

    private readonly HttpClient http;
    private readonly Func<string, CancellationToken, ValueTask<string?>> tokenFor;

    /// <param name="tokenFor">What is shown to a node; null: nothing.</param>
    /// <param name="options">Whose certificates are taken and which one is shown, where an admin listener speaks TLS.</param>
    /// <exception cref="SetupException">The certificates cannot be read.</exception>
    public NodeAdmin(Func<string, CancellationToken, ValueTask<string?>> tokenFor, EvenkeelOptions options)
    {
        this.tokenFor = tokenFor;
        var tls = new SslClientAuthenticationOptions { CertificateChainPolicy = options.NodeCaFile is { } caFile ? CertificateFiles.Trust(caFile, CertificateFiles.ForServers) : null };
        if (options.NodeCertificateFile is { } certificateFile)
        {
            var files = new CertificateFiles(certificateFile, options.NodeKeyFile);
            tls.LocalCertificateSelectionCallback = (_, _, _, _, _) => files.Current().TargetCertificate;
        }
        http = new HttpClient(new SocketsHttpHandler { ConnectTimeout = ConnectTimeout, UseProxy = false, AllowAutoRedirect = false, PooledConnectionLifetime = TimeSpan.FromMinutes(5), SslOptions = tls })
        {
            MaxResponseContentBufferSize = AnswerMaxBytes,
            Timeout = Timeout.InfiniteTimeSpan,
        };
    }

    public async Task<PushResult> PushAsync(NodeAddress node, Snapshot snapshot, CancellationToken cancel)
    {
        var content = new ReadOnlyMemoryContent(snapshot.Json) { Headers = { ContentType = new MediaTypeHeaderValue("application/json") } };
        using var request = await RequestAsync(HttpMethod.Put, node, "/snapshot", cancel, content);
        var (status, body, fault) = await SendAsync(request, PushTimeout, cancel);
        return status switch
        {
            HttpStatusCode.Accepted or HttpStatusCode.NoContent => new PushResult.Taken(),
            HttpStatusCode.Conflict => new PushResult.Older(),
            HttpStatusCode.UnprocessableEntity or HttpStatusCode.InsufficientStorage or HttpStatusCode.RequestEntityTooLarge => new PushResult.Refused(body),
            null => new PushResult.Failed(fault!),
            _ => new PushResult.Failed($"PUT /snapshot answers {(int)status}"),
        };
    }

    /// <summary>The node's status, or why there is none.</summary>
    public async Task<(NodeStatus? Status, string? Fault)> StatusAsync(NodeAddress node, CancellationToken cancel)
    {
        using var request = await RequestAsync(HttpMethod.Get, node, "/status", cancel);
        var asked = DateTimeOffset.UtcNow;
        var watch = Stopwatch.StartNew();
        var (status, body, fault) = await SendAsync(request, StatusTimeout, cancel);
        if (status != HttpStatusCode.OK) return (null, fault ?? $"GET /status answers {(int)status!}");
        try
        {
            var said = JsonSerializer.Deserialize<NodeStatus>(body, ConfigJson.Options);
            if (said?.Now is not { } now) return (said, null);
            var between = asked + watch.Elapsed / 2;
            return (said with { ClockSkewMs = (long)Math.Clamp((now * 1000) - between.ToUnixTimeMilliseconds(), -1e15, 1e15) }, null);
        }
        catch (JsonException)
        {
            return (null, "GET /status answers with something that is not a status");
        }
    }

    /// <summary>Events after a number, at most 1000; null: the node did not say.</summary>
    public async Task<NodeEvents?> EventsAsync(NodeAddress node, long after, CancellationToken cancel)
    {
        using var request = await RequestAsync(HttpMethod.Get, node, $"/events?after={after}", cancel);
        var (status, body, _) = await SendAsync(request, EventsTimeout, cancel);
        if (status != HttpStatusCode.OK) return null;
        try
        {
            return JsonSerializer.Deserialize<NodeEvents>(KeptText.OfJson(body), ConfigJson.Options);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>One page of the counters that changed after a number; from 0 is the first page. Null: the node did not say.</summary>
    public Task<NodeTelemetry?> TelemetryAsync(NodeAddress node, long after, long from, CancellationToken cancel) =>
        ReadAsync<NodeTelemetry>(node, $"/telemetry?after={after}{(from > 0 ? $"&from={from}" : "")}", TelemetryTimeout, cancel);

    /// <summary>Requests after a number, at most 1000; null: the node did not say.</summary>
    public Task<NodeTraces?> TracesAsync(NodeAddress node, long after, CancellationToken cancel) => ReadAsync<NodeTraces>(node, $"/traces?after={after}", TelemetryTimeout, cancel);

    /// <summary>Live numbers; null: the node did not say.</summary>
    public Task<NodeStats?> StatsAsync(NodeAddress node, CancellationToken cancel) => ReadAsync<NodeStats>(node, "/stats", StatusTimeout, cancel);

    /// <summary>Of <see cref="StatsAsync"/> what shares and hints need, in haste; and whether nobody listens there, which is more than silence.</summary>
    public async Task<(NodeStats? Stats, bool IsGone)> GlanceAsync(NodeAddress node, CancellationToken cancel)
    {
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        bounded.CancelAfter(GlanceTimeout);
        try
        {
            using var request = await RequestAsync(HttpMethod.Get, node, "/stats?of=shares", bounded.Token);
            using var answer = await http.SendAsync(request, bounded.Token);
            return (answer.IsSuccessStatusCode ? await answer.Content.ReadFromJsonAsync<NodeStats>(NodeTelemetry.Options, bounded.Token) : null, false);
        }
        catch (HttpRequestException failure)
        {
            return (null, failure.InnerException is SocketException { SocketErrorCode: SocketError.ConnectionRefused });
        }
        catch (Exception failure) when (!cancel.IsCancellationRequested && failure is OperationCanceledException or JsonException)
        {
            return (null, false);
        }
    }

    /// <summary>Tells a node its shares. False: it did not take them, as it holds others than these were made for, or does not answer.</summary>
    public Task<bool> OrderSharesAsync(NodeAddress node, ShareOrder order, CancellationToken cancel) => TellAsync(HttpMethod.Put, node, "/shares", order, cancel);

    /// <summary>Tells a node what others have found out. False: it did not take it.</summary>
    public Task<bool> HintAsync(NodeAddress node, IReadOnlyList<Hint> hints, CancellationToken cancel) => TellAsync(HttpMethod.Post, node, "/hints", new { hints }, cancel);

    private async Task<bool> TellAsync<T>(HttpMethod method, NodeAddress node, string path, T body, CancellationToken cancel)
    {
        using var content = JsonContent.Create(body, options: ConfigJson.Options);
        using var request = await RequestAsync(method, node, path, cancel, content);
        return (await SendAsync(request, GlanceTimeout, cancel)).Status == HttpStatusCode.NoContent;
    }

    private async Task<T?> ReadAsync<T>(NodeAddress node, string path, TimeSpan timeout, CancellationToken cancel) where T : class
    {
        using var request = await RequestAsync(HttpMethod.Get, node, path, cancel);
        var (status, body, _) = await SendAsync(request, timeout, cancel);
        if (status != HttpStatusCode.OK) return null;
        try
        {
            return JsonSerializer.Deserialize<T>(KeptText.OfJson(body), NodeTelemetry.Options);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>Tells a node its share and what others have spent; it tells what it has spent. Null: it did not.</summary>
    public async Task<SpendingAnswer?> ExchangeSpendingAsync(NodeAddress node, SpendingOrder order, CancellationToken cancel)
    {
        using var content = JsonContent.Create(order, options: ConfigJson.Options);
        using var request = await RequestAsync(HttpMethod.Put, node, "/spending", cancel, content);
        var (status, body, _) = await SendAsync(request, StatusTimeout, cancel);
        if (status != HttpStatusCode.OK) return null;
        try
        {
            return JsonSerializer.Deserialize<SpendingAnswer>(body, ConfigJson.Options) is { Clients: not null } answer ? answer : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>Asks at an instance's door. Reads no more of the answer than it takes to judge it.</summary>
    public async Task<DoorAnswer> KnockAsync(NodeAddress node, string instance, ProbeCall call, TimeSpan timeout, CancellationToken cancel)
    {
        using var request = await RequestAsync(call.Body is null ? HttpMethod.Get : HttpMethod.Post, node, $"/instances/{instance}{call.Path}", cancel);
        if (call.Body is not null) request.Content = new StringContent(call.Body, Encoding.UTF8, "application/json");
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        bounded.CancelAfter(timeout);
        try
        {
            using var response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, bounded.Token);
            var outcome = response.Headers.TryGetValues("x-ek-outcome", out var words) ? words.First() : null;
            if (call.Body is not null && response.IsSuccessStatusCode) return new DoorAnswer((int)response.StatusCode, outcome, "");
            var body = new byte[DoorAnswerMaxBytes];
            await using var stream = await response.Content.ReadAsStreamAsync(bounded.Token);
            var length = await stream.ReadAtLeastAsync(body, body.Length, throwOnEndOfStream: false, bounded.Token);
            return new DoorAnswer((int)response.StatusCode, outcome, Encoding.UTF8.GetString(body, 0, length));
        }
        catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
        {
            return new DoorAnswer(null, null, "", TimedOut: true);
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException)
        {
            return new DoorAnswer(null, null, "", $"its admin listener does not answer: {failure.Message}");
        }
    }

    /// <summary>Sends a ghost of a pool to an instance's door and reads its answer as it comes.</summary>
    public async Task<GhostAnswer> AskAsync(NodeAddress node, string pool, string instance, string body, TimeSpan timeout, CancellationToken cancel)
    {
        using var request = await RequestAsync(HttpMethod.Post, node, $"/instances/{instance}/v1/chat/completions", cancel, new StringContent(body, Encoding.UTF8, "application/json"));
        request.Headers.Add("x-evenkeel-ghost", pool);
        request.Headers.Add("x-ek-usage", "1");
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        bounded.CancelAfter(timeout);
        var watch = Stopwatch.StartNew();
        int Ms() => (int)watch.ElapsedMilliseconds;
        var reader = new AnswerReader();
        var hasBegun = false;
        try
        {
            using var response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, bounded.Token);
            hasBegun = true;
            await using var stream = await response.Content.ReadAsStreamAsync(bounded.Token);
            using var bytes = new BoundedStream(stream, GhostAnswerMaxBytes);
            using var text = new StreamReader(bytes, Encoding.UTF8);
            if (response.StatusCode == HttpStatusCode.OK && response.Content.Headers.ContentType?.MediaType == "text/event-stream")
            {
                while (await text.ReadLineAsync(bounded.Token) is { } line && reader.Line(line, Ms())) { }
                return reader.Answer(Ms());
            }
            var whole = await text.ReadToEndAsync(bounded.Token);
            if (response.StatusCode != HttpStatusCode.OK)
            {
                var outcome = response.Headers.TryGetValues("x-ek-outcome", out var words) ? words.First() : null;
                return AnswerReader.Failed(outcome, outcome is null ? $"the node answers {(int)response.StatusCode}" : $"{(int)response.StatusCode} {whole}", Ms());
            }
            reader.Whole(whole, Ms());
            return reader.Answer(Ms());
        }
        catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
        {
            if (hasBegun) return reader.Answer(Ms()) with { Outcome = "stalled", Words = "the answer did not end in time" };
            return (await StatusAsync(node, cancel)).Fault is { } fault ? AnswerReader.Failed(null, fault, Ms()) : AnswerReader.Failed("timeout_first_token", "no answer in time", Ms());
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException)
        {
            return hasBegun ? reader.Answer(Ms()) : AnswerReader.Failed(null, $"its admin listener does not answer: {failure.Message}", Ms());
        }
    }

    /// <summary>Takes sampled requests out of a node's memory; none when it does not answer as it should.</summary>
    public async Task<IReadOnlyList<NodeSample>> TakeSamplesAsync(NodeAddress node, CancellationToken cancel)
    {
        using var request = await RequestAsync(HttpMethod.Post, node, "/samples/_take", cancel);
        var (status, body, _) = await SendAsync(request, EventsTimeout, cancel);
        if (status != HttpStatusCode.OK) return [];
        try
        {
            return JsonSerializer.Deserialize<NodeSamples>(body, ConfigJson.Options)?.Samples ?? [];
        }
        catch (JsonException)
        {
            return [];
        }
    }

    public void Dispose() => http.Dispose();

    private async ValueTask<HttpRequestMessage> RequestAsync(HttpMethod method, NodeAddress node, string path, CancellationToken cancel, HttpContent? content = null)
    {
        var request = new HttpRequestMessage(method, node.AdminUrl.TrimEnd('/') + path) { Content = content };
        if (await tokenFor(node.Name, cancel) is { } token) request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        return request;
    }

    private async Task<(HttpStatusCode? Status, string Body, string? Fault)> SendAsync(HttpRequestMessage request, TimeSpan timeout, CancellationToken cancel)
    {
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        bounded.CancelAfter(timeout);
        try
        {
            using var response = await http.SendAsync(request, bounded.Token);
            return (response.StatusCode, await response.Content.ReadAsStringAsync(bounded.Token), null);
        }
        catch (Exception failure) when (!cancel.IsCancellationRequested && failure is HttpRequestException or OperationCanceledException)
        {
            return (null, "", failure is HttpRequestException ? $"its admin listener does not answer: {failure.Message}" : $"its admin listener does not answer within {timeout.TotalSeconds} s");
        }
    }
}
