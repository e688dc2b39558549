using System.Net;
using Dapper;
using Evenkeel.Auth;
using Microsoft.AspNetCore.Mvc.Testing;
using Xunit;

namespace Evenkeel.Tests.Auth;

/// <summary>Who gets in by what, what each may do, and what is remembered of it.</summary>
[Collection(PostgresCollection.Name)]
public sealed class SessionTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private readonly ControlPlane _plane = fixture.Plane;

    private HttpClient Browser(string address = "http://localhost")
    {
        var browser = _plane.CreateClient(new WebApplicationFactoryClientOptions { BaseAddress = new Uri(address), HandleCookies = true, AllowAutoRedirect = false });
        browser.DefaultRequestHeaders.Add(Gate.CsrfHeader, "1");
        return browser;
    }

    private static Task<System.Text.Json.Nodes.JsonNode> LogInAsync(HttpClient browser, string token = ControlPlane.AdminToken, HttpStatusCode expect = HttpStatusCode.OK) =>
        browser.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json($$"""{"token":"{{token}}"}"""), expect);

    private async Task<string> MakeTokenAsync(Role role, string? expiresAt = null, string? name = null)
    {
        name ??= "t-" + Guid.NewGuid().ToString("N")[..12];
        using var admin = _plane.Admin();
        var made = await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens",
            Body.Json($$"""{"name":"{{name}}","role":"{{role.ToString().ToLowerInvariant()}}"{{(expiresAt is null ? "" : $",\"expires_at\":\"{expiresAt}\"")}}}"""), HttpStatusCode.Created);
        return (string)made["token"]!;
    }

    [Fact]
    public async Task A_token_buys_a_cookie_that_no_script_and_no_foreign_page_can_use()
    {
        using var browser = Browser("https://localhost");
        using var response = await browser.PostAsync("/api/v1/session", Body.Json($$"""{"token":"{{ControlPlane.AdminToken}}"}"""));
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        var cookie = Assert.Single(response.Headers.GetValues("Set-Cookie"));
        foreach (var word in new[] { "httponly", "samesite=strict", "secure", "path=/", "expires=" })
        {
            Assert.Contains(word, cookie, StringComparison.OrdinalIgnoreCase);
        }

        Assert.DoesNotContain(ControlPlane.AdminToken, cookie);
        var who = await browser.GetJsonAsync("/api/v1/session");
        Assert.Equal(("admin", "admin", "session"), ((string)who["name"]!, (string)who["role"]!, (string)who["by"]!));
        Assert.InRange((DateTime)who["expires_at"]!, DateTime.UtcNow.AddHours(11), DateTime.UtcNow.AddHours(12));

        // The database knows the cookie's hash and nothing that opens anything.
        var value = cookie[(cookie.IndexOf('=') + 1)..cookie.IndexOf(';')];
        await using var connection = await _plane.OpenDatabaseAsync();
        Assert.DoesNotContain(value, string.Join('\n', await connection.QueryAsync<string>("select t::text from admin_session t")));
    }

    [Fact]
    public async Task A_session_ends_when_it_is_closed_and_its_cookie_is_worth_nothing_then()
    {
        using var browser = Browser();
        await LogInAsync(browser);
        using var response = await browser.GetAsync("/api/v1/config");
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        var kept = await CookieOfAsync();
        await browser.SendAsync(HttpMethod.Delete, "/api/v1/session", expect: HttpStatusCode.NoContent);
        await browser.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        using var thief = _plane.CreateClient(new WebApplicationFactoryClientOptions { HandleCookies = false });
        thief.DefaultRequestHeaders.Add("Cookie", kept);
        await thief.GetAsync("/api/v1/config", HttpStatusCode.OK);
        using var closing = new HttpRequestMessage(HttpMethod.Delete, "/api/v1/session") { Headers = { { Gate.CsrfHeader, "1" } } };
        Assert.Equal(HttpStatusCode.NoContent, (await thief.SendAsync(closing)).StatusCode);
        await thief.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
    }

    private async Task<string> CookieOfAsync()
    {
        using var client = _plane.CreateClient(new WebApplicationFactoryClientOptions { HandleCookies = false });
        using var response = await client.PostAsync("/api/v1/session", Body.Json($$"""{"token":"{{ControlPlane.AdminToken}}"}"""));
        var cookie = response.Headers.GetValues("Set-Cookie").Single();
        return cookie[..cookie.IndexOf(';')];
    }

    [Fact]
    public async Task A_change_by_cookie_needs_the_header_that_a_foreign_page_cannot_send()
    {
        using var browser = Browser();
        await LogInAsync(browser);
        await browser.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"));
        browser.DefaultRequestHeaders.Add("Sec-Fetch-Site", "cross-site");
        await browser.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"), HttpStatusCode.Forbidden);
        browser.DefaultRequestHeaders.Remove("Sec-Fetch-Site");
        browser.DefaultRequestHeaders.Add("Sec-Fetch-Site", "same-origin");
        await browser.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"));
        browser.DefaultRequestHeaders.Remove(Gate.CsrfHeader);
        await browser.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"), HttpStatusCode.Forbidden);
        await browser.SendAsync(HttpMethod.Delete, "/api/v1/instances/x", expect: HttpStatusCode.Forbidden);
        await browser.GetAsync("/api/v1/config", HttpStatusCode.OK);

        // A wrong token is a wrong token, with whatever cookie.
        browser.DefaultRequestHeaders.Authorization = new("Bearer", "wrong");
        await browser.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
    }

    [Theory]
    [InlineData("""{"token":"wrong"}""", HttpStatusCode.Unauthorized)]
    [InlineData("""{"token":""}""", HttpStatusCode.BadRequest)]
    [InlineData("""{"token":null}""", HttpStatusCode.BadRequest)]
    [InlineData("{}", HttpStatusCode.BadRequest)]
    [InlineData("[", HttpStatusCode.BadRequest)]
    [InlineData("\0", HttpStatusCode.BadRequest)]
    public async Task No_session_without_a_token(string body, HttpStatusCode expect)
    {
        using var browser = Browser();
        await browser.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json(body), expect);
        await browser.GetAsync("/api/v1/session", HttpStatusCode.Unauthorized);
    }

    [Fact]
    public async Task A_role_bounds_what_a_token_may_do()
    {
        using var admin = _plane.Admin();
        await admin.PutConfigAsync("instances: [{name: a, base_url: \"http://127.0.0.1:1/v1\"}]\npools: [{models: [m]}]");
        using var viewer = _plane.Caller(await MakeTokenAsync(Role.Viewer));
        using var steward = _plane.Caller(await MakeTokenAsync(Role.Operator));
        using var second = _plane.Caller(await MakeTokenAsync(Role.Admin));

        foreach (var caller in new[] { viewer, steward, second })
        {
            await caller.GetAsync("/api/v1/instances", HttpStatusCode.OK);
            await caller.SendAsync(HttpMethod.Post, "/api/v1/config/validate", Body.Yaml("{}"));
        }

        var weight = () => Body.Json("""{"weight": 7}""");
        await viewer.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", weight(), HttpStatusCode.Forbidden);
        await steward.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", weight());
        await steward.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"drain": true, "enabled": false}"""));
        await steward.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"weight": 8, "base_url": "http://elsewhere/v1"}"""), HttpStatusCode.Forbidden);
        await steward.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"), HttpStatusCode.Forbidden);
        await steward.SendAsync(HttpMethod.Delete, "/api/v1/instances/a", expect: HttpStatusCode.Forbidden);
        await steward.GetAsync("/api/v1/tokens", HttpStatusCode.Forbidden);
        await viewer.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"x","role":"admin"}"""), HttpStatusCode.Forbidden);
        await viewer.SendAsync(HttpMethod.Post, "/api/v1/incidents/1/acknowledge", Body.Json("{}"), HttpStatusCode.Forbidden);
        await steward.SendAsync(HttpMethod.Post, "/api/v1/incidents/1/acknowledge", Body.Json("{}"), HttpStatusCode.NotFound);
        await second.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"base_url": "http://elsewhere/v1"}"""));
    }

    [Fact]
    public async Task A_token_that_is_bound_to_areas_opens_nothing_else_nor_does_its_session_or_a_token_of_its_making()
    {
        using var admin = _plane.Admin();
        foreach (var bad in new[] { "[]", "[\"everything\"]", "[1]", "\"config\"" })
        {
            await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json($$"""{"name":"bound-badly","role":"viewer","areas":{{bad}}}"""), HttpStatusCode.BadRequest);
        }

        var made = await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"bound","role":"admin","areas":["access","nodes"]}"""), HttpStatusCode.Created);
        var token = (string)made["token"]!;
        using var bound = _plane.Caller(token);
        using var browser = Browser();
        Assert.Equal("""["access","nodes"]""", (await LogInAsync(browser, token))["areas"]!.ToJsonString());
        foreach (var caller in new[] { bound, browser })
        {
            await caller.GetAsync("/api/v1/session", HttpStatusCode.OK);
            await caller.GetAsync("/api/v1/nodes", HttpStatusCode.OK);
            await caller.GetAsync("/api/v1/audit", HttpStatusCode.OK);
            await caller.GetAsync("/api/v1/incidents", HttpStatusCode.Forbidden);
            await caller.SendAsync(HttpMethod.Put, "/api/v1/clients/x", Body.Json("{}"), HttpStatusCode.Forbidden);
            var refused = await caller.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"), HttpStatusCode.Forbidden);
            Assert.Equal("This needs the area config; this token is bound to access, nodes.", (string)refused["detail"]!);
        }

        foreach (var (areas, expect) in new[] { ("", HttpStatusCode.Forbidden), (",\"areas\":[\"config\"]", HttpStatusCode.Forbidden), (",\"areas\":[\"nodes\"]", HttpStatusCode.Created) })
        {
            await bound.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json($$"""{"name":"by-bound","role":"viewer"{{areas}}}"""), expect);
        }

        Assert.Contains("""{"name":"bound","role":"admin","areas":["access","nodes"],""", (await admin.GetJsonAsync("/api/v1/tokens")).ToJsonString());
        Assert.Contains((await admin.GetJsonAsync("/api/v1/audit?who=bound")).AsArray(), e => $"{e!["action"]} {e["status"]}" == "PUT /api/v1/config 403");
    }

    [Fact]
    public async Task A_token_is_shown_once_kept_as_a_hash_and_ends_with_its_sessions()
    {
        var token = await MakeTokenAsync(Role.Viewer, name: "short-lived");
        Assert.Matches("^eka_[A-Za-z0-9_-]{43}$", token);
        using var admin = _plane.Admin();
        await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"short-lived","role":"admin"}"""), HttpStatusCode.Conflict);
        using var viewer = _plane.Caller(token);
        using var browser = Browser();
        await LogInAsync(browser, token);
        await viewer.GetAsync("/api/v1/config", HttpStatusCode.OK);
        await browser.GetAsync("/api/v1/config", HttpStatusCode.OK);

        var list = (await admin.GetJsonAsync("/api/v1/tokens")).ToJsonString();
        Assert.Contains("short-lived", list);
        Assert.Contains("last_used_at", list);
        Assert.DoesNotContain(token, list);
        await using var connection = await _plane.OpenDatabaseAsync();
        Assert.DoesNotContain(token, string.Join('\n', await connection.QueryAsync<string>("select t::text from admin_token t union all select t::text from audit_log t")));

        await admin.SendAsync(HttpMethod.Delete, "/api/v1/tokens/short-lived", expect: HttpStatusCode.NoContent);
        await viewer.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        await browser.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        await LogInAsync(browser, token, HttpStatusCode.Unauthorized);
        await admin.SendAsync(HttpMethod.Delete, "/api/v1/tokens/no-such", expect: HttpStatusCode.NotFound);
        Assert.NotEqual(token, await MakeTokenAsync(Role.Viewer, name: "short-lived"));
    }

    [Fact]
    public async Task A_token_that_is_over_opens_nothing_and_a_session_ends_with_it()
    {
        using var admin = _plane.Admin();
        foreach (var bad in new[] { """{"name":"Bad Name","role":"viewer"}""", """{"name":"admin","role":"viewer"}""", """{"name":"x","role":"god"}""", """{"name":"x","role":1}""", """{"name":"x","role":"viewer","expires_at":"2001-01-01T00:00:00Z"}""" })
        {
            await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json(bad), HttpStatusCode.BadRequest);
        }

        var ends = DateTimeOffset.UtcNow.AddHours(1);
        var token = await MakeTokenAsync(Role.Viewer, ends.ToString("O"));
        using var browser = Browser();
        var session = await LogInAsync(browser, token);
        Assert.InRange((DateTime)session["expires_at"]!, ends.UtcDateTime.AddSeconds(-1), ends.UtcDateTime.AddSeconds(1));

        await using var connection = await _plane.OpenDatabaseAsync();
        await connection.ExecuteAsync("update admin_token set expires_at = now() where expires_at is not null");
        var deadline = DateTime.UtcNow.AddSeconds(20);      // another control plane's change counts within a second
        using var viewer = _plane.Caller(token);
        while ((await viewer.GetAsync("/api/v1/config")).StatusCode != HttpStatusCode.Unauthorized && DateTime.UtcNow < deadline)
        {
            await Task.Delay(50);
        }

        await viewer.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        await browser.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
    }

    [Fact]
    public async Task Every_change_and_every_refused_attempt_is_in_the_audit_log()
    {
        using var admin = _plane.Admin();
        var name = "auditor-" + Guid.NewGuid().ToString("N")[..8];
        using var steward = _plane.Caller(await MakeTokenAsync(Role.Operator, name: name));
        await admin.PutConfigAsync("instances: [{name: audited, base_url: \"http://127.0.0.1:1/v1\"}]\npools: [{models: [m]}]");
        await steward.SendAsync(HttpMethod.Patch, "/api/v1/instances/audited", Body.Json("""{"weight": 9}"""));
        await steward.SendAsync(HttpMethod.Delete, "/api/v1/instances/audited", expect: HttpStatusCode.Forbidden);
        await steward.GetAsync("/api/v1/tokens", HttpStatusCode.Forbidden);
        await steward.GetAsync("/api/v1/config", HttpStatusCode.OK);
        await steward.SendAsync(HttpMethod.Post, "/api/v1/incidents/99999/comments", Body.Json("""{"text":"hm"}"""), HttpStatusCode.NotFound);

        var log = (await admin.GetJsonAsync($"/api/v1/audit?who={name}")).AsArray();
        Assert.Equal(
            ["POST /api/v1/incidents/99999/comments refused 404", "GET /api/v1/tokens refused 403", "DELETE /api/v1/instances/audited refused 403", "PATCH /api/v1/instances/audited done "],
            log.Select(e => $"{e!["action"]} {e["result"]} {e["status"]}"));
        Assert.All(log, e => Assert.Equal(("operator", "local"), ((string?)e!["role"], (string?)e["source"])));
        var change = log[^1]!;
        Assert.True((long)change["to_revision"]! > (long)change["from_revision"]!);
        var revision = await admin.GetJsonAsync($"/api/v1/revisions/{change["to_revision"]}");
        Assert.Equal(name, (string)revision["author"]!);
        Assert.Single((await admin.GetJsonAsync($"/api/v1/audit?who={name}&limit=1&before={log[1]!["id"]}")).AsArray());
        var made = (await admin.GetJsonAsync("/api/v1/audit?who=admin&limit=500")).AsArray();
        Assert.Contains(made, e => (string?)e!["action"] == "POST /api/v1/tokens" && (int?)e["status"] == 201);
    }

    [Fact]
    public async Task Every_answer_tells_the_browser_to_trust_nothing_else()
    {
        using var nobody = _plane.Caller(null);
        foreach (var path in new[] { "/healthz", "/api/v1/config", "/openapi/index.html", "/nowhere", "/openapi/v1.json" })
        {
            using var answer = await nobody.GetAsync(path);
            string Header(string name) => answer.Headers.TryGetValues(name, out var values) ? string.Join(',', values) : "";
            Assert.Contains("default-src 'self'", Header("Content-Security-Policy"));
            Assert.DoesNotContain("unsafe", Header("Content-Security-Policy"));
            Assert.Equal(("nosniff", "DENY", "no-referrer"), (Header("X-Content-Type-Options"), Header("X-Frame-Options"), Header("Referrer-Policy")));
            Assert.Equal("", Header("Server"));
        }

        // What the page of the API needs comes from here, and nothing stands in line.
        var page = await nobody.GetStringAsync("/openapi/index.html");
        Assert.DoesNotMatch("<script(?![^>]*src=)", page);
        Assert.DoesNotMatch("<style|style=|onload=|onclick=", page);
        using var secure = _plane.CreateClient(new WebApplicationFactoryClientOptions { BaseAddress = new Uri("https://localhost") });
        Assert.True((await secure.GetAsync("/healthz")).Headers.Contains("Strict-Transport-Security"));
    }
}

