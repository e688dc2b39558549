using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Evenkeel.Bench;

/// <summary>
/// The processes and files of one bench: a directory of its own, free loopback ports, and the promise that all of it is gone afterwards,
/// whatever happened. Only what was started here is ever signalled.
/// </summary>
internal sealed class Stage : IDisposable
{
    private readonly List<Process> _processes = [];
    private readonly HashSet<int> _ports = [];

    public Stage(string checkout, CancellationToken cancel)
    {
        Checkout = checkout;
        Cancel = cancel;
        Root = Directory.CreateTempSubdirectory("evenkeel-bench-").FullName;
        // An nginx that root starts reads its files as nobody.
        File.SetUnixFileMode(Root, File.GetUnixFileMode(Root) | UnixFileMode.GroupRead | UnixFileMode.GroupExecute | UnixFileMode.OtherRead | UnixFileMode.OtherExecute);
    }

    public string Checkout { get; }
    public string Root { get; }
    public CancellationToken Cancel { get; }

    public string Folder(string name) => Directory.CreateDirectory(Path.Combine(Root, name)).FullName;

    /// <summary>A port nobody listens on, below the range that the kernel hands out to clients.</summary>
    public int FreePort()
    {
        while (true)
        {
            var port = Random.Shared.Next(18_000, 22_000);
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
                if (_ports.Add(port))
                {
                    return port;
                }
            }
            catch (SocketException)
            {
                // Taken: the next one.
            }
        }
    }

    /// <summary>Starts a program whose words go to a log in its folder.</summary>
    public Process Start(string folder, IReadOnlyDictionary<string, string>? environment, string program, params string[] arguments)
    {
        Cancel.ThrowIfCancellationRequested();
        var log = Path.Combine(folder, "words.log");
        // A shell puts the words into the file, so that nobody has to read a pipe while others are measured.
        var start = new ProcessStartInfo("/bin/sh", ["-c", "exec \"$@\" >>\"$0\" 2>&1 </dev/null", log, program, .. arguments]) { WorkingDirectory = folder };
        foreach (var (name, value) in environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }
        var process = Process.Start(start)!;
        _processes.Add(process);
        return process;
    }

    /// <summary>Waits until a port takes connections.</summary>
    public void AwaitPort(int port, Process process, string what)
    {
        var clock = Stopwatch.StartNew();
        while (clock.Elapsed < TimeSpan.FromSeconds(60))
        {
            Cancel.ThrowIfCancellationRequested();
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                socket.Connect(IPAddress.Loopback, port);
                return;
            }
            catch (SocketException) when (!process.HasExited)
            {
                Thread.Sleep(50);
            }
            catch (SocketException)
            {
                break;
            }
        }
        var log = Path.Combine(process.StartInfo.WorkingDirectory, "words.log");
        throw new BenchException($"{what} does not start: {(File.Exists(log) ? File.ReadAllText(log) : "")}");
    }

    /// <summary>Ends a process that <see cref="Start"/> gave, before its time.</summary>
    public void Stop(Process process)
    {
        if (_processes.Remove(process))
        {
            End(process);
        }
    }

    public void Dispose()
    {
        foreach (var process in _processes.AsEnumerable().Reverse())
        {
            End(process);
        }
        Directory.Delete(Root, recursive: true);
    }

    private static void End(Process process)
    {
        using (process)
        {
            if (process.HasExited)
            {
                return;
            }
            _ = Kill(process.Id, 15);
            if (!process.WaitForExit(5_000))
            {
                process.Kill(entireProcessTree: true);
                process.WaitForExit();
            }
        }
    }

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Kill(int pid, int signal);
}
