using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;

namespace Evenkeel.Failover;

/// <summary>A whole Evenkeel of the kit's own, brought up by <c>./evenkeel up</c> in a directory of its own and taken down without a trace.</summary>
internal sealed class OwnStack : IAsyncDisposable
{
    public const int Workers = 2;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan DownAtMost = TimeSpan.FromSeconds(120);

    private static readonly string[] Logs =
        ["node/logs/error.log", "node/logs/access.log", "node/logs/agent.log", "control-plane/control-plane.log", "postgres/postgres.log"];

    private readonly string _checkout;
    private readonly string _shownState;
    private string[] _up = [];
    private readonly HttpClient _http = new(new SocketsHttpHandler { UseProxy = false }) { Timeout = TimeSpan.FromSeconds(10) };
    private Uri _nodeAdmin = null!;
    private Uri _controlPlane = null!;
    private string _nodeToken = "";
    private string _adminToken = "";

    private OwnStack(string checkout, string directory)
    {
        _checkout = checkout;
        _shownState = Path.Combine(directory, "state");
    }

    public Uri Gateway { get; private set; } = null!;

    /// <summary>The real path: as root it may lie elsewhere.</summary>
    public string State => new DirectoryInfo(_shownState).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? _shownState;

    /// <exception cref="InvalidOperationException">It does not come up; the message holds the launcher's words.</exception>
    public static async Task<OwnStack> StartAsync(string checkout, string directory, string configFile, CancellationToken cancel)
    {
        var stack = new OwnStack(checkout, directory);
        var (port, adminPort) = (FreePort(), FreePort());
        try
        {
            stack._up = ["up", "--state", stack._shownState, "--port", $"{port}", "--admin-port", $"{adminPort}", "--workers", $"{Workers}", "--config", configFile];
            var (code, words) = await stack.UpAsync(cancel);
            if (code != 0)
            {
                throw new InvalidOperationException($"./evenkeel up failed with {code}:\n{words}");
            }
            stack.Gateway = new Uri($"http://127.0.0.1:{port}");
            stack._controlPlane = new Uri($"http://127.0.0.1:{adminPort}");
            stack._adminToken = (await File.ReadAllTextAsync(stack.PathOf("admin-token"), cancel)).Trim();
            stack._nodeToken = (await File.ReadAllTextAsync(stack.PathOf("node-token"), cancel)).Trim();
            var record = await File.ReadAllLinesAsync(stack.PathOf("stack.env"), cancel);
            stack._nodeAdmin = new Uri("http://127.0.0.1:" + record.First(line => line.StartsWith("NODE_ADMIN_PORT=", StringComparison.Ordinal)).Split('=')[1].Trim('\''));
            return stack;
        }
        catch
        {
            await stack.DisposeAsync();
            throw;
        }
    }

    /// <summary><c>./evenkeel up</c> again: starts what has died.</summary>
    public Task<(int Code, string Words)> UpAsync(CancellationToken cancel) => RunAsync(cancel, _up);

    /// <summary>The node's live numbers.</summary>
    public Task<JsonNode> StatsAsync() => NodeAsync("/stats");

    /// <summary>What the node's admin listener answers.</summary>
    public async Task<JsonNode> NodeAsync(string path) => JsonNode.Parse(await SendAsync(HttpMethod.Get, new Uri(_nodeAdmin, path), _nodeToken, null))!;

    /// <summary>What the control plane's API answers.</summary>
    public async Task<JsonNode> ControlPlaneAsync(HttpMethod method, string path, string? json = null) =>
        await SendAsync(method, new Uri(_controlPlane, "/api/v1/" + path), _adminToken, json) is { Length: > 0 } text ? JsonNode.Parse(text)! : new JsonObject();

    /// <summary>What the control plane says of a configuration: valid, and else which faults.</summary>
    public async Task<JsonNode> ValidateAsync(string json) =>
        JsonNode.Parse(await SendAsync(HttpMethod.Post, new Uri(_controlPlane, "/api/v1/config/validate"), _adminToken, json))!;

    /// <summary>nginx workers that take new connections, the busiest (most open files) first.</summary>
    public IReadOnlyList<int> WorkerPids() => [.. NginxPids().Where(pid => Title(pid) == "nginx: worker process").OrderByDescending(OpenFiles)];

