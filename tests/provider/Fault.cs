using System.Globalization;

namespace Evenkeel.Provider;

/// <summary>
/// One fault, or several at once, as written: <c>name[=value][;param=value]…</c>, further ones joined by <c>+</c> or
/// <c>,</c>. <c>name=value</c> is short for the fault's first parameter; '-' in a name counts as '_'; values may be
/// percent-encoded. See <see cref="FaultCatalogue"/> for the names.
/// </summary>
public sealed class Fault
{
    private readonly List<(FaultKind Kind, FaultValues Values)> _parts;

    private Fault(string spec, List<(FaultKind, FaultValues)> parts)
    {
        Spec = spec;
        _parts = parts;
    }

    public string Spec { get; }

    /// <exception cref="FormatException">Unknown fault or parameter, or a value that does not fit; the message says which.</exception>
    public static Fault Parse(string spec)
    {
        var parts = spec.Split('+', ',').Select(part => ParseOne(part.Trim())).ToList();
        var fault = new Fault(spec, parts);
        fault.Apply(new AnswerPlan());
        return fault;
    }

    /// <summary>The same, from a name and parameters that need no quoting.</summary>
    public static Fault Create(string name, IReadOnlyDictionary<string, string> parameters) =>
        Parse(parameters.Aggregate(name, (spec, pair) => $"{spec};{pair.Key}={Uri.EscapeDataString(pair.Value)}"));

    internal void Apply(AnswerPlan plan)
    {
        foreach (var (kind, values) in _parts)
        {
            kind.Apply(plan, values);
        }
    }

    public override string ToString() => Spec;

    private static (FaultKind, FaultValues) ParseOne(string part)
    {
        var pieces = part.Split(';', StringSplitOptions.TrimEntries);
        var (name, first) = Pair(pieces[0]);
        var kind = FaultCatalogue.Find(name) ?? throw new FormatException($"unknown fault '{name}'");
        var values = new Dictionary<string, string>();
        if (first is not null)
        {
            values[kind.Parameters.Length > 0 ? kind.Parameters[0] : throw new FormatException($"fault '{name}' takes no value")] = first;
        }
        foreach (var piece in pieces.Skip(1))
        {
            var (parameter, value) = Pair(piece);
            if (!kind.Parameters.Contains(parameter))
            {
                throw new FormatException($"fault '{kind.Name}' has no parameter '{parameter}'; it has: {string.Join(", ", kind.Parameters)}");
            }
            values[parameter] = value ?? "true";
        }
        return (kind, new FaultValues(kind.Name, values));
    }

    private static (string Name, string? Value) Pair(string text)
    {
        var at = text.IndexOf('=');
        var name = (at < 0 ? text : text[..at]).Trim().Replace('-', '_');
        return (name, at < 0 ? null : Uri.UnescapeDataString(text[(at + 1)..].Trim()));
    }
}

/// <summary>The parameters of one fault, read by type.</summary>
internal sealed class FaultValues(string fault, Dictionary<string, string> values)
{
    public bool Has(string name) => values.ContainsKey(name);

    public string? Text(string name) => values.GetValueOrDefault(name);

    public int Int(string name, int otherwise) => values.TryGetValue(name, out var text)
        ? int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) && number >= 0
            ? number
            : throw Wrong(name, "a whole number, not negative")
        : otherwise;

    /// <summary>Milliseconds; "forever" = until the client leaves.</summary>
    public int Ms(string name, int otherwise) => Text(name) == "forever" ? AnswerPlan.Forever : Int(name, otherwise);

    public double Number(string name, double otherwise) => values.TryGetValue(name, out var text)
        ? double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) && number > 0
            ? number
            : throw Wrong(name, "a number above 0")
        : otherwise;

    public bool Flag(string name) => Choice(name, "false", "false", "true") == "true";

    public string Choice(string name, string otherwise, params string[] allowed) => values.TryGetValue(name, out var text)
        ? allowed.Contains(text) ? text : throw Wrong(name, string.Join(" | ", allowed))
        : otherwise;

    public Ending Ending(string name, Ending otherwise) => Text(name) switch
    {
        null => otherwise,
        "close" or "fin" => Provider.Ending.Close,
        "reset" or "rst" => Provider.Ending.Reset,
        "resume" => Provider.Ending.Resume,
        _ => throw Wrong(name, "close (fin) | reset (rst) | resume"),
    };

    private FormatException Wrong(string name, string wanted) => new($"fault '{fault}': {name} must be {wanted}");
}