/// <summary>Refused callers are slowed down, valid ones never.</summary>
[Collection(PostgresCollection.Name)]
public sealed class FailureTests(PostgresFixture postgres)
{
    [Fact]
    public async Task After_a_burst_of_refused_calls_the_next_are_told_to_wait_and_the_operator_still_gets_in()
    {
        await using var plane = await ControlPlane.StartAsync(postgres, new FailureLimiter(burst: 5, perSecond: 0.001));
        using var wrong = plane.Caller("wrong");
        for (var i = 0; i < 5; i++)
        {
            await wrong.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        }

        using var answer = await wrong.GetAsync("/api/v1/config");
        Assert.Equal(HttpStatusCode.TooManyRequests, answer.StatusCode);
        Assert.True(answer.Headers.RetryAfter!.Delta > TimeSpan.Zero);
        await wrong.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json("""{"token":"wrong"}"""), HttpStatusCode.TooManyRequests);
        using var node = plane.Caller("wrong");
        await node.GetAsync("/node/v1/n/nginx.conf?admin_listen=1&admin_url=1", HttpStatusCode.TooManyRequests);

        using var admin = plane.Admin();
        await admin.GetAsync("/api/v1/config", HttpStatusCode.OK);
        await wrong.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json($$"""{"token":"{{ControlPlane.AdminToken}}"}"""), HttpStatusCode.OK);
    }

    [Fact]
    public void A_source_gets_a_burst_then_one_in_a_while_and_others_do_not_pay_for_it()
    {
        var limiter = new FailureLimiter(burst: 3, perSecond: 0.5, mostSources: 100);
        var (a, b) = (IPAddress.Parse("10.0.0.1"), IPAddress.Parse("10.0.0.2"));
        Assert.Equal([null, null, null, 2, 2], Enumerable.Range(0, 5).Select(_ => limiter.Add(a, TimeSpan.Zero)));
        Assert.Null(limiter.Add(b, TimeSpan.Zero));
        Assert.Null(limiter.Add(a, TimeSpan.FromSeconds(2)));
        Assert.Equal(2, limiter.Add(a, TimeSpan.FromSeconds(2)));
        Assert.Equal(2, limiter.Add(IPAddress.Parse("::ffff:10.0.0.1"), TimeSpan.FromSeconds(2)));
        Assert.Equal([null, null, null, 2], Enumerable.Range(0, 4).Select(i => limiter.Add(IPAddress.Parse($"2001:db8::{i}"), TimeSpan.Zero)));
    }

    [Fact]
    public void Its_memory_is_bounded_whoever_fails()
    {
        var limiter = new FailureLimiter(burst: 1, perSecond: 0.001, mostSources: 100);
        for (var i = 0; i < 10_000; i++)
        {
            limiter.Add(new IPAddress(i), TimeSpan.FromSeconds(i));
        }

        Assert.InRange(limiter.Sources, 50, 100);
        Assert.NotNull(limiter.Add(new IPAddress(9_999), TimeSpan.FromSeconds(10_000)));
    }
}
