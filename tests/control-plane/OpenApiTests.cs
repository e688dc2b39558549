using System.Text.Json;
using System.Text.Json.Nodes;
using Xunit;

namespace Evenkeel.Tests;

[Collection(PostgresCollection.Name)]
public sealed class OpenApiTests(PostgresFixture postgres)
{
    /// <summary>A change of the API is a diff of docs/openapi.json in review. EVENKEEL_REWRITE=1 writes it anew.</summary>
    [Fact]
    public async Task The_committed_document_is_the_one_that_is_served()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var nobody = plane.Caller(null);
        var served = JsonNode.Parse(await nobody.GetStringAsync("/openapi/v1.json"))!;
        var text = served.ToJsonString(new JsonSerializerOptions { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n";
        var path = Repository.PathOf("docs", "openapi.json");
        if (Repository.Rewrite)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            await File.WriteAllTextAsync(path, text);
        }

        Assert.Equal(File.Exists(path) ? await File.ReadAllTextAsync(path) : "", text);
    }
}
