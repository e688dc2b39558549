using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>
/// Has a request become dearer than the recorded run says? What is compared is CPU per 1 KB request next to plain nginx in the same run, for
/// a ratio carries over to another machine; and the best round, for other work on a machine only ever adds.
/// </summary>
internal static class Regression
{
    private const double Allowed = 1.10;

    /// <returns>The ratio that docs/benchmarks/overhead.json records, or null when there is none.</returns>
    public static double? Recorded(string checkout, string setting)
    {
        var path = Path.Combine(checkout, "docs/benchmarks/overhead.json");
        if (!File.Exists(path))
        {
            return null;
        }
        using var document = JsonDocument.Parse(File.ReadAllText(path));
        var row = document.RootElement.GetProperty("figures").GetProperty("rows").EnumerateArray().FirstOrDefault(row =>
            row.GetProperty("setting").GetString() == setting && row.GetProperty("peer").GetString() == Peer.Evenkeel);
        return row.ValueKind == JsonValueKind.Object && row.GetProperty("ratio") is { ValueKind: JsonValueKind.Object } ratio ? ratio.GetProperty("median").GetDouble() : null;
    }

    public static void Judge(Figure? measured, double? recorded)
    {
        if (measured is null || recorded is null)
        {
            Console.WriteLine("  no regression is judged: " + (recorded is null ? "no figure is recorded" : "nginx and evenkeel were not both measured"));
            return;
        }
        var words = $"a 1 KB request costs {measured.Least:0.00} × plain nginx at best; recorded are {recorded:0.00}";
        if (measured.Least > recorded * Allowed)
        {
            throw new BenchException(words + ": more than 10 % dearer");
        }
        Console.WriteLine("  " + words);
    }
}
