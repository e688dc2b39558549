using System.Net;
using System.Text.Json.Nodes;
using Evenkeel.Revisions;
using Evenkeel.Tests.Config;
using Xunit;

namespace Evenkeel.Tests.Revisions;

[Collection(PostgresCollection.Name)]
public sealed class RevisionApiTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private readonly HttpClient _admin = fixture.Plane.Admin();

    [Fact]
    public async Task History_is_listed_compared_and_brought_back()
    {
        var first = await _admin.PutConfigAsync(Sample.Yaml);
        var second = await _admin.PutConfigAsync(Sample.Yaml.Replace("weight: 50", "weight: 60").Replace("instances: [a, b]", "instances: [b]"));

        Assert.Equal([second, first], (await _admin.GetJsonAsync("/api/v1/revisions")).AsArray().Select(r => (long)r!["number"]!));
        Assert.Equal([first], (await _admin.GetJsonAsync($"/api/v1/revisions?before={second}&limit=1")).AsArray().Select(r => (long)r!["number"]!));

        var diff = (await _admin.GetJsonAsync($"/api/v1/revisions/{first}/diff/{second}")).AsArray();
        Assert.Equal(
            ["instances[a].weight: 50 -> 60", "pools[chat].tiers[primary].instances: [\"a\",\"b\"] -> [\"b\"]"],
            diff.Select(d => $"{d!["path"]}: {d["from"]!.ToJsonString()} -> {d["to"]!.ToJsonString()}"));

        var back = await _admin.SendAsync(HttpMethod.Post, $"/api/v1/revisions/{first}/rollback");
        Assert.True((bool)back["changed"]!);
        var third = (long)back["revision"]!;
        Assert.True(third > second);
        Assert.Empty((await _admin.GetJsonAsync($"/api/v1/revisions/{first}/diff/{third}")).AsArray());
        Assert.Equal($"roll back to {first}", (string?)(await _admin.GetJsonAsync($"/api/v1/revisions/{third}"))["message"]);
        Assert.False((bool)(await _admin.SendAsync(HttpMethod.Post, $"/api/v1/revisions/{third}/rollback"))["changed"]!);
    }

    [Fact]
    public async Task A_stored_secret_comes_back_with_its_revision()
    {
        var first = await _admin.PutConfigAsync(Sample.Yaml);
        var before = (string?)(await _admin.GetJsonAsync("/api/v1/instances/b"))["api_key"];
        await _admin.PutConfigAsync(Sample.Yaml.Replace(Sample.LiteralOfB, "sk-rotated"));
        await _admin.SendAsync(HttpMethod.Post, $"/api/v1/revisions/{first}/rollback");
        Assert.Equal(before, (string?)(await _admin.GetJsonAsync("/api/v1/instances/b"))["api_key"]);
    }

    [Fact]
    public async Task Revisions_that_are_not_there_are_404_and_a_stale_roll_back_is_412()
    {
        var first = await _admin.PutConfigAsync(Sample.Yaml);
        await _admin.GetAsync("/api/v1/revisions/999", HttpStatusCode.NotFound);
        await _admin.GetAsync($"/api/v1/revisions/{first}/diff/999", HttpStatusCode.NotFound);
        await _admin.GetAsync("/api/v1/revisions/first", HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Post, "/api/v1/revisions/999/rollback", expect: HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Post, $"/api/v1/revisions/{first}/rollback", expect: HttpStatusCode.PreconditionFailed, ifMatch: "\"0\"");
    }

    [Theory]
    [InlineData("""{"l": [{"name": "a", "x": 1}, {"name": "b"}]}""", """{"l": [{"name": "b"}, {"name": "a", "x": 1}]}""", "l: [\"a\",\"b\"] -> [\"b\",\"a\"]")]
    [InlineData("""{"l": [{"name": "a"}]}""", """{"l": [{"name": "b"}]}""", "l[a]: {\"name\":\"a\"} -> nothing | l[b]: nothing -> {\"name\":\"b\"}")]
    [InlineData("""{"a": {"b": 1, "c": null}}""", """{"a": {"b": 1.0}}""", "")]
    [InlineData("""{"a": [1, 2]}""", """{"a": [1, 3]}""", "a: [1,2] -> [1,3]")]
    public void A_diff_names_members_and_tells_of_order(string from, string to, string expected)
    {
        var differences = RevisionDiff.Between(JsonNode.Parse(from), JsonNode.Parse(to));
        Assert.Equal(expected, string.Join(" | ", differences.Select(d => $"{d.Path}: {d.From?.ToJsonString() ?? "nothing"} -> {d.To?.ToJsonString() ?? "nothing"}")));
    }
}
