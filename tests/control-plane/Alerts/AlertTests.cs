using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Dapper;
using Evenkeel.Alerts;
using Evenkeel.Config;
using Evenkeel.Publishing;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Alerts;

public sealed class AlertTests(PostgresFixture postgres) : IClassFixture<PostgresFixture>, IAsyncLifetime
{
    private const string Secret = "whsec-of-the-test";

    private ControlPlane controlPlane = null!;
    private HttpClient admin = null!;
    private WebhookReceiver receiver = null!;

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        admin = controlPlane.Admin();
        receiver = await WebhookReceiver.StartAsync();
    }

    public async Task DisposeAsync()
    {
        await controlPlane.DisposeAsync();
        await receiver.DisposeAsync();
    }

    [Fact]
    public async Task An_outage_of_many_is_one_signed_notice_and_its_end_another()
    {
        await admin.ApplyAsync(Config("""
            alerts:
              - {name: down, metric: instance_down, resolve_for: 0s}
              - {name: nobody, metric: all_down, resolve_for: 0s}
            """));
        await using var database = await controlPlane.OpenDatabaseAsync();
        await OutAsync(database, "a", "b");
        await WatchAsync(database);
        await NodeCalls.EventuallyAsync("both rules are told", () => receiver.Calls.Count == 2);
        var calls = receiver.Calls.ToDictionary(call => (string)call.Json["rule"]!);
        Assert.All(receiver.Calls, Signed);
        var down = calls["down"].Json;
        Assert.Equal(("alert", "firing", "bad_gateway", 2), ((string)down["type"]!, (string)down["status"]!, (string)down["cause"]!, (int)down["firing_count"]!));
        Assert.Equal(["a", "b"], down["firing"]!.AsArray().Select(alert => (string)alert!["instance"]!).Order());
        Assert.Equal(calls["down"].NoticeId, (string)down["id"]!);
        Assert.Equal("chat", (string)calls["nobody"].Json["firing"]![0]!["pool"]!);

        var listed = (await admin.GetJsonAsync("/api/v1/alerts?rule=down")).AsArray();
        Assert.Equal(["a", "b"], listed.Select(alert => (string)alert!["instance"]!).Order());
        Assert.All(listed, alert => Assert.Equal(("firing", 1, false), ((string)alert!["state"]!, (int)alert["value"]!, (bool)alert["silenced"]!)));

        await database.ExecuteAsync("update incident set until = now(); update alert set told_at = told_at - interval '2 minutes'");
        await WatchAsync(database);
        await NodeCalls.EventuallyAsync("their ends are told", () => receiver.Calls.Count == 4);
        Assert.Equal(["resolved", "resolved"], receiver.Calls.Skip(2).Select(call => (string)call.Json["status"]!));
        Assert.Empty((await admin.GetJsonAsync("/api/v1/alerts")).AsArray());
        Assert.Equal(3, (await admin.GetJsonAsync("/api/v1/alerts?state=resolved")).AsArray().Count);
    }

    [Fact]
    public async Task Values_are_measured_at_what_the_rule_is_about()
    {
        await admin.ApplyAsync(Config("""
            clients: [{name: c, key: sk-of-the-client, budget: {amount: 10, per: month}}]
            gateway: {anonymous: true}
            alerts:
              - {name: slow, metric: p99_latency}
              - {name: first, metric: p90_first_token, instance: "*"}
              - {name: failing, metric: error_rate}
              - {name: throttled, metric: error_rate, outcome: rate_limited, instance: a}
              - {name: rare, metric: error_rate, min_requests: 1000}
              - {name: there, metric: availability}
              - {name: money, metric: budget_used}
            """));
        await using var database = await controlPlane.OpenDatabaseAsync();
        // 90 streams with first tokens of 0.5 to 0.75 s and 10 of 3 to 5 s; 20 other answers of 5 to 7.5 s; 30 that failed.
        await database.ExecuteAsync("""
            select telemetry_make_partitions(now());
            insert into telemetry_series (family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency) values
                ('request', 'chat', '', '', '', 'chat', 'stream', 1, 'ok', 'client', '', ''), ('request', 'chat', '', '', '', 'chat', 'json', 1, 'ok', 'client', '', ''),
                ('request', 'chat', '', '', '', 'chat', 'json', 1, 'server_error', 'client', '', ''), ('request', 'chat', '', '', '', 'chat', 'json', 1, 'client_error', 'client', '', ''),
                ('attempt', 'chat', 'a', '', '', 'chat', 'stream', 0, 'ok', 'client', '', ''), ('attempt', 'chat', 'a', '', '', 'chat', 'json', 0, 'rate_limited', 'client', '', ''),
                ('attempt', 'chat', 'a', '', '', 'chat', 'json', 0, 'rate_limited', 'ghost', '', ''), ('usage', 'chat', 'a', 'c', 'm', '', '', 0, '', 'client', '', 'USD');
            insert into telemetry_call (level, at, series, count, retried, degraded, total_s, total, first_token_s, first_token, per_output_token_s, overhead_s, queued_s)
            select 0, date_bin('10 s', now(), '2000-01-01Z'), id, n, 0, 0, 0, total, 0, first_token, 0, 0, 0 from telemetry_series join (values
                ('request', 'stream', 'ok', 'client', 100, '{0,0,0,0,0,0,0,0,0,0,0,100}'::bigint[], '{0,0,0,0,0,90,0,0,0,0,10}'::bigint[]),
                ('request', 'json', 'ok', 'client', 20, '{0,0,0,0,0,0,0,0,0,0,0,20}', null),
                ('request', 'json', 'server_error', 'client', 30, '{1000}', null), ('request', 'json', 'client_error', 'client', 50, '{1000}', null),
                ('attempt', 'stream', 'ok', 'client', 60, null, '{0,0,0,0,0,60}'), ('attempt', 'json', 'rate_limited', 'client', 20, null, null),
                ('attempt', 'json', 'rate_limited', 'ghost', 500, null, null)) as v(family, mode, outcome, traffic, n, total, first_token) using (family, mode, outcome, traffic);
            insert into telemetry_usage (level, at, series, attempts, input, cached_input, output, reasoning, estimated_input, estimated_output, cost_nano, estimated_cost_nano)
            select 0, date_bin('10 s', now(), '2000-01-01Z'), id, 1, 0, 0, 0, 0, 0, 0, 9500000000, 0 from telemetry_series where family = 'usage';
            """);
        var document = (await controlPlane.Services.GetRequiredService<ConfigStore>().LoadAsync()).Document;
        var readings = await controlPlane.Services.GetRequiredService<AlertReadings>().ReadAsync(document, AlertRules.Of(document));
        double? Value(string rule, string subject) => readings[rule].Single(reading => reading.Subject.ToString() == subject).Value is { } value ? Math.Round(value, 4) : null;
        Assert.Equal(7.35, Value("slow", "pool chat"));          // 118.8 of 120, in the last bucket of 20
        Assert.Equal(0.725, Value("first", "instance a"));
        Assert.Null(Value("first", "instance b"));
        Assert.Equal(0.15, Value("failing", "pool chat"));
        Assert.Equal(0.25, Value("throttled", "instance a"));
        Assert.Null(Value("rare", "pool chat"));
        Assert.Equal(0.85, Value("there", "pool chat"));
        Assert.Equal(0.95, Value("money", "client c"));
    }

    [Fact]
    public async Task What_was_counted_while_nobody_read_it_is_not_judged_as_if_it_had_just_happened()
    {
        await admin.ApplyAsync(Config("""
            alerts:
              - {name: failing, metric: error_rate}
              - {name: failing-today, metric: error_rate, window: 1d}
              - {name: nobody, metric: all_down}
            """));
        await using var database = await controlPlane.OpenDatabaseAsync();
        await AwayAsync("0 s", "20 minutes");
        Assert.Equal(["failing-today", "nobody"], await MeasuredAsync());
        // In the window still, if it is looked at within that second.
        IEnumerable<string> measured = [];
        await NodeCalls.EventuallyAsync("a look within a second", async () =>
        {
            var watch = Stopwatch.StartNew();
            await AwayAsync("299 s", "20 minutes");
            measured = await MeasuredAsync();
            return watch.Elapsed < TimeSpan.FromSeconds(1);
        });
        Assert.Equal(["failing-today", "nobody"], measured);
        await AwayAsync("310 s", "20 minutes");         // it has left the window
        Assert.Equal(["failing", "failing-today", "nobody"], await MeasuredAsync());
        await AwayAsync("280 s", "330 s");              // little of it is from before the window
        Assert.Equal(["failing", "failing-today", "nobody"], await MeasuredAsync());

        // Whatever fires meanwhile goes on.
        await AwayAsync("0 s", "20 minutes");
        await database.ExecuteAsync("""
            insert into alert (rule, pool, phase, since, fired_at, seen_at, clear_since, told_at) values ('failing', 'chat', 'firing', now() - interval '1 hour', now() - interval '1 hour', now(), now() - interval '1 hour', now())
            """);
        await WatchAsync(database);
        Assert.Equal("firing", await database.ExecuteScalarAsync<string>("select phase from alert where rule = 'failing'"));

        Task AwayAsync(string at, string since) => database.ExecuteAsync(
            "delete from telemetry_gap; insert into telemetry_gap (node, at, since) values ('one', now() - @at::interval, now() - @since::interval)", new { at, since });
        async Task<IEnumerable<string>> MeasuredAsync()
        {
            var document = (await controlPlane.Services.GetRequiredService<ConfigStore>().LoadAsync()).Document;
            return (await controlPlane.Services.GetRequiredService<AlertReadings>().ReadAsync(document, AlertRules.Of(document))).Keys.Order();
        }
    }

    [Fact]
    public void States_are_judged_by_what_is_in_service()
    {
        var document = ConfigReader.Read(Encoding.UTF8.GetBytes("""
            instances: [{name: a, base_url: "http://a"}, {name: b, base_url: "http://b"}, {name: c, base_url: "http://c", drain: true}, {name: lite, base_url: "http://d"}]
            pools:
              - {name: chat, models: [x], tiers: [{name: one, instances: [a, c]}, {name: two, instances: [lite]}]}
              - {name: code, models: [y], tiers: [{name: one, instances: [a, b]}]}
            """), ConfigFormat.Yaml).Document;
        string Bad(string metric, params Trouble[] troubles) => string.Join(", ",
            StateReadings.Of(AlertRules.Of(new AlertConfig { Name = "r", Metric = metric }), document, troubles).Where(reading => reading.Value == 1).Select(reading => reading.Subject));
        Trouble[] aIsOut = [new("breaker", "a", "stalled"), new("cooldown", "b", "rate_limited"), new("probe", "c", "bad_gateway")];
        Assert.Equal("instance a", Bad("instance_down", aIsOut));
        Assert.Equal("pool chat", Bad("pool_degraded", aIsOut));
        Assert.Equal("", Bad("all_down", aIsOut));
        Trouble[] allAreOut = [.. aIsOut, new("blocked", "b", "quota"), new("probe", "lite", "bad_gateway")];
        Assert.Equal("pool chat, pool code", Bad("all_down", allAreOut));
        Assert.Equal("", Bad("pool_degraded", allAreOut));
        Assert.Equal("pool code", Bad("all_down", new Trouble("pool_open", "code", null)));
        Assert.Equal("pool code", Bad("pool_degraded", new Trouble("tier_degraded", "code", null)));
        Assert.Equal("stalled", StateReadings.Of(AlertRules.Of(new AlertConfig { Name = "r", Metric = "instance_down", Pool = "code" }), document, aIsOut).First().Cause);
    }

    [Fact]
    public async Task A_silence_keeps_quiet_until_somebody_ends_it()
    {
        await admin.ApplyAsync(Config("alerts: [{name: down, metric: instance_down}]"));
        var silence = await admin.SendAsync(HttpMethod.Post, "/api/v1/silences", Body.Json($$"""{"until":"{{DateTime.UtcNow.AddHours(1):o}}","reason":"moving house","pool":"chat","by":"ada"}"""), HttpStatusCode.Created);
        await using var database = await controlPlane.OpenDatabaseAsync();
        await OutAsync(database, "a");
        await WatchAsync(database);
        Assert.True((bool)(await admin.GetJsonAsync("/api/v1/alerts"))[0]!["silenced"]!);
        Assert.Empty(receiver.Calls);

        await admin.SendAsync(HttpMethod.Delete, $"/api/v1/silences/{silence["id"]}");
        await WatchAsync(database);
        await NodeCalls.EventuallyAsync("now it is told", () => receiver.Calls.Count == 1);
        Assert.Empty((await admin.GetJsonAsync("/api/v1/silences")).AsArray());
        Assert.Equal(("ada", "moving house"), ((string)(await admin.GetJsonAsync("/api/v1/silences?all=true"))[0]!["created_by"]!, (string)silence["reason"]!));
    }

    [Theory]
    [InlineData("rule", "no rule")]
    [InlineData("pool", "no pool")]
    [InlineData("instance", "no instance")]
    public async Task A_silence_of_what_is_not_there_is_refused(string key, string words)
    {
        await admin.ApplyAsync(Config("alerts: [{name: down, metric: instance_down}]"));
        var body = Body.Json($$"""{"until":"{{DateTime.UtcNow.AddHours(1):o}}","reason":"x","{{key}}":"nobody"}""");
        var problem = await admin.SendAsync(HttpMethod.Post, "/api/v1/silences", body, HttpStatusCode.BadRequest);
        Assert.Equal($"{key}: {words} \"nobody\"", (string?)problem["detail"]);
    }

    [Fact]
    public async Task A_silence_without_end_reason_or_name_is_refused()
    {
        var soon = DateTime.UtcNow.AddHours(1).ToString("o", CultureInfo.InvariantCulture);
        foreach (var body in new[]
        {
            """{"until":"2020-01-01T00:00:00Z","reason":"x"}""", """{"until":"2999-01-01T00:00:00Z","reason":"x"}""",
            $$"""{"until":"{{soon}}","reason":""}""", $$"""{"until":"{{soon}}","reason":"x","rule":"Not A Name"}""", $$"""{"until":"{{soon}}","reason":"x","by":"a\nb"}""",
        })
        {
            await admin.SendAsync(HttpMethod.Post, "/api/v1/silences", Body.Json(body), HttpStatusCode.BadRequest);
        }
    }

    [Fact]
    public async Task Without_rules_the_defaults_are_in_force()
    {
        await admin.ApplyAsync(Config());
        JsonArray rules = [];
        await NodeCalls.EventuallyAsync("it is in force", async () => (rules = (await admin.GetJsonAsync("/api/v1/alerts/rules")).AsArray()).Count == AlertRules.Defaults.Count);
        var slow = rules.Single(rule => (string)rule!["metric"]! == "p99_latency")!;
        Assert.Equal((3.0, "5m", true), ((double)slow["threshold"]!, (string)slow["for"]!, (bool)slow["is_default"]!));
    }

    [Fact]
    public async Task What_is_not_taken_is_sent_again_with_the_same_id_and_a_webhook_that_keeps_failing_is_an_incident()
    {
        receiver.Answer = call => call <= DeliveryRules.TriesUntilIncident ? (500, null) : (204, null);
        await admin.ApplyAsync(Config());
        await TestAsync("ops");
        await using var database = await controlPlane.OpenDatabaseAsync();
        await NodeCalls.EventuallyAsync("tried until it works", async () =>
        {
            await database.ExecuteAsync("update webhook_delivery set next_at = now()");   // no need to wait here
            return receiver.Calls.Count > DeliveryRules.TriesUntilIncident;
        });
        Assert.Single(receiver.Calls.Select(call => call.NoticeId).Distinct());
        Assert.All(receiver.Calls, Signed);
        var delivery = await DeliveryAsync("sent");
        Assert.Equal((6, 204), ((int)delivery["attempts"]!, (int)delivery["status"]!));
        JsonNode? incident = null;
        await NodeCalls.EventuallyAsync("the incident is over", async () =>
            (incident = (await admin.GetJsonAsync("/api/v1/incidents?kind=webhook&open=false")).AsArray().SingleOrDefault()) is not null);
        Assert.Equal(("ops", "not_taken"), ((string)incident!["subject"]!, (string)incident["cause"]!));
    }

    [Fact]
    public async Task What_is_never_taken_is_given_up_and_that_is_an_incident()
    {
        receiver.Answer = _ => (500, null);
        await admin.ApplyAsync(Config());
        await using var database = await controlPlane.OpenDatabaseAsync();
        await TestAsync("ops");
        await NodeCalls.EventuallyAsync("given up", async () =>
        {
            await database.ExecuteAsync("update webhook_delivery set created_at = now() - interval '25 hours', next_at = now()");
            return (await admin.GetJsonAsync("/api/v1/webhooks/deliveries?state=given_up")).AsArray().Count == 1;
        });
        var delivery = await DeliveryAsync("given_up");
        Assert.Equal((500, "no, thank you"), ((int)delivery["status"]!, (string)delivery["words"]!));
        await NodeCalls.EventuallyAsync("it is an incident", async () => (await admin.GetJsonAsync("/api/v1/incidents?kind=webhook&open=true")).AsArray().Count == 1);
    }

    [Fact]
    public async Task Two_control_planes_send_each_notice_once_and_one_dead_receiver_holds_up_nobody()
    {
        await admin.ApplyAsync(Config($$"""
            webhooks:
              - {name: dead, url: "http://127.0.0.1:1/"}
              - {name: slack, url: "{{receiver.Url}}/slack", format: slack}
              - {name: ops, url: "{{receiver.Url}}/ops", secret: {{Secret}}}
            """, webhook: false));
        await using var another = controlPlane.Another();
        using var other = another.Admin();
        await NodeCalls.EventuallyAsync("the other one knows the configuration", async () => (await other.GetJsonAsync("/api/v1/status"))["revision"] is not null);
        for (var i = 0; i < 20; i++)
        {
            foreach (var name in new[] { "dead", "slack", "ops" }) await (i % 2 == 0 ? admin : other).SendAsync(HttpMethod.Post, $"/api/v1/webhooks/{name}/test", expect: HttpStatusCode.Accepted);
        }
        await NodeCalls.EventuallyAsync("all are sent", async () => (await admin.GetJsonAsync("/api/v1/webhooks/deliveries?state=sent&limit=500")).AsArray().Count == 40);
        Assert.Equal(40, receiver.Calls.Count);
        Assert.Equal(40, receiver.Calls.Select(call => call.NoticeId).Distinct().Count());
        Assert.All(receiver.Calls.Where(call => call.Path == "/slack"), call => Assert.StartsWith("TEST of the webhook slack", (string)call.Json["text"]!));
        await NodeCalls.EventuallyAsync("the dead one was tried, too", async () =>
            (await admin.GetJsonAsync("/api/v1/webhooks/deliveries?webhook=dead&limit=500")).AsArray().Any(delivery => (string?)delivery!["words"] == "ConnectionRefused"));
    }

    [Fact]
    public async Task A_url_leads_nowhere_where_it_may_not()
    {
        (string Url, string Words)[] cases =
        [
            ("http://10.255.255.1:9/x", "http goes to loopback only"),
            ("https://10.255.255.1:9/x", "10.255.255.1 is a private address, which is not allowed"),
            ("https://[::ffff:169.254.169.254]/latest/meta-data", "is a link-local or metadata address"),
            ("https://0.0.0.0/", "0.0.0.0 is a reserved address"),
            ("ftp://127.0.0.1/", "not an http or https address"),
        ];
        var directory = Path.GetDirectoryName(controlPlane.SecretKeyFile)!;
        foreach (var (i, one) in cases.Index()) await File.WriteAllTextAsync(Path.Combine(directory, $"url-{i}"), one.Url + "\n");
        await admin.ApplyAsync(Config("webhooks:\n" + string.Join('\n', cases.Index().Select(one => $"  - {{name: w{one.Index}, url: \"file:{directory}/url-{one.Index}\"}}")), webhook: false));
        foreach (var (i, _) in cases.Index()) await TestAsync($"w{i}");
        JsonArray tried = [];
        await NodeCalls.EventuallyAsync("all were tried", async () =>
            (tried = (await admin.GetJsonAsync("/api/v1/webhooks/deliveries?state=pending")).AsArray()).Count(delivery => delivery!["words"] is not null) == cases.Length);
        foreach (var (i, one) in cases.Index()) Assert.Contains(one.Words, (string)tried.Single(delivery => (string)delivery!["webhook"]! == $"w{i}")!["words"]!);
    }

    /// <summary>A claim that waits for the row of another sees a lease that ends later than its own clock allows.</summary>
    [Theory]
    [InlineData("1 minute 2 seconds", 0)]
    [InlineData("1 hour", 1)]
    public async Task A_lease_that_was_written_a_moment_later_holds_and_one_of_a_clock_set_back_does_not(string ends, int claimed)
    {
        var store = controlPlane.Services.GetRequiredService<WebhookStore>();
        var id = await store.AddAsync("elsewhere", Guid.NewGuid(), "{}");
        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("update webhook_delivery set claimed_until = now() + @ends::interval where id = @id", new { id, ends });
        Assert.Equal(claimed, (await store.ClaimAsync(["elsewhere"], TimeSpan.FromMinutes(1))).Count);
    }

    [Fact]
    public async Task A_redirect_is_not_followed()
    {
        receiver.Answer = _ => (307, receiver.Url + "/elsewhere");
        await admin.ApplyAsync(Config());
        await TestAsync("ops");
        await NodeCalls.EventuallyAsync("it was tried", async () => (await DeliveryAsync("pending"))["words"] is not null);
        Assert.Equal("redirects are not followed", (string)(await DeliveryAsync("pending"))["words"]!);
        Assert.All(receiver.Calls, call => Assert.Equal("/ops", call.Path));       // it may have been tried again by now
    }

    [Fact]
    public async Task A_webhook_that_is_not_there_is_not_found() => await admin.SendAsync(HttpMethod.Post, "/api/v1/webhooks/nobody/test", expect: HttpStatusCode.NotFound);

    private string Config(string more = "", bool webhook = true) => $$"""
        instances:
          - {name: a, base_url: "http://127.0.0.1:9001"}
          - {name: b, base_url: "http://127.0.0.1:9002"}
        pools:
          - {name: chat, models: [chat], tiers: [{name: primary, instances: [a, b]}]}
        {{(webhook ? $"webhooks: [{{name: ops, url: \"{receiver.Url}/ops\", secret: {Secret}}}]" : "")}}
        {{more}}
        """;

    /// <summary>Two looks at all rules, and between them the wait of a notice for others of its kind: what the job does within ten seconds.</summary>
    private async Task WatchAsync(System.Data.Common.DbConnection database)
    {
        var watch = controlPlane.Services.GetRequiredService<AlertWatch>();
        await NodeCalls.EventuallyAsync("there is a configuration", () => controlPlane.Services.GetRequiredService<DesiredState>().Current is not null);
        await watch.RunAsync(default);
        await database.ExecuteAsync("update alert set fired_at = fired_at - interval '6 seconds', resolved_at = resolved_at - interval '6 seconds'");
        await watch.RunAsync(default);
    }

    private static Task OutAsync(System.Data.Common.DbConnection database, params string[] instances) => database.ExecuteAsync("""
        insert into incident (kind, subject, since, cause, evidence, last_event_at) select 'probe', i, now(), 'bad_gateway', '{"first":{},"last":{},"causes":{}}', now() from unnest(@instances) i
        """, new { instances });

    private Task<JsonNode> TestAsync(string webhook) => admin.SendAsync(HttpMethod.Post, $"/api/v1/webhooks/{webhook}/test", expect: HttpStatusCode.Accepted);

    private async Task<JsonNode> DeliveryAsync(string state)
    {
        JsonArray found = [];
        await NodeCalls.EventuallyAsync($"a delivery is {state}", async () => (found = (await admin.GetJsonAsync($"/api/v1/webhooks/deliveries?state={state}")).AsArray()).Count == 1);
        return found[0]!;
    }

    private static void Signed(WebhookReceiver.Call call)
    {
        var parts = call.Signature!.Split(',').ToDictionary(part => part.Split('=')[0], part => part.Split('=')[1]);
        var signed = Encoding.UTF8.GetBytes(parts["t"] + ".").Concat(call.Body).ToArray();
        Assert.Equal(Convert.ToHexStringLower(HMACSHA256.HashData(Encoding.UTF8.GetBytes(Secret), signed)), parts["v1"]);
        Assert.InRange(long.Parse(parts["t"], CultureInfo.InvariantCulture), DateTimeOffset.UtcNow.ToUnixTimeSeconds() - 60, DateTimeOffset.UtcNow.ToUnixTimeSeconds() + 5);
    }
}
