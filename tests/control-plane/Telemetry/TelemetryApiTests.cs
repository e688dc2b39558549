using System.Net;
using Xunit;

namespace Evenkeel.Tests.Telemetry;

[Collection(PostgresCollection.Name)]
public sealed class TelemetryApiTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private ControlPlane Plane => fixture.Plane;

    [Theory]
    [InlineData("latency?measure=p99", "measure")]
    [InlineData("latency?by=client", "by")]
    [InlineData("latency?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from")]
    [InlineData("errors?step_s=0", "step_s")]
    [InlineData("errors?level=request&instance=a", "instance")]
    [InlineData("cost?by=colour", "by")]
    public async Task What_cannot_be_answered_is_refused_with_a_reason(string question, string named)
    {
        using var admin = Plane.Admin();
        var problem = await admin.GetAsync("/api/v1/telemetry/" + question, HttpStatusCode.BadRequest);
        Assert.Contains(named, (string)problem["detail"]!);
    }

    [Theory]
    [InlineData("telemetry/latency")]
    [InlineData("telemetry/errors")]
    [InlineData("telemetry/heatmap")]
    [InlineData("telemetry/cost")]
    [InlineData("telemetry/roi")]
    [InlineData("traces")]
    public async Task Without_traffic_the_answers_are_empty(string path)
    {
        using var admin = Plane.Admin();
        await admin.GetAsync("/api/v1/" + path, HttpStatusCode.OK);
    }
}
