using System.Text.RegularExpressions;

namespace Evenkeel.Database;

/// <summary>Text from outside, made fit to be kept: PostgreSQL holds no NUL, and half of a surrogate pair is no text. Pure.</summary>
public static partial class KeptText
{
    /// <param name="text">Whatever somebody said.</param>
    /// <param name="most">UTF-16 characters that are left of it at most, 1 or more; a pair is never cut through.</param>
    public static string Of(string text, int most = int.MaxValue)
    {
        if (text.Length > most) text = text[..(char.IsSurrogatePair(text, most - 1) ? most - 1 : most)];
        if (!text.Contains('\0') && !text.AsSpan().ContainsAnyInRange('\ud800', '\udfff')) return text;
        var fit = text.ToCharArray();
        for (var i = 0; i < fit.Length; i++)
        {
            if (fit[i] == '\0') fit[i] = ' ';
            else if (i + 1 < fit.Length && char.IsSurrogatePair(fit[i], fit[i + 1])) i++;
            else if (char.IsSurrogate(fit[i])) fit[i] = '\ufffd';
        }
        return new string(fit);
    }

    /// <summary>The same for the escapes of a JSON text, of which whoever reads a string throws at half a pair.</summary>
    public static string OfJson(string json) => !json.Contains("\\u", StringComparison.Ordinal) ? json
        : Escape().Replace(json, found => found.Groups["half"].Success ? "\\ufffd" : found.Groups["nul"].Success ? "\\u0020" : found.Value);

    // Whole pairs and whatever else is escaped, a backslash among it, are passed over.
    [GeneratedRegex(@"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|(?<nul>u0000)|.)", RegexOptions.ExplicitCapture | RegexOptions.Singleline)]
    private static partial Regex Escape();
}
