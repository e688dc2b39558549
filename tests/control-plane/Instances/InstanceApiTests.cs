using System.Net;
using System.Text;
using Evenkeel.Tests.Config;
using Xunit;

namespace Evenkeel.Tests.Instances;

[Collection(PostgresCollection.Name)]
public sealed class InstanceApiTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>, IAsyncLifetime
{
    private const string Path = "/api/v1/instances";

    private readonly HttpClient _admin = fixture.Plane.Admin();

    public Task InitializeAsync() => _admin.PutConfigAsync(Sample.Yaml);

    public Task DisposeAsync() => Task.CompletedTask;

    [Fact]
    public async Task An_instance_is_added_shown_replaced_changed_and_removed()
    {
        var added = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "c", "base_url": "http://c/v1", "base_latency": "800ms"}"""), HttpStatusCode.Created);
        Assert.Equal("800ms", (string?)added["base_latency"]);
        Assert.Equal(100, (int)(await _admin.GetJsonAsync(Path + "/c"))["max_connections"]!);

        var patched = await _admin.SendAsync(HttpMethod.Patch, Path + "/c", new StringContent("""{"weight": 9, "timeouts": {"idle": "20s"}, "model": "x"}""", Encoding.UTF8, "application/merge-patch+json"));
        Assert.Equal((9, "20s", "10s", "x"), ((int)patched["weight"]!, (string?)patched["timeouts"]!["idle"], (string?)patched["timeouts"]!["first_token"], (string?)patched["model"]));
        Assert.Null((await _admin.SendAsync(HttpMethod.Patch, Path + "/c", Body.Json("""{"model": null}""")))["model"]);

        var replaced = await _admin.SendAsync(HttpMethod.Put, Path + "/c", Body.Json("""{"base_url": "http://c2/v1"}"""));
        Assert.Equal(("http://c2/v1", 1), ((string?)replaced["base_url"], (int)replaced["weight"]!));
        await _admin.SendAsync(HttpMethod.Put, Path + "/d", Body.Json("""{"base_url": "http://d/v1"}"""), HttpStatusCode.Created);

        await _admin.SendAsync(HttpMethod.Delete, Path + "/c", expect: HttpStatusCode.NoContent);
        Assert.Equal(["a", "b", "d"], (await _admin.GetJsonAsync(Path)).AsArray().Select(i => (string?)i!["name"]));
    }

    [Fact]
    public async Task Names_that_are_taken_unknown_or_changed_are_refused()
    {
        var taken = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "a", "base_url": "http://c/v1"}"""), HttpStatusCode.Conflict);
        Assert.Equal("The name \"a\" is taken by another instance.", (string?)taken["detail"]);
        await _admin.GetAsync(Path + "/nobody", HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Patch, Path + "/nobody", Body.Json("{}"), HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Delete, Path + "/nobody", expect: HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Delete, Path + "/..%2f..%2fetc", expect: HttpStatusCode.NotFound);
        var renamed = await _admin.SendAsync(HttpMethod.Patch, Path + "/a", Body.Json("""{"name": "z"}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["name: is \"a\" in the address, and names do not change"], renamed.Errors());
        await _admin.SendAsync(HttpMethod.Put, Path + "/A%22%3B", Body.Json("""{"base_url": "http://c/v1"}"""), HttpStatusCode.UnprocessableEntity);
    }

    [Fact]
    public async Task What_a_pool_needs_is_not_removed()
    {
        var problem = await _admin.SendAsync(HttpMethod.Delete, Path + "/a", expect: HttpStatusCode.Conflict);
        Assert.Equal("The instance \"a\" is in use by pool \"chat\", tier \"primary\"; take it out there first.", (string?)problem["detail"]);
        Assert.Equal(2, (await _admin.GetJsonAsync(Path)).AsArray().Count);
    }

    [Fact]
    public async Task Faults_of_one_instance_come_with_their_place_in_what_was_sent()
    {
        var problem = await _admin.SendAsync(HttpMethod.Patch, Path + "/b", Body.Json("""{"weight": -1, "wieght": 2, "base_latency": 5}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["base_latency", "weight", "wieght"], problem["errors"]!.AsArray().Select(e => (string?)e!["path"]).Order(StringComparer.Ordinal));
        Assert.Contains("wieght: unknown key; did you mean weight?", problem.Errors());
        var nested = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "c", "base_url": "http://c/v1", "tls": {"verfiy": true}, "api_key": "secret:00000000000000000000"}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["tls.verfiy: unknown key; did you mean verify?"], nested.Errors());
        var secret = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "c", "base_url": "http://c/v1", "api_key": "secret:00000000000000000000"}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["api_key: no stored secret \"00000000000000000000\""], secret.Errors());
    }

    [Theory]
    [InlineData("")]
    [InlineData("[]")]
    [InlineData("5")]
    [InlineData("{\"weight\": 1, \"weight\": 2}")]
    [InlineData("{\"tls\": {\"verify\": true, \"verify\": false}}")]
    [InlineData("{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}}}}}}}}}}}}}}}")]
    [InlineData("{\"name\": {\"a\": 1}}")]
    [InlineData("{\"name\": \"\\ud800\"}")]
    [InlineData("{\"model\": \"\\ud800\"}")]
    [InlineData("{\"weight\": 1e999}")]
    [InlineData("{\"weight\": 1} trailing")]
    public async Task A_body_that_is_no_instance_is_refused_with_words(string body)
    {
        foreach (var (method, path) in new[] { (HttpMethod.Post, Path), (HttpMethod.Put, Path + "/a"), (HttpMethod.Patch, Path + "/a") })
        {
            Assert.NotEmpty((await _admin.SendAsync(method, path, Body.Json(body), HttpStatusCode.UnprocessableEntity)).Errors());
        }
    }

    [Fact]
    public async Task Every_write_minds_If_Match()
    {
        var number = await _admin.ETagAsync(Path);
        var old = $"\"{number - 1}\"";
        var item = Body.Json("""{"name": "c", "base_url": "http://c/v1"}""");
        await _admin.SendAsync(HttpMethod.Post, Path, item, HttpStatusCode.PreconditionFailed, old);
        await _admin.SendAsync(HttpMethod.Put, Path + "/c", Body.Json("""{"base_url": "http://c/v1"}"""), HttpStatusCode.PreconditionFailed, old);
        await _admin.SendAsync(HttpMethod.Patch, Path + "/a", Body.Json("""{"weight": 1}"""), HttpStatusCode.PreconditionFailed, old);
        await _admin.SendAsync(HttpMethod.Delete, Path + "/a", expect: HttpStatusCode.PreconditionFailed, ifMatch: old);
        Assert.Equal(number, await _admin.ETagAsync(Path));
        await _admin.SendAsync(HttpMethod.Patch, Path + "/a", Body.Json("""{"weight": 1}"""), ifMatch: $"\"{number}\"");
        Assert.Equal(number + 1, await _admin.ETagAsync(Path + "/a"));
    }

    [Fact]
    public async Task Pools_are_resources_too()
    {
        const string Pools = "/api/v1/pools";
        await _admin.SendAsync(HttpMethod.Post, Pools, Body.Json("""{"name": "small", "models": ["s"], "tiers": [{"instances": ["a"], "model": "s-1"}]}"""), HttpStatusCode.Created);
        var patched = await _admin.SendAsync(HttpMethod.Patch, Pools + "/small", Body.Json("""{"algorithm": "least_load", "retry": {"budget_ratio": 0.5}}"""));
        Assert.Equal(("least_load", "50%", 4), ((string?)patched["algorithm"], (string?)patched["retry"]!["budget_ratio"], (int)patched["retry"]!["max_attempts"]!));
        var taken = await _admin.SendAsync(HttpMethod.Patch, Pools + "/small", Body.Json("""{"models": ["s", "m"]}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["models[1]: the model \"m\" is already at pool \"chat\", models[0]"], taken.Errors());
        var wanted = await _admin.SendAsync(HttpMethod.Patch, Pools + "/chat", Body.Json("""{"models": ["m", "s"]}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["models[1]: the model \"s\" is already at pool \"small\", models[0]"], wanted.Errors());
        var twice = await _admin.SendAsync(HttpMethod.Patch, Pools + "/chat", Body.Json("""{"models": ["m"], "tiers": [{"instances": ["a", "nobody"]}]}"""), HttpStatusCode.UnprocessableEntity);
        Assert.Equal(["tiers[0].instances[1]: no instance \"nobody\""], twice.Errors());
        await _admin.SendAsync(HttpMethod.Delete, Pools + "/chat", expect: HttpStatusCode.NoContent);
        await _admin.SendAsync(HttpMethod.Delete, Path + "/b", expect: HttpStatusCode.NoContent);
    }
}
