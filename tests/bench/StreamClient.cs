using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Bench;

/// <summary>What many streams at once looked like to their client. Times in ms, sorted.</summary>
internal sealed record StreamResult(IReadOnlyList<double> FirstTokenMs, IReadOnlyList<double> TokenMs, int Whole, int Broken, double LongestGapMs);

/// <summary>
/// Reads many streams in one thread, and lets the provider send them in the same one: who waits for whom is the gateway's doing alone. Each
/// token says when it was sent. Shortly before what is due the thread does not sleep, for it would wake too late.
/// </summary>
internal static class StreamClient
{
    private const double AwakeBeforeS = 0.00005;

    /// <param name="epoll">Of the client's sockets and the provider's.</param>
    /// <param name="provider">Who sends.</param>
    /// <param name="port">Of the gateway or the provider.</param>
    /// <param name="request">The same for all.</param>
    /// <param name="streams">How many.</param>
    /// <param name="perSecond">How many begin each second.</param>
    /// <param name="seconds">After which what is not whole counts as broken.</param>
    /// <param name="atPeak">Called once, when all have begun and a second has passed.</param>
    /// <param name="cancel">Ctrl-C.</param>
    public static StreamResult Run(Epoll epoll, StreamProvider provider, int port, byte[] request, int streams, double perSecond, double seconds, Action? atPeak, CancellationToken cancel)
    {
        var all = new List<One>(streams);
        var (first, tokens) = (new List<double>(streams), new List<double>(streams * 400));
        var (open, whole, broken, gap) = (0, 0, 0, 0.0);
        var began = Stopwatch.GetTimestamp();
        var buffer = new byte[One.MostRest + 65_536];
        try
        {
            while (all.Count < streams || open > 0)
            {
                cancel.ThrowIfCancellationRequested();
                var elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
                if (elapsed > seconds)
                {
                    break;
                }
                if (all.Count < streams && elapsed >= all.Count / perSecond)
                {
                    var one = new One(port);
                    epoll.Watch(one.Socket, all.Count);
                    all.Add(one);
                    open++;
                    one.SentAt = one.LastAt = Stopwatch.GetTimestamp();
                    one.Socket.Send(request);
                }
                if (atPeak is not null && all.Count == streams && elapsed > (streams / perSecond) + 1)
                {
                    atPeak();
                    atPeak = null;
                }
                provider.SendDue();
                var next = provider.NextIn(Stopwatch.GetTimestamp());
                if (all.Count < streams)
                {
                    next = Math.Min(next, (all.Count / perSecond) - Stopwatch.GetElapsedTime(began).TotalSeconds);
                }
                var n = epoll.Wait(Math.Clamp(next - AwakeBeforeS, 0, 0.1));
                for (var i = 0; i < n; i++)
                {
                    if (StreamProvider.Owns(epoll.Ready(i)))
                    {
                        provider.Take(epoll.Ready(i));
                        continue;
                    }
                    var one = all[epoll.Ready(i)];
                    if (one.Over)
                    {
                        continue;
                    }
                    var length = one.Socket.Receive(buffer.AsSpan(One.MostRest), SocketFlags.None, out var error);
                    if (error == SocketError.WouldBlock)
                    {
                        continue;
                    }
                    var now = Stopwatch.GetTimestamp();
                    if (length <= 0 || error != SocketError.Success || one.Take(buffer, length, now, first, tokens, ref gap))
                    {
                        epoll.Forget(one.Socket);
                        one.Over = true;
                        one.Socket.Dispose();
                        open--;
                        whole += one.Whole ? 1 : 0;
                        broken += one.Whole ? 0 : 1;
                    }
                }
            }
        }
        finally
        {
            all.ForEach(one => one.Socket.Dispose());
        }
        first.Sort();
        tokens.Sort();
        if (first.Count == 0)
        {
            throw new BenchException("not one stream had a token");
        }
        return new StreamResult(first, tokens, whole, broken + open + (streams - all.Count), gap);
    }

    private sealed class One
    {
        /// <summary>So much of what came may be the beginning of a token.</summary>
        public const int MostRest = 64;

        private readonly byte[] _rest = new byte[MostRest];
        private int _restLength;
        private bool _some;

        public One(int port)
        {
            Socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            Socket.Connect(IPAddress.Loopback, port);
            Socket.Blocking = false;
        }

        public Socket Socket { get; }
        public long SentAt { get; set; }
        public long LastAt { get; set; }
        public bool Whole { get; private set; }
        public bool Over { get; set; }

        /// <summary>Takes what came, which stands in the buffer behind the first <see cref="MostRest"/> bytes.</summary>
        /// <returns>Whether the stream is over.</returns>
        public bool Take(byte[] buffer, int received, long now, List<double> first, List<double> tokens, ref double gap)
        {
            _rest.AsSpan(0, _restLength).CopyTo(buffer.AsSpan(MostRest - _restLength));
            ReadOnlySpan<byte> text = buffer.AsSpan(MostRest - _restLength, _restLength + received);
            while (true)
            {
                var at = text.IndexOf("\"@"u8);
                var length = at < 0 ? -1 : text[(at + 2)..].IndexOf((byte)' ');
                if (length < 0)
                {
                    break;
                }
                if (!long.TryParse(text.Slice(at + 2, length), out var sentNs))
                {
                    text = text[(at + 2)..];          // the frame of an HTTP chunk cuts this one in two: the others tell
                    continue;
                }
                var nowNs = (long)(now * (1e9 / Stopwatch.Frequency));
                gap = Math.Max(gap, Stopwatch.GetElapsedTime(LastAt, now).TotalMilliseconds);
                LastAt = now;
                if (_some)
                {
                    tokens.Add((nowNs - sentNs) / 1e6);
                }
                else
                {
                    first.Add(Stopwatch.GetElapsedTime(SentAt, now).TotalMilliseconds);
                    _some = true;
                }
                text = text[(at + 2 + length)..];
            }
            Whole |= text.IndexOf("[DONE]"u8) >= 0;
            text = text[Math.Max(0, text.Length - MostRest)..];
            text.CopyTo(_rest);
            _restLength = text.Length;
            return Whole;
        }
    }
}
