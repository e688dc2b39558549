using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;
using Dapper;
using Evenkeel.Auth;
using Evenkeel.Config;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.TestHost;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Config;

[Collection(PostgresCollection.Name)]
public sealed class ConfigApiTests(PostgresFixture postgres, PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private const string Path = "/api/v1/config";

    private readonly ControlPlane _plane = fixture.Plane;
    private readonly HttpClient _admin = fixture.Plane.Admin();

    [Theory]
    [MemberData(nameof(ConfigFileTests.Good), MemberType = typeof(ConfigFileTests))]
    public async Task What_is_stored_is_what_was_sent_from_rows_and_from_the_revision_alike(string name)
    {
        var text = await File.ReadAllTextAsync(Repository.PathOf("tests", "contract", "config", "good", name));
        var format = name.EndsWith(".json", StringComparison.Ordinal) ? ConfigFormat.Json : ConfigFormat.Yaml;
        await _admin.PutConfigAsync("{gateway: {workers: 99}}");
        var number = (long)(await _admin.SendAsync(HttpMethod.Put, Path, format == ConfigFormat.Json ? Body.Json(text) : Body.Yaml(text)))["revision"]!;

        var stored = await _plane.Services.GetRequiredService<ConfigStore>().LoadAsync();
        Assert.Equal(number, stored.Revision);
        Assert.Equal(ConfigWriter.Digest(stored.Document), stored.Digest);
        Assert.Equal(ConfigWriter.Canonical(ConfigReader.Read(text, format).Document), ConfigWriter.Canonical(stored.Document));
        var revision = await _admin.GetJsonAsync($"/api/v1/revisions/{number}");
        Assert.Equal(ConfigWriter.ToNode(stored.Document).ToJsonString(), revision["config"]!.ToJsonString());
        Assert.Equal(stored.Digest, (string?)revision["digest"]);
    }

    [Fact]
    public async Task Nothing_stored_is_revision_0_and_an_empty_configuration()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        Assert.Equal(0, await admin.ETagAsync(Path));
        Assert.Empty((await admin.GetJsonAsync(Path))["instances"]!.AsArray());
        await admin.SendAsync(HttpMethod.Put, Path, Body.Json("{}"), ifMatch: "\"0\"");
    }

    [Theory]
    [InlineData("application/yaml", "application/yaml")]
    [InlineData("text/yaml, */*;q=0.1", "application/yaml")]
    [InlineData("application/json", "application/json")]
    [InlineData("*/*", "application/json")]
    [InlineData("text/html, application/yaml;q=0.5, application/json;q=0.4", "application/yaml")]
    public async Task Get_gives_the_format_that_Accept_asks_for_and_put_takes_it_back_unchanged(string accept, string expected)
    {
        var number = await _admin.PutConfigAsync(Sample.Yaml);
        using var request = new HttpRequestMessage(HttpMethod.Get, Path);
        request.Headers.TryAddWithoutValidation("Accept", accept);
        using var got = await _admin.SendAsync(request);
        Assert.Equal(expected, got.Content.Headers.ContentType?.MediaType);

        var back = new StringContent(await got.Content.ReadAsStringAsync(), Encoding.UTF8, expected);
        var change = await _admin.SendAsync(HttpMethod.Put, Path, back, ifMatch: got.Headers.ETag!.ToString());
        Assert.False((bool)change["changed"]!);
        Assert.Equal(number, (long)change["revision"]!);
    }

    [Fact]
    public async Task An_unchanged_configuration_mints_no_revision()
    {
        var number = await _admin.PutConfigAsync(Sample.Yaml);
        var again = await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml("# another comment\n" + Sample.Yaml));
        Assert.Equal((number, false, false), ((long)again["revision"]!, (bool)again["changed"]!, (bool)again["reload"]!));
        Assert.Equal(number, (long)(await _admin.GetJsonAsync("/api/v1/revisions"))[0]!["number"]!);
    }

    [Fact]
    public async Task Only_what_changes_the_rendered_text_asks_for_a_reload()
    {
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml("{}"));
        async Task<bool> Reload(string yaml) => (bool)(await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(yaml)))["reload"]!;

        Assert.True(await Reload(Sample.Yaml));
        Assert.False(await Reload(Sample.Yaml.Replace("weight: 50", "weight: 51, max_connections: 7, drain: true, api_key: sk-other, model: x")));
        Assert.False(await Reload(Sample.Yaml.Replace("models: [m]", "models: [m, n], algorithm: least_load")));
        Assert.True(await Reload(Sample.Yaml.Replace("weight: 50", "tls: {ca_file: /etc/ca.pem}")));
        Assert.True(await Reload(Sample.Yaml.Replace("pools:", "  - {name: c, base_url: \"http://c\"}\npools:")));
    }

    [Fact]
    public async Task A_write_on_a_stale_read_is_refused_and_says_what_is_in_force()
    {
        var first = await _admin.PutConfigAsync(Sample.Yaml);
        var second = await _admin.PutConfigAsync(Sample.Yaml.Replace("weight: 50", "weight: 51"));

        var changed = Sample.Yaml.Replace("weight: 50", "weight: 52");
        var stale = await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(changed), HttpStatusCode.PreconditionFailed, ifMatch: $"\"{first}\"");
        Assert.Equal(second, (long)stale["revision"]!);
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(changed), HttpStatusCode.PreconditionFailed, ifMatch: $"W/\"{second}\"");
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(changed), HttpStatusCode.PreconditionFailed, ifMatch: "nonsense");
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(changed), ifMatch: $"\"{first}\", \"{second}\"");
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(Sample.Yaml), ifMatch: "*");
    }

    [Fact]
    public async Task Of_many_writers_on_the_same_read_exactly_one_wins()
    {
        var number = await _admin.PutConfigAsync(Sample.Yaml);
        var statuses = await Task.WhenAll(Enumerable.Range(60, 12).Select(async weight =>
        {
            using var request = new HttpRequestMessage(HttpMethod.Put, Path) { Content = Body.Yaml(Sample.Yaml.Replace("weight: 50", $"weight: {weight}")) };
            request.Headers.IfMatch.Add(new EntityTagHeaderValue($"\"{number}\""));
            using var response = await _admin.SendAsync(request);
            return response.StatusCode;
        }));
        Assert.Equal(1, statuses.Count(s => s == HttpStatusCode.OK));
        Assert.Equal(11, statuses.Count(s => s == HttpStatusCode.PreconditionFailed));
    }

    [Fact]
    public async Task Edits_without_a_read_do_not_lose_each_other()
    {
        await _admin.PutConfigAsync(Sample.Yaml);
        await Task.WhenAll(Enumerable.Range(0, 10).Select(i =>
            _admin.SendAsync(HttpMethod.Post, "/api/v1/instances", Body.Json($$"""{"name": "x{{i}}", "base_url": "http://x{{i}}"}"""), HttpStatusCode.Created)));
        Assert.Equal(12, (await _admin.GetJsonAsync("/api/v1/instances")).AsArray().Count);
    }

    [Fact]
    public async Task A_refused_configuration_comes_back_with_every_fault_and_changes_nothing()
    {
        var number = await _admin.PutConfigAsync(Sample.Yaml);
        var bad = Sample.Yaml.Replace("instances: [a, b]", "instances: [a, x]").Replace("weight: 50", "wieght: 50").Replace("models: [m]", "models: [m], queue: {timeout: 10}");
        var problem = await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(bad), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(
            [
                "instances[0].wieght: unknown key; did you mean weight?",
                "pools[0].queue.timeout: a duration needs a unit: 10ms, 10s, 10m, 10h or 10d",
                "pools[0].tiers[0].instances[1]: no instance \"x\"",
            ],
            problem.Errors());
        Assert.Equal(number, await _admin.ETagAsync(Path));

        var validation = await _admin.SendAsync(HttpMethod.Post, Path + "/validate", Body.Yaml(bad));
        Assert.False((bool)validation["valid"]!);
        Assert.Equal(problem.Errors(), validation.Errors());
        Assert.True((bool)(await _admin.SendAsync(HttpMethod.Post, Path + "/validate", Body.Yaml(Sample.Example)))["valid"]!);
        Assert.Equal(number, await _admin.ETagAsync(Path));
    }

    [Fact]
    public async Task Wrong_requests_get_the_status_that_fits()
    {
        await _admin.SendAsync(HttpMethod.Put, Path, new StringContent("a: 1", Encoding.UTF8, "text/plain"), HttpStatusCode.UnsupportedMediaType);
        await _admin.SendAsync(HttpMethod.Put, Path, new ByteArrayContent([1]), HttpStatusCode.UnsupportedMediaType);
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(new string('#', ConfigTree.MaxBytes + 1)), HttpStatusCode.RequestEntityTooLarge);
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(""), HttpStatusCode.UnprocessableEntity);
        await _admin.SendAsync(HttpMethod.Delete, Path, expect: HttpStatusCode.MethodNotAllowed);
        await _admin.GetAsync("/api/v1/nothing", HttpStatusCode.NotFound);
        using var html = new HttpRequestMessage(HttpMethod.Get, Path);
        html.Headers.TryAddWithoutValidation("Accept", "text/html");
        using var notAcceptable = await _admin.SendAsync(html);
        Assert.Equal(HttpStatusCode.NotAcceptable, notAcceptable.StatusCode);
    }

    [Fact]
    public async Task One_configuration_is_read_at_a_time_and_nobody_who_may_only_look_keeps_an_admin_waiting()
    {
        var turns = new ConfigTurns { Patience = TimeSpan.FromMilliseconds(300) };
        await using var plane = _plane.WithWebHostBuilder(host => host.ConfigureTestServices(services => services.AddSingleton(turns)));
        using var admin = plane.CreateClient();
        admin.DefaultRequestHeaders.Authorization = _admin.DefaultRequestHeaders.Authorization;
        using var viewer = plane.CreateClient();
        var made = await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens", Body.Json("""{"name": "looks", "role": "viewer"}"""), HttpStatusCode.Created);
        viewer.DefaultRequestHeaders.Authorization = new("Bearer", (string)made["token"]!);
        static HttpContext Of(Role role)
        {
            var context = new DefaultHttpContext();
            new Caller("another", role, []).SignIn(context);
            return context;
        }

        using (await turns.TakeAsync(Of(Role.Viewer)))
        {
            using var refused = await viewer.PostAsync(Path + "/validate", Body.Yaml("{}"));
            Assert.Equal((HttpStatusCode.ServiceUnavailable, "application/problem+json"), (refused.StatusCode, refused.Content.Headers.ContentType?.MediaType));
            Assert.Equal("5", refused.Headers.GetValues("Retry-After").Single());
            await admin.SendAsync(HttpMethod.Post, Path + "/validate", Body.Yaml(Sample.Yaml));
            await admin.PutConfigAsync(Sample.Yaml);
        }

        await viewer.SendAsync(HttpMethod.Post, Path + "/validate", Body.Yaml("{}"));
        using (await turns.TakeAsync(Of(Role.Admin)))
        {
            await admin.SendAsync(HttpMethod.Put, Path, Body.Yaml(Sample.Yaml), HttpStatusCode.ServiceUnavailable);
            await viewer.SendAsync(HttpMethod.Post, Path + "/validate", Body.Yaml("{}"));
        }

        await admin.PutConfigAsync(Sample.Yaml);
    }

    [Fact]
    public async Task Rows_and_document_agree_after_every_kind_of_edit()
    {
        const string First = """
            instances: [{name: a, base_url: "http://a"}, {name: b, base_url: "http://b"}, {name: c, base_url: "http://c"}]
            pools:
              - {name: p, models: [m, n], tiers: [{instances: [a, b]}, {instances: [c]}], failover_config: {fallback: {cache_ttl: 1s}}}
              - {name: q, models: [o], tiers: [{instances: [a]}]}
            clients: [{name: c1, key: env:A}, {name: c2, key: env:B, models: [m]}]
            """;
        string[] edits =
        [
            First,
            First.Replace("[{name: a, base_url: \"http://a\"}, {name: b", "[{name: b2, base_url: \"http://b\"}, {name: a, base_url: \"http://a\"}, {name: b"),   // all places shift
            First.Replace("models: [m, n]", "models: [o, n]").Replace("models: [o], ", "models: [m], "),   // two pools swap a model
            First.Replace("{instances: [a, b]}, {instances: [c]}", "{instances: [c]}, {instances: [b, a]}"),   // tiers swap
            First.Replace(", failover_config: {fallback: {cache_ttl: 1s}}", ""),
            First.Replace("name: p,", "name: z,"),   // renamed
            First.Replace("key: env:A", "key: env:X").Replace("key: env:B", "key: env:A").Replace("env:X", "env:B"),   // two clients swap keys
            "{}",
            First + "\ngateway: {workers: 3, anonymous: true}\nfailover_config: {fallback: {degraded_model: small}}",
            Sample.Example,
        ];
        var store = _plane.Services.GetRequiredService<ConfigStore>();
        foreach (var yaml in edits)
        {
            await _admin.PutConfigAsync(yaml);
            var stored = await store.LoadAsync();
            Assert.Equal(ConfigWriter.Canonical(ConfigReader.Read(yaml, ConfigFormat.Yaml).Document), ConfigWriter.Canonical(stored.Document));
        }
    }

    [Fact]
    public async Task A_new_revision_is_announced_to_whoever_listens()
    {
        await _admin.PutConfigAsync("{}");
        await using var connection = await _plane.OpenDatabaseAsync();
        var heard = new TaskCompletionSource<string>();
        connection.Notification += (_, n) => heard.TrySetResult(n.Payload);
        await connection.ExecuteAsync("listen " + ConfigStore.Channel);
        var number = await _admin.PutConfigAsync(Sample.Yaml);
        using var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        while (!heard.Task.IsCompleted)
        {
            await connection.WaitAsync(deadline.Token);
        }

        Assert.Equal(number.ToString(), await heard.Task);
    }

    [Fact]
    public async Task Every_change_is_in_the_audit_log_with_who_what_and_from_where_to_where()
    {
        var empty = await _admin.PutConfigAsync("{}");
        var first = await _admin.PutConfigAsync(Sample.Yaml);
        await _admin.SendAsync(HttpMethod.Patch, "/api/v1/instances/a?message=more%20for%20a", Body.Json("""{"weight": 60}"""));
        await using var connection = await _plane.OpenDatabaseAsync();
        var log = (await connection.QueryAsync<(string Who, string Action, long? From, long? To)>(
            "select who, action, from_revision, to_revision from audit_log where to_revision > @empty order by id", new { empty })).ToList();
        var second = log[1].To!.Value;
        Assert.Equal([("admin", "PUT /api/v1/config", empty, first), ("admin", "PATCH /api/v1/instances/a", first, second)], log);
        Assert.Equal("more for a", (string?)(await _admin.GetJsonAsync($"/api/v1/revisions/{second}"))["message"]);
    }

    [Fact]
    public async Task The_largest_configuration_is_stored_and_changed_in_bounded_time()
    {
        var many = new JsonObject
        {
            ["instances"] = new JsonArray([.. Enumerable.Range(0, ConfigValidator.MostInstances).Select(i => (JsonNode)new JsonObject { ["name"] = $"i{i}", ["base_url"] = $"http://10.0.0.1:{1000 + i}/v1", ["api_key"] = $"sk-{i}" })]),
            ["pools"] = new JsonArray(new JsonObject { ["models"] = new JsonArray("m"), ["tiers"] = new JsonArray(new JsonObject { ["instances"] = new JsonArray([.. Enumerable.Range(0, 1000).Select(i => (JsonNode)$"i{i}")]) }) }),
        };
        var watch = System.Diagnostics.Stopwatch.StartNew();
        await _admin.SendAsync(HttpMethod.Put, Path, Body.Json(many.ToJsonString()));
        await _admin.SendAsync(HttpMethod.Patch, "/api/v1/instances/i4999", Body.Json("""{"weight": 7}"""));
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(120), $"took {watch.Elapsed}");
    }

    [Theory]
    [InlineData("insert into instance select (jsonb_populate_record(i, '{\"name\": \"x y\", \"position\": 9}')).* from instance i where name = 'a'")]
    [InlineData("update instance set weight = 10001 where name = 'a'")]
    [InlineData("update instance set api_key = 'sk-plain' where name = 'a'")]
    [InlineData("update instance set currency = 'USD' where name = 'a'")]
    [InlineData("delete from instance where name = 'a'")]
    [InlineData("insert into tier_instance values ('chat', 0, 9, 'nobody')")]
    [InlineData("insert into tier_instance values ('chat', 0, 9, 'a')")]
    [InlineData("insert into pool_model values ('m', 'chat', 9)")]
    [InlineData("insert into failover_config select * from failover_config where pool is null")]
    [InlineData("insert into gateway_setting select * from gateway_setting")]
    [InlineData("update revision set message = 'history rewritten'")]
    public async Task The_database_itself_refuses_what_must_not_be(string sql)
    {
        await _admin.PutConfigAsync(Sample.Yaml);
        await using var connection = await _plane.OpenDatabaseAsync();
        var refused = await Assert.ThrowsAsync<PostgresException>(() => connection.ExecuteAsync(sql));
        Assert.StartsWith("23", refused.SqlState);
    }
}
