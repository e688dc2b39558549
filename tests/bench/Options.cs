namespace Evenkeel.Bench;

/// <summary>What to run, how often and where the results go.</summary>
internal sealed record Options(IReadOnlyList<string> Benches, bool Quick, int Rounds, string Out, IReadOnlyList<string> Only)
{
    public const string Usage = """
        ./evenkeel bench [overhead|stream] [--quick] [--rounds N] [--only PEER,…] [--out DIR]

        Measures what the gateway costs, next to its peers, on this machine and in one run. Prints a table and writes JSON,
        Markdown and an SVG chart.

          overhead   CPU per request, throughput and added latency: plain nginx, HAProxy, Evenkeel, Portkey's gateway
          stream     time added to the first token and to each token; thousands of streams at once, memory per stream

          --quick      seconds instead of minutes, and its results go to .evenkeel-build/benchmarks unless --out is given
          --rounds N   how often the peers take turns (5; quick: 2)
          --only LIST  these peers only: nginx, haproxy, evenkeel, portkey
          --out DIR    where the results are written (docs/benchmarks)
        """;

    private static readonly string[] Known = ["overhead", "stream"];

    /// <returns>The options, or what is wrong with the arguments.</returns>
    public static (Options? Options, string? Fault) Read(string[] arguments, string checkout)
    {
        var benches = new List<string>();
        var (quick, rounds, only) = (false, 0, Array.Empty<string>());
        string? directory = null;
        for (var i = 0; i < arguments.Length; i++)
        {
            switch (arguments[i])
            {
                case "--quick":
                    quick = true;
                    break;
                case "--rounds" when i + 1 < arguments.Length && int.TryParse(arguments[i + 1], out rounds) && rounds is >= 1 and <= 100:
                    i++;
                    break;
                case "--only" when i + 1 < arguments.Length:
                    only = arguments[++i].Split(',', StringSplitOptions.RemoveEmptyEntries);
                    break;
                case "--out" when i + 1 < arguments.Length:
                    directory = arguments[++i];
                    break;
                case var name when Known.Contains(name):
                    benches.Add(name);
                    break;
                default:
                    return (null, $"bench does not know '{arguments[i]}'");
            }
        }
        directory ??= Path.Combine(checkout, quick ? ".evenkeel-build/benchmarks" : "docs/benchmarks");
        return (new Options(benches.Count > 0 ? benches : Known, quick, rounds > 0 ? rounds : quick ? 2 : 5, Path.GetFullPath(directory), only), null);
    }

    public bool Wants(string peer) => Only.Count == 0 || Only.Contains(peer);
}
