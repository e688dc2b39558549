using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class ControlTests : IAsyncLifetime
{
    private ProviderSimulator _simulator = null!;
    private HttpClient _control = null!;

    private SimulatedInstance A => _simulator["A"];

    public async Task InitializeAsync()
    {
        _simulator = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            Instances = [new InstanceOptions("A") { Settings = new InstanceSettings { ApiKey = "sk-very-secret" } }, new InstanceOptions("B")],
            Control = ("127.0.0.1", 0),
        });
        A.Update(settings => settings with { ApiKey = null });
        _control = new HttpClient { BaseAddress = new Uri($"http://{_simulator.ControlEndPoint}") };
    }

    public async Task DisposeAsync()
    {
        _control.Dispose();
        await _simulator.DisposeAsync();
    }

    private async Task<JsonElement> SendAsync(string method, string path, string? body = null, HttpStatusCode expected = HttpStatusCode.OK)
    {
        using var request = new HttpRequestMessage(new HttpMethod(method), path) { Content = body is null ? null : new StringContent(body) };
        using var response = await _control.SendAsync(request);
        var text = await response.Content.ReadAsStringAsync();
        Assert.True(expected == response.StatusCode, text);
        return JsonDocument.Parse(text).RootElement;
    }

    [Fact]
    public async Task Instances_show_settings_counters_and_faults()
    {
        await AskAsync(A);
        var state = await SendAsync("GET", "/instances/A");
        Assert.Equal(A.BaseUrl, state.GetProperty("base_url").GetString());
        Assert.True(state.GetProperty("up").GetBoolean());
        Assert.Equal(1, state.GetProperty("counters").GetProperty("calls").GetInt32());
        Assert.Equal(["A", "B"], (await SendAsync("GET", "/instances")).EnumerateArray().Select(i => i.GetProperty("name").GetString()!));
        await SendAsync("GET", "/instances/none", expected: HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task A_patch_changes_settings_for_the_next_request_or_nothing_at_all()
    {
        await SendAsync("PATCH", "/instances/A", """{"reject_prefill":true,"latency_multiplier":15,"models":["m"]}""");
        Assert.Equal((true, 15), (A.Settings.RejectPrefill, A.Settings.LatencyMultiplier));
        await SendAsync("PATCH", "/instances/A", """{"latency_multiplier":null}""");
        Assert.Equal(1, A.Settings.LatencyMultiplier);
        Assert.Equal(404, (await AskAsync(A, body: """{"model":"other","messages":[]}""")).Status);
        foreach (var wrong in new[] { """{"tokens":5,"colour":"red"}""", """{"tokens":"many"}""", """{"tls":"perhaps"}""", """{"error_rate":2}""" })
        {
            await SendAsync("PATCH", "/instances/A", wrong, HttpStatusCode.BadRequest);
        }
        Assert.Equal(20, A.Settings.Tokens);
        await SendAsync("PATCH", "/instances/*", """{"tokens":3}""");
        Assert.Equal((3, 3), (A.Settings.Tokens, _simulator["B"].Settings.Tokens));
    }

    [Fact]
    public async Task A_key_is_demanded_and_never_shown()
    {
        await SendAsync("PATCH", "/instances/A", """{"api_key":"sk-very-secret"}""");
        Assert.Equal(401, (await AskAsync(A)).Status);
        Assert.Equal(200, (await AskAsync(A, headers: "Authorization: Bearer sk-very-secret\r\n")).Status);
        Assert.DoesNotContain("very-secret", (await SendAsync("GET", "/instances")).GetRawText());
    }

    [Fact]
    public async Task Faults_are_taken_in_order_as_often_as_they_say()
    {
        await SendAsync("POST", "/instances/A/faults", """[{"fault":"status","params":{"code":429,"retry_after":2},"times":1},{"fault":"status=503","times":2,"after":1}]""");
        var seen = new List<int>();
        for (var i = 0; i < 5; i++)
        {
            seen.Add((await AskAsync(A)).Status);
        }
        Assert.Equal([429, 200, 503, 503, 200], seen);
        Assert.Empty(A.Faults);
    }

    [Fact]
    public async Task A_fault_takes_only_what_matches()
    {
        await SendAsync("POST", "/instances/A/faults", """
            [{"fault":"status=500","match":{"stream":true}},{"fault":"status=501","match":{"model":"x"}},
             {"fault":"status=502","match":{"path":"/models"}}]
            """);
        Assert.Equal(200, (await AskAsync(A)).Status);
        Assert.Equal(500, (await AskAsync(A, body: Bodies.Stream)).Status);
        Assert.Equal(501, (await AskAsync(A, body: """{"model":"x","messages":[]}""")).Status);
        Assert.Equal(502, (await AskAsync(A, body: "", path: "/v1/models", method: "GET")).Status);
        Assert.Equal(200, (await AskAsync(A, body: "", path: "/user/balance", method: "GET")).Status);
        await SendAsync("DELETE", "/instances/A/faults");
        Assert.Equal(200, (await AskAsync(A, body: Bodies.Stream)).Status);
    }

    [Fact]
    public async Task Faults_of_the_connection_reach_the_simple_answers_too()
    {
        A.AddFault("truncated_json", match: new FaultMatch(Path: "*"));
        var models = await AskAsync(A, body: "", path: "/v1/models", method: "GET");
        Assert.Equal((200, false), (models.Status, models.Body.Length == 0 || models.IsComplete));
    }

    [Fact]
    public async Task A_fault_may_last_for_a_time()
    {
        A.AddFault("status=503", lasts: TimeSpan.FromMilliseconds(1));
        await Task.Delay(20);
        Assert.Equal(200, (await AskAsync(A)).Status);
        await SendAsync("POST", "/instances/A/faults", """{"fault":"status=503","for_ms":60000}""");
        Assert.Equal(503, (await AskAsync(A)).Status);
    }

    [Fact]
    public async Task The_header_stands_above_the_model_and_the_model_above_the_queue()
    {
        A.AddFault("status=503");
        const string byModel = """{"model":"sim-status=502;body=html","messages":[]}""";
        Assert.Equal(503, (await AskAsync(A)).Status);
        Assert.Equal(502, (await AskAsync(A, body: byModel)).Status);
        Assert.Equal(501, (await AskAsync(A, "status=501", byModel)).Status);
        Assert.Equal(1, A.Faults[0].Used);
    }

    [Fact]
    public async Task Wrong_faults_are_refused_and_none_of_the_list_is_taken()
    {
        foreach (var wrong in new[] { """["status=503","nonsense"]""", """{"fault":"status","colour":1}""", """{"times":1}""", "not json", """{"fault":"status","params":{"code":"x"}}""" })
        {
            await SendAsync("POST", "/instances/A/faults", wrong, HttpStatusCode.BadRequest);
        }
        Assert.Empty(A.Faults);
    }

    [Fact]
    public async Task Down_up_and_the_ledger_are_there()
    {
        Assert.False((await SendAsync("POST", "/instances/A/down")).GetProperty("up").GetBoolean());
        await Assert.ThrowsAsync<System.Net.Sockets.SocketException>(() => ConnectAsync(A));
        Assert.True((await SendAsync("POST", "/instances/A/up")).GetProperty("up").GetBoolean());
        await AskAsync(A);
        await AskAsync(_simulator["B"]);
        var ledger = await SendAsync("GET", "/ledger?instance=B&since=0");
        Assert.Equal("B", Assert.Single(ledger.EnumerateArray()).GetProperty("instance").GetString());
        Assert.Empty((await SendAsync("GET", "/ledger?since=2")).EnumerateArray());
        await SendAsync("DELETE", "/ledger");
        Assert.Empty((await SendAsync("GET", "/ledger")).EnumerateArray());
        await SendAsync("DELETE", "/instances/*/counters");
        Assert.Equal(0, A.Counters.Calls);
    }

    [Fact]
    public async Task Instances_can_be_added_while_it_runs()
    {
        var state = await SendAsync("POST", "/instances", """{"name":"D","settings":{"tokens":2}}""", HttpStatusCode.Created);
        using var client = new HttpClient();
        using var answer = await client.PostAsync(state.GetProperty("base_url").GetString() + "/chat/completions", JsonContent.Create(new { model = "m", messages = Array.Empty<object>() }));
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        await SendAsync("POST", "/instances", """{"name":"D"}""", HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task The_error_rate_is_drawn_from_the_seed()
    {
        async Task<string> DrawAsync()
        {
            A.Update(settings => settings with { ErrorRate = 0.5, ErrorStatus = 502, Seed = settings.Seed + 1 });
            A.Update(settings => settings with { Seed = 0 });
            var seen = "";
            for (var i = 0; i < 30; i++)
            {
                seen += (await AskAsync(A)).Status == 502 ? 'x' : '.';
            }
            return seen;
        }
        var first = await DrawAsync();
        Assert.Contains('x', first);
        Assert.Contains('.', first);
        Assert.Equal(first, await DrawAsync());
    }
}
