using System.Collections.Concurrent;
using Evenkeel.Failover;

namespace Evenkeel.Chaos;

/// <summary>What a client got, from best to worst. From <see cref="Unclean"/> on it is never allowed.</summary>
internal enum Got
{
    Whole,
    /// <summary>It left on purpose.</summary>
    Left,
    /// <summary>A kept connection was closed before the request was read: it was asked for nowhere. HTTP clients ask again.</summary>
    Unread,
    /// <summary>An error in OpenAI's shape, or an error event at the end of a stream.</summary>
    CleanError,
    /// <summary>The connection broke, or nobody listened: nobody takes that for an answer.</summary>
    Broken,
    /// <summary>Neither whole nor an error that an application could act on; above all, a part that is presented as the whole.</summary>
    Unclean,
    Hung,
}

/// <summary>One answer and its verdict.</summary>
internal sealed record Judged(Exchange Exchange, Got Got, string Why)
{
    /// <summary>By the name that the caller gave it.</summary>
    public string RequestId => Exchange.Ask.Headers.FirstOrDefault(header => header.Name == "x-request-id").Value ?? "";

    /// <param name="wasRead">Whether the gateway or a provider has seen a request id.</param>
    public Judged Known(Func<string, bool> wasRead) =>
        Got == Got.Broken && Exchange.Status == 0 && RequestId.Length > 0 && !wasRead(RequestId) ? this with { Got = Got.Unread } : this;

    public static Judged Of(Exchange exchange)
    {
        if (exchange.LeftAt is not null) return new(exchange, Got.Left, "");
        var defects = Wholeness.Defects(exchange, Expected.For(exchange, Scene.Tokens));
        var why = string.Join("; ", defects.Concat(exchange.Errors.Select(Wholeness.Short)).Take(4));
        return new(exchange, exchange.Hung ? Got.Hung
            : defects.Count == 0 ? Got.Whole
            : Wholeness.IsCleanError(exchange) ? Got.CleanError
            : exchange.Status == 0 || exchange.Break is not null ? Got.Broken
            : Got.Unclean, why);
    }
}

/// <summary>Callers that ask again and again, streams and JSON, some of whom leave in the middle; every answer is judged.</summary>
internal sealed class Load
{
    private const int Callers = 12;

    private readonly ConcurrentQueue<Judged> _judged = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _callers;

    public Load(GatewayClient client, int seed)
    {
        _callers = Task.WhenAll(Enumerable.Range(0, Callers).Select(caller => Task.Run(async () =>
        {
            var random = new Random(seed * 1000 + caller);
            while (!_stop.IsCancellationRequested)
            {
                var ask = new Ask(Stream: random.Next(3) > 0) { KeepEvents = false, Limit = TimeSpan.FromSeconds(60), Headers = [("x-request-id", Guid.NewGuid().ToString("n"))] };
                if (ask.Stream && random.Next(10) == 0) ask = ask with { LeaveAfterPieces = random.Next(1, Scene.Tokens) };
                var judged = Judged.Of(await client.AskAsync(Scene.Model, ask));
                _judged.Enqueue(judged);
                if (judged.Got is not (Got.Whole or Got.Left)) await Task.Delay(50);      // no busy loop against a closed door
            }
        })));
    }

    public int Whole => _judged.Count(judged => judged.Got == Got.Whole);

    /// <summary>Lets the last calls end, and gives all answers.</summary>
    public async Task<IReadOnlyList<Judged>> StopAsync()
    {
        await _stop.CancelAsync();
        await _callers;
        _stop.Dispose();
        return [.. _judged];
    }
}
