using System.Globalization;

namespace Evenkeel.Failover;

/// <summary>
/// The common factor on simulated delays, configured time-outs and the bounds that depend on them. 1 = real timings.
/// Not scaled, because the promise is about the time itself: Retry-After (whole seconds), "back within 4 s", "closed
/// within 1 s", "in-flight true within 5 s", the queue's time-out, the window of the pace floor, and the load tests.
/// </summary>
internal readonly record struct TimeScale(double Factor)
{
    public const double Fast = 0.2;

    public bool IsFast => Factor < 1;

    /// <summary>Scaled milliseconds.</summary>
    public int Ms(double realMs) => (int)Math.Round(realMs * Factor);

    /// <summary>A scaled upper bound. In a fast run with 1.5 s for what does not scale: connecting, scheduling, a busy machine.</summary>
    public int BoundMs(double realMs) => Ms(realMs) + (IsFast ? 1500 : 0);

    /// <summary>Scaled time.</summary>
    public TimeSpan Seconds(double realS) => TimeSpan.FromSeconds(realS * Factor);

    /// <summary>Scaled, as the configuration writes it.</summary>
    public string Written(double realS) => Ms(realS * 1000).ToString(CultureInfo.InvariantCulture) + "ms";
}
