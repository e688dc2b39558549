namespace Evenkeel.Bench;

/// <summary>The median of the rounds and how far they lie apart.</summary>
internal sealed record Figure(double Median, double Least, double Most)
{
    public static Figure? Of(IEnumerable<double> rounds)
    {
        var sorted = rounds.Order().ToArray();
        return sorted.Length == 0 ? null : new Figure(Statistics.Percentile(sorted, 0.5), sorted[0], sorted[^1]);
    }
}

internal static class Statistics
{
    /// <summary>Of sorted values, interpolated.</summary>
    public static double Percentile(IReadOnlyList<double> sorted, double share)
    {
        if (sorted.Count == 0)
        {
            return double.NaN;
        }
        var at = share * (sorted.Count - 1);
        var below = (int)at;
        var above = Math.Min(below + 1, sorted.Count - 1);
        return sorted[below] + ((sorted[above] - sorted[below]) * (at - below));
    }
}
