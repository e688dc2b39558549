using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Xunit;

namespace Evenkeel.Tests.Agent;

/// <summary>
/// A node directory in a temporary place, with a few lines of Lua that stand in for the data plane's /status, and the real agent and the
/// real nginx in it. Ends only what it started.
/// </summary>
internal sealed class AgentNode : IAsyncDisposable
{
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly DirectoryInfo directory = Directory.CreateTempSubdirectory("evenkeel-agent-");
    private readonly ConcurrentQueue<string> log = new();
    private readonly HttpClient http = new() { Timeout = Patience };
    private Process? agent;
    private static readonly ConcurrentDictionary<int, bool> s_given = new();

    public AgentNode()
    {
        Stub = new ControlPlaneStub(FreePort());
        directory.CreateSubdirectory("lua");
        File.WriteAllText(At("lua/standin.lua"), """
            local standin = {}
            function standin.init(digest) standin.digest = digest end
            function standin.init_worker() ngx.shared.workers:set(ngx.worker.pid(), standin.digest) end
            function standin.status()
              ngx.say("master 1")
              ngx.say("workers ", ngx.worker.count())
              for _, pid in ipairs(ngx.shared.workers:get_keys()) do ngx.say("worker ", pid, " 0 ", ngx.shared.workers:get(pid)) end
            end
            return standin
            """);
        File.WriteAllText(At("node-token"), ControlPlaneStub.Token + "\n");
    }

    public ControlPlaneStub Stub { get; }
    public int EdgePort { get; } = FreePort();
    public int AdminPort { get; } = FreePort();
    public string Log => string.Join('\n', log);
    public Dictionary<string, string> Environment { get; } = [];

    public string At(string name) => Path.Combine(directory.FullName, name);

    public string Live => File.ReadAllText(At("nginx.conf"));

    /// <summary>The one master that runs here, as soon as there is one and its pid file says so.</summary>
    public async Task<int> MasterAsync()
    {
        var (file, pid) = (At("run/nginx.pid"), 0);
        await EventuallyAsync("one master runs and has written its pid", async () =>
            Nginx("master process") is [var master] && File.Exists(file) && int.TryParse(await File.ReadAllTextAsync(file), out pid) && pid == master);
        return pid;
    }

    /// <summary>The processes of nginx that work in this directory.</summary>
    public IReadOnlyList<int> Nginx(string title) =>
        [.. Processes().Where(pid => Title(pid).StartsWith("nginx: " + title, StringComparison.Ordinal) && WorksHere(pid))];

    /// <summary>Those of them that take new connections; one that drains says so in its title.</summary>
    public IReadOnlyList<int> ActiveWorkers => [.. Processes().Where(pid => Title(pid) == "nginx: worker process" && WorksHere(pid))];

