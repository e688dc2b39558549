using System.Net;
using System.Text;
using Dapper;
using Xunit;

namespace Evenkeel.Tests;

/// <summary>Whatever is refused before an endpoint has its say is refused with words: what, and what would be right.</summary>
[Collection(PostgresCollection.Name)]
public sealed class RefusalTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private readonly HttpClient _admin = fixture.Plane.Admin();

    [Theory]
    [InlineData("/api/v1/incidents?limit=abc", "limit: expected a whole number, found \"abc\"")]
    [InlineData("/api/v1/incidents?limit=99999999999999999999", "limit: expected a whole number, found \"99999999999999999999\"")]
    [InlineData("/api/v1/incidents?open=maybe", "open: expected true or false, found \"maybe\"")]
    [InlineData("/api/v1/incidents?since=%22yesterday%22", "since: expected a time as in 2027-01-31T00:00:00Z, found \"\"yesterday\"\"")]
    [InlineData("/api/v1/reports/incidents.csv?from=yesterday", "from: expected a time as in 2027-01-31T00:00:00Z, found \"yesterday\"")]
    public async Task A_parameter_that_is_none_is_named_with_what_it_may_be(string path, string words)
    {
        var problem = await _admin.GetAsync(path, HttpStatusCode.BadRequest);
        Assert.Equal(("Bad request", words), ((string?)problem["title"], (string?)problem["detail"]));
    }

    [Theory]
    [InlineData("""{"name":"ci","role":"god"}""", "role: expected one of viewer, operator, admin")]
    [InlineData("""{"name":"ci","role":5}""", "role: expected one of viewer, operator, admin")]
    [InlineData("""{"name":"ci","role":"admin","areas":["config","moon"]}""", "areas[1]: expected one of config, clients, nodes, telemetry, incidents, alerts, ghosts, access")]
    [InlineData("""{"name":"ci","role":"admin","areas":"config"}""", "areas: expected a list")]
    [InlineData("""{"name":7,"role":"admin"}""", "name: expected text")]
    [InlineData("""{"name":"ci","role":"admin","expires_at":"soon"}""", "expires_at: expected a time as in 2027-01-31T00:00:00Z")]
    [InlineData("[]", "The body: expected keys and values")]
    [InlineData("{\"name\":\n oops}", "The body is not JSON, at line 2, character 2 of it.")]
    [InlineData("null", "This takes a body of JSON.")]
    [InlineData("", "This takes a body of JSON.")]
    public async Task A_body_that_does_not_fit_is_told_where_and_what_is_allowed(string body, string words)
    {
        var problem = await _admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json(body), HttpStatusCode.BadRequest);
        Assert.Equal(("Bad request", words), ((string?)problem["title"], (string?)problem["detail"]));
    }

    [Fact]
    public async Task A_secret_in_a_body_that_does_not_fit_is_not_repeated()
    {
        using var nobody = fixture.Plane.Caller(null);
        foreach (var body in new[] { """{"token": {"sk-top": "sk-top"}}""", """{"token": sk-top}""", """{"token": true-top}""" })
        {
            var problem = await nobody.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json(body), HttpStatusCode.BadRequest);
            Assert.DoesNotContain("top", problem.ToJsonString(), StringComparison.Ordinal);
            Assert.NotNull((string?)problem["detail"]);
        }
    }

    [Theory]
    [InlineData("POST", "/api/v1/instances", "application/x-www-form-urlencoded", "Send content-type: application/json.")]
    [InlineData("POST", "/api/v1/tokens", "text/plain", "Send content-type: application/json.")]
    [InlineData("PUT", "/api/v1/config", "application/x-www-form-urlencoded", "Send content-type: application/json or application/yaml.")]
    public async Task A_media_type_that_is_not_taken_is_answered_with_those_that_are(string method, string path, string type, string words)
    {
        var problem = await _admin.SendAsync(new HttpMethod(method), path, new StringContent("{}", Encoding.UTF8, type), HttpStatusCode.UnsupportedMediaType);
        Assert.Equal(("Unsupported media type", words), ((string?)problem["title"], (string?)problem["detail"]));
    }

    [Fact]
    public async Task Where_nothing_is_the_answer_tells_where_to_look()
    {
        var nowhere = await _admin.GetAsync("/api/v1/nope", HttpStatusCode.NotFound);
        Assert.Equal(("Not found", "There is nothing at /api/v1/nope; /openapi shows what there is."), ((string?)nowhere["title"], (string?)nowhere["detail"]));
        var method = await _admin.SendAsync(HttpMethod.Put, "/api/v1/instances", Body.Json("{}"), HttpStatusCode.MethodNotAllowed);
        Assert.Equal(("Method not allowed", "/api/v1/instances takes GET, POST, not PUT."), ((string?)method["title"], (string?)method["detail"]));
    }

    [Fact]
    public async Task YAML_that_is_sent_as_JSON_is_told_what_it_is_sent_as()
    {
        const string Where = "not JSON, at character 1 of the line";
        var yaml = await _admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Json("instances: []\n"), HttpStatusCode.UnprocessableEntity);
        Assert.Equal([$": {Where}; YAML is sent with content-type: application/yaml"], yaml.Errors());
        var json = await _admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Json("{\"instances\": []"), HttpStatusCode.UnprocessableEntity);
        Assert.DoesNotContain("yaml", json.ToJsonString(), StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task A_token_that_cannot_be_made_has_one_reason()
    {
        await _admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"twice","role":"viewer"}"""), HttpStatusCode.Created);
        var taken = await _admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"twice","role":"viewer"}"""), HttpStatusCode.Conflict);
        Assert.Equal("The name \"twice\" is taken by another token.", (string?)taken["detail"]);
        await using var database = await fixture.Plane.OpenDatabaseAsync();
        await database.ExecuteAsync("insert into admin_token (name, role, token_hash, created_by) select 'many-' || n, 'viewer', sha256(n::text::bytea), 'test' from generate_series(1, 1000) n");
        var full = await _admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name":"more","role":"viewer"}"""), HttpStatusCode.Conflict);
        Assert.StartsWith("There are 1000 tokens", (string?)full["detail"], StringComparison.Ordinal);
        await database.ExecuteAsync("delete from admin_token");
    }

    [Theory]
    [InlineData(null, null, "This needs an admin token or a session.")]
    [InlineData("Bearer not-a-token-of-this-one", null, "This admin token is not known: revoked, expired or of another installation.")]
    [InlineData("Basic YTpi", null, "The header authorization is to be: Bearer, and an admin token.")]
    [InlineData(null, "evenkeel_session_0=gone", "This session is over; sign in again.")]
    public async Task Who_is_not_let_in_learns_whether_there_was_a_token(string? authorization, string? cookie, string words)
    {
        using var nobody = fixture.Plane.Caller(null);
        if (authorization is not null) nobody.DefaultRequestHeaders.TryAddWithoutValidation("Authorization", authorization);
        if (cookie is not null) nobody.DefaultRequestHeaders.TryAddWithoutValidation("Cookie", cookie);
        Assert.Equal(words, (string?)(await nobody.GetAsync("/api/v1/tokens", HttpStatusCode.Unauthorized))["detail"]);
    }

    [Fact]
    public async Task A_change_whose_body_does_not_fit_is_in_the_audit_log()
    {
        await _admin.SendAsync(HttpMethod.Post, "/api/v1/tokens?mark=audit", Body.Json("""{"name":"ci","role":"god"}"""), HttpStatusCode.BadRequest);
        var newest = (await _admin.GetJsonAsync("/api/v1/audit?limit=1")).AsArray().Single()!;
        Assert.Equal("POST /api/v1/tokens", (string?)newest["action"]);
        Assert.Equal(400, (int)newest["status"]!);
    }
}
