namespace Evenkeel.Bench;

/// <summary>What a process and its descendants have used.</summary>
internal static class ProcessCost
{
    private const double TicksPerSecond = 100;      // USER_HZ, the same on every Linux that .NET runs on

    /// <summary>CPU seconds, user and system, of the process and its living descendants.</summary>
    public static double CpuSeconds(int root) => Tree(root).Sum(stat => stat.Ticks) / TicksPerSecond;

    /// <summary>Resident bytes of the process and its descendants without what they share with files or with each other.</summary>
    public static long AnonymousBytes(int root) => Tree(root).Sum(stat => Status(stat.Pid, "RssAnon:")) * 1024;

    public static IReadOnlyList<int> Descendants(int root) => [.. Tree(root).Select(stat => stat.Pid)];

    /// <summary>The process and its descendants run on this core only, or on any but this.</summary>
    public static void Pin(int root, int core, bool only)
    {
        if (!OperatingSystem.IsLinux())
        {
            return;
        }
        foreach (var pid in Descendants(root))
        {
            var all = Environment.ProcessorCount >= 64 ? -1L : (1L << Environment.ProcessorCount) - 1;
            try
            {
                using var process = System.Diagnostics.Process.GetProcessById(pid);
                process.ProcessorAffinity = (nint)(only ? 1L << core : all & ~(1L << core));
            }
            catch (Exception gone) when (gone is ArgumentException or InvalidOperationException or System.ComponentModel.Win32Exception)
            {
                // A tree has leaves that fall.
            }
        }
    }

    /// <summary>
    /// From here on these processes run before all others of their core but the kernel's. Without it, whatever else the machine runs there
    /// holds a gateway up for milliseconds, and a busy one for longer than an idle one. Nothing happens where that takes more rights than we have.
    /// </summary>
    public static void Precede(int root)
    {
        const int Fifo = 1;
        var least = 1;
        foreach (var pid in OperatingSystem.IsLinux() ? Descendants(root) : [])
        {
            _ = SetScheduler(pid, Fifo, ref least);
        }
    }

    [System.Runtime.InteropServices.DllImport("libc", EntryPoint = "sched_setscheduler")]
    internal static extern int SetScheduler(int process, int policy, ref int priority);

    private static List<(int Pid, int Parent, long Ticks)> Tree(int root)
    {
        var all = Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out var pid) ? Read(pid) : null)
            .OfType<(int Pid, int Parent, long Ticks)>().ToList();
        var tree = all.Where(stat => stat.Pid == root).ToList();
        for (var i = 0; i < tree.Count; i++)
        {
            tree.AddRange(all.Where(stat => stat.Parent == tree[i].Pid));
        }
        return tree;
    }

    private static (int Pid, int Parent, long Ticks)? Read(int pid)
    {
        try
        {
            var stat = File.ReadAllText($"/proc/{pid}/stat");
            var fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return (pid, int.Parse(fields[1]), long.Parse(fields[11]) + long.Parse(fields[12]));
        }
        catch (IOException)
        {
            return null;        // it has just ended
        }
    }

    private static long Status(int pid, string name)
    {
        var line = File.ReadLines($"/proc/{pid}/status").FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal));
        return line is null ? 0 : long.Parse(line.Split(' ', '\t').First(word => long.TryParse(word, out _)));
    }
}
