using Evenkeel.Failover;
using Evenkeel.Provider;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

namespace Evenkeel.Chaos.Tests;

/// <summary>A suite that passes whatever happens is worth nothing: what is bad has to be found bad.</summary>
public sealed class VerdictTests
{
    // ---- answers

    private static Exchange Streamed(Action<List<string>>? spoil = null)
    {
        var exchange = new Exchange(new Ask(), GatewayClient.Body(Scene.Model, new Ask())) { Status = 200, Headers = { ["content-type"] = "text/event-stream" } };
        var words = Answer.Text(exchange.RequestJson, Scene.Tokens, 0);
        var half = words.IndexOf(' ', words.Length / 2);
        var events = new List<string> { Chunk(words[..half]), Chunk(words[half..]), """{"id":"a","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}""", "[DONE]" };
        spoil?.Invoke(events);
        foreach (var data in events) exchange.TakeEvent(1, data);
        return exchange;

        static string Chunk(string text) => $$"""{"id":"a","created":1,"model":"m","choices":[{"index":0,"delta":{"content":{{System.Text.Json.JsonSerializer.Serialize(text)}}},"finish_reason":null}]}""";
    }

    private static Exchange Refused(int status, string body)
    {
        var exchange = new Exchange(new Ask(Stream: false), GatewayClient.Body(Scene.Model, new Ask(Stream: false))) { Status = status, Headers = { ["content-type"] = "application/json" }, Body = body };
        exchange.TakeBody(1);
        return exchange;
    }

    private const string CleanError = """{"error":{"message":"busy","type":"server_error"}}""";

    [Fact]
    public void A_whole_answer_is_whole() => Assert.Equal(Got.Whole, Judged.Of(Streamed()).Got);

    public static TheoryData<string> PartsAsTheWhole => ["cut", "doubled", "out of order", "without [DONE]", "twice [DONE]", "without a finish reason", "another's text", "after [DONE]"];

    [Theory]
    [MemberData(nameof(PartsAsTheWhole))]
    public void A_part_or_a_mixture_that_is_presented_as_the_whole_is_never_allowed(string how)
    {
        var judged = Judged.Of(Streamed(events =>
        {
            switch (how)
            {
                case "cut": events.RemoveAt(1); break;
                case "doubled": events.Insert(1, events[0]); break;
                case "out of order": events.Reverse(0, 2); break;
                case "without [DONE]": events.RemoveAt(3); break;
                case "twice [DONE]": events.Add("[DONE]"); break;
                case "without a finish reason": events.RemoveAt(2); break;
                case "another's text": events[0] = events[0].Replace("\"content\":\"", "\"content\":\"And ", StringComparison.Ordinal); break;
                case "after [DONE]": events.Add(events[1]); break;
            }
        }));
        Assert.Equal(Got.Unclean, judged.Got);
        Assert.All(Enum.GetValues<Cost>(), cost => Assert.NotNull(Verdicts.Of(cost, [judged])));
    }

    [Fact]
    public void What_hangs_is_never_allowed()
    {
        var hung = Streamed(events => events.RemoveRange(1, 3));
        hung.Hung = true;
        Assert.Equal(Got.Hung, Judged.Of(hung).Got);
        Assert.NotNull(Verdicts.Of(Cost.Connections, [Judged.Of(hung)]));
    }

    [Fact]
    public void An_error_may_be_had_only_where_the_blow_may_cost_it()
    {
        var refused = Judged.Of(Refused(503, CleanError));
        var brokenOff = Judged.Of(Streamed(events => { events.RemoveRange(1, 3); events.Add(CleanError); }));
        Assert.Equal((Got.CleanError, Got.CleanError), (refused.Got, brokenOff.Got));
        Assert.NotNull(Verdicts.Of(Cost.Nothing, [refused]));
        Assert.NotNull(Verdicts.Of(Cost.Nothing, [brokenOff]));
        Assert.Null(Verdicts.Of(Cost.Errors, [refused, brokenOff]));
    }

    [Fact]
    public void An_error_that_nobody_can_act_on_is_never_allowed()
    {
        Exchange[] unclean =
        [
            Refused(503, "<html>Service Unavailable</html>"), Refused(200, CleanError), Refused(200, "{}"),
            Streamed(events => { events.RemoveRange(1, 3); events.Add(CleanError); events.Add("[DONE]"); }),
        ];
        Assert.All(unclean, exchange => Assert.NotNull(Verdicts.Of(Cost.Connections, [Judged.Of(exchange)])));
    }

    [Fact]
    public void A_broken_connection_may_be_had_only_where_the_blow_may_cost_it()
    {
        var broken = Streamed(events => events.RemoveRange(1, 3));
        broken.Break = "reset";
        Assert.Equal(Got.Broken, Judged.Of(broken).Got);
        Assert.NotNull(Verdicts.Of(Cost.Errors, [Judged.Of(broken)]));
        Assert.Null(Verdicts.Of(Cost.Connections, [Judged.Of(broken)]));
    }

