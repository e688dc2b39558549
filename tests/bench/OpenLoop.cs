using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Evenkeel.Bench;

/// <summary>What became of the requests of one run. Latencies in ms, sorted; FailedAtS: when each failure was seen, from the beginning.</summary>
internal sealed record OpenLoopResult(IReadOnlyList<double> LatenciesMs, int Failed, double Seconds, IReadOnlyList<double> FailedAtS)
{
    public double Percentile(double share) => Statistics.Percentile(LatenciesMs, share);
}

/// <summary>
/// Sends requests at a fixed rate whatever the answers do: each goes out at its own time on a connection that is free, on a new one if
/// none is. So a slow answer delays no other request, and no latency is hidden by a client that waits (wrk's closed loop does that).
/// One thread; times are taken right before the send and right after the last byte.
/// </summary>
internal static class OpenLoop
{
    private const int MostConnections = 2_000;
    private const double MostWaitS = 15;       // for the last answers

    public static OpenLoopResult Run(int port, byte[] request, double perSecond, double seconds, CancellationToken cancel) =>
        Run(port, request, new Clockwork(perSecond, (int)(perSecond * seconds)), seconds, cancel);

    /// <summary>Not open: so many callers, each of whom asks again when he has been answered, or <paramref name="pauseS"/> after a failure.</summary>
    public static OpenLoopResult RunCallers(int port, byte[] request, int callers, double pauseS, double seconds, CancellationToken cancel) =>
        Run(port, request, new Crowd(callers, pauseS, seconds), seconds, cancel);

    private static OpenLoopResult Run(int port, byte[] request, ISchedule schedule, double seconds, CancellationToken cancel)
    {
        using var epoll = new Epoll();
        var connections = new List<Connection>();
        var free = new Stack<Connection>();
        var latencies = new List<double>(4_096);
        var failedAt = new List<double>();
        var began = Stopwatch.GetTimestamp();
        void Failed()
        {
            var at = Stopwatch.GetElapsedTime(began).TotalSeconds;
            failedAt.Add(at);
            schedule.Ended(at, answered: false);
        }
        var waiting = 0;
        try
        {
            while (schedule.NextS is not null || waiting > 0)
            {
                cancel.ThrowIfCancellationRequested();
                var elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
                if (elapsed > seconds + MostWaitS)
                {
                    failedAt.AddRange(Enumerable.Repeat(elapsed, waiting));          // no answer in all this time
                    break;
                }
                while (schedule.NextS <= elapsed)
                {
                    schedule.Sent();
                    if (!free.TryPop(out var connection))
                    {
                        if (connections.Count >= MostConnections)
                        {
                            Failed();
                            continue;
                        }
                        connection = new Connection(port);
                        epoll.Watch(connection.Socket, connections.Count);
                        connections.Add(connection);
                    }
                    if (connection.Send(request))
                    {
                        waiting++;
                    }
                    else
                    {
                        Failed();
                        epoll.Forget(connection.Socket);
                    }
                    elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
                }
                var n = epoll.Wait(schedule.NextS is { } next ? Math.Clamp(next - elapsed, 0, 0.1) : 0.1);
                for (var i = 0; i < n; i++)
                {
                    var connection = connections[epoll.Ready(i)];
                    switch (connection.Receive())
                    {
                        case Progress.Answered:
                            latencies.Add(Stopwatch.GetElapsedTime(connection.SentAt).TotalMilliseconds);
                            schedule.Ended(Stopwatch.GetElapsedTime(began).TotalSeconds, answered: true);
                            waiting--;
                            free.Push(connection);
                            break;
                        case Progress.Refused:
                            Failed();
                            waiting--;
                            free.Push(connection);
                            break;
                        case Progress.Broken:
                            if (connection.Waits)
                            {
                                Failed();
                                waiting--;
                            }
                            else
                            {
                                free = new Stack<Connection>(free.Where(other => other != connection));
                            }
                            epoll.Forget(connection.Socket);
                            break;
                        default:
                            break;
                    }
                }
            }
        }
        finally
        {
            connections.ForEach(connection => connection.Socket.Dispose());
        }
        latencies.Sort();
        return new OpenLoopResult(latencies, failedAt.Count, Stopwatch.GetElapsedTime(began).TotalSeconds, failedAt);
    }

    private interface ISchedule
    {
        /// <summary>When the next request is due, in s from the beginning; null: there is none, or none until one has ended.</summary>
        double? NextS { get; }

        void Sent();
        void Ended(double at, bool answered);
    }

    private sealed class Clockwork(double perSecond, int total) : ISchedule
    {
        private int _sent;

        public double? NextS => _sent < total ? _sent / perSecond : null;
        public void Sent() => _sent++;
        public void Ended(double at, bool answered) { }
    }

    private sealed class Crowd(int callers, double pauseS, double seconds) : ISchedule
    {
        // They do not all come at once.
        private readonly PriorityQueue<double, double> _due = new(Enumerable.Range(0, callers).Select(i => (i * 0.8 / callers, i * 0.8 / callers)));

        public double? NextS => _due.TryPeek(out var at, out _) && at < seconds ? at : null;
        public void Sent() => _due.Dequeue();

        public void Ended(double at, bool answered)
        {
            var next = answered ? at : at + pauseS;
            _due.Enqueue(next, next);
        }
    }

    private enum Progress { More, Answered, Refused, Broken }

    private sealed class Connection
    {
        private readonly byte[] _buffer = new byte[65_536];
        private int _filled;

        public Connection(int port)
        {
            Socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true, SendBufferSize = 400_000 };
            Socket.Connect(IPAddress.Loopback, port);
            Socket.Blocking = false;
        }

        public Socket Socket { get; }
        public long SentAt { get; private set; }
        public bool Waits { get; private set; }

        public bool Send(byte[] request)
        {
            SentAt = Stopwatch.GetTimestamp();
            _filled = 0;
            for (var at = 0; at < request.Length;)
            {
                at += Math.Max(0, Socket.Send(request.AsSpan(at), SocketFlags.None, out var error));
                if (error == SocketError.WouldBlock)
                {
                    Socket.Poll(1_000, SelectMode.SelectWrite);
                }
                else if (error != SocketError.Success)
                {
                    return false;
                }
            }
            Waits = true;
            return true;
        }

        public Progress Receive()
        {
            var n = Socket.Receive(_buffer.AsSpan(_filled), SocketFlags.None, out var error);
            if (error == SocketError.WouldBlock)
            {
                return Progress.More;
            }
            if (error != SocketError.Success || n <= 0 || !Waits)
            {
                return Progress.Broken;
            }
            _filled += n;
            var answer = _buffer.AsSpan(0, _filled);
            var head = answer.IndexOf("\r\n\r\n"u8);
            if (head < 0)
            {
                return Progress.More;
            }
            var whole = Length(answer[..head]) is { } length ? _filled >= head + 4 + length : answer.EndsWith("0\r\n\r\n"u8);
            if (!whole)
            {
                return _filled == _buffer.Length ? Progress.Broken : Progress.More;
            }
            Waits = false;
            return answer.StartsWith("HTTP/1.1 200"u8) ? Progress.Answered : Progress.Refused;
        }

        private static int? Length(ReadOnlySpan<byte> head)
        {
            foreach (var line in Encoding.ASCII.GetString(head).Split("\r\n"))
            {
                if (line.StartsWith("content-length:", StringComparison.OrdinalIgnoreCase))
                {
                    return int.Parse(line.AsSpan("content-length:".Length));
                }
            }
            return null;
        }
    }
}
