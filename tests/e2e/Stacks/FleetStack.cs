using System.Diagnostics;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>A further node of a stack on this machine: the agent and the nginx of the stack's release, in a directory of its own.</summary>
internal sealed class FurtherNode : IAsyncDisposable
{
    private readonly string _directory = Stack.ScratchDirectory();
    private readonly Process _agent;
    private readonly Process _watchdog;

    private readonly Uri _adminAddress;
    private NodeAdmin? _admin;

    // With a one-time token it enrols, without one it shows the token that all share.
    private FurtherNode(Stack stack, string name, string? oneTimeToken, Uri[] others)
    {
        Name = name;
        var (port, adminPort) = (Launcher.FreePort(), Launcher.FreePort());
        var token = Path.Combine(_directory, oneTimeToken is null ? "shared-token" : "enrol-token");
        File.WriteAllText(token, oneTimeToken ?? File.ReadAllText(stack.PathOf("node-token")));
        Directory.CreateSymbolicLink(Path.Combine(_directory, "lua"), stack.PathOf("release/lua"));
        var start = new ProcessStartInfo("/bin/bash", [stack.PathOf("release/nginx/agent.sh")]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["EVENKEEL_CONTROL_URL"] = string.Join(' ', [$"http://127.0.0.1:{stack.AdminPort}", .. others.Select(other => other.ToString())]);
        start.Environment["EVENKEEL_NODE_NAME"] = name;
        start.Environment["EVENKEEL_NODE_DIR"] = _directory;
        start.Environment[oneTimeToken is null ? "EVENKEEL_NODE_TOKEN_FILE" : "EVENKEEL_ENROL_TOKEN_FILE"] = token;
        start.Environment["EVENKEEL_ADMIN_LISTEN"] = $"127.0.0.1:{adminPort}";
        start.Environment["EVENKEEL_EDGE_LISTEN"] = $"127.0.0.1:{port}";
        start.Environment["EVENKEEL_WORKERS"] = "1";
        _agent = Process.Start(start)!;
        _agent.OutputDataReceived += (_, line) => Said += line.Data + "\n";
        _agent.ErrorDataReceived += (_, line) => Said += line.Data + "\n";
        _agent.BeginOutputReadLine();
        _agent.BeginErrorReadLine();
        // An interrupted run leaves nothing behind: nginx outlives its agent's crash, and ends with it on SIGTERM.
        _watchdog = Process.Start("/usr/bin/setsid", ["/bin/bash", "-c",
            """exec </dev/null >/dev/null 2>&1; tail --pid="$1" -f /dev/null; kill -TERM "$2"; sleep 8; rm -rf -- "$3" """, "watchdog", $"{Environment.ProcessId}", $"{_agent.Id}", _directory]);
        Gateway = new Gateway(new Uri($"http://127.0.0.1:{port}"));
        _adminAddress = new Uri($"http://127.0.0.1:{adminPort}");
    }

    public string Name { get; }
    public Gateway Gateway { get; }
    public NodeAdmin Admin => _admin!;

    /// <summary>What it shows the control plane, and is shown.</summary>
    public string Token => File.ReadAllText(Path.Combine(_directory, "token")).Trim();
    public string Said { get; private set; } = "";

    /// <param name="stack">Whose control plane it asks.</param>
    /// <param name="name">Its own.</param>
    /// <param name="model">It is there when it answers for this one.</param>
    /// <param name="oneTimeToken">To enrol with.</param>
    /// <param name="others">Control planes that it asks when that one does not answer.</param>
    public static async Task<FurtherNode> StartAsync(Stack stack, string name, string model, string? oneTimeToken = null, params Uri[] others)
    {
        var node = new FurtherNode(stack, name, oneTimeToken, others);
        await Wait.Until(async () => (await node.Gateway.AskAsync(model)).Status == 200, $"{name} answers", TimeSpan.FromSeconds(60), () => Task.FromResult(node.Said));
        node._admin = new NodeAdmin(node._adminAddress, node.Token);
        return node;
    }

    /// <summary>kill -9 of nginx; the agent, if it lives, starts it again.</summary>
    public void KillNginx()
    {
        foreach (var pid in Processes.Of(_directory).Where(pid => Processes.Title(pid).StartsWith("nginx: ", StringComparison.Ordinal))) Processes.Kill(pid, _directory);
    }

    /// <summary>kill -9 of everything, as if the machine's power were cut.</summary>
    public void Kill()
    {
        if (!_agent.HasExited) _agent.Kill();
        _agent.WaitForExit();
        KillNginx();
    }

    public ValueTask DisposeAsync()
    {
        Kill();
        _watchdog.Kill(entireProcessTree: true);
        _watchdog.Dispose();
        _agent.Dispose();
        Gateway.Dispose();
        _admin?.Dispose();
        Directory.Delete(_directory, recursive: true);
        return ValueTask.CompletedTask;
    }
}

/// <summary>A second control plane of a stack on this machine: another process of the stack's release, on its database and with its files.</summary>
internal sealed class FurtherControlPlane : IAsyncDisposable
{
    private readonly Process _process;
    private readonly Process _watchdog;

