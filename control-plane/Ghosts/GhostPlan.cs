namespace Evenkeel.Ghosts;

/// <summary>When a ghost goes out, and whether its pool can afford it. Pure: time and randomness are fed.</summary>
public static class GhostPlan
{
    private static readonly TimeSpan s_closeWatch = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_overdue = TimeSpan.FromMinutes(1);

    /// <summary>Part of a day's tokens that may be spent ahead of the clock.</summary>
    private const double Ahead = 0.1;

    /// <summary>The mean time between two scheduled ghosts at one instance.</summary>
    public static TimeSpan Interval(int perDay) => TimeSpan.FromDays(1) / perDay;

    /// <summary>
    /// The mean time between ghosts at an instance in such a state: a suspicious or grey one is asked as often as a fourth of the time that it
    /// has been so, a recovering one every half minute, and none less often than by the schedule. What stays as it is costs less and less.
    /// </summary>
    public static TimeSpan Interval(int perDay, GreyState state, DateTime now)
    {
        var scheduled = Interval(perDay);
        var wanted = state.Status switch
        {
            GhostStatus.Recovering => s_closeWatch,
            GhostStatus.Suspect or GhostStatus.Grey => Longer((now - state.Since) / 4, s_closeWatch),
            _ => scheduled,
        };
        return wanted < scheduled ? wanted : scheduled;
    }

    /// <param name="now">The ghost before goes out about now.</param>
    /// <param name="interval">The mean.</param>
    /// <param name="random">In [0, 1): the next one comes after half the mean to one and a half.</param>
    public static DateTime Next(DateTime now, TimeSpan interval, double random) => now + (interval * (0.5 + random));

    /// <summary>
    /// The moment at which a ghost that was due before now is made up for: one that is only late goes out now (null), one that nobody was
    /// there to send at some time within the interval, so that downtime ends without a burst. One further ahead than its interval allows
    /// was planned under a longer one.
    /// </summary>
    public static DateTime? Replan(DateTime due, DateTime now, TimeSpan interval, double random) =>
        now - due > s_overdue || due - now > interval * 1.5 ? now + (interval * random) : null;

    /// <summary>Tokens of the day that scheduled ghosts may have used by now, so that they last until midnight (UTC).</summary>
    public static long Allowance(int maxTokensPerDay, DateTime now) => (long)(maxTokensPerDay * Math.Min(1, now.TimeOfDay.TotalDays + Ahead));

    private static TimeSpan Longer(TimeSpan a, TimeSpan b) => a > b ? a : b;
}
