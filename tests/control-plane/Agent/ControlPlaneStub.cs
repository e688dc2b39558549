using System.Collections.Concurrent;
using Evenkeel.Auth;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Evenkeel.Tests.Agent;

/// <summary>What the agent sees of a control plane: the text it should run, a long poll, and a place for its reports.</summary>
internal sealed class ControlPlaneStub(int port) : IAsyncDisposable
{
    public const string Token = "node-token-of-this-test";

    private WebApplication? app;
    private volatile Desired? desired;

    /// <summary>Its listener, when it speaks TLS.</summary>
    public EvenkeelOptions? Tls { get; set; }

    public string Url => Tls?.Listen ?? $"http://127.0.0.1:{port}";
    public ConcurrentQueue<Report> Reports { get; } = new();
    public ConcurrentQueue<string> Polls { get; } = new();
    public int Unauthorized;

    /// <summary>What the node has to show.</summary>
    public string Accepted { get; set; } = Token;

    /// <summary>The one-time token that lets a node enrol, and how many answers to that get lost.</summary>
    public string? OneTime { get; set; }
    public int LostAnswers { get; set; }
    public ConcurrentQueue<string> Enrolled { get; } = new();

    public void Want(string text, string digest, int revision) => desired = new Desired(text, digest, revision);

    public async Task StartAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls(Url);
        if (Tls is { } tls) builder.WebHost.UseKestrelHttpsConfiguration().ConfigureKestrel(kestrel => ListenerTls.Configure(kestrel, tls));
        app = builder.Build();
        app.Use(async (context, next) =>
        {
            var wanted = context.Request.Path == "/node/v1/enrol" ? OneTime : Accepted;
            if (context.Request.Headers.Authorization == "Bearer " + wanted) await next(context);
            else { Interlocked.Increment(ref Unauthorized); context.Response.StatusCode = 401; }
        });
        app.MapGet("/node/v1/{node}/nginx.conf", async (HttpContext context, string have, double wait_s) =>
        {
            Polls.Enqueue(context.Request.QueryString.Value!);
            for (var deadline = DateTime.UtcNow.AddSeconds(wait_s); desired is null || desired.Digest == have;)
            {
                if (DateTime.UtcNow >= deadline) return Results.StatusCode(desired is null ? 503 : 204);
                await Task.Delay(20, context.RequestAborted);
            }
            context.Response.Headers["X-Evenkeel-Revision"] = desired.Revision.ToString();
            context.Response.Headers["X-Evenkeel-Text-Digest"] = desired.Digest;
            return Results.Text(desired.Text, "text/plain");
        });
        app.MapPost("/node/v1/{node}/reports", async (HttpContext context, int revision, string text_digest, string result, string stage) =>
        {
            Reports.Enqueue(new Report(revision, text_digest, result, stage, await new StreamReader(context.Request.Body).ReadToEndAsync()));
            return Results.NoContent();
        });
        app.MapPost("/node/v1/enrol", async (HttpContext context, string node) =>
        {
            Accepted = (await new StreamReader(context.Request.Body).ReadToEndAsync()).Trim();
            Enrolled.Enqueue(Accepted);
            if (LostAnswers-- <= 0) return Results.NoContent();
            context.Abort();
            return Results.Empty;
        });
        await app.StartAsync();
    }

    public async ValueTask DisposeAsync()
    {
        if (app is { } running)
        {
            app = null;
            using var now = new CancellationTokenSource(TimeSpan.Zero);
            await running.StopAsync(now.Token);
            await running.DisposeAsync();
        }
    }

    public sealed record Report(int Revision, string Digest, string Result, string Stage, string Words);

    private sealed record Desired(string Text, string Digest, int Revision);
}
