using System.Diagnostics;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>What /proc tells of the processes of one state directory; nothing else is ever signalled.</summary>
internal static class Processes
{
    /// <summary>Every live process that carries the state directory's mark or works inside it.</summary>
    public static IReadOnlyList<int> Of(string state) => [.. All().Where(pid => IsAlive(pid) && BelongsTo(pid, state))];

    public static IReadOnlyList<int> ChildrenOf(int parent) => [.. All().Where(pid => Parent(pid) == parent)];

    /// <summary>The command line, which nginx and PostgreSQL replace by their titles; empty when the process is gone.</summary>
    public static string Title(int pid) => Read(pid, "cmdline").Replace('\0', ' ').Trim();

    public static bool IsAlive(int pid) => Stat(pid) is [var state, ..] && state is not ("Z" or "X");

    /// <summary>SIGKILL, to a process of this state directory only.</summary>
    public static void Kill(int pid, string state)
    {
        Check(pid, state);
        Process.GetProcessById(pid).Kill();
    }

    /// <summary>Any other signal, by its name, to a process of this state directory only.</summary>
    public static async Task SignalAsync(string signal, int pid, string state)
    {
        Check(pid, state);
        using var kill = Process.Start("kill", ["-" + signal, $"{pid}"]);
        await kill.WaitForExitAsync();
    }

    private static void Check(int pid, string state)
    {
        if (!BelongsTo(pid, state))
        {
            throw new InvalidOperationException($"process {pid} ({Title(pid)}) does not belong to {state}");
        }
    }

    private static bool BelongsTo(int pid, string state)
    {
        var directory = LinkTarget($"/proc/{pid}/cwd");
        return directory == state || directory.StartsWith(state + "/", StringComparison.Ordinal)
            || Read(pid, "environ").Split('\0').Contains("EVENKEEL_STACK=" + state);
    }

    private static IEnumerable<int> All() =>
        Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out var pid) ? pid : 0).Where(pid => pid > 0);

    private static int Parent(int pid) => Stat(pid) is [_, var parent, ..] ? int.Parse(parent) : 0;

    /// <summary>The fields of /proc/PID/stat from the state on.</summary>
    private static string[] Stat(int pid) => Read(pid, "stat") is { Length: > 0 } text ? text[(text.LastIndexOf(')') + 2)..].Split(' ') : [];

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

    private static string LinkTarget(string path)
    {
        try
        {
            return new FileInfo(path).LinkTarget ?? "";
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
