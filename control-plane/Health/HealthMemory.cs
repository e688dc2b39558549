namespace Evenkeel.Health;

/// <summary>
/// What probes and ghosts found, as the database last had it, and what the probes have found since it went away. That is pushed to the
/// nodes under numbers that go on by the clock, as the database's do, and waits here to be kept.
/// </summary>
public sealed class HealthMemory
{
    private readonly Lock gate = new();
    private readonly Dictionary<string, HealthState> found = [];
    private FleetState fleet = FleetState.Unknown;

    public FleetState Fleet { get { lock (gate) return fleet; } }

    /// <summary>What was found and is not kept yet.</summary>
    public IReadOnlyDictionary<string, HealthState> Waiting { get { lock (gate) return found.ToDictionary(); } }

    /// <summary>The database says so; what it does not know yet goes before. Gives what holds.</summary>
    public FleetState Read(FleetState now)
    {
        lock (gate) return fleet = found.Count == 0 ? now : fleet;
    }

    public HealthState Of(string instance)
    {
        lock (gate) return found.GetValueOrDefault(instance) ?? new HealthState(fleet.Down.Contains(instance) ? HealthStatus.Down : HealthStatus.Up, 0, DateTime.UnixEpoch);
    }

    /// <summary>One more result, while the database is away. True: the instance goes out or comes back.</summary>
    public bool Found(string instance, HealthState state, DateTime at)
    {
        lock (gate)
        {
            found[instance] = state;
            var isDown = state.Status == HealthStatus.Down;
            if (fleet.Down.Contains(instance) == isDown) return false;
            var down = isDown ? fleet.Down.Append(instance) : fleet.Down.Where(name => name != instance);
            fleet = fleet with { Number = Math.Max(fleet.Number + 1, new DateTimeOffset(at).ToUnixTimeMilliseconds()), Down = down.ToHashSet() };
            return true;
        }
    }

    public void Kept()
    {
        lock (gate) found.Clear();
    }
}
