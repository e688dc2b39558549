using System.Globalization;

namespace Evenkeel.Chaos;

/// <summary>What was asked for on the command line.</summary>
internal sealed record ChaosOptions
{
    public const string Help = """
        ./evenkeel test chaos [--short] [--minutes M] [--seed N] [--only NAME,NAME] [--list]

        Breaks the parts of a stack of its own, one blow after the other, under load from a client that checks every answer. After each blow
        all has to be well again. Exit code 0 only if it was.

          --short       the blows that CI plays, once (about a minute)
          --minutes M   all blows in an order drawn from the seed, again and again, for so long (1 to 600; default 10). The round that has
                        begun by then is played to its end, which takes it eight minutes at most
          --seed N      order, victims and times of the blows; the last lines tell the one that was used
          --only NAMES  these blows, once unless --minutes is told
          --list        what blows there are

        As root, with `unshare`, it also fills the disk of the state directory, breaks the network to a provider and (with a C compiler) sets
        the clocks of all parts.

        """;

    public bool Short { get; init; }
    public bool List { get; init; }
    public TimeSpan? For { get; init; }
    public int Seed { get; init; }
    public IReadOnlyList<string> Only { get; init; } = [];

    /// <summary>The options, or null when help was asked for.</summary>
    /// <exception cref="FormatException">An argument that cannot be understood; the message says which.</exception>
    public static ChaosOptions? Parse(string[] args)
    {
        var options = new ChaosOptions();
        for (var i = 0; i < args.Length; i++)
        {
            string Value() => ++i < args.Length ? args[i] : throw new FormatException($"{args[i - 1]} needs a value");
            int Number(int most)
            {
                var (name, word) = (args[i], Value());
                return int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= 1 && number <= most
                    ? number : throw new FormatException($"{name}: a whole number from 1 to {most} is needed, not '{word}'");
            }
            switch (args[i])
            {
                case "-h" or "--help":
                    return null;
                case "--short":
                    options = options with { Short = true };
                    break;
                case "--list":
                    options = options with { List = true };
                    break;
                case "--minutes":
                    options = options with { For = TimeSpan.FromMinutes(Number(600)) };
                    break;
                case "--seed":
                    options = options with { Seed = Number(int.MaxValue) };
                    break;
                case "--only":
                    options = options with { Only = [.. Value().Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)] };
                    break;
                default:
                    throw new FormatException($"unknown argument '{args[i]}'");
            }
        }
        return options.Seed > 0 ? options : options with { Seed = options.Short ? 1 : Random.Shared.Next(1, 1_000_000) };
    }
}
