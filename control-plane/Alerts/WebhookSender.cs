using System.Collections.Concurrent;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using Evenkeel.Config;
using Evenkeel.Net;
using Evenkeel.Publishing;
using Evenkeel.Secrets;

namespace Evenkeel.Alerts;

/// <summary>
/// Sends what is in the outbox, on every control plane: whoever claims a delivery sends it. At least once: a process that dies in between
/// leaves a lease that runs out, and the notice is sent again with the same id. One webhook at a time gets one notice, so that one that is
/// slow or away holds up nobody else. Where a URL may lead is decided when the connection is made: https to public addresses, loopback where the
/// URL says so, and private addresses only if the configuration allows them.
/// </summary>
public sealed class WebhookSender : BackgroundService
{
    public static readonly TimeSpan Tick = TimeSpan.FromSeconds(1);

    private static readonly TimeSpan SendTimeout = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan Lease = TimeSpan.FromSeconds(30);
    private const int AnswerBytes = 256;

    private readonly WebhookStore store;
    private readonly DesiredState state;
    private readonly SecretResolver secrets;
    private readonly TimeProvider time;
    private readonly ILogger<WebhookSender> log;
    private readonly HttpClient secure;
    private readonly HttpClient plain;
    private readonly ConcurrentDictionary<string, Task> busy = new();
    private readonly SemaphoreSlim awake = new(0, 1);

    public WebhookSender(WebhookStore store, DesiredState state, SecretResolver secrets, TimeProvider time, ILogger<WebhookSender> log)
    {
        (this.store, this.state, this.secrets, this.time, this.log) = (store, state, secrets, time, log);
        secure = Client((host, kind) => Allows(host, kind) || (kind == AddressKind.Public && !IsLoopback(host)));
        plain = Client(Allows);
    }

    /// <summary>There is something to send: do not wait for the next tick.</summary>
    public void Wake()
    {
        try
        {
            awake.Release();
        }
        catch (SemaphoreFullException)
        {
            // It wakes already.
        }
    }

    public override void Dispose()
    {
        secure.Dispose();
        plain.Dispose();
        awake.Dispose();
        base.Dispose();
    }