    [Fact]
    public void A_broken_connection_is_a_closed_one_only_if_nobody_has_read_the_request()
    {
        Judged Broken(int status) => Judged.Of(new Exchange(new Ask { Headers = [("x-request-id", "r")] }, "{}") { Status = status, Break = "ResponseEnded" });
        Assert.Equal(Got.Unread, Broken(0).Known(_ => false).Got);
        Assert.Equal(Got.Broken, Broken(0).Known(id => id == "r").Got);
        Assert.Equal(Got.Broken, Broken(200).Known(_ => false).Got);
        Assert.NotNull(Verdicts.Of(Cost.Nothing, [Broken(0).Known(_ => false)]));
        Assert.Null(Verdicts.Of(Cost.Unread, [Broken(0).Known(_ => false)]));
        Assert.NotNull(Verdicts.Of(Cost.Unread, [Broken(0).Known(_ => true)]));
    }

    [Fact]
    public void One_bad_answer_among_many_is_found()
    {
        var answers = Enumerable.Range(0, 1000).Select(_ => Judged.Of(Streamed())).Append(Judged.Of(Streamed(events => events.RemoveAt(1)))).ToList();
        Assert.StartsWith("1 answers", Verdicts.Of(Cost.Connections, answers), StringComparison.Ordinal);
    }

    // ---- counters

    private static readonly DateTimeOffset Struck = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

    private static LedgerEntry Call(double atS, double tookMs) => new()
    {
        Sequence = 1,
        Instance = "a",
        At = Struck.AddSeconds(atS),
        ConnectionId = 1,
        RequestOnConnection = 1,
        Method = "POST",
        Path = "/",
        EndMs = tookMs,
    };

    [Fact]
    public void One_attempt_too_many_or_too_few_is_found()
    {
        LedgerEntry[] calls = [Call(-10, 100), Call(-5, 100), Call(10, 100)];
        Assert.Null(Verdicts.OfNode(Counters.Exact, 3, calls, Struck));
        Assert.NotNull(Verdicts.OfNode(Counters.Exact, 2, calls, Struck));
        Assert.NotNull(Verdicts.OfNode(Counters.Exact, 4, calls, Struck));
        Assert.Null(Verdicts.OfDatabase(3, 3));
        Assert.NotNull(Verdicts.OfDatabase(3, 2));
        Assert.NotNull(Verdicts.OfDatabase(3, 4));
    }

    [Fact]
    public void A_killed_worker_may_take_its_last_moments_along_and_no_more()
    {
        LedgerEntry[] calls = [Call(-10, 100), Call(-2, 100), Call(-1, 5000), Call(10, 100)];
        Assert.Null(Verdicts.OfNode(Counters.LastMomentsLost, 2, calls, Struck));
        Assert.NotNull(Verdicts.OfNode(Counters.LastMomentsLost, 1, calls, Struck));
        Assert.NotNull(Verdicts.OfNode(Counters.LastMomentsLost, 5, calls, Struck));
    }

    // ---- nginx

    [Theory]
    [InlineData(4, 50, 100)]
    [InlineData(3, 100, 100)]
    [InlineData(3, 50, 300)]
    public void What_nginx_holds_more_than_before_is_found(int processes, int mebibytes, int descriptors)
    {
        var before = new Footprint(3, 50 << 20, 100);
        Assert.Empty(before.Above(before, 16 << 20));
        Assert.Single(new Footprint(processes, (long)mebibytes << 20, descriptors).Above(before, 16 << 20));
    }

    // ---- the watchdog

    [Fact]
    public async Task What_does_not_end_is_ended_and_says_where_it_stood()
    {
        var never = new TaskCompletionSource<string>();
        var told = 0;
        var watchdog = new Watchdog(TimeSpan.FromMilliseconds(50), TimeSpan.FromMilliseconds(50)) { Stage = "the blow", Hung = () => told++ };
        Assert.Null(await watchdog.RunAsync(_ => never.Task, CancellationToken.None).WaitAsync(TimeSpan.FromSeconds(30)));
        Assert.Equal(("the blow", 1), (watchdog.Stage, told));
    }

    [Fact]
    public async Task What_is_asked_to_end_may_tidy_up()
    {
        var tidied = false;
        var watchdog = new Watchdog(TimeSpan.FromMilliseconds(50), TimeSpan.FromSeconds(30));
        Assert.Null(await watchdog.RunAsync<string>(async cancel =>
        {
            try { await Task.Delay(Timeout.Infinite, cancel); }
            finally { tidied = true; }
            return "";
        }, CancellationToken.None).WaitAsync(TimeSpan.FromSeconds(60)));
        Assert.True(tidied);
    }

    [Fact]
    public async Task What_ends_in_time_is_left_alone() =>
        Assert.Equal("done", await new Watchdog(TimeSpan.FromSeconds(30), TimeSpan.Zero).RunAsync(_ => Task.FromResult("done"), CancellationToken.None));
}
