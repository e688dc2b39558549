using System.Diagnostics;
using System.Text.Json;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>
/// Thirty days of a hundred calls of every kind, pressed into a minute or less, to three instances whose prices change meanwhile: from a date
/// on, into another currency, and where an off-peak window ends and another begins. No call ends at the very moment of a change, so
/// each has one price. The access log is rotated twice under it: as an operator would, and by its size.
/// </summary>
public sealed class Month(SharedStack shared) : IAsyncLifetime
{
    private const int Days = 30, CallsADay = 100, Callers = 16;

    /// <summary>Of an answer that stalls.</summary>
    private const int Words = 5;

    // Quiet: the longest that a call may take on a busy machine, for none may be under way when a price changes.
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(4), Margin = TimeSpan.FromMilliseconds(100);

    internal static readonly string[] Instances = ["month-a", "month-b", "month-c"];

    /// <summary>What a call is to meet goes by its model.</summary>
    internal static readonly string[] Models = ["month-model", "month-think", "month-mute", "month-cut", "month-leave", "month-late", "month-broken", "month-lesser"];

    private readonly List<string> _refused = [];
    private readonly List<DateTimeOffset> _changes = [];
    private DateTimeOffset _edge;
    private int _next;

    /// <summary>Of every call that was made.</summary>
    internal IReadOnlyList<string> RequestIds => [.. Enumerable.Range(0, Days * CallsADay).Select(Id)];

    /// <summary>What clients got that they should not have got.</summary>
    internal IReadOnlyList<string> Refused => _refused;

    internal DateTimeOffset Began { get; private set; }

    /// <summary>When a price changed.</summary>
    internal IEnumerable<DateTimeOffset> Changes => _changes.Order();

    internal Dictionary<string, PriceList> Prices { get; } = [];

    public async Task InitializeAsync()
    {
        Began = DateTimeOffset.UtcNow;
        var always = new DateTimeOffset(2025, 1, 1, 0, 0, 0, TimeSpan.Zero);
        TimeOnly before, edge, after;
        do
        {
            // Off-peak windows begin and end with the minute: with the next one that leaves time for some calls before it.
            _edge = new DateTimeOffset(DateTimeOffset.UtcNow.AddSeconds(12).UtcTicks / TimeSpan.TicksPerMinute * TimeSpan.TicksPerMinute, TimeSpan.Zero).AddMinutes(1);
            edge = TimeOnly.FromDateTime(_edge.UtcDateTime);
            (before, after) = (edge.AddMinutes(-10), edge.AddMinutes(10));
            // A thousand times what is usual, so that a month comes to more than a few cents.
            Prices["month-a"] = new([new(always, "USD", new(270, 70, 1100), new(before, edge, new(135, 35, 550)))]);
            Prices["month-b"] = new([new(always, "EUR", new(300, null, 1200), new(edge, after, new(150, null, 600)))]);
            Prices["month-c"] = new([new(always, "CNY", new(2000, 500, 8000))]);
            await PublishAsync();
        }
        while (DateTimeOffset.UtcNow > _edge - 2 * Quiet);
        _changes.Add(_edge);
        Script();
        await CallAsync(Days * CallsADay / 3);
        await MoveAccessLogAsync();

        await ChangeAsync("month-a", at => new Price(at, "USD", new(310.5m, 81.125m, 1250.75m), new(before, edge, new(155.25m, 40.5m, 625.375m))));
        await CallAsync(Days * CallsADay * 2 / 3);
        SwellAccessLog();

        await ChangeAsync("month-b", at => new Price(at, "USD", new(320, null, 1300)));
        await CallAsync(Days * CallsADay * 5 / 6);
        await UntilAsync(_edge + Margin);
        await Wait.Until(() => File.Exists(AccessLog + ".1"), "the access log was rotated by its size");
        await CallAsync(Days * CallsADay);

        foreach (var name in Instances)
        {
            await shared.Providers.Ledger.WaitAsync(entries => entries.All(entry => entry.Ended), name);
            shared.Providers[name].ClearFaults();
        }
    }

