using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Evenkeel.Bench;

/// <summary>
/// Waits for many sockets in one thread, to the microsecond. The thread pool would add its own scheduling to every latency, and its
/// timers know milliseconds only.
/// </summary>
internal sealed class Epoll : IDisposable
{
    private const int Add = 1, Remove = 2;
    private const uint Readable = 1;

    private readonly int _epoll;
    private readonly Event[] _events = new Event[512];

    public Epoll()
    {
        _epoll = Create(0);
        if (_epoll < 0)
        {
            throw new BenchException("epoll is not to be had");
        }
    }

    /// <summary>Tell of this socket, under this number, when something can be read.</summary>
    public void Watch(Socket socket, int number)
    {
        var wanted = new Event { Events = Readable, Number = (ulong)number };
        _ = Control(_epoll, Add, (int)socket.Handle, ref wanted);
    }

    public void Forget(Socket socket)
    {
        var nothing = default(Event);
        _ = Control(_epoll, Remove, (int)socket.Handle, ref nothing);
    }

    /// <summary>Waits at most so long. Returns how many are ready; <see cref="Ready"/> names them.</summary>
    public int Wait(double seconds)
    {
        var time = new TimeSpec { Seconds = (long)seconds, Nanoseconds = (long)((seconds - Math.Floor(seconds)) * 1e9) };
        return Math.Max(0, Wait(_epoll, _events, _events.Length, ref time, 0));
    }

    /// <summary>
    /// From here on this thread runs before all others of its core, and wakes when it asked to. Without it, whatever else wants the core gets
    /// it for milliseconds. False: that takes more rights than we have.
    /// </summary>
    public static bool TakePrecedence()
    {
        const int TimerSlack = 29, FifoButNotForChildren = 1 | 0x40000000;
        var least = 1;
        _ = ProcessControl(TimerSlack, 1);
        return ProcessCost.SetScheduler(0, FifoButNotForChildren, ref least) == 0;
    }

    public int Ready(int i) => (int)_events[i].Number;

    public void Dispose() => _ = Close(_epoll);

    [StructLayout(LayoutKind.Sequential, Pack = 4)]      // packed on x86-64, and there only
    private struct Event
    {
        public uint Events;
        public ulong Number;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpec
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [DllImport("libc", EntryPoint = "epoll_create1")]
    private static extern int Create(int flags);

    [DllImport("libc", EntryPoint = "epoll_ctl")]
    private static extern int Control(int epoll, int operation, int file, ref Event wanted);

    [DllImport("libc", EntryPoint = "epoll_pwait2")]
    private static extern int Wait(int epoll, [In, Out] Event[] events, int most, ref TimeSpec time, nint mask);

    [DllImport("libc", EntryPoint = "prctl")]
    private static extern int ProcessControl(int option, nint value);

    [DllImport("libc", EntryPoint = "close")]
    private static extern int Close(int file);
}
