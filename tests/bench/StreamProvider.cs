using System.Buffers.Text;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Evenkeel.Bench;

/// <summary>
/// The provider of streams: three ports, each token at its own moment. It lives in the loop of <see cref="StreamClient"/>, for two
/// processes that share a core would measure each other. Nothing is allocated for a token, and what it sends carries the time of sending.
/// </summary>
internal sealed class StreamProvider : IDisposable
{
    private const int Ports = 3, ListenersFrom = 1 << 30, ConnectionsFrom = 1 << 29;
    private const string Head = """{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench-model","choices":[""";

    private static readonly byte[] s_answerHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"u8.ToArray();
    private static readonly byte[] s_finish = Chunk(Head + """{"index":0,"delta":{},"finish_reason":"stop"}]}""");
    private static readonly byte[] s_usage = Chunk(Head + """],"usage":{"prompt_tokens":220,"completion_tokens":100,"total_tokens":320}}""");
    private static readonly byte[] s_done = [.. Chunk("[DONE]"), .. "0\r\n\r\n"u8];

    private readonly Epoll _epoll;
    private readonly Socket[] _listeners;
    private readonly List<Connection> _connections = [];
    private readonly PriorityQueue<Connection, long> _due = new(8_192);
    private readonly byte[] _token = Chunk(Head + """{"index":0,"delta":{"content":"@0000000000000000 "},"finish_reason":null}]}""");
    private readonly byte[] _first;
    private readonly int _digitsAt;
    private readonly List<double> _lateMs = new(1_000_000);

    public StreamProvider(Stage stage, Epoll epoll)
    {
        _epoll = epoll;
        _digitsAt = _token.AsSpan().IndexOf((byte)'@') + 1;
        _first = [.. s_answerHead, .. _token];
        _listeners = [.. Enumerable.Range(0, Ports).Select(i =>
        {
            var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(IPAddress.Loopback, stage.FreePort()));
            socket.Listen(8_192);
            _epoll.Watch(socket, ListenersFrom + i);
            return socket;
        })];
    }

    public int[] Listening => [.. _listeners.Select(socket => ((IPEndPoint)socket.LocalEndPoint!).Port)];

    /// <summary>By how much tokens left too late, in ms, sorted: what the measure itself is worth.</summary>
    public IReadOnlyList<double> LateMs { get { _lateMs.Sort(); return _lateMs; } }

    /// <summary>Whether a number of the <see cref="Epoll"/> is one of these sockets.</summary>
    public static bool Owns(int number) => number >= ConnectionsFrom;

    /// <summary>Seconds until the next token is due.</summary>
    public double NextIn(long now) => _due.TryPeek(out _, out var due) ? (due - now) / (double)Stopwatch.Frequency : double.MaxValue;

    /// <summary>Sends what is due.</summary>
    public void SendDue()
    {
        while (_due.TryPeek(out var one, out var due))
        {
            var now = Stopwatch.GetTimestamp();
            if (due > now)
            {
                return;
            }
            _ = _due.Dequeue();
            if (one.Gone)
            {
                continue;
            }
            if (one.Sent == one.Tokens)
            {
                // Usage comes to who asked for it.
                if (one.Send(s_finish) && (!one.WantsUsage || one.Send(s_usage)))
                {
                    _ = one.Send(s_done);
                }
                continue;
            }
            var text = one.Sent == 0 ? _first : _token;
            var digits = text.AsSpan(text.Length - _token.Length + _digitsAt, 16);
            _ = Utf8Formatter.TryFormat((long)(now * (1e9 / Stopwatch.Frequency)), digits, out _, new System.Buffers.StandardFormat('D', 16));
            _ = one.Send(text);
            if (_lateMs.Count < _lateMs.Capacity)
            {
                _lateMs.Add((now - due) * 1000.0 / Stopwatch.Frequency);
            }
            one.Sent++;
            _due.Enqueue(one, one.Began + (long)(one.Sent * (Stopwatch.Frequency / one.PerSecond)));
        }
    }

    /// <summary>One of its sockets can be read.</summary>
    public void Take(int number)
    {
        if (number >= ListenersFrom)
        {
            var listener = _listeners[number - ListenersFrom];
            while (listener.Poll(0, SelectMode.SelectRead))
            {
                var connection = new Connection(listener.Accept());
                _epoll.Watch(connection.Socket, ConnectionsFrom + _connections.Count);
                _connections.Add(connection);
            }
            return;
        }
        var one = _connections[number - ConnectionsFrom];
        if (!one.Read())
        {
            _epoll.Forget(one.Socket);
            one.Close();
        }
        else if (one.Begins())
        {
            one.Began = Stopwatch.GetTimestamp();
            _due.Enqueue(one, one.Began);
        }
    }

    public void Dispose()
    {
        _connections.ForEach(connection => connection.Close());
        Array.ForEach(_listeners, socket => socket.Dispose());
    }

    private static byte[] Chunk(string data)
    {
        var bytes = Encoding.UTF8.GetBytes($"data: {data}\n\n");
        return [.. Encoding.ASCII.GetBytes(bytes.Length.ToString("x", CultureInfo.InvariantCulture) + "\r\n"), .. bytes, .. "\r\n"u8];
    }

    private sealed class Connection
    {
        private readonly byte[] _request = new byte[8_192];
        private int _length;

        public Connection(Socket socket)
        {
            Socket = socket;
            Socket.NoDelay = true;
            Socket.Blocking = false;
        }

        public Socket Socket { get; }
        public bool Gone { get; private set; }
        public long Began { get; set; }
        public int Sent { get; set; }
        public int Tokens { get; private set; }
        public double PerSecond { get; private set; }
        public bool WantsUsage { get; private set; }

        /// <returns>False: it is over.</returns>
        public bool Read()
        {
            var length = Socket.Receive(_request.AsSpan(_length), SocketFlags.None, out var error);
            if (error == SocketError.WouldBlock)
            {
                return true;
            }
            _length += length;
            return length > 0 && error == SocketError.Success;
        }

        /// <summary>Is a request whole? "user": "TOKENS_PER_SECOND/TOKENS" of it says what to stream.</summary>
        public bool Begins()
        {
            ReadOnlySpan<byte> request = _request.AsSpan(0, _length);
            var body = request.IndexOf("\r\n\r\n"u8) + 4;
            if (body < 4 || _length < body + Number(request[..body], "Content-Length: "u8))
            {
                return false;
            }
            PerSecond = Number(request[body..], "\"user\":\""u8);
            Tokens = (int)Number(request[(body + request[body..].IndexOf("\"user\":\""u8) + 8)..], "/"u8);
            WantsUsage = request[body..].IndexOf("\"include_usage\":true"u8) >= 0;
            (Sent, _length) = (0, 0);
            return true;
        }

        /// <summary>A reader that does not keep up with a few hundred bytes is broken, and shall be seen to be.</summary>
        public bool Send(byte[] bytes)
        {
            if (!Gone && (Socket.Send(bytes, SocketFlags.None, out var error) != bytes.Length || error != SocketError.Success))
            {
                Close();
            }
            return !Gone;
        }

        public void Close()
        {
            Gone = true;
            Socket.Dispose();
        }

        private static double Number(ReadOnlySpan<byte> text, ReadOnlySpan<byte> after)
        {
            var at = text.IndexOf(after);
            return at >= 0 && Utf8Parser.TryParse(text[(at + after.Length)..], out double value, out _) ? value : throw new BenchException("a request to the streaming provider that it does not know");
        }
    }
}
