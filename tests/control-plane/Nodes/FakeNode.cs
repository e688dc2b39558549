using System.Collections.Concurrent;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Evenkeel.Tests.Nodes;

/// <summary>The admin listener of a node, as far as the control plane sees it; two workers that take a snapshot after a moment.</summary>
internal sealed class FakeNode : IAsyncDisposable
{
    private readonly WebApplication app;
    private readonly Lock gate = new();
    private (long Revision, string Digest) held;
    private int inFlight;

    private FakeNode(WebApplication app) => this.app = app;

    public string Url { get; private init; } = "";
    public ConcurrentQueue<JsonElement> Taken { get; } = new();
    public int Pushes;
    public int MostPushesAtOnce;

    /// <summary>Faults to refuse every snapshot with.</summary>
    public string[]? Refuses { get; set; }
    public string TextDigest { get; set; } = "";
    public TimeSpan PushTakes { get; set; } = TimeSpan.Zero;

    /// <summary>A worker that drains after a reload: alive, silent, and of the past.</summary>
    public bool HasDrainingWorker { get; set; }

    public static async Task<FakeNode> StartAsync()
    {
        var url = $"http://127.0.0.1:{Agent.AgentNode.FreePort()}";
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls(url);
        var app = builder.Build();
        var node = new FakeNode(app) { Url = url };
        app.Use(async (context, next) =>
        {
            if (context.Request.Headers.Authorization == "Bearer " + ControlPlane.NodeToken) await next(context);
            else context.Response.StatusCode = 401;
        });
        app.MapPut("/snapshot", (Delegate)node.PutAsync);
        app.MapGet("/status", () => Results.Json(node.Status()));
        await app.StartAsync();
        return node;
    }

    public long Revision { get { lock (gate) return held.Revision; } }

    /// <summary>As after a restart without a snapshot on disk.</summary>
    public void Forget() => Hold(0, "");

    public void Hold(long revision, string digest) { lock (gate) held = (revision, digest); }

    public async ValueTask DisposeAsync()
    {
        using var now = new CancellationTokenSource(TimeSpan.Zero);
        await app.StopAsync(now.Token);
        await app.DisposeAsync();
    }

    private async Task<IResult> PutAsync(HttpContext context)
    {
        Interlocked.Increment(ref Pushes);
        var atOnce = Interlocked.Increment(ref inFlight);
        try
        {
            lock (gate) MostPushesAtOnce = Math.Max(MostPushesAtOnce, atOnce);
            var snapshot = (await JsonDocument.ParseAsync(context.Request.Body)).RootElement;
            await Task.Delay(PushTakes);
            if (Refuses is { } faults) return Results.Json(new { errors = faults }, statusCode: 422);
            var (revision, digest) = (snapshot.GetProperty("revision").GetInt64(), snapshot.GetProperty("digest").GetString()!);
            lock (gate)
            {
                if (revision < held.Revision) return Results.StatusCode(409);
                if ((revision, digest) == held) return Results.StatusCode(204);
                held = (revision, digest);
            }
            Taken.Enqueue(snapshot);
            return Results.StatusCode(202);
        }
        finally
        {
            Interlocked.Decrement(ref inFlight);
        }
    }

    private object Status()
    {
        lock (gate)
        {
            var workers = new List<object>
            {
                new { pid = 11, revision = held.Revision, text_digest = TextDigest, age_s = 0.1 },
                new { pid = 12, revision = held.Revision, text_digest = TextDigest, age_s = 0.2 },
            };
            if (HasDrainingWorker) workers.Add(new { pid = 10, revision = 1, text_digest = new string('0', 64), age_s = 77.5 });
            return new { revision = held.Revision, digest = held.Digest, text_digest = TextDigest, master_pid = 9, workers };
        }
    }
}
