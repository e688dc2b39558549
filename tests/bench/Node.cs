using System.Diagnostics;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Publishing;
using Evenkeel.Secrets;

namespace Evenkeel.Bench;

/// <summary>
/// The node as it is delivered: the text of the control plane's renderer, the snapshot of its builder, and the agent that starts nginx.
/// The control plane itself is away, as it may be. Every client's key is <see cref="Call.ClientKey"/>.
/// </summary>
internal sealed record Node(int Port, int AdminPort, string Token, int Pid, Process Agent)
{
    public static Node Start(Stage stage, string name, string yaml, int workers)
    {
        var (folder, port, admin, token) = (stage.Folder(name), stage.FreePort(), stage.FreePort(), Guid.NewGuid().ToString("N"));
        var document = Read(yaml);
        File.WriteAllText(Path.Combine(folder, "nginx.conf"), Renderer.FromResource().Render(document, new NodeSettings("bench", $"127.0.0.1:{admin}", $"127.0.0.1:{port}", $"{workers}")).Text);
        File.WriteAllBytes(Path.Combine(folder, "snapshot.json"), SnapshotOf(document, 1).Json.ToArray());
        File.WriteAllText(Path.Combine(folder, "node-token"), token);
        File.CreateSymbolicLink(Path.Combine(folder, "lua"), Path.Combine(stage.Checkout, "lua"));
        var agent = stage.Start(folder, new Dictionary<string, string>
        {
            ["EVENKEEL_CONTROL_URL"] = "http://127.0.0.1:9",        // nobody
            ["EVENKEEL_NODE_NAME"] = "bench",
            ["EVENKEEL_NODE_DIR"] = folder,
            ["EVENKEEL_NODE_TOKEN_FILE"] = Path.Combine(folder, "node-token"),
            ["EVENKEEL_ADMIN_LISTEN"] = $"127.0.0.1:{admin}",
        }, "/bin/bash", Path.Combine(stage.Checkout, "nginx/agent.sh"));
        stage.AwaitPort(port, agent, "Evenkeel's node");
        return new Node(port, admin, token, MasterOf(folder), agent);
    }

    // nginx makes the file before it writes into it.
    private static int MasterOf(string folder)
    {
        var pidFile = Path.Combine(folder, "run/nginx.pid");
        var clock = Stopwatch.StartNew();
        int pid;
        while (!int.TryParse(File.Exists(pidFile) ? File.ReadAllText(pidFile) : "", out pid))
        {
            if (clock.Elapsed > TimeSpan.FromSeconds(60))
            {
                throw new BenchException($"nginx has not written {pidFile} within a minute");
            }
            Thread.Sleep(50);
        }
        return pid;
    }

    /// <exception cref="BenchException">The configuration is not valid.</exception>
    public static ConfigDocument Read(string yaml)
    {
        var read = ConfigReader.Read(yaml, ConfigFormat.Yaml);
        return read.IsValid ? read.Document : throw new BenchException("the configuration is not valid: " + string.Join("; ", read.Faults.Take(5)));
    }

    public static Snapshot SnapshotOf(ConfigDocument document, long revision) => SnapshotBuilder.Build(document, revision, FleetState.Unknown,
        reference => new ResolvedSecret(reference.EndsWith("CLIENT", StringComparison.Ordinal) ? Call.ClientKey : reference, null));
}
