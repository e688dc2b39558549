using Evenkeel.Config;

namespace Evenkeel.Health;

public enum HealthStatus { Unknown, Up, Down }

/// <summary>Neutral: the probe says nothing about the instance.</summary>
public enum ProbeVerdict { Good, Bad, Neutral }

/// <summary>
/// How an instance is, as its probes see it. Unknown counts as in service: one good answer makes it up, and only enough bad ones in a row
/// take it out. Consecutive is how many results in a row speak against the status. Pure.
/// </summary>
public sealed record HealthState(HealthStatus Status, int Consecutive, DateTime Since)
{
    /// <summary>The state after one more result, which came <paramref name="at"/>.</summary>
    public HealthState After(ProbeVerdict verdict, HealthCheckConfig thresholds, DateTime at)
    {
        var isDown = Status == HealthStatus.Down;
        switch (verdict)
        {
            case ProbeVerdict.Neutral:
                return this;
            case ProbeVerdict.Good when Status == HealthStatus.Unknown:
                return new HealthState(HealthStatus.Up, 0, at);
            case var same when same == (isDown ? ProbeVerdict.Bad : ProbeVerdict.Good):
                return this with { Consecutive = 0 };
        }
        var consecutive = Consecutive + 1;
        return consecutive < (isDown ? thresholds.HealthyThreshold : thresholds.UnhealthyThreshold)
            ? this with { Consecutive = consecutive }
            : new HealthState(isDown ? HealthStatus.Up : HealthStatus.Down, 0, at);
    }
}

/// <summary>What probes and ghosts found, as the nodes get it: the instances that are out, those of less weight, and the number of this finding.</summary>
public sealed record FleetState(long Number, IReadOnlySet<string> Down)
{
    /// <summary>Instance → what is left of its weight, above 0 and below 1.</summary>
    public IReadOnlyDictionary<string, double> WeightFactors { get; init; } = new Dictionary<string, double>();

    public static readonly FleetState Unknown = new(0, new HashSet<string>());
}