    /// <summary>A text whose edge answers with <paramref name="answer"/>; the rest can break it in a stage of choice.</summary>
    public (string Text, string Digest) Text(string answer, string main = "", string init = "", string server = "", int? edgePort = null)
    {
        string With(string digest) => $$"""
            include platform-main.conf;
            worker_processes 2;
            worker_shutdown_timeout 60s;
            pid run/nginx.pid;
            error_log logs/error.log warn;
            {{main}}
            events { worker_connections 64; }
            http {
                include platform-http.conf;
                access_log off;
                client_body_temp_path tmp/body;
                proxy_temp_path tmp/proxy;
                fastcgi_temp_path tmp/fastcgi;
                scgi_temp_path tmp/scgi;
                uwsgi_temp_path tmp/uwsgi;
                lua_shared_dict workers 1m;
                lua_shared_dict held 64k;
                init_by_lua_block { require("standin").init("{{digest}}") {{init}} }
                init_worker_by_lua_block { require("standin").init_worker() }
                server {
                    listen 127.0.0.1:{{edgePort ?? EdgePort}};
                    location = /slow { content_by_lua_block { ngx.say("begin") ngx.flush(true) ngx.sleep(tonumber(ngx.var.arg_s)) ngx.say("end") } }
                    location = /held { content_by_lua_block { ngx.say("begin") ngx.flush(true) repeat ngx.sleep(0.05) until ngx.shared.held:get("over") ngx.say("end") } }
                    location = /over { content_by_lua_block { ngx.shared.held:set("over", true) } }
                    location / { return 200 "{{answer}}"; }
                }
                server { listen unix:run/instances/only.sock; return 200 "adapter"; }
                {{server}}
                server {
                    listen 127.0.0.1:{{AdminPort}};
                    location = /status { content_by_lua_block { require("standin").status() } }
                }
            }
            """;
        var digest = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(With(""))));
        return (With(digest), digest);
    }

    /// <summary>Asks for a text; gives its digest.</summary>
    public string Want(int revision, (string Text, string Digest) text)
    {
        Stub.Want(text.Text, text.Digest, revision);
        return text.Digest;
    }

    public void StartAgent()
    {
        var start = new ProcessStartInfo("bash", [Repository.PathOf("nginx", "agent.sh")]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["EVENKEEL_CONTROL_URL"] = Stub.Url;
        start.Environment["EVENKEEL_NODE_NAME"] = "local";
        start.Environment["EVENKEEL_NODE_DIR"] = directory.FullName;
        start.Environment["EVENKEEL_NODE_TOKEN_FILE"] = At("node-token");
        start.Environment["EVENKEEL_ADMIN_LISTEN"] = $"127.0.0.1:{AdminPort}";
        start.Environment["EVENKEEL_POLL_WAIT_S"] = "1";
        foreach (var (name, value) in Environment) start.Environment[name] = value;
        agent = Process.Start(start)!;
        agent.OutputDataReceived += (_, line) => { if (line.Data is { } text) log.Enqueue(text); };
        agent.ErrorDataReceived += (_, line) => { if (line.Data is { } text) log.Enqueue(text); };
        agent.BeginOutputReadLine();
        agent.BeginErrorReadLine();
    }

    public int AgentPid => agent!.Id;

    public void KillAgent()
    {
        agent!.Kill();
        Assert.True(agent.WaitForExit(Patience));      // not for the end of its output as well: a poll that it leaves behind has that, too
    }

    /// <summary>SIGTERM, as `down` sends it; gives the exit code.</summary>
    public async Task<int> EndAgentAsync()
    {
        Signal(agent!.Id, "TERM");
        using var patience = new CancellationTokenSource(Patience);
        await agent.WaitForExitAsync(patience.Token);
        return agent.ExitCode;
    }

    public static void Signal(int pid, string signal)
    {
        using var kill = Process.Start("/bin/kill", [$"-{signal}", $"{pid}"]);
        kill.WaitForExit();
    }

    /// <summary>What the edge answers, or null while it does not.</summary>
    public async Task<string?> AnswerAsync(int? port = null)
    {
        try { return await http.GetStringAsync($"http://127.0.0.1:{port ?? EdgePort}/"); }
        catch (HttpRequestException) { return null; }
    }

    public Task<Stream> SlowAnswerAsync(double seconds) => http.GetStreamAsync(FormattableString.Invariant($"http://127.0.0.1:{EdgePort}/slow?s={seconds}"));

    /// <summary>One that ends when it is told to: however slow the machine is, it goes on until then.</summary>
    public Task<Stream> HeldAnswerAsync() => http.GetStreamAsync($"http://127.0.0.1:{EdgePort}/held");

    public Task EndHeldAnswersAsync() => http.GetStringAsync($"http://127.0.0.1:{EdgePort}/over");

    public Task AnswersAsync(string answer) => EventuallyAsync($"the edge answers {answer}", async () => await AnswerAsync() == answer);

    public async Task<ControlPlaneStub.Report> ReportAsync(string digest, string result)
    {
        ControlPlaneStub.Report? report = null;
        await EventuallyAsync($"a report that {digest[..8]} is {result}", () => Task.FromResult((report = Stub.Reports.LastOrDefault(one => one.Digest == digest && one.Result == result)) is not null));
        return report!;
    }

    public async Task EventuallyAsync(string what, Func<Task<bool>> condition)
    {
        for (var watch = Stopwatch.StartNew(); ; await Task.Delay(50))
        {
            if (await condition()) return;
            if (watch.Elapsed > Patience) Assert.Fail($"not within {Patience.TotalSeconds} s: {what}\n{Log}\nreports: {string.Join("; ", Stub.Reports)}");
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (agent is { HasExited: false }) KillAgent();
        foreach (var pid in Nginx("").OrderByDescending(pid => Title(pid).Contains("master"))) Signal(pid, "KILL");
        await EventuallyAsync("nginx is gone", () => Task.FromResult(Nginx("").Count == 0));
        await Stub.DisposeAsync();
        http.Dispose();
        // What an agent that was killed had begun still writes here until it ends.
        await EventuallyAsync("nobody works here any more", () => Task.FromResult(!Processes().Any(WorksHere)));
        directory.Delete(recursive: true);
    }

    /// <summary>One that nobody has. It is given once: who asked for it may bind it much later, while other tests ask for theirs.</summary>
    public static int FreePort()
    {
        while (true)
        {
            using var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            var port = ((IPEndPoint)listener.LocalEndpoint).Port;
            if (s_given.TryAdd(port, true)) return port;
        }
    }

    private static IEnumerable<int> Processes() => Process.GetProcesses().Select(process => process.Id);

    private static string Title(int pid)
    {
        try { return File.ReadAllText($"/proc/{pid}/cmdline").TrimEnd('\0'); }
        catch (IOException) { return ""; }
    }

    private bool WorksHere(int pid)
    {
        try { return new DirectoryInfo($"/proc/{pid}/cwd").ResolveLinkTarget(true)?.FullName == directory.FullName; }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException) { return false; }
    }
}
