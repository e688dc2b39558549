namespace Evenkeel.Telemetry;

/// <summary>The bounds (s) of all histograms here: counts per bucket, the last one for everything above.</summary>
public static class Histogram
{
    /// <summary>Of whole requests and attempts, first tokens and waits.</summary>
    public static readonly double[] LongBounds =
        [0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600];

    /// <summary>Of single tokens and the gateway's own overhead.</summary>
    public static readonly double[] ShortBounds =
        [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2];

    /// <summary>
    /// Counts under the bounds of a node of another version: a bucket's counts go where its upper bound lies, so that they are never told
    /// faster than they were. Pure.
    /// </summary>
    public static long[] Rebucket(IReadOnlyList<long> counts, IReadOnlyList<double> from, double[] to)
    {
        var result = new long[to.Length + 1];
        for (var i = 0; i < counts.Count; i++)
        {
            var target = to.Length;
            if (i < from.Count)
            {
                target = Array.FindIndex(to, bound => bound >= from[i]);
                if (target < 0) target = to.Length;
            }
            result[target] += counts[i];
        }
        return result;
    }
}
