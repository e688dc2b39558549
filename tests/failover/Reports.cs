using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Evenkeel.Failover;

/// <summary>One run, told three times: on the terminal, as JSON, as Markdown.</summary>
internal sealed record Reports(IReadOnlyList<Result> Results, Options Options, DateTimeOffset Began, TimeSpan Took)
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private static readonly (Section Section, string Title)[] Sections =
        [(Section.Sixteen, "The sixteen"), (Section.Further, "Further faults"), (Section.Promise, "Promises under load")];

    public int Passed => Results.Count(result => result.Verdict == Verdict.Pass);
    public int Failed => Results.Count(result => result.Verdict is not (Verdict.Pass or Verdict.Skipped));
    public int Skipped => Results.Count(result => result.Verdict == Verdict.Skipped);

    public static string Word(Verdict verdict) => verdict.ToString().ToLowerInvariant();

    public void Print()
    {
        var colours = !Console.IsOutputRedirected;
        foreach (var (section, title) in Sections)
        {
            var results = Of(section);
            if (results.Count == 0)
            {
                continue;
            }
            Console.WriteLine();
            Console.WriteLine($"{title} ({Summary(section)})");
            Console.WriteLine($"  {"",-5} {"verdict",-8} {"tries",-9} {"first byte",10} {"wall",8}  fault");
            foreach (var result in results)
            {
                var word = $"{Word(result.Verdict),-8}";
                if (colours)
                {
                    word = result.Verdict switch { Verdict.Pass => "\e[32m", Verdict.Skipped => "\e[90m", Verdict.Fail => "\e[31m", _ => "\e[33m" } + word + "\e[0m";
                }
                Console.WriteLine($"  {result.Case.Number,-5} {word} {Tries(result),-9} {FirstByte(result),10} {Judge.Seconds(result.Wall.TotalMilliseconds),8}  {result.Case.Name}");
                if (result.Judgement.Note.Length > 0)
                {
                    Console.WriteLine($"  {"",-5} {"",-8} {result.Judgement.Note}");
                }
            }
        }
        Console.WriteLine();
        Console.WriteLine("Tries are those of the primary + the fallback (and further instances); first byte is that of the first request.");
    }

    public async Task WriteAsync(string directory)
    {
        Directory.CreateDirectory(directory);
        await File.WriteAllTextAsync(Path.Combine(directory, "failover.json"), Json().ToJsonString(Indented) + "\n");
        await File.WriteAllTextAsync(Path.Combine(directory, "failover.md"), Markdown());
    }

    private JsonObject Json() => new()
    {
        ["began_at"] = Began.ToString("O"),
        ["took_s"] = Math.Round(Took.TotalSeconds, 1),
        ["gateway"] = Options.Target?.ToString() ?? "evenkeel",
        ["timings"] = Options.Fast ? "fast" : "real",
        ["time_factor"] = Options.Time.Factor,
        ["summary"] = new JsonObject(Sections.Select(section => KeyValuePair.Create<string, JsonNode?>(section.Section.ToString().ToLowerInvariant(), Counts(section.Section)))),
        ["cases"] = new JsonArray([.. Results.Select(Json)]),
    };

    private static JsonObject Json(Result result) => new()
    {
        ["number"] = result.Case.Number,
        ["section"] = result.Case.Section.ToString().ToLowerInvariant(),
        ["name"] = result.Case.Name,
        ["wanted"] = result.Case.Wanted,
        ["verdict"] = Word(result.Verdict),
        ["note"] = result.Judgement.Note,
        ["faults"] = new JsonArray([.. result.Case.Troubles.Select(trouble => JsonValue.Create($"{trouble.Role}: {trouble.Spec}{(trouble.Times is { } times ? $" ({times} ×)" : "")}"))]),
        ["requests"] = result.Evidence?.Exchanges.Count ?? 0,
        ["tries"] = new JsonObject(result.Tries.Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Role, pair.Tries))),
        ["first_byte_ms"] = result.FirstByteMs is { } ms ? Math.Round(ms) : null,
        ["wall_ms"] = Math.Round(result.Wall.TotalMilliseconds),
    };

    private JsonObject Counts(Section section) =>
        new(Enum.GetValues<Verdict>().Select(verdict => KeyValuePair.Create<string, JsonNode?>(Word(verdict), Of(section).Count(result => result.Verdict == verdict))));

    private string Markdown()
    {
        var text = new StringBuilder();
        text.AppendLine("# Failover conformance");
        text.AppendLine();
        text.AppendLine($"{Began:yyyy-MM-dd HH:mm} UTC, {(Options.Target is { } target ? target.ToString() : "Evenkeel")}, "
            + (Options.Fast ? $"simulated delays and time-outs at {Options.Time.Factor:0%}" : "real timings") + $", {Took.TotalSeconds:0} s.");
        text.AppendLine();
        text.AppendLine("*pass*: whole answer and good conduct. *partial*: whole answer, conduct noted. *safe*: clean, bounded error. *fail*: hang, or a truncated answer presented as success, or bad conduct.");
        foreach (var (section, title) in Sections)
        {
            var results = Of(section);
            if (results.Count == 0)
            {
                continue;
            }
            text.AppendLine();
            text.AppendLine($"## {title}: {Summary(section)}");
            text.AppendLine();
            text.AppendLine("| # | fault | wanted | verdict | tries | first byte | wall | note |");
            text.AppendLine("|---|---|---|---|---|---|---|---|");
            foreach (var result in results)
            {
                text.AppendLine($"| {result.Case.Number} | {Cell(result.Case.Name)} | {Cell(result.Case.Wanted)} | {Word(result.Verdict)} | {Tries(result)} | {FirstByte(result)} | {Judge.Seconds(result.Wall.TotalMilliseconds)} | {Cell(result.Judgement.Note)} |");
            }
        }
        return text.ToString();

        static string Cell(string words) => words.Replace("|", "\\|", StringComparison.Ordinal).ReplaceLineEndings(" ");
    }

    private List<Result> Of(Section section) => [.. Results.Where(result => result.Case.Section == section)];

    private string Summary(Section section) => string.Join(", ", Of(section).GroupBy(result => result.Verdict).OrderBy(group => group.Key).Select(group => $"{group.Count()} {Word(group.Key)}"));

    private static string Tries(Result result) => result.Evidence is null ? "" : string.Join("+", result.Tries.Select(pair => pair.Tries));

    private static string FirstByte(Result result) => result.FirstByteMs is { } ms ? ms < 10_000 ? $"{ms:0} ms" : Judge.Seconds(ms) : "";
}
