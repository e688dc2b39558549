using Xunit;

namespace Evenkeel.Tests;

/// <summary>One control plane for all tests of a class: <c>IClassFixture&lt;PlaneFixture&gt;</c>. Each test puts the configuration it needs.</summary>
public sealed class PlaneFixture(PostgresFixture postgres) : IAsyncLifetime
{
    public ControlPlane Plane { get; private set; } = null!;

    public async Task InitializeAsync() => Plane = await ControlPlane.StartAsync(postgres);

    public async Task DisposeAsync() => await Plane.DisposeAsync();
}