    protected override async Task ExecuteAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            try
            {
                var idle = Webhooks.Keys.Where(name => !busy.ContainsKey(name)).ToList();
                foreach (var claim in await store.ClaimAsync(idle, Lease, stopping)) busy[claim.Webhook] = RunAsync(claim, stopping);
            }
            catch (Exception failure) when (!stopping.IsCancellationRequested)
            {
                AlertLog.Failed(log, failure);
            }
            catch (OperationCanceledException)
            {
                break;
            }
            await awake.WaitAsync(Tick, stopping).ContinueWith(_ => { }, TaskScheduler.Default);
        }
        await Task.WhenAll(busy.Values);
    }

    private Dictionary<string, WebhookConfig> Webhooks => state.Current?.Document.Webhooks.ToDictionary(webhook => webhook.Name) ?? [];

    // Until nothing is due for this webhook.
    private async Task RunAsync(DeliveryClaim first, CancellationToken stopping)
    {
        await Task.Yield();   // so that it is known as busy before it is done
        try
        {
            for (DeliveryClaim? claim = first; claim is not null; claim = (await store.ClaimAsync([first.Webhook], Lease, stopping)).SingleOrDefault())
            {
                var result = Webhooks.GetValueOrDefault(claim.Webhook) is { } webhook ? await SendAsync(webhook, claim, stopping) : new DeliveryResult(false, null, "the webhook is no longer configured");
                var now = await store.KeepAsync(claim, result, DeliveryRules.Backoff(claim.Attempts, result.RetryAfter, Random.Shared.NextDouble()), stopping);
                if (now == "given_up") AlertLog.GivenUp(log, claim.Webhook, claim.NoticeId, result.Words);
                else if (!result.Taken) AlertLog.NotTaken(log, claim.Webhook, claim.NoticeId, claim.Attempts, result.Words);
            }
        }
        catch (Exception failure) when (!stopping.IsCancellationRequested)
        {
            AlertLog.Failed(log, failure);   // the lease runs out
        }
        catch (OperationCanceledException)
        {
        }
        finally
        {
            busy.TryRemove(first.Webhook, out _);
        }
    }

    private async Task<DeliveryResult> SendAsync(WebhookConfig webhook, DeliveryClaim claim, CancellationToken stopping)
    {
        var resolved = await secrets.ResolveAsync(webhook.Secret is null ? [webhook.Url] : [webhook.Url, webhook.Secret], stopping);
        if (resolved.Values.Select(secret => secret.Fault).FirstOrDefault(fault => fault is not null) is { } fault) return new DeliveryResult(false, null, fault);
        if (!Uri.TryCreate(resolved[webhook.Url].Value, UriKind.Absolute, out var url) || url.Scheme is not ("http" or "https") || url.UserInfo.Length > 0)
        {
            return new DeliveryResult(false, null, "the URL is not an http or https address");
        }
        if (url.Scheme == "http" && !IsLoopback(url.Host) && !PrivateTargets)
        {
            return new DeliveryResult(false, null, "http goes to loopback only; use https, or allow gateway.webhook_private_targets");
        }

        var body = Notices.Body(claim.Notice, webhook.Format);
        using var request = new HttpRequestMessage(HttpMethod.Post, url) { Content = new ByteArrayContent(body) { Headers = { ContentType = new MediaTypeHeaderValue("application/json") } } };
        request.Headers.UserAgent.Add(new ProductInfoHeaderValue("Evenkeel", "1"));
        request.Headers.Add("x-evenkeel-notice-id", claim.NoticeId.ToString());
        if (webhook.Secret is { } reference) request.Headers.Add("x-evenkeel-signature", Notices.Signature(resolved[reference].Value!, body, time.GetUtcNow()));

        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(stopping);
        bounded.CancelAfter(SendTimeout);
        try
        {
            using var answer = await (url.Scheme == "https" ? secure : plain).SendAsync(request, HttpCompletionOption.ResponseHeadersRead, bounded.Token);
            var status = (int)answer.StatusCode;
            if (answer.IsSuccessStatusCode) return new DeliveryResult(true, status, "");
            var words = status is >= 300 and < 400 ? "redirects are not followed" : await WordsAsync(answer, bounded.Token);
            return new DeliveryResult(false, status, words, answer.Headers.RetryAfter?.Delta);
        }
        catch (OperationCanceledException) when (!stopping.IsCancellationRequested)
        {
            return new DeliveryResult(false, null, $"no answer within {SendTimeout.TotalSeconds} s");
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException)
        {
            // A message may name the whole URL, which is a secret; what lies below does not.
            return new DeliveryResult(false, null, failure.InnerException switch
            {
                TargetRefusedException refused => refused.Message,
                SocketException { SocketErrorCode: SocketError.HostNotFound or SocketError.NoData or SocketError.TryAgain } => "the host's name has no address",
                SocketException socket => socket.SocketErrorCode.ToString(),
                System.Security.Authentication.AuthenticationException tls => "TLS: " + tls.Message,
                _ => failure is HttpRequestException http ? http.HttpRequestError.ToString() : "the connection broke",
            });
        }
    }

    private static async Task<string> WordsAsync(HttpResponseMessage answer, CancellationToken cancel)
    {
        var buffer = new byte[AnswerBytes];
        await using var stream = await answer.Content.ReadAsStreamAsync(cancel);
        var length = await stream.ReadAtLeastAsync(buffer, buffer.Length, throwOnEndOfStream: false, cancel);
        return new string([.. Encoding.UTF8.GetString(buffer, 0, length).Where(c => !char.IsControl(c) && !char.IsSurrogate(c))]);
    }

    private bool PrivateTargets => state.Current?.Document.Gateway.WebhookPrivateTargets == true;

    private bool Allows(string host, AddressKind kind) =>
        kind == AddressKind.Loopback ? IsLoopback(host) : kind == AddressKind.Private && PrivateTargets && !IsLoopback(host);

    private static bool IsLoopback(string host) =>
        host.Equals("localhost", StringComparison.OrdinalIgnoreCase)
        || (IPAddress.TryParse(host.Trim('[', ']'), out var address) && AddressRules.KindOf(address) == AddressKind.Loopback);

    private static HttpClient Client(Func<string, AddressKind, bool> allows) =>
        new(GuardedHttp.Handler(allows, TimeSpan.FromSeconds(5))) { Timeout = Timeout.InfiniteTimeSpan };
}
