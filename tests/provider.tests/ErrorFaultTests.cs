using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class ErrorFaultTests(OneInstance fixture) : IClassFixture<OneInstance>
{
    private SimulatedInstance A => fixture.Instance;

    [Theory]
    [InlineData("status=429", 429, "rate_limit_exceeded")]
    [InlineData("status=401", 401, "invalid_api_key")]
    [InlineData("status=402", 402, "insufficient_balance")]
    [InlineData("status=404", 404, "model_not_found")]
    [InlineData("status=413", 413, "request_too_large")]
    [InlineData("status=529", 529, "overloaded")]
    [InlineData("status=400;body=context_length_exceeded", 400, "context_length_exceeded")]
    [InlineData("status=400;body=content_policy_violation", 400, "content_policy_violation")]
    [InlineData("status=429;body=insufficient_quota", 429, "insufficient_quota")]
    [InlineData("status=503;message=out%20of%20order", 503, "")]
    public async Task A_status_comes_with_the_error_body_that_belongs_to_it(string fault, int status, string code)
    {
        foreach (var body in new[] { Bodies.Chat, Bodies.Stream })
        {
            var answer = await AskAsync(A, fault, body);
            Assert.Equal(status, answer.Status);
            Assert.Equal(code, answer.Error);
            Assert.Null(answer.Header("retry-after"));
        }
    }

    [Theory]
    [InlineData("2", "2")]
    [InlineData("garbage", "soon, perhaps")]
    [InlineData("negative", "-5")]
    [InlineData("huge", "99999999999")]
    public async Task Retry_after_takes_every_form(string form, string value) =>
        Assert.Equal(value, (await AskAsync(A, $"status=429;retry_after={form}")).Header("retry-after"));

    [Fact]
    public async Task Retry_after_may_be_a_date()
    {
        var ahead = DateTimeOffset.Parse((await AskAsync(A, "status=429;retry_after=date:30")).Header("retry-after")!);
        Assert.InRange((ahead - DateTimeOffset.UtcNow).TotalSeconds, 15, 31);
        Assert.True(DateTimeOffset.Parse((await AskAsync(A, "status=429;retry_after=past")).Header("retry-after")!) < DateTimeOffset.UtcNow);
    }

    [Fact]
    public async Task An_error_body_may_be_html_text_empty_or_vllm()
    {
        var html = await AskAsync(A, "status=502;body=html");
        Assert.Equal("text/html", html.Header("content-type"));
        Assert.StartsWith("<html>", html.Text);
        Assert.Equal("", (await AskAsync(A, "status=503;body=empty")).Text);
        Assert.StartsWith("upstream", (await AskAsync(A, "status=503;body=text")).Text);
        Assert.Equal(400, (await AskAsync(A, "status=400;body=vllm")).Json.GetProperty("code").GetInt32());
    }

    [Fact]
    public async Task A_redirect_names_its_location()
    {
        var answer = await AskAsync(A, "redirect=http://127.0.0.1:1/v1;code=307");
        Assert.Equal(307, answer.Status);
        Assert.Equal("http://127.0.0.1:1/v1", answer.Header("location"));
    }

    [Fact]
    public async Task A_200_may_hold_an_error()
    {
        var json = await AskAsync(A, "error_json_200=insufficient_quota");
        Assert.Equal((200, "insufficient_quota"), (json.Status, json.Error));
        var stream = await AskAsync(A, "error_event_first=rate_limit_exceeded", Bodies.Stream);
        Assert.Equal(200, stream.Status);
        Assert.Equal("rate_limit_exceeded", Assert.Single(stream.Events).GetProperty("error").GetProperty("code").GetString());
        Assert.True(stream.IsComplete);
        Assert.DoesNotContain("[DONE]", stream.Text);
    }

    [Fact]
    public async Task A_rejected_prefill_is_400_and_anything_else_goes_through()
    {
        const string prefilled = """{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"am"}]}""";
        Assert.Equal(400, (await AskAsync(A, "prefill_rejected", prefilled)).Status);
        Assert.Equal(200, (await AskAsync(A, "prefill_rejected")).Status);
    }

    [Fact]
    public async Task A_fault_that_is_not_understood_is_refused_with_the_reason()
    {
        foreach (var (fault, words) in new[] { ("nonsense", "unknown fault"), ("status=abc", "whole number"), ("gzip=1", "takes no value"), ("status;colour=red", "no parameter") })
        {
            var answer = await AskAsync(A, fault);
            Assert.Equal(400, answer.Status);
            Assert.Contains(words, answer.Json.GetProperty("error").GetProperty("message").GetString());
        }
    }

    [Fact]
    public async Task A_delay_comes_before_the_error()
    {
        var started = DateTime.UtcNow;
        Assert.Equal(503, (await AskAsync(A, "status=503;delay_ms=200")).Status);
        Assert.True((DateTime.UtcNow - started).TotalMilliseconds >= 195);
    }
}
