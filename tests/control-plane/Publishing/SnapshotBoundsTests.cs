using System.Diagnostics;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Xunit;
using Xunit.Abstractions;

namespace Evenkeel.Tests.Publishing;

/// <summary>
/// A snapshot that nodes refuse keeps every later change from them as well: whatever value the validator lets through at whatever place, at
/// its least and at its most, a node takes.
/// </summary>
public sealed partial class SnapshotBoundsTests(ITestOutputHelper output)
{
    private static readonly string[] s_bases = ["example", "clients", "prices", "texts", "edge-tls"];

    // As JSON. What is nonsense at a place is refused there.
    private static readonly string[] s_values =
    [
        "null", "true", "false", "[]",
        "-1", "-0.000001", "0", "1e-28", "1e-10", "1e-9", "0.0000009", "0.000001", "0.5", "1", "2", "10", "20", "50", "100", "256", "1000", "10000", "60000", "100000", "1000000",
        "1000000000", "2147483647", "1000000000000", "1e13", "1e28",
        .. Texts(
            "", "0%", "0.0001%", "100%", "101%", "0s", "1ms", "10ms", "100ms", "1s", "10s", "1m", "5m", "10m", "1h", "1d", "7d", "30d", "90d", "3660d", "36500d",
            "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "00:00", "23:59", "24:00", "USD", "usd", "*", "~", "a", "A", "0", "a.", "-a", "_", "a\n",
            new string('a', 48), new string('a', 49), new string('m', 128), new string('m', 129), new string('d', 4_096), "\u00e9", "\t", "\u007f", "1.2.3.4", "localhost",
            new string('0', 64), Host(253), Host(254), $"http://{Host(253)}", $"https://{Host(200)}:65535/{new string('p', 290)}", "http://a", "http://A.B./v1/", "http://a_b:1", "http://a//", "http://a/%7e%41%e4/@:=,+*()!&",
            "http://a/%2e%2E/b/%2F..%2f", "http://a/%00", "http://a/%", "http://a:0", "http://xn--a/", "http://xn--nxasmq6b", "https://[::ffff:1.2.3.4]:443/v1", "http://[2001:DB8::1]", "http://1.2.3.4:1"),
    ];

    [Fact]
    public async Task What_the_validator_lets_through_at_its_bounds_no_node_refuses()
    {
        var (cases, snapshots) = (new List<string>(), new StringBuilder());
        var seen = new HashSet<string>();
        foreach (var name in s_bases)
        {
            var yaml = await File.ReadAllBytesAsync(Repository.PathOf("tests", "contract", "config", "good", name + ".yaml"));
            var text = ConfigWriter.Canonical(ConfigReader.Read(yaml, ConfigFormat.Yaml).Document);
            foreach (var path in Leaves(JsonNode.Parse(text)!, "").Where(path => seen.Add(Index().Replace(path, "[]"))).ToList())
            {
                foreach (var value in s_values)
                {
                    var changed = JsonNode.Parse(text)!;
                    Replace(changed, path, JsonNode.Parse(value));
                    var read = ConfigReader.Read(changed.ToJsonString(), ConfigFormat.Json);
                    if (!read.IsValid) continue;
                    snapshots.Append(cases.Count).Append(' ').AppendLine(Snapshot(read.Document));
                    cases.Add($"{name}: {path} = {(value.Length > 80 ? value[..80] : value)}");
                }
            }
        }

        output.WriteLine($"{seen.Count} places with {s_values.Length} values: {cases.Count} accepted");
        Assert.True(cases.Count > 1_000, "hardly a value was accepted");
        var faults = (await NodeFaultsAsync(snapshots.ToString())).Select(line => line.Split(' ', 2)).Select(line => $"{cases[int.Parse(line[0])]} → {line[1]}").ToList();
        Assert.True(faults.Count == 0, string.Join('\n', faults));
    }

