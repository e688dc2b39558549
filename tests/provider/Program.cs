using System.Runtime.InteropServices;
using Evenkeel.Provider;

ProviderOptions? options;
try
{
    options = CommandLine.Parse(args);
}
catch (FormatException fault)
{
    Console.Error.WriteLine($"evenkeel-provider: {fault.Message} (--help says more)");
    return 2;
}
if (options is null)
{
    Console.Out.Write(CommandLine.Help);
    return 0;
}

var end = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
void End(PosixSignalContext signal)
{
    signal.Cancel = true;
    end.TrySetResult();
}
using var term = PosixSignalRegistration.Create(PosixSignal.SIGTERM, End);
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, End);

try
{
    await using var simulator = await ProviderSimulator.StartAsync(options);
    var listening = simulator.Instances.Select(instance => $"{instance.Name}={instance.EndPoint}");
    Console.WriteLine("listening " + string.Join(' ', simulator.ControlEndPoint is { } control ? listening.Append($"control={control}") : listening));
    await end.Task;
    return 0;
}
catch (Exception fault) when (fault is System.Net.Sockets.SocketException or IOException or FormatException or ArgumentException)
{
    Console.Error.WriteLine($"evenkeel-provider: could not start: {fault.Message}");
    return 1;
}
