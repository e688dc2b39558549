// The benchmarks: ./evenkeel bench. Each brings its own processes on free loopback ports and stops exactly those.
using Evenkeel.Bench;

if (args.Any(argument => argument is "-h" or "--help"))
{
    Console.WriteLine(Options.Usage);
    return 0;
}
if (Machine.Checkout() is not { } checkout)
{
    Console.Error.WriteLine("evenkeel-bench: run it inside the checkout");
    return 2;
}
var (options, fault) = Options.Read(args, checkout);
if (options is null)
{
    Console.Error.WriteLine($"evenkeel-bench: {fault}\n\n{Options.Usage}");
    return 2;
}
using var stop = new CancellationTokenSource();
Console.CancelKeyPress += (_, press) => { press.Cancel = true; stop.Cancel(); };
using var term = System.Runtime.InteropServices.PosixSignalRegistration.Create(
    System.Runtime.InteropServices.PosixSignal.SIGTERM, signal => { signal.Cancel = true; stop.Cancel(); });
try
{
    foreach (var bench in options.Benches)
    {
        using var stage = new Stage(checkout, stop.Token);
        Action run = bench switch
        {
            "overhead" => new OverheadBench(stage, options).Run,
            "stream" => new StreamBench(stage, options).Run,
            "algorithms" => new AlgorithmsBench(stage, options).Run,
            "article" => new ArticleBench(stage, options).Run,
            "scale" => new ScaleBench(stage, options).Run,
            "control" => new ControlBench(stage, options).Run,
            _ => throw new BenchException($"there is no bench {bench}"),
        };
        run();
    }
    return 0;
}
catch (OperationCanceledException)
{
    Console.Error.WriteLine("evenkeel-bench: interrupted; what it had started is stopped");
    return 130;
}
catch (Exception problem)          // whatever it is, it is caught: only then is what was started stopped
{
    Console.Error.WriteLine($"evenkeel-bench: {(problem is BenchException ? problem.Message : problem)}");
    return 1;
}
