using System.Buffers;
using System.Data.Common;
using System.Globalization;
using System.Text;

namespace Evenkeel.Reports;

/// <summary>
/// Rows as CSV after RFC 4180: a header, CRLF, quotes where they are needed. Times are ISO 8601 in UTC; null is empty. A text that a
/// spreadsheet would take for a formula is written with an apostrophe before it.
/// </summary>
public static class Csv
{
    private static readonly SearchValues<char> Quoted = SearchValues.Create(",\"\r\n");
    private const int FlushEvery = 500;

    public static async Task WriteAsync(DbDataReader reader, Stream to, CancellationToken cancel)
    {
        await using var text = new StreamWriter(to, new UTF8Encoding(false), bufferSize: 32 * 1024) { NewLine = "\r\n" };
        await text.WriteLineAsync(Line(Enumerable.Range(0, reader.FieldCount).Select(reader.GetName)).AsMemory(), cancel);
        for (var rows = 1; await reader.ReadAsync(cancel); rows++)
        {
            await text.WriteLineAsync(Line(Enumerable.Range(0, reader.FieldCount).Select(i => reader.IsDBNull(i) ? "" : Field(reader.GetValue(i)))).AsMemory(), cancel);
            if (rows % FlushEvery == 0) await text.FlushAsync(cancel);
        }
    }

    /// <summary>One value as it stands in a line, not yet quoted.</summary>
    public static string Field(object value) => value switch
    {
        string text => text.Length > 0 && text[0] is '=' or '+' or '-' or '@' or '\t' or '\r' or '\n' ? "'" + text : text,
        DateTime at => at.ToUniversalTime().ToString("yyyy-MM-dd'T'HH:mm:ss.fff'Z'", CultureInfo.InvariantCulture),
        DateOnly day => day.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture),
        bool yes => yes ? "true" : "false",
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString() ?? "",
    };

    private static string Line(IEnumerable<string> fields) => string.Join(',', fields.Select(Quote));

    private static string Quote(string field) => field.AsSpan().ContainsAny(Quoted) ? "\"" + field.Replace("\"", "\"\"") + "\"" : field;
}
