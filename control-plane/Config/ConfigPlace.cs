using System.Globalization;
using System.Text.RegularExpressions;

namespace Evenkeel.Config;

/// <summary>
/// Faults as they read for somebody who sent one entry of the configuration and not the document: paths begin at the entry, and what
/// stands elsewhere goes by its name.
/// </summary>
internal static partial class ConfigPlace
{
    /// <param name="fault">As the document's check has it.</param>
    /// <param name="entry">The entry's place in the document: "instances[5]".</param>
    /// <param name="document">What the places are of.</param>
    public static ConfigFault Within(ConfigFault fault, string entry, ConfigDocument document)
    {
        var (path, message) = (fault.Path, fault.Message);
        if (OtherPlace().Match(message) is { Success: true } match)
        {
            // Of two places that do not go together, the one in the entry is where the fault is.
            var other = match.Groups["path"];
            var named = other.Value;
            if (!IsWithin(path, entry) && IsWithin(named, entry)) (path, named) = (named, path);
            message = string.Concat(message.AsSpan(0, other.Index), IsWithin(named, entry) ? Below(named, entry) : Words(named, document), message.AsSpan(other.Index + other.Length));
        }

        // The entry was written anew before it was checked: its lines are not those that were sent.
        return IsWithin(path, entry) ? new ConfigFault(Below(path, entry), message)
            : path.Length == 0 ? new ConfigFault("", message)
            : new ConfigFault("", $"{Words(path, document)}: {message}");
    }

    /// <summary>Who needs what was taken out: pool "chat", tier "primary"; five of them at most.</summary>
    public static string Users(IReadOnlyList<ConfigFault> faults, ConfigDocument document)
    {
        var users = faults.Select(fault => Words(fault.Path, document, isWhole: false)).Distinct().ToList();
        return string.Join("; ", users.Take(5)) + (users.Count > 5 ? $"; and {users.Count - 5} more" : "");
    }

    private static bool IsWithin(string path, string entry) => path == entry || path.StartsWith(entry + ".", StringComparison.Ordinal);

    private static string Below(string path, string entry) => path == entry ? "" : path[(entry.Length + 1)..];

    // pools[1].tiers[0].instances[2] is pool "chat", tier "primary", instances[2].
    private static string Words(string path, ConfigDocument document, bool isWhole = true)
    {
        if (Place().Match(path) is not { Success: true } match) return path;
        var index = IndexIn(match, "index");
        var (noun, name) = match.Groups["list"].Value switch
        {
            "instances" => ("instance", document.Instances.ElementAtOrDefault(index)?.Name),
            "pools" => ("pool", document.Pools.ElementAtOrDefault(index)?.Name),
            "clients" => ("client", document.Clients.ElementAtOrDefault(index)?.Name),
            "alerts" => ("alert", document.Alerts.ElementAtOrDefault(index)?.Name),
            _ => ("webhook", document.Webhooks.ElementAtOrDefault(index)?.Name),
        };
        if (string.IsNullOrEmpty(name)) return path;
        var tier = noun == "pool" && match.Groups["tier"].Success ? document.Pools[index].Tiers.ElementAtOrDefault(IndexIn(match, "tier"))?.Name : null;
        var rest = path[(tier is null ? match.Groups["entry"] : match.Groups[0]).Length..].TrimStart('.');
        return $"{noun} \"{Units.Shown(name)}\"" + (tier is null ? "" : $", tier \"{Units.Shown(tier)}\"") + (isWhole && rest.Length > 0 ? $", {rest}" : "");
    }

    private static int IndexIn(Match match, string group) => int.Parse(match.Groups[group].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"^(?<entry>(?<list>instances|pools|clients|alerts|webhooks)\[(?<index>\d{1,6})\])(?:\.tiers\[(?<tier>\d{1,6})\])?")]
    private static partial Regex Place();

    [GeneratedRegex(@"(?:is already|is the same as) at (?<path>(?:instances|pools|clients|alerts|webhooks)\[\d{1,6}\][\w.\[\]]*)")]
    private static partial Regex OtherPlace();
}
