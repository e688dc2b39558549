using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>The data plane needs nobody: with everything else dead it serves on, even through its own restart.</summary>
[Collection(OwnStackCollection.Name)]
public sealed class OutageTests(OwnStack own)
{
    [Fact]
    public async Task With_control_plane_and_database_killed_traffic_goes_on_through_a_restart_of_nginx_and_all_converges_when_they_return()
    {
        // What the node runs is not what it began with, so that the restart shows which one it kept.
        await own.Admin.AcknowledgedAsync(await own.Admin.SetWeightAsync("one", 0));
        var revision = await own.Admin.RevisionAsync();
        await using (var load = own.Gateway.StartLoad("chat-model", callers: 5))
        {
            own.Stack.Kill("control-plane");
            own.Stack.Kill("postgres");
            await Wait.Until(() => !Launcher.IsListening(own.Stack.AdminPort), "the control plane is gone");
            await load.MoreAsync(300);
            Expect.Served(await load.StopAsync());
        }

        own.Stack.KillNginx();
        await Wait.Until(async () => (await own.Gateway.AskAsync("chat-model")).Status == 200, "the gateway answers again");
        Expect.Served(await own.Gateway.AskManyAsync("chat-model", calls: 100, atATime: 10));
        Assert.All(await own.Stack.Node.WorkersAsync(), worker => Assert.Equal(revision, worker.Revision));

        // They return: the launcher starts again what has died, and changes arrive as before.
        var up = await own.Stack.UpAsync();
        Assert.True(up.ExitCode == 0, up.Output);
        await own.Admin.AcknowledgedAsync(revision);
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
        var answers = await own.Gateway.AskManyAsync("chat-model", calls: 100, atATime: 10);
        Expect.Served(answers);
        Assert.Contains(answers, answer => answer.Instance == "one");
    }

    [Fact]
    public async Task With_the_agent_killed_nginx_serves_on_and_the_next_agent_adopts_it()
    {
        var (master, workers) = (own.Stack.Pid("nginx"), own.Stack.Workers);
        own.Stack.Kill("agent");
        Expect.Served(await own.Gateway.AskManyAsync("chat-model", calls: 50, atATime: 10));

        var up = await own.Stack.UpAsync();
        Assert.True(up.ExitCode == 0, up.Output);
        Assert.Equal(master, own.Stack.Pid("nginx"));
        Assert.Equal(workers, own.Stack.Workers);
        // It can still do its work.
        await own.Admin.AcknowledgedAsync(await own.Admin.AddInstanceAsync("five", own.Providers["three"].BaseUrl, new { api_key = SharedStack.KeyOf("three") }));
        Assert.Empty(workers.Intersect(own.Stack.Workers));
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
    }

    [Fact]
    public async Task A_snapshot_on_disk_is_for_the_nodes_eyes_only()
    {
        await own.Admin.AcknowledgedAsync(await own.Admin.RevisionAsync());
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(own.Stack.PathOf("node/snapshot.json")));
        Assert.Contains(SharedStack.KeyOf("one"), await File.ReadAllTextAsync(own.Stack.PathOf("node/snapshot.json")));

        // And nowhere else: neither in the rendered text, nor in any log, nor in what the API shows.
        string[] readable = ["node/nginx.conf", "node/logs/error.log", "node/logs/access.log", "node/logs/agent.log", "control-plane/control-plane.log", "postgres/postgres.log"];
        Assert.All(readable, file => Assert.DoesNotContain("sk-of-", File.ReadAllText(own.Stack.PathOf(file))));
        foreach (var path in new[] { "config", "status", "revisions/1", "instances/one" })
        {
            Assert.DoesNotContain("sk-of-", (await own.Admin.GetAsync(path)).ToJsonString());
        }
    }
}
