using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Evenkeel.Provider.Tests;

public sealed class CommandLineTests
{
    [Fact]
    public void Instances_take_every_setting()
    {
        var options = CommandLine.Parse(["--control", "127.0.0.1:0", "--instance", "A=127.0.0.1:0,ceiling=50,latency_ms=800,latency-sigma=0.25,tls=wrong-name,sni=a.test+b.test,reject_prefill", "--ca-file=/tmp/ca.pem"])!;
        var settings = options.Instances[0].Settings;
        Assert.Equal((50, 800, 0.25, TlsMode.WrongName, true), (settings.Ceiling, settings.LatencyMs, settings.LatencySigma, settings.Tls, settings.RejectPrefill));
        Assert.Equal(["a.test", "b.test"], settings.Sni);
        Assert.Equal("/tmp/ca.pem", options.CaFile);
        Assert.Equal(("127.0.0.1", 0), options.Control);
    }

    [Fact]
    public void The_demo_has_the_articles_ceilings()
    {
        var options = CommandLine.Parse(["--demo", "--base-port", "9000"])!;
        Assert.Equal([("A", 9000, 50), ("B", 9001, 50), ("C", 9002, 20), ("lite", 9003, 40)], options.Instances.Select(i => (i.Name, i.Port, i.Settings.Ceiling)));
        Assert.Equal(("127.0.0.1", 9004), options.Control);
    }

    [Theory]
    [InlineData("--instance", "A")]
    [InlineData("--instance", "A=127.0.0.1:0,colour=red")]
    [InlineData("--instance", "A=127.0.0.1:0,tokens=many")]
    [InlineData("--instance", "A=127.0.0.1:99999")]
    [InlineData("--nonsense")]
    [InlineData("--control")]
    [InlineData()]
    public void What_cannot_be_understood_is_refused(params string[] args) => Assert.Throws<FormatException>(() => CommandLine.Parse(args));

    [Fact]
    public void Every_fault_and_setting_stands_in_the_help_and_in_the_readme()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(folder!.FullName, "ControlPlane.sln")))
        {
            folder = folder.Parent;
        }
        var readme = File.ReadAllText(Path.Combine(folder.FullName, "tests/provider/README.md"));
        foreach (var kind in FaultCatalogue.All)
        {
            Fault.Parse(kind.Name);
            Assert.Contains("  " + kind.Name, CommandLine.Help);
            Assert.Contains($"| `{kind.Name}` | {string.Join(", ", kind.Parameters.Select(name => $"`{name}`"))}", readme);
        }
        Assert.All(new InstanceSettings().Show(), setting => Assert.Contains($"| `{setting.Key}` |", readme));
        Assert.Equal(FaultCatalogue.All.Length, FaultCatalogue.All.Select(kind => kind.Name).Distinct().Count());
    }

    [Fact]
    public async Task The_process_says_where_it_listens_and_ends_on_sigterm()
    {
        var program = Path.Combine(AppContext.BaseDirectory, "evenkeel-provider.dll");
        using var process = Process.Start(new ProcessStartInfo("dotnet", [program, "--demo"]) { RedirectStandardOutput = true })!;
        using var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        try
        {
            var line = await process.StandardOutput.ReadLineAsync(deadline.Token);
            Assert.Matches(@"^listening A=127\.0\.0\.1:\d+ B=127\.0\.0\.1:\d+ C=127\.0\.0\.1:\d+ lite=127\.0\.0\.1:\d+ control=127\.0\.0\.1:\d+$", line);
            Assert.Equal(0, Kill(process.Id, 15));
            await process.WaitForExitAsync(deadline.Token);
            Assert.Equal(0, process.ExitCode);
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill();
            }
        }
    }

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Kill(int pid, int signal);
}
