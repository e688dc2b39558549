using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Xunit;

namespace Evenkeel.Tests.Publishing;

public sealed class SnapshotBuilderTests
{
    private const long Revision = 12;

    public static IEnumerable<object[]> Cases => Golden.Cases("snapshot");

    [Theory]
    [MemberData(nameof(Cases))]
    public void Every_case_gives_its_golden_snapshot(string name)
    {
        var snapshot = SnapshotBuilder.Build(CaseFile.Load(Path.Combine(Golden.Folder("snapshot"), name + ".yaml")), Revision, FleetState.Unknown, FakeSecret);
        Golden.Check(Path.Combine(Golden.Folder("snapshot"), name + ".json"), Indented(snapshot.Json));
    }

    [Fact]
    public void The_digest_depends_on_the_payload_and_not_on_the_revision()
    {
        var document = Example();
        var first = SnapshotBuilder.Build(document, 1, FleetState.Unknown, FakeSecret);
        Assert.Equal(first.Digest, SnapshotBuilder.Build(document, 2, FleetState.Unknown, FakeSecret).Digest);
        Assert.NotEqual(first.Digest, SnapshotBuilder.Build(document, 1, FleetState.Unknown, reference => new ResolvedSecret(FakeSecret(reference).Value + "x", null)).Digest);
        Assert.NotEqual(first.Digest, SnapshotBuilder.Build(document with { Instances = [.. document.Instances.Skip(1).Prepend(document.Instances[0] with { Weight = 49 })] }, 1, FleetState.Unknown, FakeSecret).Digest);
    }

    [Fact]
    public void What_the_probes_found_is_laid_over_the_configuration_with_its_number()
    {
        var snapshot = SnapshotBuilder.Build(Example(), 1, new FleetState(7, new HashSet<string> { "hosted-b", "long-gone" }), FakeSecret);
        Assert.Equal(7, snapshot.State);
        using var json = JsonDocument.Parse(snapshot.Json);
        Assert.Equal(7, json.RootElement.GetProperty("state").GetInt64());
        Assert.Equal(["hosted-b"], json.RootElement.GetProperty("instances").EnumerateArray()
            .Where(instance => instance.TryGetProperty("healthy", out var healthy) && !healthy.GetBoolean()).Select(instance => instance.GetProperty("name").GetString()));
        Assert.Equal(snapshot.Digest, SnapshotBuilder.Build(Example(), 1, new FleetState(8, new HashSet<string> { "hosted-b" }), FakeSecret).Digest);
    }

    [Fact]
    public void What_the_ghosts_left_of_a_weight_is_laid_over_it_too()
    {
        var fleet = new FleetState(7, new HashSet<string>()) { WeightFactors = new Dictionary<string, double> { ["hosted-b"] = 0.25, ["long-gone"] = 0.5 } };
        using var json = JsonDocument.Parse(SnapshotBuilder.Build(Example(), 1, fleet, FakeSecret).Json);
        var factors = json.RootElement.GetProperty("instances").EnumerateArray()
            .Where(instance => instance.TryGetProperty("weight_factor", out _)).ToDictionary(instance => instance.GetProperty("name").GetString()!, instance => instance.GetProperty("weight_factor").GetDouble());
        Assert.Equal(new Dictionary<string, double> { ["hosted-b"] = 0.25 }, factors);
    }

    [Fact]
    public void The_order_of_instances_pools_and_clients_in_the_document_does_not_matter()
    {
        var document = Example();
        var turned = document with { Instances = [.. document.Instances.Reverse()], Pools = [.. document.Pools.Reverse()], Clients = [.. document.Clients.Reverse()] };
        Assert.Equal(SnapshotBuilder.Build(document, 1, FleetState.Unknown, FakeSecret).Json.ToArray(), SnapshotBuilder.Build(turned, 1, FleetState.Unknown, FakeSecret).Json.ToArray());
    }

    [Fact]
    public void A_key_that_cannot_be_resolved_disables_its_instance_and_is_a_fault_with_its_path()
    {
        var snapshot = SnapshotBuilder.Build(CaseFile.Load(Path.Combine(Golden.Folder("snapshot"), "missing-keys.yaml")), 1, FleetState.Unknown, FakeSecret);
        Assert.Equal(["instances[0].api_key", "clients[0].key"], snapshot.Faults.Select(fault => fault.Path));
        Assert.Equal("\"keyless\" is disabled: the environment variable MISSING is not set", snapshot.Faults[0].Message);
        using var json = JsonDocument.Parse(snapshot.Json);
        var keyless = json.RootElement.GetProperty("instances").EnumerateArray().Single(instance => instance.GetProperty("name").GetString() == "keyless");
        Assert.False(keyless.GetProperty("enabled").GetBoolean());
        Assert.False(keyless.TryGetProperty("api_key", out _));
        Assert.False(json.RootElement.GetProperty("gateway").GetProperty("anonymous").GetBoolean());
    }

    [Fact]
    public void A_clients_key_leaves_only_as_its_hash()
    {
        var snapshot = SnapshotBuilder.Build(Example(), 1, FleetState.Unknown, reference => new ResolvedSecret(reference == "env:WEB_APP_KEY" ? "the-client-key" : "other", null));
        Assert.DoesNotContain("the-client-key", Encoding.UTF8.GetString(snapshot.Json.Span));
    }

    private static ConfigDocument Example() => CaseFile.Load(Path.Combine(Golden.Folder("snapshot"), "example.yaml"));

    private static ResolvedSecret FakeSecret(string reference) =>
        reference == "env:MISSING" ? new(null, "the environment variable MISSING is not set") : new("fake-" + reference["env:".Length..], null);

    private static string Indented(ReadOnlyMemory<byte> json)
    {
        using var document = JsonDocument.Parse(json);
        using var text = new MemoryStream();
        using (var writer = new Utf8JsonWriter(text, new JsonWriterOptions { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping })) document.WriteTo(writer);
        return Encoding.UTF8.GetString(text.ToArray()) + "\n";
    }
}
