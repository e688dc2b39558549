using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>Output and exit code of one command.</summary>
internal sealed record CommandResult(int ExitCode, string Output);

/// <summary>Runs <c>./evenkeel</c> as a person would, and hands out what several stacks side by side need.</summary>
internal static class Launcher
{
    public static string Checkout { get; } = FindCheckout();

    public static async Task<CommandResult> RunAsync(TimeSpan limit, params string[] arguments) =>
        await ExecuteAsync(limit, Path.Combine(Checkout, "evenkeel"), arguments);

    public static async Task<CommandResult> ExecuteAsync(TimeSpan limit, string file, params string[] arguments)
    {
        var start = new ProcessStartInfo(file, arguments)
        {
            WorkingDirectory = Checkout,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = Process.Start(start)!;
        process.StandardInput.Close();
        using var cancel = new CancellationTokenSource(limit);
        var output = process.StandardOutput.ReadToEndAsync(cancel.Token);
        var error = process.StandardError.ReadToEndAsync(cancel.Token);
        try
        {
            await process.WaitForExitAsync(cancel.Token);
            return new CommandResult(process.ExitCode, await output + await error);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{Path.GetFileName(file)} {string.Join(' ', arguments)} took more than {limit.TotalSeconds} s");
        }
    }

    /// <summary>
    /// Takes a stack down when this process has ended without doing so, however it ended: an interrupted run leaves nothing
    /// behind. To be killed once the stack is down.
    /// </summary>
    public static Process StartWatchdog(string state, string directory) => Process.Start("/usr/bin/setsid", [
        "/bin/bash", "-c", """exec </dev/null >/dev/null 2>&1; tail --pid="$1" -f /dev/null; [[ ! -d $3 ]] || "$2" down --purge --yes --state "$3"; rm -rf -- "$4" """, "watchdog",
        $"{Environment.ProcessId}", Path.Combine(Checkout, "evenkeel"), state, directory])!;

    private static readonly ConcurrentDictionary<int, bool> s_handedOut = new();

    /// <summary>A port nobody listens on, below the range that the kernel hands out to clients. None twice: who was given one listens later.</summary>
    public static int FreePort()
    {
        while (true)
        {
            var port = Random.Shared.Next(12_000, 15_000);
            if (!s_handedOut.TryAdd(port, true)) continue;
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
                return port;
            }
            catch (SocketException)
            {
                // Taken: the next one.
            }
        }
    }

    public static bool IsListening(int port)
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Connect(IPAddress.Loopback, port);
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    private static string FindCheckout([CallerFilePath] string thisFile = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(thisFile)!, "..", "..", ".."));
}
