using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using System.Text.Json;
using Xunit.Sdk;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>
/// One whole gateway, brought up by <c>./evenkeel up</c> in a directory of its own and taken down without a trace: nginx,
/// agent, control plane, PostgreSQL. When a test failed meanwhile, its logs are kept in tests/results/e2e/NAME.
/// </summary>
internal sealed class Stack : IAsyncDisposable
{
    private static readonly TimeSpan UpLimit = TimeSpan.FromSeconds(180);
    private static readonly TimeSpan DownLimit = TimeSpan.FromSeconds(60);

    private readonly string _name;
    private readonly string _directory;
    private readonly string _shownState;
    private readonly string[] _upArguments;
    private readonly Process _watchdog;
    private bool _failed;

    private Stack(string name, string directory, string[] options)
    {
        _name = name;
        _directory = directory;
        _shownState = Path.Combine(directory, "state");
        Port = Launcher.FreePort();
        AdminPort = Launcher.FreePort();
        _upArguments = ["up", "--state", _shownState, "--port", $"{Port}", "--admin-port", $"{AdminPort}", .. options];
        AppDomain.CurrentDomain.FirstChanceException += NoteFailure;
        _watchdog = Launcher.StartWatchdog(_shownState, directory);
    }

    public int Port { get; }
    public int AdminPort { get; }

    /// <summary>The state directory's real path: as root it may lie elsewhere.</summary>
    public string State => new DirectoryInfo(_shownState).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? _shownState;

    public Gateway Gateway { get; private set; } = null!;
    public AdminApi Admin { get; private set; } = null!;
    public NodeAdmin Node { get; private set; } = null!;

    /// <summary>What the last `up` printed.</summary>
    public string Printed { get; private set; } = "";

    /// <summary>A directory that every user can read, for certificates and the like.</summary>
    public static string ScratchDirectory()
    {
        var directory = Directory.CreateTempSubdirectory("evenkeel-e2e-").FullName;
        File.SetUnixFileMode(directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute
            | UnixFileMode.GroupRead | UnixFileMode.GroupExecute | UnixFileMode.OtherRead | UnixFileMode.OtherExecute);
        return directory;
    }

