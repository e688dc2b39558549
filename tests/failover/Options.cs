using System.Globalization;

namespace Evenkeel.Failover;

/// <summary>What was asked for on the command line.</summary>
internal sealed record Options
{
    public const string Help = """
        ./evenkeel test failover [--fast] [--only N,M] [--out DIR] [--list] [--target URL [--key KEY] [--base-port N]]

        Injects faults with simulated providers and judges what clients and providers see: the sixteen faults of the
        public yardstick, the further ones of FAILOVER.md, and promises under load. Exit code 0 only if all pass.

          --fast          simulated delays and configured time-outs shortened to a fifth (CI); default: the real ones
          --only N,M      these cases: numbers (15), parts (sixteen, further, promises), faults with both forms (F9),
                          ranges (1-16, F3-F7)
          --out DIR       where failover.json and failover.md go; default tests/results
          --list          what would be played; with --base-port also the providers' addresses
          --target URL    judge this gateway instead of an Evenkeel of its own; base URL without /v1
          --key KEY       the key to use there
          --base-port N   the simulated providers' ports: N, N+1, …; default: free ones

        With --target, the providers' addresses, the models and an example configuration are printed and written to
        failover-providers.txt and failover-evenkeel.json in DIR. Without --base-port the kit waits for Enter then, so that
        the gateway can be configured; with it, the gateway is taken to be configured already.

        """;

    public bool Fast { get; init; }
    public bool List { get; init; }
    public Uri? Target { get; init; }
    public string? Key { get; init; }
    public int? BasePort { get; init; }
    public string? Out { get; init; }
    public IReadOnlyList<string> Only { get; init; } = [];

    public TimeScale Time => new(Fast ? TimeScale.Fast : 1);

    /// <summary>The options, or null when help was asked for.</summary>
    /// <exception cref="FormatException">An argument that cannot be understood; the message says which.</exception>
    public static Options? Parse(string[] args)
    {
        var options = new Options();
        for (var i = 0; i < args.Length; i++)
        {
            string Value() => ++i < args.Length ? args[i] : throw new FormatException($"{args[i - 1]} needs a value");
            switch (args[i])
            {
                case "-h" or "--help":
                    return null;
                case "--fast":
                    options = options with { Fast = true };
                    break;
                case "--list":
                    options = options with { List = true };
                    break;
                case "--target":
                    var url = Value();
                    options = options with
                    {
                        Target = Uri.TryCreate(url, UriKind.Absolute, out var target) && target.Scheme is "http" or "https" ? target : throw new FormatException($"--target: '{url}' is no http or https URL"),
                    };
                    break;
                case "--key":
                    options = options with { Key = Value() };
                    break;
                case "--base-port":
                    var port = Value();
                    options = options with
                    {
                        BasePort = int.TryParse(port, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number is > 0 and < 65536 ? number : throw new FormatException($"--base-port: '{port}' is no port"),
                    };
                    break;
                case "--out":
                    options = options with { Out = Value() };
                    break;
                case "--only":
                    options = options with { Only = [.. options.Only, .. Value().Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)] };
                    break;
                default:
                    throw new FormatException($"unknown argument '{args[i]}'");
            }
        }
        return options;
    }

    /// <summary>The cases asked for, in their order.</summary>
    /// <exception cref="FormatException">One that there is not.</exception>
    public IReadOnlyList<Case> Select(IReadOnlyList<Case> all)
    {
        if (Only.Count == 0)
        {
            return all;
        }
        var chosen = new HashSet<Case>();
        foreach (var word in Only)
        {
            var found = Find(all, word).ToList();
            if (found.Count == 0)
            {
                throw new FormatException($"--only: there is no case '{word}' (--list shows them)");
            }
            chosen.UnionWith(found);
        }
        return [.. all.Where(chosen.Contains)];
    }

    private static IEnumerable<Case> Find(IReadOnlyList<Case> all, string word)
    {
        Section? section = word.ToLowerInvariant() switch { "sixteen" => Section.Sixteen, "further" => Section.Further, "promises" => Section.Promise, _ => null };
        if (section is not null)
        {
            return all.Where(one => one.Section == section);
        }
        if (word.Split('-') is [var from, var to])
        {
            var numbers = all.ToList();
            var (first, last) = (numbers.FindIndex(one => Is(one, from)), numbers.FindLastIndex(one => Is(one, to)));
            return first < 0 || last < first ? [] : all.Skip(first).Take(last - first + 1);
        }
        return all.Where(one => Is(one, word));

        static bool Is(Case one, string word) => one.Number.Equals(word, StringComparison.OrdinalIgnoreCase)
            || one.Number.TrimEnd('s', 'j', 'p').Equals(word, StringComparison.OrdinalIgnoreCase);
    }
}
