using System.Diagnostics;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Runtime.Versioning;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Evenkeel.Publishing;
using Evenkeel.Tests.Publishing;
using Xunit;

namespace Evenkeel.Tests.Agent;

[SupportedOSPlatform("linux")]
public sealed class AgentTests
{
    [Fact]
    public async Task A_text_is_fetched_started_and_reported_and_the_next_one_is_reloaded()
    {
        await using var node = new AgentNode();
        await node.Stub.StartAsync();
        var first = node.Want(1, node.Text("one"));
        node.StartAgent();
        Assert.Equal(("start", 1), Place(await node.ReportAsync(first, "applied")));
        Assert.Equal("one", await node.AnswerAsync());
        var master = await node.MasterAsync();

        var second = node.Want(2, node.Text("two"));
        Assert.Equal(("load", 2), Place(await node.ReportAsync(second, "applied")));
        Assert.Equal("two", await node.AnswerAsync());
        Assert.Equal(master, await node.MasterAsync());
        Assert.Equal(node.Live, File.ReadAllText(node.At("nginx.conf.last-good")));
    }

    [Fact]
    public async Task A_node_enrols_with_a_token_of_its_own_and_takes_another_one_while_it_serves()
    {
        await using var node = new AgentNode { Environment = { ["EVENKEEL_NODE_TOKEN_FILE"] = "" } };
        node.Environment["EVENKEEL_ENROL_TOKEN_FILE"] = node.At("enrol-token");
        File.Delete(node.At("node-token"));
        File.WriteAllText(node.At("enrol-token"), "once\n");
        (node.Stub.OneTime, node.Stub.LostAnswers) = ("once", 1);
        await node.Stub.StartAsync();
        var digest = node.Want(1, node.Text("one"));
        node.StartAgent();
        await node.ReportAsync(digest, "applied");
        Assert.Equal(2, node.Stub.Enrolled.Count);          // the first answer was lost: the same token once more
        var own = Assert.Single(node.Stub.Enrolled.Distinct());
        Assert.Matches("^[A-Za-z0-9_-]{43}$", own);
        Assert.Equal(own, File.ReadAllText(node.At("node-token")).Trim());
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(node.At("node-token")));

        // Removed: clients notice nothing, and the log says why nothing new comes.
        node.Stub.Accepted = "nobody's";
        await node.EventuallyAsync("the agent says so", () => Task.FromResult(node.Log.Contains("refuses this node's token")));
        Assert.Equal("one", await node.AnswerAsync());

        // Let in again: new workers know the new token, and no answer is cut.
        var (workers, slow) = (node.Nginx("worker process"), await node.SlowAnswerAsync(1));
        node.Stub.OneTime = "twice";
        File.WriteAllText(node.At("enrol-token"), "twice\n");
        await node.EventuallyAsync("nginx knows the new token", () => Task.FromResult(node.Log.Contains("nginx knows the new token")));
        Assert.Equal(3, node.Stub.Enrolled.Count);
        Assert.Equal(node.Stub.Accepted, File.ReadAllText(node.At("token")).Trim());
        Assert.Contains(node.Nginx("worker process"), pid => !workers.Contains(pid));
        using var reader = new StreamReader(slow);
        Assert.EndsWith("end\n", await reader.ReadToEndAsync());
        await node.ReportAsync(node.Want(2, node.Text("two")), "applied");