    [Fact]
    public async Task What_was_stored_before_it_was_refused_is_pushed_as_the_nearest_that_nodes_take()
    {
        var document = ConfigReader.Read("""
            instances: [{name: a, base_url: "http://a"}]
            pools: [{name: chat, models: [m]}]
            """, ConfigFormat.Yaml).Document with
        {
            Clients =
            [
                new ClientConfig
                {
                    Name = "old",
                    Expires = DateTime.SpecifyKind(DateTime.MinValue, DateTimeKind.Utc),
                    Keys = [new ClientKey(new string('0', 64), new DateTime(1960, 1, 1, 0, 0, 0, DateTimeKind.Utc))],
                    Budget = new BudgetConfig(0.0000000000001m),
                },
            ],
        };
        Assert.Equal(["clients[0].keys[0].until", "clients[0].expires", "clients[0].budget.amount"], ConfigValidator.Validate(document).Select(fault => fault.Path));
        var client = JsonNode.Parse(Snapshot(document))!["clients"]![0]!;
        Assert.Equal((0, 0, 0.000001m), ((long)client["expires"]!, (long)client["keys"]![0]!["until"]!, (decimal)client["budget"]!["amount"]!));
        Assert.Empty(await NodeFaultsAsync("0 " + Snapshot(document) + "\n"));
    }

    private static string Snapshot(ConfigDocument document) =>
        Encoding.UTF8.GetString(SnapshotBuilder.Build(document, 1, FleetState.Unknown, _ => new ResolvedSecret("sk-x", null)).Json.Span);

    /// <summary>A line for each snapshot that a node refuses: its number and why.</summary>
    private static async Task<string[]> NodeFaultsAsync(string snapshots)
    {
        var file = Path.GetTempFileName();
        try
        {
            await File.WriteAllTextAsync(file, snapshots);
            using var lua = Process.Start(new ProcessStartInfo("sh", ["-c", "exec luajit tests/lua/support/check_snapshots.lua < \"$0\"", file])
            {
                WorkingDirectory = Repository.Root,
                Environment = { ["LUA_PATH"] = "lua/?.lua;tests/lua/?.lua;;" },
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
            var errors = lua.StandardError.ReadToEndAsync();
            var lines = (await lua.StandardOutput.ReadToEndAsync()).Split('\n', StringSplitOptions.RemoveEmptyEntries);
            await lua.WaitForExitAsync();
            Assert.True(lua.ExitCode == 0, await errors);
            return lines;
        }
        finally
        {
            File.Delete(file);
        }
    }

    private static IEnumerable<string> Leaves(JsonNode? node, string path) => node switch
    {
        JsonObject map => map.SelectMany(member => Leaves(member.Value, $"{path}.{member.Key}")),
        JsonArray list => list.SelectMany((item, i) => Leaves(item, $"{path}[{i}]")),
        _ => [path],
    };

    private static void Replace(JsonNode root, string path, JsonNode? value)
    {
        var steps = Step().Matches(path).Select(match => match.Value).ToList();
        var holder = steps[..^1].Aggregate(root, (node, step) => step[0] == '[' ? node[int.Parse(step[1..^1])]! : node[step[1..]]!);
        if (steps[^1][0] == '[') holder[int.Parse(steps[^1][1..^1])] = value;
        else holder[steps[^1][1..]] = value;
    }

    private static IEnumerable<string> Texts(params string[] texts) => texts.Select(text => JsonValue.Create(text).ToJsonString());

    /// <summary>A DNS name of that many characters.</summary>
    private static string Host(int characters) => string.Concat(Enumerable.Repeat(new string('h', 49) + ".", 6))[..(characters - 1)].TrimEnd('.').PadRight(characters, 'x');

    [GeneratedRegex(@"\[\d+\]")]
    private static partial Regex Index();

    [GeneratedRegex(@"\[\d+\]|\.[^.\[]+")]
    private static partial Regex Step();
}
