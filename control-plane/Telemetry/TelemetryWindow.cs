using Evenkeel.Config;

namespace Evenkeel.Telemetry;

/// <summary>A stretch of time cut into steps, and the coarsest level of rows that still shows them. From and To lie on steps.</summary>
public sealed record TelemetryWindow(DateTime From, DateTime To, int StepS, int Level)
{
    public const int MostPoints = 2_000;

    /// <summary>From here all steps are counted, as the database does.</summary>
    public static readonly DateTime Origin = new(2000, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    private static readonly string[] Names = ["10s", "minute", "hour", "day"];
    private static readonly int[] LevelS = [10, 60, 3_600, 86_400];

    // Each is a multiple of every level that it is not shorter than.
    private static readonly int[] Steps =
        [10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000];

    private static readonly TimeSpan Longest = TimeSpan.FromDays(3_660);

    /// <summary>Suffix of the view: telemetry_call_by_…</summary>
    public string LevelName => Names[Level];

    public int Points => (int)((To - From).TotalSeconds / StepS);

    /// <summary>
    /// By default the last hour in about 120 steps. A step that is not on offer, that would make too many points, or that is finer than
    /// what is still kept of that time becomes the next longer one.
    /// </summary>
    /// <returns>Null and a reason when the times make no window.</returns>
    public static TelemetryWindow? Of(DateTimeOffset? from, DateTimeOffset? to, int? stepS, DateTime now, RetentionConfig retention, out string reason, int mostPoints = MostPoints)
    {
        reason = "";
        var end = to?.UtcDateTime ?? now;
        var begin = from?.UtcDateTime ?? end - TimeSpan.FromHours(1);
        if (begin >= end) reason = "from must lie before to";
        else if (end - begin > Longest) reason = "from and to are more than ten years apart";
        else if (end > now + TimeSpan.FromDays(1)) reason = "to lies ahead";
        else if (stepS is < 1 or > 2_592_000) reason = "step_s: 1 to 2592000";
        if (reason != "") return null;

        var age = now - begin;
        TimeSpan[] kept = [retention.TenSeconds, retention.Minutes, retention.Hours];
        var finest = kept.TakeWhile(span => age > span).Count();
        var least = Math.Max(Math.Max(stepS ?? (end - begin).TotalSeconds / 120, LevelS[finest]), (end - begin).TotalSeconds / (mostPoints - 1));
        var step = Steps.FirstOrDefault(s => s >= least, Steps[^1]);
        return new TelemetryWindow(Floor(begin, step), Floor(end.AddTicks(-1), step).AddSeconds(step), step, LevelS.Count(s => s <= step) - 1);
    }

    /// <summary>The steps in their order.</summary>
    public IEnumerable<DateTime> Ats => Enumerable.Range(0, Points).Select(i => From.AddSeconds((double)i * StepS));

    public static DateTime Floor(DateTime at, int stepS)
    {
        var ticks = stepS * TimeSpan.TicksPerSecond;
        var since = at.Ticks - Origin.Ticks;
        return new DateTime(Origin.Ticks + (since - (((since % ticks) + ticks) % ticks)), DateTimeKind.Utc);
    }
}
