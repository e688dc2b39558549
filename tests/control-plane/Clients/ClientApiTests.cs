using System.Net;
using System.Text.Json.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Tests.Config;
using Xunit;

namespace Evenkeel.Tests.Clients;

[Collection(PostgresCollection.Name)]
public sealed class ClientApiTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>, IAsyncLifetime
{
    private const string Path = "/api/v1/clients";

    private readonly HttpClient _admin = fixture.Plane.Admin();

    public Task InitializeAsync() => _admin.PutConfigAsync(Sample.Yaml);

    public Task DisposeAsync() => Task.CompletedTask;

    private static string[] Hashes(JsonNode? client) => [.. client!["keys"]!.AsArray().Select(k => (string)k!["sha256"]!)];

    [Fact]
    public async Task A_key_is_made_shown_once_and_kept_as_a_hash_only()
    {
        var added = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "web-app", "requests_per_minute": 60}"""), HttpStatusCode.Created);
        var key = (string)added["key"]!;
        Assert.Matches("^ek-[A-Za-z0-9_-]{43}$", key);
        Assert.Equal([SnapshotBuilder.HashOf(key)], Hashes(added["client"]));

        var another = (string)(await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "other"}"""), HttpStatusCode.Created))["key"]!;
        Assert.NotEqual(key, another);
        foreach (var path in new[] { Path, Path + "/web-app", "/api/v1/config", "/api/v1/revisions" })
        {
            Assert.DoesNotContain(key, (await _admin.GetJsonAsync(path)).ToJsonString());
        }

        await using var database = await fixture.Plane.OpenDatabaseAsync();
        await using var command = new Npgsql.NpgsqlCommand("select (select string_agg(c::text, '') from client c) || (select string_agg(r::text, '') from revision r) || coalesce((select string_agg(a::text, '') from audit_log a), '')", database);
        Assert.DoesNotContain(key, (string)(await command.ExecuteScalarAsync())!);
    }

    [Fact]
    public async Task A_client_with_a_key_of_its_own_gets_no_other()
    {
        var added = await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "own", "key": "a-key-of-my-own"}"""), HttpStatusCode.Created);
        Assert.Null(added["key"]);
        Assert.StartsWith("secret:", (string)added["client"]!["key"]!);
        await _admin.SendAsync(HttpMethod.Put, Path + "/keyless", Body.Json("{}"), HttpStatusCode.UnprocessableEntity);
        await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "own"}"""), HttpStatusCode.Conflict);
    }

    [Fact]
    public async Task A_client_is_changed_switched_off_and_removed()
    {
        await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "app"}"""), HttpStatusCode.Created);
        var patched = await _admin.SendAsync(HttpMethod.Patch, Path + "/app", Body.Json("""{"enabled": false, "expires": "2030-01-01T00:00:00Z", "max_concurrent": 5, "budget": {"amount": 10, "per": "day"}}"""));
        Assert.Equal((false, "2030-01-01T00:00:00Z", 5, "80%"), ((bool)patched["enabled"]!, (string)patched["expires"]!, (int)patched["max_concurrent"]!, (string)patched["budget"]!["warn_at"]!));
        Assert.Equal(patched.ToJsonString(), (await _admin.GetJsonAsync(Path + "/app")).ToJsonString());
        await _admin.SendAsync(HttpMethod.Delete, Path + "/app", expect: HttpStatusCode.NoContent);
        Assert.Empty((await _admin.GetJsonAsync(Path)).AsArray());
    }

    [Fact]
    public async Task A_rotated_key_goes_on_for_the_overlap_and_the_new_one_without_end()
    {
        var old = (string)(await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "app"}"""), HttpStatusCode.Created))["key"]!;
        var before = DateTime.UtcNow;
        var rotated = await _admin.SendAsync(HttpMethod.Post, Path + "/app/rotate", Body.Json("""{"overlap": "2h"}"""));
        var key = (string)rotated["key"]!;
        Assert.Equal([SnapshotBuilder.HashOf(key), SnapshotBuilder.HashOf(old)], Hashes(rotated["client"]));
        var keys = rotated["client"]!["keys"]!.AsArray();
        Assert.Null(keys[0]!["until"]);
        Assert.InRange((DateTime)keys[1]!["until"]!, before.AddHours(2).AddSeconds(-2), DateTime.UtcNow.AddHours(2));

        rotated = await _admin.SendAsync(HttpMethod.Post, Path + "/app/rotate", Body.Json("""{"overlap": "0s"}"""));
        Assert.Single(Hashes(rotated["client"]));
    }

    [Fact]
    public async Task A_key_that_stands_elsewhere_goes_on_by_its_hash_when_it_is_rotated()
    {
        await _admin.SendAsync(HttpMethod.Post, Path, Body.Json("""{"name": "app", "key": "a-key-of-my-own"}"""), HttpStatusCode.Created);
        var client = (await _admin.SendAsync(HttpMethod.Post, Path + "/app/rotate"))["client"];
        Assert.Null(client!["key"]);
        Assert.Equal(SnapshotBuilder.HashOf("a-key-of-my-own"), Hashes(client)[1]);
    }

    [Theory]
    [InlineData("""{"overlap": "1"}""")]
    [InlineData("""{"overlap": 60}""")]
    [InlineData("""{"overlap": "91d"}""")]
    [InlineData("""{"overlap": "1h", "overlap": "2h"}""")]
    [InlineData("""{"lap": "1h"}""")]
    [InlineData("[]")]
    [InlineData("\"1h\"")]
    [InlineData("{")]
    public async Task An_overlap_that_is_none_is_refused(string body)
    {
        await _admin.SendAsync(HttpMethod.Put, Path + "/app", Body.Json("""{"key": "k"}"""), HttpStatusCode.Created);
        await _admin.SendAsync(HttpMethod.Post, Path + "/app/rotate", Body.Json(body), HttpStatusCode.UnprocessableEntity);
        await _admin.SendAsync(HttpMethod.Post, Path + "/nobody/rotate", expect: HttpStatusCode.NotFound);
    }
}
