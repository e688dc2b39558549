using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>Cases of one phase run at the same time.</summary>
internal enum Phase
{
    /// <summary>Single requests, all cases at once.</summary>
    Faults,
    /// <summary>Load: one case after the other, while the long ones of the first phase still run.</summary>
    Load,
    /// <summary>Disturbs everybody: alone, at the end.</summary>
    Alone,
}

/// <summary>The parts of the table.</summary>
internal enum Section
{
    Sixteen,
    Further,
    Promise,
}

/// <summary>A fault that waits at an instance from the beginning. <paramref name="Times"/>: null = for all its requests.</summary>
internal sealed record Trouble(string Role, string Spec, int? Times = null, FaultMatch? Match = null);

/// <summary>
/// One fault and what must come of it. Every case has a pool and instances of its own, so that all can run at once.
/// </summary>
internal sealed record Case
{
    /// <summary>"1" … "16", "F1s" (stream), "F1j" (JSON), "P1".</summary>
    public required string Number { get; init; }
    public required string Name { get; init; }
    /// <summary>What must be seen, in a few words.</summary>
    public required string Wanted { get; init; }
    public required Section Section { get; init; }
    public Phase Phase { get; init; } = Phase.Faults;
    public Setting Setting { get; init; } = Setting.Pair;
    public IReadOnlyList<Trouble> Troubles { get; init; } = [];

    /// <summary>The requests; null = one that streams.</summary>
    public Func<Stage, Task>? Play { get; init; }

    /// <summary>Pure: what was seen goes in, the judgement comes out.</summary>
    public required Func<Evidence, Judgement> Judge { get; init; }

    /// <summary>Judges what the node says of its instances, too.</summary>
    public bool AsksNode { get; init; }

    /// <summary>Needs what only a stack that the kit started itself gives: its API, its processes.</summary>
    public bool OwnStackOnly { get; init; }

    public string Id => Number.ToLowerInvariant();

    /// <summary>The public model name, which finds the case's pool.</summary>
    public string Model => "failover-" + Id;

    /// <summary>The upstream model of the fallback tier.</summary>
    public string FallbackModel => Model + "-lite";

    public string InstanceName(Member member) => $"failover-{Id}-{member.Role}";
}
