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
    private (long Revision, long State, string Digest) held;
    private readonly ConcurrentDictionary<string, int> knocking = new();
    private int inFlight;

    private FakeNode(WebApplication app) => this.app = app;

    public string Url { get; private init; } = "";
    public ConcurrentQueue<JsonElement> Taken { get; } = new();
    public int Pushes;
    public int MostPushesAtOnce;

    /// <summary>What callers have to show.</summary>
    public string Token { get; set; } = ControlPlane.NodeToken;

    /// <summary>Faults to refuse every snapshot with.</summary>
    public string[]? Refuses { get; set; }
    public string TextDigest { get; set; } = "";
    public TimeSpan PushTakes { get; set; } = TimeSpan.Zero;

    /// <summary>How an instance's door answers: status, the adapter's word, body. By default all is well.</summary>
    public Func<string, string, (int Status, string? Outcome, string Body)> Door { get; set; } = (_, _) => (200, null, "{}");
    public TimeSpan DoorTakes { get; set; } = TimeSpan.Zero;

    /// <summary>Who was asked for what.</summary>
    public ConcurrentQueue<(string Instance, string Path, DateTime At)> Knocks { get; } = new();

    /// <summary>The most calls that were under way at one door.</summary>
    public int MostKnocksAtOnce;

    /// <summary>What GET /events answers.</summary>
    public Func<long, string> Events { get; set; } = _ => """{"events":[],"begin":0,"last":0,"dropped":0}""";

    /// <summary>What GET /telemetry, GET /traces and GET /stats answer.</summary>
    public Func<long, long, string> Telemetry { get; set; } = (_, _) => """{"seq":0,"series":[]}""";
    public Func<long, string> Traces { get; set; } = _ => """{"traces":[],"begin":0,"last":0,"dropped":0,"sampled_out":0}""";
    public Func<string> Stats { get; set; } = () => """{"instances":{},"pools":{}}""";
    /// <summary>What PUT /spending was told, and what it answers.</summary>
    public ConcurrentQueue<JsonElement> SpendingOrders { get; } = new();
    public string Spent { get; set; } = """{"born":1,"clients":{}}""";

    /// <summary>What POST /samples/_take answers.</summary>
    public string Samples { get; set; } = """{"samples":[]}""";

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
            if (context.Request.Headers.Authorization == "Bearer " + node.Token) await next(context);
            else context.Response.StatusCode = 401;
        });
        app.MapPut("/snapshot", (Delegate)node.PutAsync);
        app.MapGet("/status", () => Results.Json(node.Status()));
        app.Map("/instances/{name}/{**rest}", (Delegate)node.KnockAsync);
        app.MapPost("/samples/_take", () => Results.Content(node.Samples, "application/json"));
        app.MapPut("/spending", async (HttpRequest request) =>
        {
            var order = (await JsonDocument.ParseAsync(request.Body)).RootElement;
            node.SpendingOrders.Enqueue(order);
            return Results.Content(node.Spent, "application/json");
        });
        app.MapGet("/events", (long after) => Results.Content(node.Events(after), "application/json"));
        app.MapGet("/telemetry", (long after, long? from) => Results.Content(node.Telemetry(after, from ?? 0), "application/json"));
        app.MapGet("/traces", (long after) => Results.Content(node.Traces(after), "application/json"));
        app.MapGet("/stats", () => Results.Content(node.Stats(), "application/json"));
        await app.StartAsync();
        return node;
    }

    public long Revision { get { lock (gate) return held.Revision; } }

    /// <summary>As after a restart without a snapshot on disk.</summary>
    public void Forget() => Hold(0, "");

    public void Hold(long revision, string digest, long state = 0) { lock (gate) held = (revision, state, digest); }

    public string Digest { get { lock (gate) return held.Digest; } }

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
            var (revision, state, digest) = (snapshot.GetProperty("revision").GetInt64(), snapshot.GetProperty("state").GetInt64(), snapshot.GetProperty("digest").GetString()!);
            lock (gate)
            {
                if ((revision, state).CompareTo((held.Revision, held.State)) < 0) return Results.StatusCode(409);
                if ((revision, state, digest) == held) return Results.StatusCode(204);
                held = (revision, state, digest);
                Taken.Enqueue(snapshot);        // with it: whoever sees the revision looks at this one
            }
            return Results.StatusCode(202);
        }
        finally
        {
            Interlocked.Decrement(ref inFlight);
        }
    }

    private async Task<IResult> KnockAsync(HttpContext context, string name, string rest)
    {
        Knocks.Enqueue((name, "/" + rest, DateTime.UtcNow));
        var atOnce = knocking.AddOrUpdate(name, 1, (_, count) => count + 1);
        try
        {
            lock (gate) MostKnocksAtOnce = Math.Max(MostKnocksAtOnce, atOnce);
            await Task.Delay(DoorTakes, context.RequestAborted);
            var (status, outcome, body) = Door(name, "/" + rest);
            if (outcome is not null) context.Response.Headers["x-ek-outcome"] = outcome;
            return Results.Content(body, "application/json", statusCode: status);
        }
        finally
        {
            knocking.AddOrUpdate(name, 0, (_, count) => count - 1);
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
            return new { revision = held.Revision, state = held.State, digest = held.Digest, text_digest = TextDigest, master_pid = 9, workers };
        }
    }
}
