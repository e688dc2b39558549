using System.Diagnostics;
using System.Runtime.InteropServices;
using Evenkeel.Chaos;
using Evenkeel.Failover;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

ChaosOptions? options;
IReadOnlyList<Blow> blows;
try
{
    options = ChaosOptions.Parse(args);
    if (options is null)
    {
        Console.Write(ChaosOptions.Help);
        return 0;
    }
    var unknown = options.Only.Except(Blow.All.Select(blow => blow.Name)).ToList();
    if (unknown.Count > 0) throw new FormatException($"--only: there is no blow '{unknown[0]}' (--list shows them)");
    blows = [.. Blow.All.Where(blow => options.Only.Count > 0 ? options.Only.Contains(blow.Name) : blow.InShort || (!options.Short && !blow.OnlyNamed))];
}
catch (FormatException fault)
{
    Console.Error.WriteLine($"evenkeel-chaos: {fault.Message} (--help says more)");
    return 2;
}
if (options.List)
{
    foreach (var blow in Blow.All) Console.WriteLine($"{blow.Name,-36} {blow.What}; may cost: {blow.Cost.ToString().ToLowerInvariant()}{(blow.OnlyNamed ? "; only when it is named" : "")}");
    return 0;
}

using var interrupted = new CancellationTokenSource();
void Interrupt(PosixSignalContext signal)
{
    signal.Cancel = true;
    interrupted.Cancel();
}
using var onInterrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Interrupt);
using var onTerminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Interrupt);
using var onHangUp = PosixSignalRegistration.Create(PosixSignal.SIGHUP, Interrupt);
try
{
    return await PlayAsync();
}
catch (OperationCanceledException)
{
    Console.Error.WriteLine("evenkeel-chaos: interrupted");
    return 130;
}
catch (Exception fault) when (fault is InvalidOperationException or System.Net.Sockets.SocketException or IOException or HttpRequestException or System.Text.Json.JsonException)
{
    Console.Error.WriteLine($"evenkeel-chaos: {fault.Message}");
    return 1;
}

async Task<int> PlayAsync()
{
    var clock = Stopwatch.StartNew();
    var checkout = Checkout.Find() ?? throw new InvalidOperationException("the checkout with ./evenkeel was not found");
    var (passed, failed, skipped) = (0, 0, 0);
    await using var scene = await Scene.StartAsync(checkout, interrupted.Token);
    using var end = new LastResort(scene, TimeSpan.FromMinutes(4));      // disposed of first: the scene's end is bounded
    Console.WriteLine($"Evenkeel is up ({clock.Elapsed.TotalSeconds:0.0} s); seed {options.Seed}.");
    var possible = new List<Blow>();
    foreach (var blow in blows)
    {
        if (blow.Impossible(scene) is not { } why)
        {
            possible.Add(blow);
            continue;
        }
        skipped++;
        Console.WriteLine($"  skipped  {blow.Name}: {why}");
    }
    var lasts = options.For ?? TimeSpan.FromMinutes(10);
    var random = new Random(options.Seed);
    var repeats = !options.Short && (options.Only.Count == 0 || options.For is not null);
    do
    {
        var order = possible.ToArray();
        random.Shuffle(order);
        // In short, what is not compared comes last: no waiting for its counters.
        if (options.Short) order = [.. order.OrderBy(blow => blow.Counters)];
        foreach (var blow in order)
        {
            if (repeats && clock.Elapsed >= lasts) break;
            var (watchdog, seed, isLast) = (new Watchdog(blow.Limit, TimeSpan.FromSeconds(60)) { Hung = () => { failed++; KeepEvidence(); } }, random.Next(1, 1_000_000), !repeats && blow == order[^1]);
            var outcome = await watchdog.RunAsync(cancel => Round.PlayAsync(scene, blow, seed, isLast, stage => watchdog.Stage = stage, cancel), interrupted.Token);
            if (outcome is null)
            {
                Console.WriteLine($"  not ok   {blow.Name,-36} hung: after {blow.Limit.TotalMinutes:0.#} minutes it stood at: {watchdog.Stage}");
                return Summed();      // nothing is known of what comes after
            }
            var said = string.Join(", ", outcome.Answers.OrderBy(pair => pair.Key).Select(pair => $"{pair.Value} {Words(pair.Key)}"));
            Console.WriteLine($"  {(outcome.Faults.Count == 0 ? "ok" : "not ok"),-8} {blow.Name,-36} {outcome.Took.TotalSeconds,5:0.0} s, back in {outcome.Back.TotalSeconds:0.0} s: {said}");
            foreach (var fault in outcome.Faults) Console.WriteLine($"             {fault}");
            if (outcome.Faults.Count == 0)
            {
                passed++;
                continue;
            }
            failed++;
            KeepEvidence();
        }
    }
    while (repeats && possible.Count > 0 && clock.Elapsed < lasts);
    return Summed();

    void KeepEvidence()
    {
        var logs = Path.Combine(checkout, "tests", "results", $"chaos-logs-{failed}");
        scene.Stack.KeepLogs(logs);
        File.WriteAllLines(Path.Combine(logs, "processes.txt"), scene.Processes());
        Console.WriteLine($"             logs and processes as they were then: {logs}");
    }

    int Summed()
    {
        Console.WriteLine($"{clock.Elapsed.TotalSeconds:0} s; again: ./evenkeel test chaos{(options.Short ? " --short" : "")}{(options.Only.Count > 0 ? " --only " + string.Join(',', options.Only) : "")} --seed {options.Seed}");
        Console.WriteLine($"{passed} passed, {failed} failed{(skipped > 0 ? $", {skipped} skipped" : "")}");
        return failed == 0 && passed > 0 ? 0 : 1;
    }
}

static string Words(Got got) => got switch { Got.Whole => "whole", Got.Left => "left", Got.Unread => "unread", Got.CleanError => "clean errors", Got.Broken => "broken connections", Got.Unclean => "UNCLEAN", _ => "HUNG" };
