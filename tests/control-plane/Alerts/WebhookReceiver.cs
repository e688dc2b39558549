using System.Collections.Concurrent;
using System.Text;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Evenkeel.Tests.Alerts;

/// <summary>Somebody's chat server: takes what webhooks are told, and answers as it is told.</summary>
internal sealed class WebhookReceiver : IAsyncDisposable
{
    private readonly WebApplication app;

    private WebhookReceiver(WebApplication app) => this.app = app;

    public sealed record Call(string Path, string NoticeId, string? Signature, byte[] Body)
    {
        public JsonNode Json => JsonNode.Parse(Encoding.UTF8.GetString(Body))!;
    }

    public string Url { get; private init; } = "";
    public ConcurrentQueue<Call> Calls { get; } = new();

    /// <summary>Number of the call, from 1 → status and where a redirect leads.</summary>
    public Func<int, (int Status, string? Location)> Answer { get; set; } = _ => (200, null);

    public static async Task<WebhookReceiver> StartAsync()
    {
        var url = $"http://127.0.0.1:{Agent.AgentNode.FreePort()}";
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls(url);
        var app = builder.Build();
        var receiver = new WebhookReceiver(app) { Url = url };
        app.Run(receiver.TakeAsync);
        await app.StartAsync();
        return receiver;
    }

    public async ValueTask DisposeAsync()
    {
        using var now = new CancellationTokenSource(TimeSpan.Zero);
        await app.StopAsync(now.Token);
        await app.DisposeAsync();
    }

    private async Task TakeAsync(HttpContext context)
    {
        using var body = new MemoryStream();
        await context.Request.Body.CopyToAsync(body);
        var headers = context.Request.Headers;
        Calls.Enqueue(new Call(context.Request.Path, headers["x-evenkeel-notice-id"].ToString(), headers.TryGetValue("x-evenkeel-signature", out var signature) ? signature.ToString() : null, body.ToArray()));
        var (status, location) = Answer(Calls.Count);
        context.Response.StatusCode = status;
        if (location is not null) context.Response.Headers.Location = location;
        await context.Response.WriteAsync(status < 300 ? "ok" : "no, thank you");
    }
}
