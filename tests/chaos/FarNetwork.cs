using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Evenkeel.Chaos;

/// <summary>
/// A network namespace with one address, joined to this one by a pair of virtual interfaces: what listens there can be made slow, lossy or
/// silent packet by packet. It belongs to one thread, has no name and leaves nothing behind when the process ends, however it ends.
/// </summary>
internal sealed class FarNetwork : IDisposable
{
    private const int NewNetwork = 0x40000000;

    private readonly ManualResetEventSlim _end = new();
    private readonly Thread _thread;
    private readonly string _inside;
    private readonly string _near;

    private FarNetwork(Thread thread, int threadId, ManualResetEventSlim end, string near, string address)
    {
        (_thread, _end, _near, Address) = (thread, end, near, address);
        _inside = $"--net=/proc/{Environment.ProcessId}/task/{threadId}/ns/net";
    }

    public string Address { get; }

    /// <summary>Does this kernel have netem (delays)? Lost packets need only iptables.</summary>
    public bool HasDelays { get; private set; }

    /// <summary>Makes the namespace and runs <paramref name="listen"/> in it, which is given the address. Null, with the reason, where the machine does not let it.</summary>
    public static FarNetwork? Create(Action<string> listen, out string why)
    {
        // Of the range for benchmarks between networks (RFC 2544), a /30 by pid.
        var number = Environment.ProcessId % 16384 * 4;
        string At(int host) => $"198.18.{(number + host) / 256}.{(number + host) % 256}";
        var (near, far) = ($"ek{Environment.ProcessId}n", $"ek{Environment.ProcessId}f");
        using var made = new ManualResetEventSlim();
        using var joined = new ManualResetEventSlim();
        using var listening = new ManualResetEventSlim();
        var end = new ManualResetEventSlim();
        var (threadId, alone, ready) = (0, false, false);
        var thread = new Thread(() =>
        {
            threadId = GetThreadId();
            alone = Unshare(NewNetwork) == 0;
            made.Set();
            joined.Wait();
            if (ready) listen(At(2));
            listening.Set();
            end.Wait();
        })
        { IsBackground = true };
        thread.Start();
        made.Wait();
        var network = new FarNetwork(thread, threadId, end, near, At(2));
        why = !alone ? "a network namespace is not to be had"
            : Run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", $"{threadId}")
            ?? Run("ip", "addr", "add", At(1) + "/30", "dev", near) ?? Run("ip", "link", "set", near, "up")
            ?? network.Inside("ip", "link", "set", "lo", "up") ?? network.Inside("ip", "addr", "add", At(2) + "/30", "dev", far) ?? network.Inside("ip", "link", "set", far, "up")
            ?? network.Inside("iptables", "-N", "CHAOS") ?? network.Inside("iptables", "-A", "INPUT", "-j", "CHAOS") ?? "";
        ready = why.Length == 0;
        joined.Set();
        listening.Wait();
        if (!ready)
        {
            network.Dispose();
            return null;
        }
        network.HasDelays = network.Inside("tc", "qdisc", "add", "dev", far, "root", "netem", "delay", "0ms") is null;
        network._far = far;
        return network;
    }
    private string _far = "";

    /// <summary>This share of the packets to the far side is lost (1 = all) from now on.</summary>
    public void Lose(double share)
    {
        Heal();
        string[] rule = share >= 1 ? [] : ["-m", "statistic", "--mode", "random", "--probability", share.ToString("0.00", System.Globalization.CultureInfo.InvariantCulture)];
        Must(Inside("iptables", ["-A", "CHAOS", .. rule, "-j", "DROP"]));
    }

    /// <summary>Answers take so much longer, give or take a half.</summary>
    public void Delay(int ms) => Must(Inside("tc", "qdisc", "change", "dev", _far, "root", "netem", "delay", $"{ms}ms", $"{ms / 2}ms"));

    public void Heal()
    {
        Must(Inside("iptables", "-F", "CHAOS"));
        if (HasDelays) Must(Inside("tc", "qdisc", "change", "dev", _far, "root", "netem", "delay", "0ms"));
    }

    public void Dispose()
    {
        Run("ip", "link", "del", _near);
        _end.Set();
        _thread.Join();
        _end.Dispose();
    }

    private string? Inside(string program, params string[] arguments) => Run("nsenter", [_inside, program, .. arguments]);

    private static void Must(string? fault)
    {
        if (fault is not null) throw new InvalidOperationException(fault);
    }

    /// <summary>Null, or what went wrong.</summary>
    private static string? Run(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            var words = process.StandardError.ReadToEnd() + process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? null : $"{program} {string.Join(' ', arguments)}: {words.Trim()}";
        }
        catch (System.ComponentModel.Win32Exception fault)
        {
            return $"{program}: {fault.Message}";
        }
    }

    [DllImport("libc", EntryPoint = "unshare")]
    private static extern int Unshare(int flags);

    [DllImport("libc", EntryPoint = "gettid")]
    private static extern int GetThreadId();
}
