using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>Rows of words, for the terminal and for Markdown.</summary>
internal sealed class Table(params string[] head)
{
    private readonly List<string[]> _rows = [];

    public void Add(params string[] row) => _rows.Add(row);

    /// <summary>"median (least–most)".</summary>
    public static string Spread(Figure? figure, string format) => figure is null ? ""
        : string.Create(CultureInfo.InvariantCulture, $"{figure.Median.ToString(format, CultureInfo.InvariantCulture)} ({figure.Least.ToString(format, CultureInfo.InvariantCulture)} … {figure.Most.ToString(format, CultureInfo.InvariantCulture)})");

    public string Text()
    {
        var widths = head.Select((word, column) => _rows.Select(row => row[column].Length).Append(word.Length).Max()).ToArray();
        string Line(string[] words) => "  " + string.Join("  ", words.Select((word, column) => word.PadRight(widths[column]))).TrimEnd();
        return string.Join('\n', _rows.Select(Line).Prepend(Line(head)));
    }

    public string Markdown() => $"| {string.Join(" | ", head)} |\n|{string.Concat(head.Select((_, i) => i < 1 ? "---|" : "---:|"))}\n"
        + string.Concat(_rows.Select(row => $"| {string.Join(" | ", row)} |\n"));
}

/// <summary>Groups of horizontal bars, as SVG.</summary>
internal sealed class BarChart(string title, string note)
{
    private static readonly Dictionary<string, string> Colours = new()
    {
        [Peer.Nginx] = "#8a94a6",
        [Peer.Haproxy] = "#5b7db1",
        [Peer.Evenkeel] = "#0f8b8d",
        [Peer.Portkey] = "#c46a3f",
        ["weighted"] = "#0f8b8d",
        ["least_load"] = "#0b5f61",
        ["round_robin"] = "#8fc7c8",
    };

    private readonly List<(string Group, string Name, Figure Figure)> _bars = [];

    public void Add(string group, string name, Figure? figure)
    {
        if (figure is not null)
        {
            _bars.Add((group, name, figure));
        }
    }

    public string Svg()
    {
        const int Width = 860, Left = 250, Right = 120, BarHeight = 18, Gap = 4, GroupGap = 16, Top = 64;
        var groups = _bars.GroupBy(bar => bar.Group).ToList();
        var height = Top + groups.Sum(group => (group.Count() * (BarHeight + Gap)) + GroupGap) + 8;
        // One bar that is twenty times the others would leave nothing of them to see: it is cut, and its number tells.
        var sorted = _bars.Select(bar => bar.Figure.Median).Order().ToList();
        var scale = Math.Max(sorted.Where(value => value <= 8 * Math.Max(0.01, Statistics.Percentile(sorted, 0.5))).DefaultIfEmpty(1).Max(), 0.01) * 1.05;
        double X(double value) => Left + ((Width - Left - Right) * Math.Clamp(value / scale, 0, 1));
        var svg = new StringBuilder();
        string N(double value) => value.ToString("0.#", CultureInfo.InvariantCulture);
        svg.Append(CultureInfo.InvariantCulture, $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {Width} {height}\" width=\"{Width}\" height=\"{height}\" font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{title}\">\n");
        svg.Append(CultureInfo.InvariantCulture, $"<rect width=\"{Width}\" height=\"{height}\" fill=\"#ffffff\"/>\n<text x=\"16\" y=\"28\" font-size=\"18\" font-weight=\"600\" fill=\"#1b2430\">{title}</text>\n<text x=\"16\" y=\"48\" font-size=\"12\" fill=\"#5b6675\">{note}</text>\n");
        double y = Top;
        foreach (var group in groups)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"16\" y=\"{N(y + 13)}\" font-size=\"13\" font-weight=\"600\" fill=\"#1b2430\">{group.Key}</text>\n");
            foreach (var (_, name, figure) in group)
            {
                var cut = figure.Median > scale;
                var format = scale < 20 ? "0.00" : "0";
                svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left - 8}\" y=\"{N(y + 13)}\" font-size=\"12\" text-anchor=\"end\" fill=\"#1b2430\">{name}</text>\n");
                svg.Append(CultureInfo.InvariantCulture, $"<rect x=\"{Left}\" y=\"{N(y)}\" width=\"{N(Math.Max(1, X(figure.Median) - Left))}\" height=\"{BarHeight}\" rx=\"2\" fill=\"{Colours.GetValueOrDefault(name, "#8a94a6")}\"/>\n");
                if (!cut)
                {
                    svg.Append(CultureInfo.InvariantCulture, $"<line x1=\"{N(X(figure.Least))}\" x2=\"{N(X(figure.Most))}\" y1=\"{N(y + (BarHeight / 2.0))}\" y2=\"{N(y + (BarHeight / 2.0))}\" stroke=\"#1b2430\" stroke-width=\"1.5\"/>\n");
                }
                svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{N(Math.Max(X(figure.Median), X(figure.Most)) + 8)}\" y=\"{N(y + 13)}\" font-size=\"12\" fill=\"#1b2430\">{figure.Median.ToString(format, CultureInfo.InvariantCulture)}{(cut ? " (cut)" : "")}</text>\n");
                y += BarHeight + Gap;
            }
            y += GroupGap;
        }
        return svg.Append("</svg>\n").ToString();
    }
}

/// <summary>Prints a result and writes it as JSON, Markdown and SVG.</summary>
internal static class Report
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = System.Text.Json.Serialization.JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    public static void Write(string directory, string name, string title, IReadOnlyDictionary<string, string> machine, IReadOnlyDictionary<string, string> settings,
        Table table, BarChart chart, object figures, Table? summary = null)
    {
        Console.WriteLine($"\n{title}: median (least … most)\n\n{table.Text()}\n{(summary is null ? "" : $"\n{summary.Text()}\n")}");
        Directory.CreateDirectory(directory);
        var path = Path.Combine(directory, name);
        string Words(IReadOnlyDictionary<string, string> facts) => string.Concat(facts.Select(fact => $"- {fact.Key}: {fact.Value}\n"));
        File.WriteAllText(path + ".md", $"""
            # {title}

            Written by `./evenkeel bench {name}`. Median of the rounds, and in brackets the least and the most.

            ![{title}]({name}.svg)

            {(summary is null ? "" : summary.Markdown() + "\n")}{table.Markdown()}
            ## Settings

            {Words(settings)}
            ## Machine

            {Words(machine)}
            """ + "\n");
        File.WriteAllText(path + ".svg", chart.Svg());
        File.WriteAllText(path + ".json", JsonSerializer.Serialize(new { bench = name, machine, settings, figures }, Json) + "\n");
        Console.WriteLine($"  written: {Path.GetRelativePath(Directory.GetCurrentDirectory(), path)}.md, .svg, .json");
    }
}
