using System.Runtime.InteropServices;

namespace Evenkeel.Chaos;

/// <summary>Signals to the processes of one state directory, and to no others.</summary>
internal sealed class Signals(string state)
{
    public const int Kill = 9, Stop = 19, Continue = 18;

    /// <exception cref="InvalidOperationException">It is not this stack's.</exception>
    public void Send(int pid, int signal)
    {
        if (!IsOurs(pid)) throw new InvalidOperationException($"process {pid} does not belong to {state}");
        _ = SendSignal(pid, signal);
    }

    /// <summary>A part and all its descendants, itself first.</summary>
    public static IReadOnlyList<int> Family(int pid) => [pid, .. Children(pid).SelectMany(Family)];

    public static bool IsAlive(int pid) => Stat(pid) is { Length: > 0 } fields && fields[0] is not ("Z" or "X");

    /// <summary>Memory that a process shares with nobody and no file.</summary>
    public static long AnonymousBytes(int pid) => Read(() => File.ReadAllText($"/proc/{pid}/status")).Split('\n')
        .Where(line => line.StartsWith("RssAnon:", StringComparison.Ordinal)).Select(line => long.Parse(line[8..^2].Trim()) << 10).FirstOrDefault();

    public static int Descriptors(int pid)
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

    public IReadOnlyList<int> Ours() =>
        [.. Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out var pid) ? pid : 0).Where(pid => pid > 0 && pid != Environment.ProcessId && IsOurs(pid))];

    /// <summary>Its pid, parent and state, where in the kernel it waits, and its command line.</summary>
    public static string Describe(int pid) =>
        $"{pid} {string.Join(' ', Stat(pid).Take(2).Reverse())} {Read(() => File.ReadAllText($"/proc/{pid}/wchan"))} {Read(() => File.ReadAllText($"/proc/{pid}/cmdline")).Replace('\0', ' ')}";

    private static IEnumerable<int> Children(int parent) =>
        Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out var pid) ? pid : 0)
            .Where(pid => pid > 0 && Stat(pid) is { Length: > 1 } fields && fields[1] == $"{parent}");

    private bool IsOurs(int pid)
    {
        var directory = Read(() => new FileInfo($"/proc/{pid}/cwd").LinkTarget);
        return directory == state || directory.StartsWith(state + "/", StringComparison.Ordinal)
            || Read(() => File.ReadAllText($"/proc/{pid}/environ")).Split('\0').Contains("EVENKEEL_STACK=" + state);
    }

    /// <summary>The fields of /proc/PID/stat from the state on.</summary>
    private static string[] Stat(int pid) => Read(() => File.ReadAllText($"/proc/{pid}/stat")) is { Length: > 0 } text ? text[(text.LastIndexOf(')') + 2)..].Split(' ') : [];

    private static string Read(Func<string?> read)
    {
        try
        {
            return read() ?? "";
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int SendSignal(int pid, int signal);
}