    /// <summary>Workers that were replaced, and end what they have.</summary>
    public IReadOnlyList<int> DrainingWorkers() => [.. NginxPids().Where(pid => Title(pid) == "nginx: worker process is shutting down")];

    /// <summary>nginx's master and its workers.</summary>
    public IReadOnlyList<int> NginxPids()
    {
        var master = int.Parse(File.ReadAllText(PathOf("node/run/nginx.pid")));
        return [master, .. Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out var pid) ? pid : 0)
            .Where(pid => pid > 0 && Parent(pid) == master)];
    }

    /// <summary>kill -9, to a worker of this stack only.</summary>
    public void KillWorker(int pid)
    {
        if (!WorkerPids().Contains(pid))
        {
            throw new InvalidOperationException($"process {pid} is no worker of this stack");
        }
        using var process = Process.GetProcessById(pid);
        process.Kill();
    }

    /// <summary>Copies the logs to where they outlive the stack.</summary>
    public void KeepLogs(string directory)
    {
        Directory.CreateDirectory(directory);
        foreach (var log in Logs.Where(log => File.Exists(PathOf(log))))
        {
            File.Copy(PathOf(log), Path.Combine(directory, Path.GetFileName(log)), overwrite: true);
        }
    }

    public async ValueTask DisposeAsync()
    {
        _http.Dispose();
        if (!Directory.Exists(_shownState))
        {
            return;
        }
        using var bound = new CancellationTokenSource(DownAtMost);
        try
        {
            var (code, words) = await RunAsync(bound.Token, "down", "--state", _shownState, "--purge", "--yes");
            if (code != 0) await Console.Error.WriteLineAsync($"./evenkeel down failed with {code}:\n{words}");
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync($"./evenkeel down did not end within {DownAtMost.TotalSeconds:0} s");
        }
    }

    /// <summary>A port nobody listens on, below the range that the kernel hands out to clients.</summary>
    private static int FreePort()
    {
        while (true)
        {
            var port = Random.Shared.Next(15_000, 18_000);
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

    public string PathOf(string name) => Path.Combine(State, name);

    private async Task<string> SendAsync(HttpMethod method, Uri address, string token, string? json)
    {
        using var request = new HttpRequestMessage(method, address);
        request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        if (json is not null)
        {
            request.Content = new StringContent(json, Encoding.UTF8, "application/json");
        }
        using var answer = await _http.SendAsync(request);
        var text = await answer.Content.ReadAsStringAsync();
        return answer.IsSuccessStatusCode ? text : throw new InvalidOperationException($"{method} {address.AbsolutePath}: {(int)answer.StatusCode} {text}");
    }

    private async Task<(int Code, string Words)> RunAsync(CancellationToken cancel, params string[] arguments)
    {
        var start = new ProcessStartInfo(Path.Combine(_checkout, "evenkeel"), arguments)
        {
            WorkingDirectory = _checkout,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = Process.Start(start)!;
        process.StandardInput.Close();
        var output = process.StandardOutput.ReadToEndAsync(CancellationToken.None);
        var error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        try
        {
            await process.WaitForExitAsync(cancel);
        }
        catch (OperationCanceledException)
        {
            // Ctrl-C reached the launcher as well; it stops what it started. What does not end by itself is ended.
            using var patience = new CancellationTokenSource(Patience);
            await process.WaitForExitAsync(patience.Token).ContinueWith(_ => { }, TaskScheduler.Default);
            if (!process.HasExited) process.Kill(entireProcessTree: true);
            throw;
        }
        return (process.ExitCode, await output + await error);
    }

    private static int Parent(int pid) =>
        Read(pid, "stat") is { Length: > 0 } stat ? int.Parse(stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[1]) : 0;

    private static int OpenFiles(int pid)
    {
        try
        {
            return Directory.EnumerateFileSystemEntries($"/proc/{pid}/fd").Count();
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return 0;
        }
    }

    private static string Title(int pid) => Read(pid, "cmdline").Replace('\0', ' ').Trim();

    private static string Read(int pid, string name)
    {
        try
        {
            return File.ReadAllText($"/proc/{pid}/{name}");
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
