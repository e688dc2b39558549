using System.Globalization;

namespace Evenkeel.Config;

/// <summary>Values with a unit, as people write them: "800ms", "10s", "50%".</summary>
public static class Units
{
    /// <summary>Longest duration that can be written; far above any bound, far below an overflow.</summary>
    public static readonly TimeSpan LongestDuration = TimeSpan.FromDays(36_500);

    private static readonly (string Unit, long Milliseconds)[] s_durationUnits =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    /// <summary>A number directly followed by ms, s, m, h or d, a whole number of milliseconds in all.</summary>
    /// <returns>Null and a reason when the text is not such a duration.</returns>
    public static TimeSpan? ParseDuration(string text, out string reason)
    {
        reason = "";
        var digits = text.AsSpan().TrimEnd("dhms");
        if (!TryPlainNumber(digits, out var number))
        {
            reason = "a duration is a number with a unit, as in 800ms, 10s, 5m, 2h or 1d";
            return null;
        }

        var unit = text[digits.Length..];
        if (unit.Length == 0)
        {
            reason = $"a duration needs a unit: {Shown(text)}ms, {Shown(text)}s, {Shown(text)}m, {Shown(text)}h or {Shown(text)}d";
            return null;
        }

        var factor = Array.Find(s_durationUnits, u => u.Unit == unit).Milliseconds;
        if (factor == 0)
        {
            reason = $"\"{Shown(unit)}\" is not a unit of time; use ms, s, m, h or d";
            return null;
        }

        var milliseconds = number * factor;
        if (milliseconds > (decimal)LongestDuration.TotalMilliseconds)
        {
            reason = "longer than a hundred years";
            return null;
        }

        if (milliseconds != decimal.Truncate(milliseconds))
        {
            reason = "a duration is a whole number of milliseconds";
            return null;
        }

        return TimeSpan.FromMilliseconds((long)milliseconds);
    }

    /// <summary>The shortest exact form: 90 s is "90s", 3600 s is "1h".</summary>
    public static string FormatDuration(TimeSpan duration)
    {
        var milliseconds = (long)duration.TotalMilliseconds;
        if (milliseconds == 0)
        {
            return "0s";
        }

        var (unit, factor) = Array.FindLast(s_durationUnits, u => milliseconds % u.Milliseconds == 0);
        return (milliseconds / factor).ToString(CultureInfo.InvariantCulture) + unit;
    }

    /// <summary>"16:30" as minutes since midnight; null: it is no time of the day.</summary>
    public static int? ParseTimeOfDay(string text) =>
        TimeOnly.TryParseExact(text, "HH:mm", CultureInfo.InvariantCulture, DateTimeStyles.None, out var time) ? time.Hour * 60 + time.Minute : null;

    /// <summary>"50%" is 0.5; a bare number is taken as the ratio itself. Exact to one part in a million.</summary>
    /// <returns>Null and a reason when the text is neither.</returns>
    public static double? ParseRatio(string text, out string reason)
    {
        reason = "";
        var percent = text.EndsWith('%');
        if (!TryPlainNumber(percent ? text.AsSpan(0, text.Length - 1) : text, out var number))
        {
            reason = "a share is a percentage as in 50%, or a number as in 0.5";
            return null;
        }

        return (double)Math.Round(percent ? number / 100 : number, 6);
    }

    public static string FormatRatio(double ratio) => ((decimal)ratio * 100).ToString("0.####", CultureInfo.InvariantCulture) + "%";

    /// <summary>Digits with at most one dot inside, short enough for a decimal to hold exactly.</summary>
    private static bool TryPlainNumber(ReadOnlySpan<char> text, out decimal number)
    {
        number = 0;
        return text.Length is > 0 and <= 20
            && text[0] != '.' && text[^1] != '.'
            && !text.ContainsAnyExcept("0123456789.")
            && decimal.TryParse(text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out number);
    }

    /// <summary>A value made fit for a message: bounded, printable.</summary>
    public static string Shown(string value)
    {
        var shown = value.Length > 60 ? value[..60] + "…" : value;
        return string.Create(shown.Length, shown, (span, s) =>
        {
            for (var i = 0; i < span.Length; i++)
            {
                span[i] = char.IsControl(s[i]) || char.IsSurrogate(s[i]) ? '?' : s[i];
            }
        });
    }
}
