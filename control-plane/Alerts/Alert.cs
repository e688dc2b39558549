namespace Evenkeel.Alerts;

/// <summary>What an alert is about.</summary>
public sealed record AlertSubject(string? Pool = null, string? Instance = null, string? Client = null)
{
    /// <summary>"pool chat".</summary>
    public override string ToString() => Instance is not null ? $"instance {Instance}" : Client is not null ? $"client {Client}" : $"pool {Pool}";
}

/// <summary>What a rule's metric is now at one subject.</summary>
/// <param name="Subject">What it was measured at.</param>
/// <param name="Value">In the metric's unit; null: there is nothing to judge, such as no traffic.</param>
/// <param name="Cause">What it comes of, if known; alerts of one rule and cause are told together.</param>
public sealed record Reading(AlertSubject Subject, double? Value, string? Cause = null);

public enum AlertPhase
{
    /// <summary>Bad, but not yet for long enough.</summary>
    Pending,
    Firing,
    Resolved,
}

/// <summary>One rule at one subject, from the moment it turned bad.</summary>
public sealed record Alert
{
    /// <summary>0: not stored yet.</summary>
    public long Id { get; init; }
    public required string Rule { get; init; }
    public required AlertSubject Subject { get; init; }
    public required AlertPhase Phase { get; init; }
    /// <summary>Bad since.</summary>
    public required DateTime Since { get; init; }
    public DateTime? FiredAt { get; init; }
    public DateTime? ResolvedAt { get; init; }
    /// <summary>Good since, while it fires.</summary>
    public DateTime? ClearSince { get; init; }
    public double? Value { get; init; }
    public double? Worst { get; init; }
    public string? Cause { get; init; }
    /// <summary>Judged last.</summary>
    public required DateTime SeenAt { get; init; }
    /// <summary>When a notice said that it fires.</summary>
    public DateTime? ToldAt { get; init; }
    /// <summary>When a notice said that it is over.</summary>
    public DateTime? ResolveToldAt { get; init; }

    public bool IsOpen => Phase != AlertPhase.Resolved;
}

/// <summary>How one reading moves one alert. Pure; time is fed.</summary>
public static class AlertSteps
{
    /// <summary>Whoever did not look for so long cannot say that it was bad, or good, all the time.</summary>
    public static readonly TimeSpan LongestGap = TimeSpan.FromSeconds(30);

    /// <param name="rule">The rule.</param>
    /// <param name="open">The open alert of this rule at this subject, if there is one.</param>
    /// <param name="reading">What is measured now.</param>
    /// <param name="now">Not before what the alert has seen.</param>
    /// <returns>What becomes of it; null: nothing to tell of, and an open one was never more than pending.</returns>
    public static Alert? Next(AlertRule rule, Alert? open, Reading reading, DateTime now)
    {
        var isBad = reading.Value is { } value && rule.IsBad(value);
        var isGood = reading.Value is not { } known || rule.IsGood(known);
        if (open is null)
        {
            return isBad ? Fired(rule, new Alert
            {
                Rule = rule.Name,
                Subject = reading.Subject,
                Phase = AlertPhase.Pending,
                Since = now,
                Value = reading.Value,
                Worst = reading.Value,
                Cause = reading.Cause,
                SeenAt = now,
            }, now) : null;
        }

        var looked = now - open.SeenAt <= LongestGap;
        var seen = open with { Value = reading.Value, Worst = Worse(rule, open.Worst, reading.Value), SeenAt = now };
        if (open.Phase == AlertPhase.Pending)
        {
            return isBad ? Fired(rule, seen with { Since = looked ? open.Since : now, Cause = reading.Cause ?? open.Cause }, now) : null;
        }

        if (!isGood) return seen with { ClearSince = null };
        var clear = looked && open.ClearSince is { } before ? before : now;
        return now - clear >= rule.ResolveFor
            ? seen with { Phase = AlertPhase.Resolved, ResolvedAt = now, ClearSince = null }
            : seen with { ClearSince = clear };
    }

    /// <summary>Its rule or its subject is no longer configured.</summary>
    /// <returns>As <see cref="Next"/>.</returns>
    public static Alert? Gone(Alert open, DateTime now) =>
        open.Phase == AlertPhase.Firing ? open with { Phase = AlertPhase.Resolved, ResolvedAt = now, ClearSince = null } : null;

    private static Alert Fired(AlertRule rule, Alert pending, DateTime now) =>
        now - pending.Since >= rule.For ? pending with { Phase = AlertPhase.Firing, FiredAt = now } : pending;

    private static double? Worse(AlertRule rule, double? worst, double? value) =>
        worst is not { } a ? value : value is not { } b ? worst : rule.Metric.WhenBelow ? Math.Min(a, b) : Math.Max(a, b);
}