    public Task DisposeAsync() => Task.CompletedTask;

    // ---- prices

    /// <summary>A price with a date that is still to come, and the wait for it; nothing is asked meanwhile.</summary>
    private async Task ChangeAsync(string instance, Func<DateTimeOffset, Price> priceFrom)
    {
        var at = DateTimeOffset.FromUnixTimeSeconds(DateTimeOffset.UtcNow.ToUnixTimeSeconds() + 2);
        Prices[instance] = new([.. Prices[instance].Prices, priceFrom(at)]);
        await PublishAsync();
        _changes.Add(at);
        await UntilAsync(at + Margin);
    }

    private async Task PublishAsync()
    {
        var revision = 0L;
        foreach (var (name, list) in Prices) revision = await shared.Admin.ChangeInstanceAsync(name, new { prices = list.ToJson() });
        await shared.Admin.AcknowledgedAsync(revision);
    }

    private static async Task UntilAsync(DateTimeOffset at)
    {
        if (at - DateTimeOffset.UtcNow is { Ticks: > 0 } rest) await Task.Delay(rest);
    }

    // ---- traffic

    private void Script()
    {
        foreach (var name in Instances)
        {
            Add(name, "reasoning_first=6", "month-think");
            Add(name, "usage_chunk=off", "month-mute");
            Add(name, $"stall_after_tokens={Words};stall_ms=30000", "month-leave");
            Add(name, "delay=30000", "month-late");
        }
        Add("month-a", "cut_after_tokens=8", "month-cut");
        Add("month-a", "error_json_200", "month-broken");
        foreach (var name in Instances[..2]) Add(name, "status=503", "month-lesser");

        void Add(string instance, string fault, string model) => shared.Providers[instance].AddFault(fault, match: new FaultMatch(Model: model));
    }

    /// <summary>Until so many calls of the month are made; none around the edge of the off-peak windows.</summary>
    private Task CallAsync(int upTo) => Task.WhenAll(Enumerable.Range(0, Callers).Select(_ => Task.Run(async () =>
    {
        while (Interlocked.Increment(ref _next) - 1 is var call && call < upTo)
        {
            if (DateTimeOffset.UtcNow > _edge - Quiet) await UntilAsync(_edge + Margin);
            if (call % CallsADay == 50) shared.Providers["month-a"].AddFault("status=503", times: 2, match: new FaultMatch(Model: "month-model"));
            if (call % (CallsADay * 6) == 250) shared.Providers["month-a"].AddFault("status=429;retry_after=1", times: 1, match: new FaultMatch(Model: "month-model"));
            if (await RefusedAsync(call) is { } words)
            {
                lock (_refused) _refused.Add($"call {call}: {words}");
            }
        }
        Interlocked.Decrement(ref _next);
    })));

    private static string Id(int call) => $"month-{call}-of-it";

