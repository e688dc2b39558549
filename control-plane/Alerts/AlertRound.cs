namespace Evenkeel.Alerts;

/// <summary>Alerts that are not told of until a time. What is null matches all.</summary>
public sealed record Silence(string? Rule, string? Pool, string? Instance, DateTime Until)
{
    /// <param name="alert">An alert.</param>
    /// <param name="poolsOf">The pools that hold an instance: a pool's silence covers an instance that no other pool holds.</param>
    /// <param name="now">Its end does not count.</param>
    public bool Covers(Alert alert, Func<string, IReadOnlyCollection<string>> poolsOf, DateTime now) =>
        now < Until
        && (Rule is null || Rule == alert.Rule)
        && (Instance is null || Instance == alert.Subject.Instance)
        && (Pool is null || Pool == alert.Subject.Pool || (alert.Subject.Instance is { } instance && poolsOf(instance) is { Count: 1 } pools && pools.Contains(Pool)));
}

/// <summary>What is to be told: alerts of one rule and one cause that fire, and those that no longer do.</summary>
/// <param name="RuleName">The rule's name.</param>
/// <param name="Rule">Null: it is no longer there.</param>
/// <param name="Cause">The cause.</param>
/// <param name="Firing">Those that are new come first.</param>
/// <param name="Resolved">Since the last time.</param>
public sealed record Telling(string RuleName, AlertRule? Rule, string? Cause, IReadOnlyList<Alert> Firing, IReadOnlyList<Alert> Resolved);

/// <summary>What a round came to.</summary>
/// <param name="Kept">New and changed alerts.</param>
/// <param name="Dropped">Stored ones that are nothing after all.</param>
/// <param name="Tellings">To be told now.</param>
public sealed record RoundResult(IReadOnlyList<Alert> Kept, IReadOnlyList<Alert> Dropped, IReadOnlyList<Telling> Tellings);

/// <summary>
/// One look at all rules. Pure: the same alerts, readings, silences and time make the same result.
/// Many alerts of one rule and cause make one notice. A notice waits a moment for others of its kind, keeps a distance from the one before,
/// and says that some are over only when all are, or after a while. An alert that was told of is always told over, also when it was silenced
/// meanwhile; one that was not is not.
/// </summary>
public static class AlertRound
{
    public static readonly TimeSpan Wait = TimeSpan.FromSeconds(5);
    public static readonly TimeSpan Distance = TimeSpan.FromMinutes(1);
    public static readonly TimeSpan PartDistance = TimeSpan.FromMinutes(5);

    /// <param name="rules">In force.</param>
    /// <param name="readings">By rule; a rule that is not there could not be measured, and its alerts stay as they are.</param>
    /// <param name="alerts">All open ones, and those that were resolved within <see cref="PartDistance"/> or are not told over yet.</param>
    /// <param name="silenced">Whether an alert is not to be told of.</param>
    /// <param name="now">The time.</param>
    public static RoundResult Run(
        IReadOnlyList<AlertRule> rules, IReadOnlyDictionary<string, IReadOnlyList<Reading>> readings, IReadOnlyList<Alert> alerts, Func<Alert, bool> silenced, DateTime now)
    {
        var (kept, dropped) = (new List<Alert>(), new List<Alert>());
        var known = rules.ToDictionary(rule => rule.Name);
        var open = alerts.Where(alert => alert.IsOpen).ToDictionary(alert => (alert.Rule, alert.Subject));
        var after = alerts.Where(alert => !alert.IsOpen).ToList();
        foreach (var rule in rules)
        {
            foreach (var reading in readings.GetValueOrDefault(rule.Name) ?? [])
            {
                open.Remove((rule.Name, reading.Subject), out var before);
                Keep(before, AlertSteps.Next(rule, before, reading, now));
            }
        }
        foreach (var left in open.Values)
        {
            if (known.ContainsKey(left.Rule) && !readings.ContainsKey(left.Rule)) after.Add(left);
            else Keep(left, AlertSteps.Gone(left, now));
        }

        var tellings = new List<Telling>();
        foreach (var group in after.GroupBy(alert => (alert.Rule, alert.Cause)))
        {
            if (Due([.. group], silenced, now) is var (firing, resolved))
            {
                tellings.Add(new Telling(group.Key.Rule, known.GetValueOrDefault(group.Key.Rule), group.Key.Cause, firing, resolved));
            }
        }
        var told = tellings.SelectMany(telling => telling.Firing.Select(alert => alert with { ToldAt = alert.ToldAt ?? now })
            .Concat(telling.Resolved.Select(alert => alert with { ResolveToldAt = now }))).ToDictionary(alert => (alert.Rule, alert.Subject, alert.Since));
        var results = kept.Concat(after.Where(alert => told.ContainsKey(KeyOf(alert)))).DistinctBy(KeyOf).Select(alert => told.GetValueOrDefault(KeyOf(alert)) ?? alert);
        return new RoundResult([.. results], dropped, tellings);

        void Keep(Alert? before, Alert? next)
        {
            if (next is not null)
            {
                kept.Add(next);
                after.Add(next);
            }
            else if (before is not null)
            {
                dropped.Add(before);
            }
        }
    }

    private static (string, AlertSubject, DateTime) KeyOf(Alert alert) => (alert.Rule, alert.Subject, alert.Since);

    private static (IReadOnlyList<Alert> Firing, IReadOnlyList<Alert> Resolved)? Due(IReadOnlyList<Alert> group, Func<Alert, bool> silenced, DateTime now)
    {
        var fresh = group.Where(alert => alert.Phase == AlertPhase.Firing && alert.ToldAt is null && !silenced(alert)).ToList();
        var still = group.Where(alert => alert.Phase == AlertPhase.Firing && alert.ToldAt is not null).ToList();
        var over = group.Where(alert => alert.Phase == AlertPhase.Resolved && alert.ToldAt is not null && alert.ResolveToldAt is null).ToList();
        var toldAt = group.SelectMany(alert => new[] { alert.ToldAt, alert.ResolveToldAt }).Max() ?? DateTime.MinValue;
        var isDue =
            fresh.Count > 0 ? now - toldAt >= Distance && now - fresh.Min(alert => alert.FiredAt) >= Wait
            : over.Count > 0 && (still.Count > 0 ? now - toldAt >= PartDistance : now - toldAt >= Distance && now - over.Max(alert => alert.ResolvedAt) >= Wait);
        return isDue ? ([.. fresh, .. still.Where(alert => !silenced(alert))], over) : null;
    }
}
