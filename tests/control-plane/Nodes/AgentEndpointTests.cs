using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Xunit;

namespace Evenkeel.Tests.Nodes;

[Collection(PostgresCollection.Name)]
public sealed class AgentEndpointTests(PostgresFixture postgres) : IAsyncLifetime
{
    private ControlPlane controlPlane = null!;
    private HttpClient admin = null!;
    private HttpClient node = null!;

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        (admin, node) = (controlPlane.Admin(), controlPlane.Node());
    }

    public async Task DisposeAsync() => await controlPlane.DisposeAsync();

    [Fact]
    public async Task Only_the_node_token_opens_the_agents_door_and_it_opens_no_other()
    {
        Assert.Equal(HttpStatusCode.Unauthorized, (await controlPlane.Caller(null).PollAsync("local")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await admin.PollAsync("local")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await node.GetAsync("/api/v1/nodes")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await node.GetAsync("/api/v1/status")).StatusCode);
    }

    [Fact]
    public async Task A_text_comes_with_revision_and_digest_once_there_is_a_configuration_and_only_to_who_lacks_it()
    {
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.PollAsync("local")).StatusCode);

        var revision = await admin.ApplyAsync(NodeCalls.Config());
        var answer = await node.TextAsync("local", more: "&edge_listen=127.0.0.1:7777&workers=3");
        var text = await answer.Content.ReadAsStringAsync();
        Assert.Equal("text/plain", answer.Content.Headers.ContentType!.MediaType);
        Assert.Equal($"{revision}", answer.Headers.GetValues("X-Evenkeel-Revision").Single());
        Assert.Contains(answer.TextDigest(), text);
        Assert.Contains("listen 127.0.0.1:7777 ", text);
        Assert.Contains("worker_processes 3;", text);

        Assert.Equal(HttpStatusCode.NoContent, (await node.PollAsync("local", have: answer.TextDigest(), more: "&edge_listen=127.0.0.1:7777&workers=3")).StatusCode);
        Assert.Equal(text, await admin.GetStringAsync("/api/v1/nodes/local/nginx.conf"));
    }

    [Fact]
    public async Task A_waiting_agent_is_woken_by_a_new_text_and_not_by_a_new_weight()
    {
        await admin.ApplyAsync(NodeCalls.Config());
        var have = (await node.TextAsync("local")).TextDigest();

        var poll = node.PollAsync("local", have: have, waitS: 20);
        await admin.ApplyAsync(NodeCalls.Config(weight: 51));
        Assert.NotSame(poll, await Task.WhenAny(poll, Task.Delay(TimeSpan.FromSeconds(1))));

        var watch = Stopwatch.StartNew();
        await admin.ApplyAsync(NodeCalls.Config(more: "  - {name: b, base_url: \"http://127.0.0.1:9002\"}"));
        Assert.NotEqual(have, (await poll).TextDigest());
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(3), $"woken after {watch.Elapsed}");
    }

    [Theory]
    [InlineData("local", "&edge_listen=127.0.0.1:80;")]
    [InlineData("local", "&edge_listen=%24host:80")]
    [InlineData("local", "&workers=2;")]
    [InlineData("local", "&workers=0")]
    [InlineData("lo%20cal", "")]
    [InlineData("%7B%7Btext_digest%7D%7D", "")]
    public async Task What_is_not_a_name_address_or_number_is_refused(string name, string more)
    {
        await admin.ApplyAsync(NodeCalls.Config());
        Assert.Equal(HttpStatusCode.BadRequest, (await node.PollAsync(name, more: more)).StatusCode);
        Assert.Empty((await admin.StatusAsync()).GetProperty("nodes").EnumerateArray());
    }

    [Theory]
    [InlineData("file:///etc/passwd")]
    [InlineData("http://user:password@127.0.0.1/")]
    [InlineData("127.0.0.1:9145")]
    [InlineData("http://203.0.113.5:9145")]         // the token and the provider keys, for all to see
    public async Task What_is_no_url_of_an_admin_listener_is_refused(string url) =>
        Assert.Equal(HttpStatusCode.BadRequest, (await node.PollAsync("local", adminUrl: url)).StatusCode);

    [Fact]
    public async Task An_admin_listener_at_a_public_address_has_to_speak_TLS()
    {
        await admin.ApplyAsync(NodeCalls.Config());
        Task<HttpResponseMessage> Ask(string listen, string url) => node.GetAsync($"/node/v1/local/nginx.conf?have=&admin_listen={listen}&admin_url={Uri.EscapeDataString(url)}&wait_s=20");
        Assert.Equal(HttpStatusCode.BadRequest, (await Ask("203.0.113.5:9145", "http://127.0.0.1:9145")).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await Ask("[2001:db8::5]:9145", "http://node.test:9145")).StatusCode);
        foreach (var (url, listen) in new[] { ("https://203.0.113.5:9145", "listen 203.0.113.5:9145 ssl;"), ("http://10.0.0.5:9145", "listen 10.0.0.5:9145;") })
        {
            var answer = await Ask(new Uri(url).Authority, url);
            Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
            var text = await answer.Content.ReadAsStringAsync();
            Assert.Contains(listen, text);
            Assert.Equal(url.StartsWith("https:", StringComparison.Ordinal), text.Contains("include platform-admin.conf;"));
            Assert.Equal(text, await admin.GetStringAsync("/api/v1/nodes/local/nginx.conf"));
        }
    }

    [Fact]
    public async Task A_refused_text_is_kept_and_shown_with_nginxs_own_words()
    {
        var revision = await admin.ApplyAsync(NodeCalls.Config());
        var digest = (await node.TextAsync("local")).TextDigest();
        const string Words = "nginx: [emerg] unknown directive \"frobnicate\" in nginx.conf.candidate:7\nsecond line";
        Assert.Equal(HttpStatusCode.NoContent, (await ReportAsync("local", revision, digest, "refused", "test", Words)).StatusCode);

        var shown = (await admin.GetFromJsonAsync<JsonElement>("/api/v1/nodes/local")).GetProperty("last_refusal");
        Assert.Equal((revision, "test", Words), (shown.GetProperty("revision").GetInt64(), shown.GetProperty("stage").GetString(), shown.GetProperty("words").GetString()));
        Assert.False((await admin.StatusAsync()).GetProperty("acknowledged").GetBoolean());

        await ReportAsync("local", revision, digest, "applied", "load", "");
        var results = (await admin.GetFromJsonAsync<JsonElement>("/api/v1/nodes/local/reports")).EnumerateArray().Select(report => report.GetProperty("result").GetString());
        Assert.Equal(["applied", "refused"], results);
    }

    [Fact]
    public async Task Words_are_bounded_and_may_be_any_bytes()
    {
        await admin.ApplyAsync(NodeCalls.Config());
        await node.TextAsync("local");
        var bytes = Enumerable.Repeat((byte)0xE2, 100_000).Prepend((byte)0).ToArray();
        var answer = await node.PostAsync($"/node/v1/local/reports?revision=1&text_digest=x&result=refused&stage=load", new ByteArrayContent(bytes) { Headers = { { "Content-Type", "text/plain" } } });
        Assert.Equal(HttpStatusCode.NoContent, answer.StatusCode);
        Assert.InRange((await admin.GetFromJsonAsync<JsonElement>("/api/v1/nodes/local")).GetProperty("last_refusal").GetProperty("words").GetString()!.Length, 1000, 16 * 1024);
    }

    [Theory]
    [InlineData("local", "result=maybe&stage=test", HttpStatusCode.BadRequest)]
    [InlineData("local", "result=refused&stage=push", HttpStatusCode.BadRequest)]
    [InlineData("nobody", "result=refused&stage=test", HttpStatusCode.NotFound)]
    public async Task A_report_that_says_nothing_is_refused(string name, string query, HttpStatusCode expected) =>
        Assert.Equal(expected, (await node.PostAsync($"/node/v1/{name}/reports?revision=1&text_digest=x&{query}", new StringContent("words"))).StatusCode);

    [Fact]
    public async Task An_unknown_node_is_not_found()
    {
        foreach (var path in new[] { "", "/reports", "/nginx.conf" })
            Assert.Equal(HttpStatusCode.NotFound, (await admin.GetAsync("/api/v1/nodes/nobody" + path)).StatusCode);
    }

    private Task<HttpResponseMessage> ReportAsync(string name, long revision, string digest, string result, string stage, string words) =>
        node.PostAsync($"/node/v1/{name}/reports?revision={revision}&text_digest={digest}&result={result}&stage={stage}", new StringContent(words));
}