    private async Task<string?> RefusedAsync(int call)
    {
        var prompt = $"Question {call} of the month" + string.Concat(Enumerable.Repeat(", and some more words", call % 7)) + "?";
        return (call % CallsADay) switch
        {
            < 38 => Whole(await PostAsync("chat/completions", new { model = "month-model", messages = Messages() })),
            < 40 => Whole(await PostAsync("chat/completions", new { model = "month-lesser", messages = Messages() })),
            < 65 => Done(await StreamAsync("month-model")),
            < 70 => Whole(await PostAsync("chat/completions", new { model = "month-think", messages = Messages() })),
            < 75 => Done(await StreamAsync("month-think")),
            < 80 => Done(await StreamAsync("month-mute")),
            < 86 => Done(await StreamAsync("month-cut")),
            < 89 => await LeaveAsync("month-leave", afterText: true),
            < 94 => Whole(await PostAsync("embeddings", new { model = "month-model", input = prompt })),
            < 98 => Whole(await PostAsync("completions", new { model = "month-model", prompt })),
            98 => Whole(await PostAsync("chat/completions", new { model = "month-broken", messages = Messages() })),
            _ => await LeaveAsync("month-late", afterText: false),
        };

        object[] Messages() => [new { role = "system", content = "You are terse." }, new { role = "user", content = prompt }];

        Task<Reply> PostAsync(string path, object body) => shared.Gateway.PostAsync("/v1/" + path, JsonSerializer.Serialize(body), ("x-request-id", Id(call)));

        Task<StreamedReply> StreamAsync(string model) => shared.Gateway.StreamAsync(model, prompt, id: Id(call));

        // When all words have come that ever will; or before any has, once the provider is at it.
        async Task<string?> LeaveAsync(string model, bool afterText)
        {
            if (afterText) return (await shared.Gateway.LeaveAfterAsync(Words, model, prompt, Id(call))).Done ? "it was not left" : null;
            using var leave = new CancellationTokenSource();
            var asked = shared.Gateway.StreamAsync(model, prompt, leave: leave.Token, id: Id(call));
            await shared.Providers.Ledger.WaitAsync(entries => entries.Any(entry => entry.RequestId == Id(call)));
            await leave.CancelAsync();
            return (await asked).Done ? "it was not left" : null;
        }

        static string? Whole(Reply reply) => reply.Status == 200 ? null : reply.ToString();

        static string? Done(StreamedReply stream) => stream.Done ? null : stream.ToString();
    }

    // ---- the access log

    internal string AccessLog => shared.Stack.PathOf("node/logs/access.log");

    private async Task MoveAccessLogAsync()
    {
        File.Move(AccessLog, AccessLog + ".moved");
        using var kill = Process.Start("kill", ["-USR1", $"{shared.Stack.Pid("nginx")}"]);
        await kill.WaitForExitAsync();
    }

    // A hole is as good as many lines.
    private void SwellAccessLog()
    {
        using var log = new FileStream(AccessLog, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
        log.SetLength(log.Length + 65L * 1024 * 1024);
    }
}

/// <summary>Per million tokens. Cached: null is as input.</summary>
internal sealed record Rates(decimal Input, decimal? Cached, decimal Output)
{
    /// <summary>In billionths.</summary>
    public decimal Of(int input, int cached, int output) => (((input - cached) * Input) + (cached * (Cached ?? Input)) + (output * Output)) * 1000;

    public object ToJson(object more) => Config.Merge(Config.Json(Cached is null
        ? new { input_per_million = Input, output_per_million = Output }
        : new { input_per_million = Input, cached_input_per_million = Cached, output_per_million = Output }), more);
}

/// <summary>Times of the UTC day; To does not belong to it.</summary>
internal sealed record OffPeak(TimeOnly From, TimeOnly To, Rates Rates);

internal sealed record Price(DateTimeOffset From, string Currency, Rates Rates, OffPeak? OffPeak = null);

/// <summary>An instance's prices in the order of their dates: the calculation that the gateway's is held against.</summary>
internal sealed record PriceList(Price[] Prices)
{
    public (Rates Rates, string Currency) At(DateTimeOffset at)
    {
        var price = Prices.Last(one => one.From <= at);
        return (price.OffPeak is { } low && TimeOnly.FromDateTime(at.UtcDateTime).IsBetween(low.From, low.To) ? low.Rates : price.Rates, price.Currency);
    }

    public object[] ToJson() => [.. Prices.Select(price => price.Rates.ToJson(new
    {
        from = price.From.UtcDateTime,
        currency = price.Currency,
        off_peak = price.OffPeak is { } low ? new[] { low.Rates.ToJson(new { from = low.From.ToString("HH:mm"), to = low.To.ToString("HH:mm") }) } : [],
    }))];
}
