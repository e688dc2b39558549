using System.Globalization;

namespace Evenkeel.Config;

public enum MetricUnit { Duration, Share, Count }

/// <summary>What an alert can watch. docs/alerts.md tells what each value is taken from.</summary>
/// <param name="Name">As it is written.</param>
/// <param name="Unit">How a threshold is written, and what a value is: seconds, a share of 1, or a count.</param>
/// <param name="Threshold">Taken where none is written.</param>
/// <param name="Window">The time that a value is taken over where none is written; null: it is a state, not a measurement.</param>
public sealed record AlertMetric(string Name, MetricUnit Unit, string Threshold, TimeSpan? Window = null)
{
    /// <summary>True: bad when small.</summary>
    public bool WhenBelow { get; init; }
    public bool ByPool { get; init; }
    public bool ByInstance { get; init; }
    public bool ByClient { get; init; }
}

public static class AlertMetrics
{
    private static readonly TimeSpan s_window = TimeSpan.FromMinutes(5);

    private static readonly SortedDictionary<string, AlertMetric> s_all = new(new AlertMetric[]
    {
        new("p50_latency", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("p90_latency", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("p99_latency", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("p50_first_token", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("p90_first_token", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("p99_first_token", MetricUnit.Duration, "3s", s_window) { ByPool = true, ByInstance = true },
        new("error_rate", MetricUnit.Share, "5%", s_window) { ByPool = true, ByInstance = true },
        new("availability", MetricUnit.Share, "99%", TimeSpan.FromHours(1)) { WhenBelow = true, ByPool = true },
        new("budget_used", MetricUnit.Share, "90%") { ByClient = true },
        new("instance_down", MetricUnit.Count, "0") { ByPool = true, ByInstance = true },
        new("pool_degraded", MetricUnit.Count, "0") { ByPool = true },
        new("all_down", MetricUnit.Count, "0") { ByPool = true },
    }.ToDictionary(metric => metric.Name), StringComparer.Ordinal);

    public static IEnumerable<string> All => s_all.Keys;

    public static AlertMetric? Of(string name) => s_all.GetValueOrDefault(name);

    /// <returns>Null, or why the text is no threshold for such a metric.</returns>
    public static string? ThresholdFault(MetricUnit unit, string text)
    {
        var reason = "";
        switch (unit)
        {
            case MetricUnit.Duration:
                return Units.ParseDuration(text, out reason) is null ? reason : null;
            case MetricUnit.Share:
                return Units.ParseRatio(text, out reason) is { } share ? share <= 10 ? null : "is above 1000%" : reason;
            default:
                return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out _) ? null : "expected a whole number";
        }
    }

    /// <summary>Seconds, a share of 1, or a count; null for what is no threshold.</summary>
    public static double? Value(MetricUnit unit, string text) => unit switch
    {
        MetricUnit.Duration => Units.ParseDuration(text, out _)?.TotalSeconds,
        MetricUnit.Share => Units.ParseRatio(text, out _),
        _ => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var count) ? count : null,
    };

    /// <summary>Whether a value lies on the bad side of another; null where one of them is no threshold.</summary>
    public static bool? IsBeyond(AlertMetric metric, string? text, string? limit) =>
        text is null || limit is null || Value(metric.Unit, text) is not { } value || Value(metric.Unit, limit) is not { } threshold ? null
        : metric.WhenBelow ? value < threshold : value > threshold;

    /// <summary>For people: "4.2 s", "7.5%", "1".</summary>
    public static string Shown(MetricUnit unit, double value) => unit switch
    {
        MetricUnit.Duration => value.ToString(value < 10 ? "0.##" : "0.#", CultureInfo.InvariantCulture) + " s",
        MetricUnit.Share => (value * 100).ToString("0.##", CultureInfo.InvariantCulture) + "%",
        _ => value.ToString("0", CultureInfo.InvariantCulture),
    };
}
