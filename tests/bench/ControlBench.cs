using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Evenkeel.Provider;

namespace Evenkeel.Bench;

/// <summary>
/// The control plane: how fast its REST API is, how soon a change, a probe's finding and a new instance hold for clients, how soon it
/// is there after its death, what memory it needs. The whole stack, as <c>./evenkeel up</c> makes it, before the provider simulator.
/// </summary>
internal sealed class ControlBench(Stage stage, Options options)
{
    private const int Workers = 2;

    private sealed record Row(string What, int Times, double P50Ms, double P99Ms, double LeastMs, double MostMs);

    private readonly List<Row> _rows = [];
    private readonly int _times = options.Smoke ? 5 : options.Quick ? 20 : 100;
    private readonly int _instances = options.Smoke ? 20 : options.Quick ? 200 : 1_000;
    private readonly HttpClient _api = new() { Timeout = TimeSpan.FromSeconds(60) };
    private readonly HttpClient _edge = new() { Timeout = TimeSpan.FromSeconds(60) };
    private readonly HttpClient _node = new() { Timeout = TimeSpan.FromSeconds(60) };
    private string _state = "";

    public void Run() => RunAsync().GetAwaiter().GetResult();

    private async Task RunAsync()
    {
        var machine = Machine.Describe(stage.Checkout);
        Console.WriteLine($"control: {_times} changes, then {_instances} instances");
        await using var providers = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            LedgerLimit = 0,
            Instances = [new InstanceOptions("a"), new InstanceOptions("b"), new InstanceOptions("c")],
        });
        var (port, adminPort) = (stage.FreePort(), stage.FreePort());
        var config = Path.Combine(stage.Root, "control.yaml");
        await File.WriteAllTextAsync(config, Yaml(providers, 3));
        _state = Path.Combine(stage.Root, "state");
        string[] up = ["up", "--state", _state, "--config", config, "--port", $"{port}", "--admin-port", $"{adminPort}", "--workers", $"{Workers}"];
        try
        {
            await LauncherAsync(up);
            var shown = _state;
            _state = new DirectoryInfo(_state).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? _state;
            _api.BaseAddress = new Uri($"http://127.0.0.1:{adminPort}/api/v1/");
            _api.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", Read("admin-token"));
            _edge.BaseAddress = new Uri($"http://127.0.0.1:{port}");
            var nodePort = File.ReadLines(Path.Combine(_state, "stack.env")).First(line => line.StartsWith("NODE_ADMIN_PORT=", StringComparison.Ordinal)).Split('=')[1].Trim('\'', '"');
            _node.BaseAddress = new Uri($"http://127.0.0.1:{nodePort}");
            _node.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", Read("node-token"));

            await RestAsync("3 instances");
            await PushesAsync("3 instances");
            await ProbesAsync(providers);
            var memory = Megabytes();
            await ColdStartsAsync(["up", "--state", shown]);
            await GrowAsync(providers);
            await RestAsync($"{_instances} instances");
            await PushesAsync($"{_instances} instances");
            await ReloadsAsync(providers);
            var grown = Megabytes();
            Write(machine, memory, grown);
        }
        finally
        {
            await LauncherAsync(["down", "--state", _state, "--purge", "--yes"]);
        }
    }

    // ---------------------------------------------------------------------------------------------------------- measures

    private async Task RestAsync(string with)
    {
        foreach (var path in new[] { "pools/chat", "instances/a", "instances", "status" })
        {
            await TimesAsync($"GET {path}, {with}", _times, async _ => Good(await _api.GetAsync(path, stage.Cancel)));
        }
        await TimesAsync($"PATCH instances/b, {with}", _times, async i => Good(await _api.PatchAsJsonAsync("instances/b", new { weight = 10 + (i % 50) }, stage.Cancel)));
    }

    /// <summary>A change that goes by push: from the call until the edge answers by it.</summary>
    private Task PushesAsync(string with) => TimesAsync($"push to effect, {with}", _times, async i =>
    {
        var model = $"model-{with.Replace(' ', '-')}-{i}";
        Good(await _api.PatchAsJsonAsync("pools/chat", new { models = new[] { Call.Model, model } }, stage.Cancel));
        await UntilAsync(async () => (await _edge.GetAsync("/v1/models/" + model, stage.Cancel)).StatusCode == HttpStatusCode.OK, 1);
    });

    /// <summary>A provider that goes away and comes back: until the node sends it no calls, and until it sends them again, by probes alone.</summary>
    private async Task ProbesAsync(ProviderSimulator providers)
    {
        var healthy = true;
        async Task<bool> SaysAsync()
        {
            using var stats = JsonDocument.Parse(await _node.GetStringAsync("/stats", stage.Cancel));
            return stats.RootElement.GetProperty("instances").GetProperty("c").GetProperty("healthy").GetBoolean() == healthy;
        }
        for (var round = 0; round < (options.Smoke ? 1 : options.Quick ? 2 : 5); round++)
        {
            providers["c"].Down();
            healthy = false;
            await TimesAsync("probe: out", 1, async _ => await UntilAsync(SaysAsync, 10), join: true);
            providers["c"].Up();
            healthy = true;
            await TimesAsync("probe: back in", 1, async _ => await UntilAsync(SaysAsync, 10), join: true);
        }
    }

    private async Task GrowAsync(ProviderSimulator providers)
    {
        using var body = new StringContent(Yaml(providers, _instances), Encoding.UTF8, "application/yaml");
        await TimesAsync($"PUT config, {_instances} instances, until their doors are open", 1, async _ =>
        {
            Good(await _api.PutAsync("config", body, stage.Cancel));
            await AnswersAsync("last");
        });
    }

    /// <summary>A new instance needs a reload: from the call until a client is answered by it.</summary>
    private Task ReloadsAsync(ProviderSimulator providers) => TimesAsync($"new instance to answer (reload), {_instances} instances", options.Smoke ? 1 : options.Quick ? 2 : 5, async i =>
    {
        Good(await _api.PostAsJsonAsync("instances", new { name = $"new-{i}", base_url = providers["a"].BaseUrl }, stage.Cancel));
        Good(await _api.PostAsJsonAsync("pools", new { name = $"new-{i}", models = new[] { $"new-{i}" }, ghost = new { per_day = 0 }, tiers = new[] { new { name = "t", instances = new[] { $"new-{i}" } } } }, stage.Cancel));
        await AnswersAsync($"new-{i}");
    });

    /// <summary>After kill -9: from the start of the new process to its first answer that needs the database.</summary>
    private async Task ColdStartsAsync(string[] up)
    {
        var pidFile = Path.Combine(_state, "run/control-plane.pid");
        var times = new List<double>();
        for (var round = 0; round < (options.Smoke ? 1 : options.Quick ? 2 : 5); round++)
        {
            var old = int.Parse(await File.ReadAllTextAsync(pidFile, stage.Cancel), CultureInfo.InvariantCulture);
            _ = Kill(old, 9);
            await UntilAsync(() => Task.FromResult(HasEnded(old)), 5);
            var restart = LauncherAsync(up);
            await UntilAsync(async () =>
            {
                if (restart.IsFaulted)
                {
                    await restart;
                }
                return (await _api.GetAsync("pools/chat", stage.Cancel)).IsSuccessStatusCode;
            }, 5);
            var answered = Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;
            await restart;
            var stat = await File.ReadAllTextAsync($"/proc/{int.Parse(await File.ReadAllTextAsync(pidFile, stage.Cancel), CultureInfo.InvariantCulture)}/stat", stage.Cancel);
            times.Add((answered - (double.Parse(stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[19], CultureInfo.InvariantCulture) / 100)) * 1000);
        }
        Note("cold start of the control plane", times);
    }

    // ----------------------------------------------------------------------------------------------------------- helpers

    // A killed process has its ports until its last thread has gone, even when it is a zombie already.
    private static bool HasEnded(int pid)
    {
        try
        {
            return Directory.GetDirectories($"/proc/{pid}/task").Length <= 1 && File.ReadAllText($"/proc/{pid}/stat").Contains(") Z ", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return true;
        }
    }

    private static string Yaml(ProviderSimulator providers, int instances)
    {
        var yaml = new StringBuilder("instances:\n");
        foreach (var name in new[] { "a", "b", "c" })
        {
            yaml.Append(CultureInfo.InvariantCulture, $"  - {{name: {name}, base_url: \"{providers[name].BaseUrl}\", base_latency: 100ms}}\n");
        }
        for (var i = 3; i < instances; i++)
        {
            yaml.Append(CultureInfo.InvariantCulture, $"  - {{name: i{i}, base_url: \"{providers["a"].BaseUrl}\", base_latency: 100ms}}\n");
        }
        yaml.Append(CultureInfo.InvariantCulture, $$$"""
            pools:
              - name: chat
                models: [{{{Call.Model}}}]
                ghost: {per_day: 0}
                tiers: [{name: t, instances: [a, b, c]}]
                failover_config: {health_check: {interval: 1s, timeout: 1s, unhealthy_threshold: 3, healthy_threshold: 2}}
              - {name: last, models: [last], ghost: {per_day: 0}, tiers: [{name: t, instances: [{{{(instances > 3 ? $"i{instances - 1}" : "a")}}}]}]}
            """);
        return yaml.ToString();
    }

    private async Task AnswersAsync(string model) => await UntilAsync(async () =>
    {
        using var body = new StringContent($$$"""{"model":"{{{model}}}","messages":[{"role":"user","content":"Hello!"}]}""", Encoding.UTF8, "application/json");
        using var answer = await _edge.PostAsync(Call.Path, body, stage.Cancel);
        return answer.StatusCode == HttpStatusCode.OK;
    }, 10);

    private async Task UntilAsync(Func<Task<bool>> good, int everyMs)
    {
        var clock = Stopwatch.StartNew();
        while (true)
        {
            try
            {
                if (await good())
                {
                    return;
                }
            }
            catch (HttpRequestException)
            {
                // Nobody there yet.
            }
            if (clock.Elapsed > TimeSpan.FromSeconds(120))
            {
                throw new BenchException("what was changed does not take effect within two minutes");
            }
            await Task.Delay(everyMs, stage.Cancel);
        }
    }

    private async Task TimesAsync(string what, int times, Func<int, Task> once, bool join = false)
    {
        var taken = new List<double>();
        for (var i = 0; i < times; i++)
        {
            var clock = Stopwatch.StartNew();
            await once(i);
            taken.Add(clock.Elapsed.TotalMilliseconds);
        }
        if (join && _joined.TryGetValue(what, out var before))
        {
            _rows.RemoveAll(row => row.What == what);
            taken.AddRange(before);
        }
        _joined[what] = taken;
        Note(what, taken);
    }

    private readonly Dictionary<string, List<double>> _joined = [];

    private void Note(string what, List<double> taken)
    {
        var sorted = taken.Order().ToList();
        _rows.Add(new Row(what, sorted.Count, Statistics.Percentile(sorted, 0.5), Statistics.Percentile(sorted, 0.99), sorted[0], sorted[^1]));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {what}: {_rows[^1].P50Ms:0} ms"));
    }

    private static void Good(HttpResponseMessage answer)
    {
        using (answer)
        {
            if (!answer.IsSuccessStatusCode)
            {
                throw new BenchException($"{answer.RequestMessage!.Method} {answer.RequestMessage.RequestUri!.AbsolutePath} is answered with {(int)answer.StatusCode}: {answer.Content.ReadAsStringAsync().Result}");
            }
        }
    }

    private string Read(string name) => File.ReadAllText(Path.Combine(_state, name)).Trim();

    private double Megabytes() => ProcessCost.AnonymousBytes(int.Parse(Read("run/control-plane.pid"), CultureInfo.InvariantCulture)) / 1e6;

    private async Task LauncherAsync(string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(Path.Combine(stage.Checkout, "evenkeel"), arguments) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true })!;
        process.StandardInput.Close();
        var (output, error) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync();
        if (process.ExitCode != 0)
        {
            throw new BenchException($"./evenkeel {arguments[0]} ends with {process.ExitCode}: {await output}{await error}");
        }
    }

    private void Write(IReadOnlyDictionary<string, string> machine, double memory, double grown)
    {
        var table = new Table("what", "times", "P50, ms", "P99, ms", "least, ms", "most, ms");
        var chart = new BarChart("The control plane", "ms: median, least and most; less is better");
        static string N(double value) => value.ToString(value < 20 ? "0.0" : "0", CultureInfo.InvariantCulture);
        foreach (var row in _rows)
        {
            table.Add(row.What, $"{row.Times}", N(row.P50Ms), N(row.P99Ms), N(row.LeastMs), N(row.MostMs));
            chart.Add(row.What.Split(',')[0], row.What.Contains("instances", StringComparison.Ordinal) ? row.What.Split(", ").Last() : "", new Figure(row.P50Ms, row.LeastMs, row.MostMs));
        }
        Report.Write(options.Out, "control", "The control plane", machine, new Dictionary<string, string>
        {
            ["stack"] = $"./evenkeel up: PostgreSQL, control plane, one node with {Workers} workers; the provider simulator; one caller",
            ["push to effect"] = "PATCH of a pool's models until the edge lists the new one, asked every ms",
            ["probe"] = "probes of a, b and c every second (of all others every 10 s, the default), three bad ones take an instance out, two good ones bring it back; no traffic; until the node's /stats tells it",
            ["memory"] = string.Create(CultureInfo.InvariantCulture, $"anonymous resident memory of the control plane: {memory:0} MB with 3 instances, {grown:0} MB after the work with {_instances}"),
        }, table, chart, new { rows = _rows, memory_mb = memory, memory_grown_mb = grown });
    }

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Kill(int pid, int signal);
}
