using System.Net;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using Evenkeel.Config;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Config;

[Collection(PostgresCollection.Name)]
public sealed class ConfigRoundTripTests(PostgresFixture postgres) : IAsyncLifetime
{
    private ControlPlane _plane = null!;

    public async Task InitializeAsync() => _plane = await ControlPlane.StartAsync(postgres);

    public async Task DisposeAsync() => await _plane.DisposeAsync();

    [Fact]
    public async Task What_is_stored_is_what_was_sent_from_rows_and_from_the_revision_alike()
    {
        var yaml = await File.ReadAllTextAsync(Repository.PathOf("tests", "contract", "config", "good", "example.yaml"));
        using var admin = _plane.Admin();
        using var put = await admin.PutAsync("/api/v1/config", Body.Yaml(yaml));
        Assert.Equal(HttpStatusCode.OK, put.StatusCode);
        var store = _plane.Services.GetRequiredService<ConfigStore>();
        var stored = await store.LoadAsync();
        Assert.Equal(ConfigWriter.Canonical(ConfigReader.Read(yaml, ConfigFormat.Yaml).Document), ConfigWriter.Canonical(stored.Document));
        var revision = await admin.GetFromJsonAsync<JsonNode>($"/api/v1/revisions/{stored.Revision}");
        Assert.Equal(ConfigWriter.ToNode(stored.Document).ToJsonString(), revision!["config"]!.ToJsonString());
    }
}
