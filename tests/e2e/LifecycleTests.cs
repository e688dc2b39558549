using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>The newcomer's way: one command, a curl line that works, one command to be rid of it.</summary>
[Collection("1 up and down")]
public sealed partial class LifecycleTests
{
    [Fact]
    public async Task Up_prints_a_curl_line_that_answers_up_again_changes_nothing_and_down_leaves_no_process()
    {
        await using var stack = await Stack.StartAsync("demo", config: null);

        var line = CurlLine().Match(stack.Printed);
        Assert.True(line.Success, stack.Printed);
        var answer = await Launcher.ExecuteAsync(Wait.Patience, "/bin/bash", "-c", line.Value);
        Assert.True((string?)JsonNode.Parse(answer.Output)!["choices"]?[0]?["message"]?["content"] is { Length: > 0 }, answer.Output);

        var before = stack.AllProcesses;
        var parts = Parts(stack);
        var again = await stack.UpAsync();
        Assert.Equal(0, again.ExitCode);
        Assert.Contains("already up", again.Output);
        Assert.Equal(parts, Parts(stack));

        int[] ports = [stack.Port, stack.AdminPort, int.Parse(stack.Recorded("NODE_ADMIN_PORT")), int.Parse(stack.Recorded("POSTGRES_PORT")), int.Parse(stack.Recorded("PROVIDER_A_PORT"))];
        Assert.All(ports, port => Assert.True(Launcher.IsListening(port), $"nobody listens on {port}"));
        var down = await stack.DownAsync();
        Assert.True(down.ExitCode == 0, down.Output);
        Assert.Empty(stack.AllProcesses);
        Assert.All(before, pid => Assert.False(Processes.IsAlive(pid), $"process {pid} is left"));
        Assert.All(ports, port => Assert.False(Launcher.IsListening(port), $"somebody still listens on {port}"));
    }

    /// <summary>Pids of what stays; the agent's curl and PostgreSQL's sessions come and go.</summary>
    private static IReadOnlyList<int> Parts(Stack stack) =>
        [.. new[] { "postgres", "provider", "control-plane", "agent", "nginx" }.Select(stack.Pid), .. stack.Workers];

    [GeneratedRegex(@"(?m)^\s*curl .*$")]
    private static partial Regex CurlLine();
}
