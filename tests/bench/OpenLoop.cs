using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Evenkeel.Bench;

/// <summary>What became of the requests of one open-loop run. Latencies in ms, sorted.</summary>
internal sealed record OpenLoopResult(IReadOnlyList<double> LatenciesMs, int Failed, double Seconds)
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

    public static OpenLoopResult Run(int port, byte[] request, double perSecond, double seconds, CancellationToken cancel)
    {
        using var epoll = new Epoll();
        var connections = new List<Connection>();
        var free = new Stack<Connection>();
        var latencies = new List<double>((int)(perSecond * seconds) + 16);
        var (failed, sent, total) = (0, 0, (int)(perSecond * seconds));
        var began = Stopwatch.GetTimestamp();
        var waiting = 0;
        try
        {
            while (sent < total || waiting > 0)
            {
                cancel.ThrowIfCancellationRequested();
                var elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
                if (elapsed > seconds + 10)
                {
                    failed += waiting;          // no answer for ten seconds
                    break;
                }
                while (sent < total && elapsed >= sent / perSecond)
                {
                    sent++;
                    if (!free.TryPop(out var connection))
                    {
                        if (connections.Count >= MostConnections)
                        {
                            failed++;
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
                        failed++;
                        epoll.Forget(connection.Socket);
                    }
                    elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
                }
                var n = epoll.Wait(sent < total ? Math.Clamp((sent / perSecond) - elapsed, 0, 0.1) : 0.1);
                for (var i = 0; i < n; i++)
                {
                    var connection = connections[epoll.Ready(i)];
                    switch (connection.Receive())
                    {
                        case Progress.Answered:
                            latencies.Add(Stopwatch.GetElapsedTime(connection.SentAt).TotalMilliseconds);
                            waiting--;
                            free.Push(connection);
                            break;
                        case Progress.Refused:
                            failed++;
                            waiting--;
                            free.Push(connection);
                            break;
                        case Progress.Broken:
                            if (connection.Waits)
                            {
                                failed++;
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
        return new OpenLoopResult(latencies, failed, Stopwatch.GetElapsedTime(began).TotalSeconds);
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
