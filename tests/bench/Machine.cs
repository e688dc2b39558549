using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Evenkeel.Bench;

/// <summary>Something the bench cannot go on without; the message says what.</summary>
internal sealed class BenchException(string message) : Exception(message);

/// <summary>Where this runs: the checkout, the machine and the versions that a result belongs to.</summary>
internal static class Machine
{
    public static string? Checkout() => Above(Directory.GetCurrentDirectory()) ?? Above(AppContext.BaseDirectory);

    public static IReadOnlyDictionary<string, string> Describe(string checkout) => new Dictionary<string, string>
    {
        ["date"] = DateTime.UtcNow.ToString("yyyy-MM-dd HH:mm 'UTC'"),
        ["processor"] = Field("/proc/cpuinfo", "model name") + $", {Environment.ProcessorCount} cores",
        ["memory"] = $"{long.Parse(Field("/proc/meminfo", "MemTotal").Split(' ')[0]) / 1024 / 1024} GiB",
        ["kernel"] = File.ReadAllText("/proc/sys/kernel/osrelease").Trim(),
        ["load before"] = File.ReadAllText("/proc/loadavg").Split(' ')[0],
        [".NET"] = RuntimeInformation.FrameworkDescription,
        ["nginx"] = Words("nginx", "-v").Split('/').Last(),
        ["commit"] = Words("git", "-C", checkout, "rev-parse", "--short", "HEAD"),
    };

    /// <summary>What a program says in one line, or "absent".</summary>
    public static string Words(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var error = process.StandardError.ReadToEndAsync();
            var words = process.StandardOutput.ReadToEnd() + error.Result;
            process.WaitForExit();
            return words.Split('\n')[0].Trim();
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "absent";
        }
    }

    private static string Field(string file, string name) =>
        File.ReadLines(file).First(line => line.StartsWith(name, StringComparison.Ordinal)).Split(':')[1].Trim();

    private static string? Above(string directory)
    {
        for (var at = new DirectoryInfo(directory); at is not null; at = at.Parent)
        {
            if (File.Exists(Path.Combine(at.FullName, "evenkeel")) && File.Exists(Path.Combine(at.FullName, "ControlPlane.sln")))
            {
                return at.FullName;
            }
        }
        return null;
    }
}
