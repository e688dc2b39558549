using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;

namespace Evenkeel.Provider;

/// <summary>
/// One listener and its connections. It can be taken down (connections reset, further ones refused, the port kept)
/// and up again.
/// </summary>
internal sealed class HttpServer(Func<HttpConnection, HttpRequest, Task> handle) : IDisposable
{
    private static long _connectionIds;

    private readonly Dictionary<long, Action> _resets = [];
    private readonly Lock _lock = new();
    private Socket? _listener;
    private bool _up;
    private long _accepted;
    private long _tlsFailures;

    /// <summary>Asked per connection: null = plain HTTP.</summary>
    public Func<TlsListener?>? Tls { get; init; }

    /// <summary>Asked per connection: how long an idle one is kept; null = for ever.</summary>
    public Func<int?>? IdleCloseMs { get; init; }

    public IPEndPoint EndPoint { get; private set; } = new(IPAddress.Loopback, 0);
    public bool IsUp => _up;
    public long Accepted => Interlocked.Read(ref _accepted);
    public long TlsFailures => Interlocked.Read(ref _tlsFailures);

    public int Open
    {
        get
        {
            lock (_lock)
            {
                return _resets.Count;
            }
        }
    }

    public void Start(IPEndPoint endPoint)
    {
        EndPoint = endPoint;
        _listener = Bind();
        EndPoint = (IPEndPoint)_listener.LocalEndPoint!;
        Up();
    }

    public void Up()
    {
        lock (_lock)
        {
            if (_up)
            {
                return;
            }
            _up = true;
            _listener!.Listen(4096);
            _ = AcceptAsync(_listener);
        }
    }

    /// <summary>Refuses connections from now on and resets the open ones. A bound socket that does not listen keeps the port ours.</summary>
    public void Down()
    {
        lock (_lock)
        {
            if (!_up)
            {
                return;
            }
            _up = false;
            _listener!.Dispose();
            _listener = Bind();
        }
        ResetAll();
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _up = false;
            _listener?.Dispose();
        }
        ResetAll();
    }

    private void ResetAll()
    {
        Action[] resets;
        lock (_lock)
        {
            resets = [.. _resets.Values];
        }
        Array.ForEach(resets, reset => reset());
    }

    private Socket Bind()
    {
        var socket = new Socket(EndPoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
        socket.Bind(EndPoint);
        return socket;
    }

    private async Task AcceptAsync(Socket listener)
    {
        while (true)
        {
            Socket socket;
            try
            {
                socket = await listener.AcceptAsync();
            }
            catch (Exception fault) when (fault is SocketException or ObjectDisposedException)
            {
                if (!_up || listener != _listener)
                {
                    return;
                }
                // Out of file descriptors, or a client gone before it was accepted: the listener itself is fine.
                await Task.Delay(10);
                continue;
            }
            Interlocked.Increment(ref _accepted);
            _ = ServeAsync(socket, Interlocked.Increment(ref _connectionIds));
        }
    }

    private async Task ServeAsync(Socket socket, long id)
    {
        socket.NoDelay = true;
        lock (_lock)
        {
            _resets[id] = () => ResetSocket(socket);
            if (!_up)
            {
                ResetSocket(socket);
            }
        }
        Stream stream = new NetworkStream(socket, ownsSocket: false);
        try
        {
            string? sni = null;
            if (Tls?.Invoke() is { } tls)
            {
                var secured = await tls.HandshakeAsync(socket, stream);
                if (secured is null)
                {
                    Interlocked.Increment(ref _tlsFailures);
                    return;
                }
                (stream, sni) = (secured, secured.TargetHostName is { Length: > 0 } name ? name : null);
            }
            var connection = new HttpConnection(id, socket, stream, sni);
            lock (_lock)
            {
                _resets[id] = connection.Reset;
                if (!_up)
                {
                    connection.Reset();
                }
            }
            _ = connection.PumpAsync();
            await ServeRequestsAsync(connection);
            if (!connection.EndedByUs)
            {
                if (stream is SslStream ssl)
                {
                    await ssl.ShutdownAsync();
                }
                await connection.CloseAsync();
            }
        }
        catch (Exception fault) when (fault is IOException or SocketException or ObjectDisposedException or OperationCanceledException
            or InvalidOperationException or AuthenticationException)
        {
            // The connection is broken; the ledger has its story already.
        }
        catch (Exception bug)
        {
            await Console.Error.WriteLineAsync($"evenkeel-provider: {bug}");
        }
        finally
        {
            await stream.DisposeAsync();
            lock (_lock)
            {
                _resets.Remove(id);
            }
            socket.Dispose();
        }
    }

    private async Task ServeRequestsAsync(HttpConnection connection)
    {
        try
        {
            do
            {
                var request = await connection.ReadRequestAsync(connection.IdleCloseMs ?? IdleCloseMs?.Invoke());
                if (request is null)
                {
                    return;
                }
                await handle(connection, request);
            }
            while (connection.KeepAlive && !connection.EndedByUs);
        }
        catch (BadRequestException fault)
        {
            await connection.WriteAsync(HttpAnswer.Json(400, ErrorBody.Json("invalid_request_error", null, fault.Message), close: true));
        }
    }

    private static void ResetSocket(Socket socket)
    {
        try
        {
            socket.LingerState = new LingerOption(true, 0);
            socket.Close(0);
        }
        catch (Exception fault) when (fault is SocketException or ObjectDisposedException)
        {
            // Already closed.
        }
    }
}