    private FurtherControlPlane(Stack stack)
    {
        Address = new Uri($"http://127.0.0.1:{Launcher.FreePort()}");
        _process = Process.Start(new ProcessStartInfo("dotnet",
        [
            "Evenkeel.ControlPlane.dll", $"--Evenkeel:Listen={Address}",
            $"--Evenkeel:Database=Host=127.0.0.1;Port={stack.Recorded("POSTGRES_PORT")};Database=evenkeel;Username=evenkeel", $"--Evenkeel:DatabasePasswordFile={stack.PathOf("postgres/password")}",
            $"--Evenkeel:AdminTokenFile={stack.PathOf("admin-token")}", $"--Evenkeel:NodeTokenFile={stack.PathOf("node-token")}", $"--Evenkeel:SecretKeyFile={stack.PathOf("control-plane/secret.key")}",
        ])
        { WorkingDirectory = stack.PathOf("release/control-plane"), RedirectStandardOutput = true, RedirectStandardError = true })!;
        _process.OutputDataReceived += (_, line) => Said += line.Data + "\n";
        _process.ErrorDataReceived += (_, line) => Said += line.Data + "\n";
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        _watchdog = Process.Start("/usr/bin/setsid", ["/bin/bash", "-c", """exec </dev/null >/dev/null 2>&1; tail --pid="$1" -f /dev/null; kill -KILL "$2" """, "watchdog", $"{Environment.ProcessId}", $"{_process.Id}"]);
        Admin = new AdminApi(Address, File.ReadAllText(stack.PathOf("admin-token")).Trim());
    }

    public Uri Address { get; }
    public AdminApi Admin { get; }
    public string Said { get; private set; } = "";

    public static async Task<FurtherControlPlane> StartAsync(Stack stack)
    {
        var plane = new FurtherControlPlane(stack);
        await Wait.Until(async () => (long)(await plane.Admin.StatusAsync())["revision"]! > 0, "the second control plane answers", TimeSpan.FromSeconds(60), () => Task.FromResult(plane.Said));
        return plane;
    }

    /// <summary>kill -9.</summary>
    public ValueTask DisposeAsync()
    {
        if (!_process.HasExited) _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        _watchdog.Kill(entireProcessTree: true);
        _watchdog.Dispose();
        Admin.Dispose();
        return ValueTask.CompletedTask;
    }
}

/// <summary>One control plane and four nodes, in front of an instance that refuses what is more than 5 % above its ceiling.</summary>
public sealed class FleetStack : IAsyncLifetime
{
    internal const int Ceiling = 40;

    private Stack? _stack;
    private ProviderSimulator? _providers;

    internal Stack Stack => _stack!;
    internal ProviderSimulator Providers => _providers!;
    internal Config Config { get; } = new();

    public async Task InitializeAsync()
    {
        _providers = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            Instances = [SharedStack.Simulated("scarce", s => s with { Ceiling = Ceiling * 105 / 100, LatencyMs = 250 }), SharedStack.Simulated("frail"), SharedStack.Simulated("watched"), SharedStack.Simulated("other")],
        });
        Config.Instance(Providers["scarce"], new { api_key = SharedStack.KeyOf("scarce"), max_connections = Ceiling, base_latency = "250ms" });
        Config.Instance(Providers["frail"], new { api_key = SharedStack.KeyOf("frail"), max_connections = 1000 });
        Config.Instance(Providers["watched"], new { api_key = SharedStack.KeyOf("watched"), max_connections = 1000 });
        Config.Instance(Providers["other"], new { api_key = SharedStack.KeyOf("other"), max_connections = 1000 });
        Config.Pool("scarce", [["scarce"]], new { queue = new { size = 1000, timeout = "30s" } });
        Config.Pool("frail", [["frail"], ["other"]]);
        Config.Pool("watched", [["watched"], ["other"]], new { failover_config = new { health_check = new { interval = "1s", timeout = "2s", unhealthy_threshold = 2, healthy_threshold = 1 } } });
        Config.Pool("other", [["other"]]);
        _stack = await Stack.StartAsync("fleet", Config);
    }

    public async Task DisposeAsync()
    {
        if (_stack is not null) await _stack.DisposeAsync();
        if (_providers is not null) await _providers.DisposeAsync();
    }
}

[CollectionDefinition(Name)]
public sealed class FleetStackCollection : ICollectionFixture<FleetStack>
{
    public const string Name = "4 several nodes";
}