        // A restart needs no one-time token any more, nor any control plane.
        await node.EndAgentAsync();
        await node.Stub.DisposeAsync();
        node.Environment["EVENKEEL_ENROL_TOKEN_FILE"] = "";
        node.StartAgent();
        await node.AnswersAsync("two");
    }

    [Fact]
    public async Task A_text_that_nginx_refuses_is_reported_in_its_own_words_and_never_live()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");

        var bad = node.Want(2, node.Text("two", server: "no_such_directive on;"));
        var report = await node.ReportAsync(bad, "refused");
        Assert.Equal(("test", 2), Place(report));
        Assert.Contains("""unknown directive "no_such_directive" in""", report.Words);
        Assert.Equal("one", await node.AnswerAsync());
        Assert.DoesNotContain("no_such_directive", node.Live);

        var polls = node.Stub.Polls.Count;
        await node.EventuallyAsync("three more polls", () => Task.FromResult(node.Stub.Polls.Count >= polls + 3));
        Assert.Single(node.Stub.Reports, one => one.Digest == bad);
        Assert.Contains("have=" + bad, node.Stub.Polls.Last());

        await node.ReportAsync(node.Want(3, node.Text("three")), "applied");
        Assert.Equal("three", await node.AnswerAsync());
    }

    [Fact]
    public async Task A_text_whose_Lua_fails_to_load_leaves_the_old_workers_and_reports_the_error_log()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        var workers = node.Nginx("worker process");

        var bad = node.Want(2, node.Text("two", init: """ error("the sky is not blue") """));
        var report = await node.ReportAsync(bad, "refused");
        Assert.Equal(("load", 2), Place(report));
        Assert.Contains("the sky is not blue", report.Words);
        Assert.Equal("one", await node.AnswerAsync());
        Assert.Equal(workers.Order(), node.Nginx("worker process").Order());
        Assert.DoesNotContain("sky", node.Live);

        // Back to what runs: no reload is needed to say so.
        var good = node.Want(3, node.Text("one"));
        await node.EventuallyAsync("the running text is confirmed", () => Task.FromResult(node.Stub.Reports.Any(one => one is { Revision: 3, Result: "applied" } && one.Digest == good)));
        Assert.Equal(workers.Order(), node.Nginx("worker process").Order());
    }

    [Fact]
    public async Task New_workers_that_do_not_say_what_they_run_are_replaced_by_the_last_good_text()
    {
        await using var node = new AgentNode { Environment = { ["EVENKEEL_PROOF_WAIT_S"] = "3" } };
        var good = await RunningAsync(node, "one");

        var bad = node.Want(2, node.Text("two", init: """ require("standin").digest = "another" """));
        Assert.Equal(("load", 2), Place(await node.ReportAsync(bad, "refused")));
        await node.AnswersAsync("one");
        Assert.Contains(good, node.Live);
    }

    [Fact]
    public async Task A_first_text_that_cannot_start_is_reported_and_started_once_it_can()
    {
        await using var node = new AgentNode();
        await node.Stub.StartAsync();
        using var squatter = new TcpListener(IPAddress.Loopback, node.EdgePort);
        squatter.Start();
        var digest = node.Want(1, node.Text("one"));
        node.StartAgent();
        var report = await node.ReportAsync(digest, "refused");
        Assert.Equal(("start", 1), Place(report));
        Assert.Contains("Address already in use", report.Words);

        squatter.Stop();
        await node.ReportAsync(digest, "applied");
        await node.AnswersAsync("one");
    }

    [Fact]
    public async Task Streams_survive_a_reload_and_the_next_reload_waits_for_them()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        using var stream = new StreamReader(await node.HeldAnswerAsync());
        Assert.Equal("begin", await stream.ReadLineAsync());

        await node.ReportAsync(node.Want(2, node.Text("two")), "applied");
        var third = node.Want(3, node.Text("three"));
        var fourth = node.Want(4, node.Text("four"));
        var polls = node.Stub.Polls.Count;
        await node.EventuallyAsync("it asks for it again and again", () => Task.FromResult(node.Stub.Polls.Count >= polls + 3));
        Assert.DoesNotContain(node.Stub.Reports, report => report.Digest == fourth);
        await node.EndHeldAnswersAsync();
        Assert.Equal("end", await stream.ReadLineAsync());
        await node.ReportAsync(fourth, "applied");
        Assert.DoesNotContain(node.Stub.Reports, report => report.Digest == third);
        await node.AnswersAsync("four");
    }

    [Fact]
    public async Task A_drain_that_takes_too_long_does_not_hold_a_reload_for_ever()
    {
        await using var node = new AgentNode { Environment = { ["EVENKEEL_DRAIN_WAIT_S"] = "1" } };
        await RunningAsync(node, "one");
        using var stream = new StreamReader(await node.HeldAnswerAsync());
        Assert.Equal("begin", await stream.ReadLineAsync());
        await node.ReportAsync(node.Want(2, node.Text("two")), "applied");
        await node.ReportAsync(node.Want(3, node.Text("three")), "applied");
        // Its log comes by another way than its report.
        await node.EventuallyAsync("the agent says so", () => Task.FromResult(node.Log.Contains("reloading all the same")));
        await node.EndHeldAnswersAsync();
        Assert.Equal("end", await stream.ReadLineAsync());
    }

    [Theory]
    [InlineData(0, 4, 0, true)]
    [InlineData(1, 4, 59, false)]
    [InlineData(4, 4, 60, true)]
    [InlineData(5, 4, 119, false)]
    [InlineData(8, 4, 120, true)]
    [InlineData(9, 4, 239, false)]
    [InlineData(24, 4, 1919, false)]
    [InlineData(24, 4, 1920, true)]
    [InlineData(3, 0, 60, true)]
    public async Task The_more_old_workers_drain_the_longer_the_next_reload_waits_and_it_comes_all_the_same(int draining, int living, int afterS, bool expected)
    {
        using var bash = Process.Start(new ProcessStartInfo("bash", ["-c", $$"""
            eval "$(sed -n '/^may_reload()/,/^}/p' '{{Repository.PathOf("nginx", "agent.sh")}}')"
            DRAIN_WAIT_S=60
            draining_workers() { seq {{draining}}; }
            workers() { seq {{living}}; }
            look_at_clock() { now_s={{1000 + afterS}}; }
            may_reload 1000
            """]))!;
        await bash.WaitForExitAsync();
        Assert.Equal(expected ? 0 : 1, bash.ExitCode);
    }

    [Fact]
    public async Task A_killed_master_is_replaced_though_its_workers_and_sockets_are_left_behind()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        using var stream = new StreamReader(await node.SlowAnswerAsync(seconds: 4));
        Assert.Equal("begin", await stream.ReadLineAsync());
        var master = await node.MasterAsync();

        AgentNode.Signal(master, "KILL");
        await node.EventuallyAsync("another master runs", () => Task.FromResult(node.Nginx("master process") is [var pid] && pid != master));
        await node.AnswersAsync("one");
        Assert.True(File.Exists(node.At("run/instances/only.sock")));
        Assert.Equal("end", await stream.ReadLineAsync());
    }

    [Fact]
    public async Task A_killed_agent_leaves_nginx_running_and_the_next_agent_adopts_it()
    {
        // Its poll goes on for as long, and keeps nobody out.
        await using var node = new AgentNode { Environment = { ["EVENKEEL_POLL_WAIT_S"] = "25" } };
        await RunningAsync(node, "one");
        var (master, workers) = (await node.MasterAsync(), node.Nginx("worker process"));

        node.KillAgent();
        Assert.Equal("one", await node.AnswerAsync());
        node.StartAgent();
        await node.EventuallyAsync("adopted", () => Task.FromResult(node.Log.Contains($"adopting the running nginx (master {master})")));
        await node.ReportAsync(node.Want(2, node.Text("two")), "applied");
        Assert.Equal(master, await node.MasterAsync());
        Assert.Empty(workers.Intersect(node.ActiveWorkers));
    }

    [Fact]
    public async Task An_agent_that_died_between_rename_and_reload_is_made_good_by_the_next()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        node.KillAgent();
        var second = node.Text("two");
        File.WriteAllText(node.At("nginx.conf"), second.Text);
        node.Want(2, second);
        node.StartAgent();
        Assert.Equal(("load", 2), Place(await node.ReportAsync(second.Digest, "applied")));
        await node.AnswersAsync("two");
    }

    [Fact]
    public async Task Without_a_control_plane_the_last_text_starts_and_a_dead_nginx_is_started_again()
    {
        await using var node = new AgentNode();
        var first = await RunningAsync(node, "one");
        Assert.Equal(0, await node.EndAgentAsync());
        Assert.Empty(node.Nginx(""));
        await node.Stub.DisposeAsync();

        node.StartAgent();
        await node.AnswersAsync("one");
        var master = await node.MasterAsync();
        AgentNode.Signal(master, "TERM");
        await node.EventuallyAsync("another master runs", () => Task.FromResult(node.Nginx("master process") is [var pid] && pid != master));
        await node.AnswersAsync("one");

        // And it goes on with the control plane as soon as that is back.
        await node.Stub.StartAsync();
        await node.ReportAsync(node.Want(2, node.Text("two")), "applied");
        Assert.Contains("have=" + first, string.Join('\n', node.Stub.Polls));
    }

    [Fact]
    public async Task An_admin_listener_that_is_to_move_does_not_keep_the_text_on_disk_from_serving()
    {
        await using var node = new AgentNode();
        Directory.CreateSymbolicLink(node.At("lua/evenkeel"), Repository.PathOf("lua", "evenkeel"));
        (string, string) Rendered(int adminPort)
        {
            var text = Renderer.FromResource().Render(
                CaseFile.Load(Path.Combine(Golden.Folder("render"), "minimal.yaml")), new NodeSettings("local", $"127.0.0.1:{adminPort}", $"127.0.0.1:{node.EdgePort}", "2"));
            return (text.Text, text.Digest);
        }
        await node.Stub.StartAsync();
        node.StartAgent();
        await node.ReportAsync(node.Want(1, Rendered(node.AdminPort)), "applied");
        await node.EndAgentAsync();
        await node.Stub.DisposeAsync();

        var elsewhere = AgentNode.FreePort();
        node.Environment["EVENKEEL_ADMIN_LISTEN"] = $"127.0.0.1:{elsewhere}";
        node.StartAgent();
        await node.EventuallyAsync("nginx runs again", () => Task.FromResult(node.Log.Split("nginx runs").Length == 3));
        Assert.Single(node.Nginx("master process"));

        await node.Stub.StartAsync();
        await node.ReportAsync(node.Want(2, Rendered(elsewhere)), "applied");
        Assert.DoesNotContain(node.Stub.Reports, report => report.Result == "refused");
    }

    [Fact]
    public async Task A_text_on_disk_that_no_longer_starts_gives_way_to_the_last_good_one()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        Assert.Equal(0, await node.EndAgentAsync());
        var bad = node.Text("two", init: """ error("broken meanwhile") """);
        File.WriteAllText(node.At("nginx.conf"), bad.Text);
        node.StartAgent();
        var report = await node.ReportAsync(bad.Digest, "refused");
        Assert.Equal("start", report.Stage);
        Assert.Contains("broken meanwhile", report.Words);
        await node.AnswersAsync("one");
    }

    [Fact]
    public async Task A_report_that_could_not_be_delivered_is_delivered_later()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        await node.EventuallyAsync("it knows that its first one was", () => Task.FromResult(!File.Exists(node.At("run/agent.report"))));
        File.WriteAllText(node.At("run/agent.report.words"), "kept words");
        File.WriteAllText(node.At("run/agent.report"), $"revision=9&text_digest={new string('a', 64)}&result=refused&stage=load\n");
        Assert.Equal("kept words", (await node.ReportAsync(new string('a', 64), "refused")).Words);
    }

    [Fact]
    public async Task SIGTERM_lets_answers_end_for_a_moment_and_leaves_no_process()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        using var stream = new StreamReader(await node.SlowAnswerAsync(seconds: 1.5));
        Assert.Equal("begin", await stream.ReadLineAsync());
        Assert.Equal(0, await node.EndAgentAsync());
        Assert.Equal("end", await stream.ReadLineAsync());
        Assert.Empty(node.Nginx(""));
    }

    [Fact]
    public async Task The_token_is_on_no_command_line_and_its_files_are_private()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        await node.EventuallyAsync("a poll is under way", () => Task.FromResult(CommandLines().Any(line => line.Contains($"{node.Stub.Url}/node/v1/local/nginx.conf"))));
        Assert.DoesNotContain(CommandLines(), line => line.Contains(ControlPlaneStub.Token));
        Assert.Equal(0, node.Stub.Unauthorized);
        foreach (var name in new[] { "token", "run/agent.header" })
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(node.At(name)));
    }

    [Fact]
    public async Task A_text_whose_certificate_is_missing_is_refused_and_applied_as_soon_as_it_is_there()
    {
        await using var node = new AgentNode();
        await node.Stub.StartAsync();
        node.Want(1, node.Text("one"));
        node.StartAgent();
        await node.AnswersAsync("one");
        var digest = node.Want(2, node.Text("two", server: TlsServer(node, AgentNode.FreePort())));
        Assert.Contains("edge.pem", (await node.ReportAsync(digest, "refused")).Words);
        PutCertificate(node, "at-last");
        await node.ReportAsync(digest, "applied");
        await node.AnswersAsync("two");
    }

    [Fact]
    public async Task A_certificate_that_is_renewed_is_served_without_a_lost_answer_and_half_a_renewal_changes_nothing()
    {
        await using var node = new AgentNode();
        await node.Stub.StartAsync();
        var port = AgentNode.FreePort();
        PutCertificate(node, "old");
        var digest = node.Want(1, node.Text("one", server: TlsServer(node, port)));
        node.StartAgent();
        await node.ReportAsync(digest, "applied");
        Assert.Equal("CN=old", await ServedAsync());

        // The certificate without its key: nginx -t says no, and the old pair goes on. At no moment are both there.
        var (certificate, newKey) = Certificate("new");
        File.WriteAllText(node.At("edge.pem"), certificate);
        await node.EventuallyAsync("the half is refused", () => Task.FromResult(node.Log.Contains("cannot be used; the old ones go on")));
        Assert.Equal("CN=old", await ServedAsync());

        using var stream = new StreamReader(await node.SlowAnswerAsync(seconds: 3));
        Assert.Equal("begin", await stream.ReadLineAsync());
        File.WriteAllText(node.At("edge.key"), newKey);
        await node.EventuallyAsync("the new one is served", async () => await ServedAsync() == "CN=new");
        Assert.Equal("end", await stream.ReadLineAsync());
        Assert.Equal(digest, Assert.Single(node.Stub.Reports).Digest);

        async Task<string?> ServedAsync()
        {
            using var socket = new TcpClient();
            await socket.ConnectAsync(IPAddress.Loopback, port);
            await using var tls = new SslStream(socket.GetStream(), false, (_, _, _, _) => true);
            await tls.AuthenticateAsClientAsync("edge");
            return tls.RemoteCertificate?.Subject;
        }
    }

    [Fact]
    public async Task A_second_agent_in_the_same_directory_gives_up()
    {
        await using var node = new AgentNode();
        await RunningAsync(node, "one");
        var first = node.AgentPid;
        node.StartAgent();
        await node.EventuallyAsync("the second gives up", () => Task.FromResult(node.Log.Contains("another agent runs this node")));
        Assert.Equal("one", await node.AnswerAsync());
        AgentNode.Signal(first, "KILL");
    }

    private static async Task<string> RunningAsync(AgentNode node, string answer)
    {
        await node.Stub.StartAsync();
        var digest = node.Want(1, node.Text(answer));
        node.StartAgent();
        await node.ReportAsync(digest, "applied");
        Assert.Equal(answer, await node.AnswerAsync());
        return digest;
    }

    private static (string Stage, int Revision) Place(ControlPlaneStub.Report report) => (report.Stage, report.Revision);

    private static IEnumerable<string> CommandLines()
    {
        foreach (var process in Directory.EnumerateDirectories("/proc").Where(path => int.TryParse(Path.GetFileName(path), out _)))
        {
            string line;
            try { line = File.ReadAllText(Path.Combine(process, "cmdline")); }
            catch (Exception gone) when (gone is IOException or UnauthorizedAccessException) { continue; }
            yield return line;
        }
    }

    private static string TlsServer(AgentNode node, int port) => $$"""
        server { listen 127.0.0.1:{{port}} ssl;
          ssl_certificate {{node.At("edge.pem")}};
          ssl_certificate_key "{{node.At("edge.key")}}";
          location / { return 200 "tls"; } }
        """;

    private static void PutCertificate(AgentNode node, string name)
    {
        var (certificate, key) = Certificate(name);
        File.WriteAllText(node.At("edge.pem"), certificate);
        File.WriteAllText(node.At("edge.key"), key);
    }

    private static (string Certificate, string Key) Certificate(string name)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = new CertificateRequest("CN=" + name, key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
        return (certificate.ExportCertificatePem(), key.ExportPkcs8PrivateKeyPem());
    }
}
