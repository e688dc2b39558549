using System.Globalization;

namespace Evenkeel.Config;

public enum MetricUnit { Duration, Share, Count }

/// <summary>What an alert can watch, and how its threshold is written.</summary>
public static class AlertMetrics
{
    private static readonly SortedDictionary<string, MetricUnit> s_units = new(StringComparer.Ordinal)
    {
        ["p50_latency"] = MetricUnit.Duration,
        ["p90_latency"] = MetricUnit.Duration,
        ["p99_latency"] = MetricUnit.Duration,
        ["p50_first_token"] = MetricUnit.Duration,
        ["p90_first_token"] = MetricUnit.Duration,
        ["p99_first_token"] = MetricUnit.Duration,
        ["error_rate"] = MetricUnit.Share,
        ["budget_used"] = MetricUnit.Share,
        ["instance_down"] = MetricUnit.Count,
        ["pool_degraded"] = MetricUnit.Count,
        ["all_down"] = MetricUnit.Count,
    };

    public static IEnumerable<string> All => s_units.Keys;

    public static MetricUnit? Unit(string metric) => s_units.TryGetValue(metric, out var unit) ? unit : null;

    /// <returns>Null, or why the text is no threshold for such a metric.</returns>
    public static string? ThresholdFault(MetricUnit unit, string above)
    {
        var reason = "";
        switch (unit)
        {
            case MetricUnit.Duration:
                return Units.ParseDuration(above, out reason) is null ? reason : null;
            case MetricUnit.Share:
                return Units.ParseRatio(above, out reason) is { } share ? share <= 10 ? null : "is above 1000%" : reason;
            default:
                return int.TryParse(above, NumberStyles.None, CultureInfo.InvariantCulture, out _) ? null : "expected a whole number";
        }
    }
}
