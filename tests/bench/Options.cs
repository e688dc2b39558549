namespace Evenkeel.Bench;

/// <summary>What to run, how often and where the results go.</summary>
internal sealed record Options(IReadOnlyList<string> Benches, bool Quick, bool Smoke, bool Soak, int Rounds, string Out, IReadOnlyList<string> Only)
{
    public const string Usage = """
        ./evenkeel bench [overhead|stream|algorithms|article|scale|control] [--quick|--smoke|--soak] [--rounds N] [--only PEER,…] [--out DIR]

        Measures what the gateway costs, next to its peers, on this machine and in one run. Prints a table and writes JSON,
        Markdown and an SVG chart.

          overhead   CPU per request, throughput and added latency: plain nginx, HAProxy, Evenkeel, Portkey's gateway
          stream     time added to the first token and to each token; thousands of streams at once, memory per stream
          algorithms ways of choosing an instance, ours and others', on a simulated LLM workload
          article    one provider against three, surge, jitter and a month of outages, compressed, on a real node
          scale      cost per request, time of a push and of a reload, memory, as pools, instances and clients grow
          control    REST latency, time until a change, a probe or a new instance takes effect, cold start, memory

          --quick      seconds instead of minutes, and its results go to .evenkeel-build/benchmarks unless --out is given
                       overhead fails when a 1 KB request costs over 10 % more, next to nginx, than docs/benchmarks says
          --smoke      a few seconds: does the bench itself work? Nothing is judged
          --soak       stream: an hour of streams that come and go, instead of a minute
          --rounds N   how often the peers take turns (5; quick: 2, smoke: 1)
          --only LIST  these peers only: nginx, haproxy, evenkeel, portkey
          --out DIR    where the results are written (docs/benchmarks)
        """;

    private static readonly string[] Known = ["overhead", "stream", "algorithms", "article", "scale", "control"];

    /// <returns>The options, or what is wrong with the arguments.</returns>
    public static (Options? Options, string? Fault) Read(string[] arguments, string checkout)
    {
        var benches = new List<string>();
        var (quick, smoke, soak, rounds, only) = (false, false, false, 0, Array.Empty<string>());
        string? directory = null;
        for (var i = 0; i < arguments.Length; i++)
        {
            switch (arguments[i])
            {
                case "--quick":
                    quick = true;
                    break;
                case "--smoke":
                    (quick, smoke) = (true, true);
                    break;
                case "--soak":
                    soak = true;
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
        return (new Options(benches.Count > 0 ? benches : Known, quick, smoke, soak, rounds > 0 ? rounds : smoke ? 1 : quick ? 2 : 5, Path.GetFullPath(directory), only), null);
    }

    /// <summary>Portkey is a download of its own, and slow to start: not for a smoke test that does not ask for it.</summary>
    public bool Wants(string peer) => Only.Count == 0 ? !Smoke || peer != Peer.Portkey : Only.Contains(peer);
}
