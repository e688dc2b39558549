using System.Diagnostics;
using System.Runtime.InteropServices;
using Evenkeel.Failover;
using Evenkeel.Failover.Cases;
using Evenkeel.Provider;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

Options? options;
IReadOnlyList<Case> cases;
try
{
    options = Options.Parse(args);
    if (options is null)
    {
        Console.Write(Options.Help);
        return 0;
    }
    cases = options.Select([.. Sixteen.All(options.Time), .. Further.All(options.Time), .. Promises.All(options.Time)]);
}
catch (FormatException fault)
{
    Console.Error.WriteLine($"evenkeel-failover: {fault.Message} (--help says more)");
    return 2;
}

var checkout = Checkout.Find();
var results = Path.GetFullPath(options.Out ?? (checkout is null ? "failover-results" : Path.Combine(checkout, "tests", "results")));
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
    return options.List ? await ListAsync() : await JudgeAsync();
}
catch (OperationCanceledException)
{
    Console.Error.WriteLine("evenkeel-failover: interrupted");
    return 130;
}
catch (Exception fault) when (fault is InvalidOperationException or System.Net.Sockets.SocketException or IOException)
{
    Console.Error.WriteLine($"evenkeel-failover: {fault.Message}");
    return 1;
}

async Task<int> ListAsync()
{
    foreach (var one in cases)
    {
        Console.WriteLine($"{one.Number,-6} {one.Name}");
        Console.WriteLine($"{"",-6}   {one.Wanted}");
    }
    if (options.BasePort is not null)
    {
        await using var simulator = await new Topology(cases, options.Time).StartAsync(options.BasePort, null);
        await WriteSetupAsync(simulator, null);
    }
    return 0;
}

async Task<int> JudgeAsync()
{
    var clock = Stopwatch.StartNew();
    var began = DateTimeOffset.UtcNow;
    // Certificates and the configuration lie where the user that the gateway runs as can read them.
    var scratch = Directory.CreateTempSubdirectory("evenkeel-failover-");
    File.SetUnixFileMode(scratch.FullName, (UnixFileMode)Convert.ToInt32("755", 8));
    var caFile = Path.Combine(scratch.FullName, "ca.pem");
    var topology = new Topology(cases, options.Time);
    await using var simulator = await topology.StartAsync(options.BasePort, caFile);
    OwnStack? stack = null;
    try
    {
        if (options.Target is null)
        {
            var config = Path.Combine(scratch.FullName, "evenkeel.json");
            await File.WriteAllTextAsync(config, topology.EvenkeelConfig(simulator, caFile, "127.0.0.1:8080"));
            Console.WriteLine($"Starting Evenkeel with {cases.Count} pools and {topology.Instances.Count()} simulated providers …");
            stack = await OwnStack.StartAsync(checkout ?? throw new InvalidOperationException("the checkout with ./evenkeel was not found; use --target"), scratch.FullName, config, interrupted.Token);
            Console.WriteLine($"Evenkeel is up ({clock.Elapsed.TotalSeconds:0.0} s); {cases.Count} cases with {(options.Fast ? $"delays and time-outs at {options.Time.Factor:0%}" : "real timings")}.");
        }
        else
        {
            await WriteSetupAsync(simulator, caFile);
            if (options.BasePort is null)
            {
                Console.Write($"Configure {options.Target} so, then press Enter. ");
                await Task.Run(Console.ReadLine).WaitAsync(interrupted.Token);
            }
        }
        using var client = new GatewayClient(stack?.Gateway ?? options.Target!, options.Key);
        IReadOnlyList<Result> judged;
        using (var progress = new Progress(cases.Count))
        {
            judged = await new Runner(options.Time, simulator, client, stack, progress).RunAsync(cases, interrupted.Token);
        }
        var report = new Reports(judged, options, began, clock.Elapsed);
        report.Print();
        await report.WriteAsync(results);
        if (report.Failed > 0 && stack is not null)
        {
            var logs = Path.Combine(results, "failover-logs");
            stack.KeepLogs(logs);
            Console.WriteLine($"The gateway's logs are kept in {logs}.");
        }
        Console.WriteLine($"{clock.Elapsed.TotalSeconds:0} s; failover.json and failover.md are in {results}.");
        Console.WriteLine();
        Console.WriteLine($"{report.Passed} passed, {report.Failed} failed{(report.Skipped > 0 ? $", {report.Skipped} skipped" : "")}");
        return report.Failed == 0 && report.Passed > 0 ? 0 : 1;
    }
    finally
    {
        if (stack is not null)
        {
            await stack.DisposeAsync();
        }
        scratch.Delete(recursive: true);
    }
}

async Task WriteSetupAsync(ProviderSimulator simulator, string? caFile)
{
    var topology = new Topology(cases, options.Time);
    Directory.CreateDirectory(results);
    var table = topology.Table(simulator);
    Console.WriteLine();
    Console.Write(table);
    await File.WriteAllTextAsync(Path.Combine(results, "failover-providers.txt"), table);
    await File.WriteAllTextAsync(Path.Combine(results, "failover-evenkeel.json"), topology.EvenkeelConfig(simulator, caFile, "127.0.0.1:8080"));
    Console.WriteLine($"This table and an example configuration for Evenkeel are in {results}.");
    Console.WriteLine();
}
