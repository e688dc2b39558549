using System.Diagnostics;
using Evenkeel.Tests.Agent;
using Evenkeel.Tests.Nodes;

namespace Evenkeel.Tests;

/// <summary>A control plane in a process of its own.</summary>
internal sealed class PlaneProcess : IDisposable
{
    private readonly Process _process;

    private PlaneProcess(Process process) => _process = process;

    public int Id => _process.Id;

    /// <param name="connectionString">Password included.</param>
    /// <param name="directory">Where its tokens and key lie; several may share it.</param>
    public static async Task<PlaneProcess> StartAsync(string connectionString, string directory)
    {
        await File.WriteAllTextAsync(Path.Combine(directory, "admin"), ControlPlane.AdminToken);
        await File.WriteAllTextAsync(Path.Combine(directory, "node"), ControlPlane.NodeToken);
        var url = $"http://127.0.0.1:{AgentNode.FreePort()}";
        var plane = new PlaneProcess(Process.Start(new ProcessStartInfo("dotnet",
        [
            typeof(Program).Assembly.Location, $"--Evenkeel:Listen={url}", $"--Evenkeel:Database={connectionString}", $"--Evenkeel:AdminTokenFile={directory}/admin",
            $"--Evenkeel:NodeTokenFile={directory}/node", $"--Evenkeel:SecretKeyFile={directory}/key", "--Logging:LogLevel:Default=None",
        ])
        { WorkingDirectory = directory })!);
        using var client = new HttpClient();
        await NodeCalls.EventuallyAsync("it is ready", async () =>
        {
            try
            {
                return (await client.GetAsync(url + "/readyz")).IsSuccessStatusCode;
            }
            catch (HttpRequestException)
            {
                return false;
            }
        });
        return plane;
    }

    public void Kill() => _process.Kill();

    /// <summary>SIGTERM.</summary>
    /// <returns>Its exit code; null: it has not ended in time.</returns>
    public async Task<int?> EndAsync(TimeSpan atMost)
    {
        AgentNode.Signal(_process.Id, "TERM");
        using var patience = new CancellationTokenSource(atMost);
        try
        {
            await _process.WaitForExitAsync(patience.Token);
            return _process.ExitCode;
        }
        catch (OperationCanceledException)
        {
            return null;
        }
    }

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