    /// <summary>Brings a stack up; without a configuration it is the demo. The directory goes away with it.</summary>
    public static async Task<Stack> StartAsync(string name, Config? config, string? directory = null)
    {
        directory ??= ScratchDirectory();
        string[] options = ["--workers", "2"];
        if (config is not null)
        {
            var file = Path.Combine(directory, "evenkeel.json");
            await File.WriteAllTextAsync(file, config.Document.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
            options = [.. options, "--config", file];
        }
        var stack = new Stack(name, directory, options);
        try
        {
            var up = await stack.UpAsync();
            if (up.ExitCode != 0)
            {
                throw new InvalidOperationException($"./evenkeel up failed with {up.ExitCode}:\n{up.Output}");
            }
            stack.Connect();
            return stack;
        }
        catch
        {
            stack._failed = true;
            await stack.DisposeAsync();
            throw;
        }
    }

    // ---- the launcher's commands

    /// <summary>`up` with the options this stack began with: starts again what has died.</summary>
    public async Task<CommandResult> UpAsync()
    {
        var result = await Launcher.RunAsync(UpLimit, _upArguments);
        Printed = result.Output;
        return result;
    }

    public Task<CommandResult> DownAsync(params string[] options) => Launcher.RunAsync(DownLimit, ["down", "--state", _shownState, .. options]);

    // ---- what lies in the state directory

    public string PathOf(string name) => Path.Combine(State, name);

    /// <summary>The live nginx.conf.</summary>
    public string NginxConf => File.ReadAllText(PathOf("node/nginx.conf"));

    public string NginxConfDigest => Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(PathOf("node/nginx.conf"))));

    /// <summary>A value of stack.env.</summary>
    public string Recorded(string name) =>
        File.ReadLines(PathOf("stack.env")).First(line => line.StartsWith(name + "=", StringComparison.Ordinal))[(name.Length + 1)..].Trim('\'', '"');

    // ---- its processes

    public int Pid(string part) => int.Parse(File.ReadAllText(PathOf(part == "nginx" ? "node/run/nginx.pid" : $"run/{part}.pid")));

    /// <summary>Workers of the running master that take new connections.</summary>
    public IReadOnlyList<int> Workers =>
        [.. Processes.ChildrenOf(Pid("nginx")).Where(pid => Processes.Title(pid) == "nginx: worker process").Order()];

    public IReadOnlyList<int> AllProcesses => Processes.Of(State);

    /// <summary>kill -9.</summary>
    public void Kill(string part) => Processes.Kill(Pid(part), State);

    public void KillWorker(int pid) => Processes.Kill(pid, State);

    /// <summary>The same files, new workers.</summary>
    public Task ReloadAsync() => Processes.SignalAsync("HUP", Pid("nginx"), State);

    /// <summary>Runs the action while these workers stand still: what comes meanwhile goes to the others, or waits.</summary>
    public async Task WhilePausedAsync(IReadOnlyList<int> workers, Func<Task> action)
    {
        try
        {
            foreach (var worker in workers) await Processes.SignalAsync("STOP", worker, State);
            await action();
        }
        finally
        {
            foreach (var worker in workers) await Processes.SignalAsync("CONT", worker, State);
        }
    }

    /// <summary>kill -9 of the master and every worker, draining ones too.</summary>
    public void KillNginx()
    {
        foreach (var pid in AllProcesses.Where(pid => Processes.Title(pid).StartsWith("nginx: ", StringComparison.Ordinal)))
        {
            Processes.Kill(pid, State);
        }
    }

    public async ValueTask DisposeAsync()
    {
        AppDomain.CurrentDomain.FirstChanceException -= NoteFailure;
        Gateway?.Dispose();
        Admin?.Dispose();
        Node?.Dispose();
        if (Directory.Exists(_shownState))
        {
            if (_failed)
            {
                KeepLogs();
            }
            var state = State;
            var down = await DownAsync("--purge", "--yes");
            foreach (var pid in Processes.Of(state))
            {
                Processes.Kill(pid, state);
            }
            if (down.ExitCode != 0)
            {
                await Console.Error.WriteLineAsync($"./evenkeel down of {_name} failed with {down.ExitCode}:\n{down.Output}");
            }
        }
        Directory.Delete(_directory, recursive: true);
        _watchdog.Kill(entireProcessTree: true);
        _watchdog.Dispose();
    }

    private void Connect()
    {
        var nodeToken = File.ReadAllText(PathOf("node-token")).Trim();
        Gateway = new Gateway(new Uri($"http://127.0.0.1:{Port}"));
        Admin = new AdminApi(new Uri($"http://127.0.0.1:{AdminPort}"), File.ReadAllText(PathOf("admin-token")).Trim());
        Node = new NodeAdmin(new Uri($"http://127.0.0.1:{Recorded("NODE_ADMIN_PORT")}"), nodeToken);
    }

    private void NoteFailure(object? sender, FirstChanceExceptionEventArgs raised) => _failed |= raised.Exception is XunitException;

    private void KeepLogs()
    {
        var kept = Path.Combine(Launcher.Checkout, "tests", "results", "e2e", _name);
        Directory.CreateDirectory(kept);
        string[] logs = ["postgres/postgres.log", "control-plane/control-plane.log", "node/logs/agent.log", "node/logs/error.log", "node/logs/access.log", "node/nginx.conf"];
        foreach (var log in logs.Where(log => File.Exists(PathOf(log))))
        {
            File.Copy(PathOf(log), Path.Combine(kept, Path.GetFileName(log)), overwrite: true);
        }
        Console.Error.WriteLine($"The logs of the stack '{_name}' are kept in {Path.GetRelativePath(Launcher.Checkout, kept)}.");
        foreach (var log in new[] { "control-plane.log", "agent.log", "error.log" }.Select(name => Path.Combine(kept, name)).Where(File.Exists))
        {
            Console.Error.WriteLine($"---- {Path.GetFileName(log)}");
            Console.Error.WriteLine(string.Join('\n', File.ReadLines(log).TakeLast(25)));
        }
    }
}
