using Evenkeel.Provider;

namespace Evenkeel.Failover;

/// <summary>One simulated instance of a case, and how the gateway is to know it.</summary>
internal sealed record Member(string Role)
{
    public InstanceSettings Simulated { get; init; } = Setting.Usual;
    public int MaxConnections { get; init; } = 50;
    public string[] Capabilities { get; init; } = [];
    public string? Provider { get; init; }
    public double TotalS { get; init; } = 600;
    public double MinTokensPerSecond { get; init; }
    /// <summary>False: the time-outs are real even in a fast run.</summary>
    public bool ScaledTimeouts { get; init; } = true;
}

/// <summary>The pool of a case: its tiers of instances, first the primary, and its switches.</summary>
internal sealed record Setting(params Member[][] Tiers)
{
    /// <summary>Sixty words in 0.35 s.</summary>
    public static InstanceSettings Usual { get; } = new() { Tokens = 60, FirstTokenMs = 50, TokensPerSecond = 200 };

    public const string DefaultResponse = "System busy, please retry shortly";

    public bool BufferStreams { get; init; }
    public bool DefaultIsCompletion { get; init; }
    /// <summary>Null: as configured for all.</summary>
    public int? UnhealthyThreshold { get; init; }
    public int QueueSize { get; init; } = 100;
    public double QueueTimeoutS { get; init; } = 2;

    public IEnumerable<Member> Members => Tiers.SelectMany(tier => tier);

    /// <summary>The setting of the sixteen: one primary instance, one fallback tier.</summary>
    public static Setting Pair { get; } = new([new Member("primary")], [new Member("fallback")]);

    /// <summary>No other tier and no other instance.</summary>
    public static Setting Lone { get; } = new([[new Member("primary")]]);

    /// <summary>The same setting with this member changed.</summary>
    public Setting With(string role, Func<Member, Member> change) =>
        this with { Tiers = [.. Tiers.Select(tier => tier.Select(member => member.Role == role ? change(member) : member).ToArray())] };

    public Setting WithAll(Func<Member, Member> change) =>
        this with { Tiers = [.. Tiers.Select(tier => tier.Select(change).ToArray())] };

    /// <summary>The same setting where this member is simulated otherwise.</summary>
    public Setting Simulating(string role, Func<InstanceSettings, InstanceSettings> change) =>
        With(role, member => member with { Simulated = change(member.Simulated) });
}
