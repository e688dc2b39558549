using Evenkeel.Config;

namespace Evenkeel.Alerts;

/// <summary>A rule as it is judged: every default filled in, values as numbers (seconds, shares of 1, counts).</summary>
public sealed record AlertRule
{
    public required string Name { get; init; }
    public required AlertMetric Metric { get; init; }
    public required double Threshold { get; init; }
    public required double ResolveAt { get; init; }
    public required TimeSpan For { get; init; }
    public required TimeSpan ResolveFor { get; init; }
    public required TimeSpan Window { get; init; }
    public required int MinRequests { get; init; }
    public string? Outcome { get; init; }
    public string? Pool { get; init; }
    /// <summary>"*": each.</summary>
    public string? Instance { get; init; }
    public string? Client { get; init; }

    public bool IsBad(double value) => Metric.WhenBelow ? value < Threshold : value > Threshold;

    /// <summary>Between bad and good lies a band in which nothing changes.</summary>
    public bool IsGood(double value) => !IsBad(value) && (Metric.WhenBelow ? value >= ResolveAt : value <= ResolveAt);

    /// <summary>"p99_latency above 3 s".</summary>
    public string Condition => Metric.Unit == MetricUnit.Count && Threshold == 0 ? Metric.Name
        : $"{Metric.Name}{(Outcome is null ? "" : $" ({Outcome})")} {(Metric.WhenBelow ? "below" : "above")} {AlertMetrics.Shown(Metric.Unit, Threshold)}";
}

/// <summary>The rules in force. Pure.</summary>
public static class AlertRules
{
    private static readonly TimeSpan LeastResolveFor = TimeSpan.FromMinutes(1);
    private const int DefaultMinRequests = 10;

    /// <summary>In force as long as the configuration has none.</summary>
    public static readonly IReadOnlyList<AlertConfig> Defaults =
    [
        new() { Name = "slow", Metric = "p99_latency", Above = "3s", For = TimeSpan.FromMinutes(5) },
        new() { Name = "slow-first-token", Metric = "p90_first_token", Above = "3s", For = TimeSpan.FromMinutes(5) },
        new() { Name = "failing", Metric = "error_rate", Above = "5%", For = TimeSpan.FromMinutes(2) },
        new() { Name = "unavailable", Metric = "availability", Below = "99%", For = TimeSpan.FromMinutes(5) },
        new() { Name = "budget", Metric = "budget_used", Above = "90%" },
        new() { Name = "instance-down", Metric = "instance_down", Above = "0", For = TimeSpan.FromMinutes(1) },
        new() { Name = "degraded", Metric = "pool_degraded", Above = "0", For = TimeSpan.FromMinutes(1) },
        new() { Name = "all-down", Metric = "all_down", Above = "0" },
    ];

    public static IReadOnlyList<AlertRule> Of(ConfigDocument document) => [.. (document.Alerts.Count > 0 ? document.Alerts : Defaults).Select(Of)];

    /// <param name="config">A valid one.</param>
    public static AlertRule Of(AlertConfig config)
    {
        var metric = AlertMetrics.Of(config.Metric) ?? throw new ArgumentException($"no metric {config.Metric}");
        var threshold = AlertMetrics.Value(metric.Unit, (metric.WhenBelow ? config.Below : config.Above) ?? metric.Threshold)!.Value;
        return new AlertRule
        {
            Name = config.Name,
            Metric = metric,
            Threshold = threshold,
            ResolveAt = config.ResolveAt is { } written ? AlertMetrics.Value(metric.Unit, written)!.Value : OneTenthBetter(metric, threshold),
            For = config.For,
            ResolveFor = config.ResolveFor ?? (config.For > LeastResolveFor ? config.For : LeastResolveFor),
            Window = config.Window ?? metric.Window ?? TimeSpan.Zero,
            MinRequests = config.MinRequests ?? DefaultMinRequests,
            Outcome = config.Outcome,
            Pool = config.Pool,
            Instance = config.Instance,
            Client = config.Client,
        };
    }

    private static double OneTenthBetter(AlertMetric metric, double threshold) =>
        metric.Unit == MetricUnit.Count ? threshold
        : metric.WhenBelow ? 1 - (0.9 * (1 - threshold))
        : 0.9 * threshold;
}
