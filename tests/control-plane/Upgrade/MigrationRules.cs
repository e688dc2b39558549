using System.Text.RegularExpressions;

namespace Evenkeel.Tests.Upgrade;

/// <summary>
/// What a migration must not do, because the previous version still runs beside it: take away, rename or retype what that one reads, or
/// demand what it does not write. The tables of the configuration are written whole: what the previous version does not know becomes null
/// there, whatever its default. Pure. A statement under a comment <c>-- safe beside the previous version: WHY</c> is let through.
/// </summary>
internal static class MigrationRules
{
    private const string Mark = "-- safe beside the previous version: ";
    private const RegexOptions Plain = RegexOptions.IgnoreCase | RegexOptions.CultureInvariant | RegexOptions.Singleline;

    /// <summary>Comments, texts and the bodies of functions.</summary>
    private static readonly Regex Aside = new(@"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|(?<tag>\$\w*\$).*?\k<tag>", Plain);
    private static readonly Regex CreatedTable = new(@"\bcreate\s+table\s+(?:if\s+not\s+exists\s+)?(?<name>[\w.]+)", Plain);
    private static readonly Regex DroppedConstraint = new(@"\bdrop\s+constraint\s+(?:if\s+exists\s+)?(?<name>\w+)", Plain);
    private static readonly Regex AlteredTable = new(@"^\s*alter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?(?<name>[\w.]+)\s+(?<actions>.*)$", Plain);
    private static readonly Regex AddedConstraint = new(@"^\s*add\s+(?:constraint\s+(?<name>\w+)|check|unique|primary\s+key|foreign\s+key|exclude)\b", Plain);

    private static readonly Regex AddedColumn = new(@"^\s*add\s+(?:column\s+)?(?:if\s+not\s+exists\s+)?(?!constraint|check|unique|primary|foreign|exclude)(?<name>\w+)", Plain);
    private static readonly Regex NotNull = new(@"\bnot\s+null\b", Plain);
    private static readonly Regex FilledIn = new(@"\b(default|generated)\b", Plain);

    /// <summary>As ConfigStore writes them.</summary>
    public static readonly IReadOnlySet<string> WrittenWhole =
        new HashSet<string>(StringComparer.OrdinalIgnoreCase) { "gateway_setting", "instance", "pool", "pool_model", "tier", "tier_instance", "failover_config", "client", "alert_rule", "webhook" };

    private static readonly (Regex Is, string Reason)[] Statements =
    [
        (new(@"^\s*drop\s+(table|view|materialized|type|domain|function|schema|sequence|owned)\b", Plain), "drops what the previous version may use"),
        (new(@"^\s*(truncate|delete\s+from)\b", Plain), "deletes"),
        (new(@"^\s*alter\s+(?!table\b)\w+\s.*\brename\b", Plain), "renames"),
    ];

    private static readonly (Regex Is, string Reason)[] Alterations =
    [
        (new(@"^\s*rename\b", Plain), "renames"),
        (new(@"^\s*drop\s+(?!constraint\b)", Plain), "drops a column"),
        (new(@"^\s*alter\s+(column\s+)?\w+\s+(set\s+data\s+)?type\b", Plain), "changes a type"),
        (new(@"^\s*alter\s+(column\s+)?\w+\s+(set\s+not\s+null|drop\s+default)\b", Plain), "demands what the previous version does not write"),
    ];

    /// <summary>The statements of a migration that would break the previous version, each with the reason.</summary>
    public static IReadOnlyList<string> Faults(string sql)
    {
        var statements = Aside.Replace(sql, found => found.Value.StartsWith(Mark, StringComparison.Ordinal) ? Mark : found.Value[0] is '-' or '/' ? " " : "''").Split(';')
            .Where(statement => !statement.Contains(Mark)).ToList();
        var created = Names(statements, CreatedTable);
        var replaced = Names(statements, DroppedConstraint);      // what takes the place of its like is taken to be wider
        return [.. statements.SelectMany(statement => Reasons(statement, created, replaced).Select(reason => $"{reason}: {Regex.Replace(statement.Trim(), @"\s+", " ")}"))];
    }

    private static IEnumerable<string> Reasons(string statement, HashSet<string> created, HashSet<string> replaced)
    {
        foreach (var (rule, reason) in Statements)
        {
            if (rule.IsMatch(statement)) yield return reason;
        }
        if (AlteredTable.Match(statement) is not { Success: true } altered || created.Contains(altered.Groups["name"].Value)) yield break;
        var table = altered.Groups["name"].Value;
        var actions = Actions(altered.Groups["actions"].Value).ToList();
        var added = Names(actions, AddedColumn);
        foreach (var action in actions)
        {
            if (AddedColumn.IsMatch(action) && NotNull.IsMatch(action) && (WrittenWhole.Contains(table) || !FilledIn.IsMatch(action)))
            {
                yield return "demands what the previous version does not write";
            }
            foreach (var (rule, reason) in Alterations)
            {
                if (rule.IsMatch(action)) yield return reason;
            }
            // One over a column that comes with it is judged by whoever reads it: all new columns are null to begin with.
            if (AddedConstraint.Match(action) is { Success: true } constraint && !replaced.Contains(constraint.Groups["name"].Value)
                && !Regex.Matches(action, @"\w+").Any(word => added.Contains(word.Value)))
            {
                yield return "a new constraint may refuse what the previous version writes";
            }
        }
    }

    /// <summary>The actions of one ALTER TABLE: commas in brackets do not part them.</summary>
    private static IEnumerable<string> Actions(string text)
    {
        var (depth, from) = (0, 0);
        for (var i = 0; i < text.Length; i++)
        {
            depth += text[i] switch { '(' or '[' => 1, ')' or ']' => -1, _ => 0 };
            if (text[i] != ',' || depth > 0) continue;
            yield return text[from..i];
            from = i + 1;
        }
        yield return text[from..];
    }

    private static HashSet<string> Names(IEnumerable<string> statements, Regex rule) =>
        new(statements.SelectMany(statement => rule.Matches(statement)).Select(match => match.Groups["name"].Value), StringComparer.OrdinalIgnoreCase);
}
