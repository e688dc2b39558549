using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace Evenkeel.Provider;

/// <summary>A request as it came over the wire. Header names are looked up without regard to case.</summary>
internal sealed class HttpRequest(string head, byte[] body)
{
    private readonly string[] _first = head[..head.IndexOf("\r\n", StringComparison.Ordinal)].Split(' ');

    public string Head => head;
    public byte[] Body => body;
    public string Method => _first[0];
    public string Path => _first[1].Split('?')[0];
    public string Query => _first[1].Contains('?') ? _first[1][(_first[1].IndexOf('?') + 1)..] : "";
    public bool IsHttp10 => _first[2] == "HTTP/1.0";

    public string? Header(string name) => Header(head, name);

    public static string? Header(string head, string name)
    {
        var rest = head.AsSpan();
        while (rest.IndexOf("\r\n") is >= 0 and var end)
        {
            var line = rest[..end];
            rest = rest[(end + 2)..];
            if (line.Length > name.Length && line[name.Length] == ':' && line.StartsWith(name, StringComparison.OrdinalIgnoreCase))
            {
                return line[(name.Length + 1)..].Trim().ToString();
            }
        }
        return null;
    }
}

/// <summary>The request could not be understood; the words go back with 400.</summary>
internal sealed class BadRequestException(string words) : Exception(words);

/// <summary>
/// One accepted connection: reads requests, writes raw bytes, and can end in every way a real one does.
/// It reads all the time, also while an answer is being written, so a client that leaves is noticed at once:
/// <see cref="Gone"/> is cancelled and <see cref="GoneAt"/> set. A half-closed connection counts as left.
/// </summary>
internal sealed class HttpConnection(long id, Socket socket, Stream stream, string? sni)
{
    private const int MaxHeadBytes = 64 * 1024;
    private const int MaxBodyBytes = 64 * 1024 * 1024;

    private readonly CancellationTokenSource _gone = new();
    private readonly SemaphoreSlim _arrived = new(0);
    private readonly Lock _lock = new();
    private byte[] _data = new byte[2048];
    private int _length;
    private volatile bool _ended;

    public long Id => id;
    public string? Sni => sni;
    public int Requests { get; private set; }
    public CancellationToken Gone => _gone.Token;
    public DateTimeOffset? GoneAt { get; private set; }

    /// <summary>True once we cut or reset it ourselves: what fails afterwards is not the client's doing.</summary>
    public bool EndedByUs { get; private set; }

    public bool KeepAlive { get; set; } = true;

    /// <summary>Set by a fault; stands above the instance's setting.</summary>
    public int? IdleCloseMs { get; set; }

    public bool IdleCloseResets { get; set; }

    /// <summary>Reads from the socket until it ends. Runs beside the requests for the whole life of the connection.</summary>
    public async Task PumpAsync()
    {
        var buffer = new byte[2048];
        try
        {
            int read;
            while ((read = await stream.ReadAsync(buffer)) > 0)
            {
                lock (_lock)
                {
                    if (_length + read > MaxHeadBytes + MaxBodyBytes)
                    {
                        break;
                    }
                    if (_length + read > _data.Length)
                    {
                        Array.Resize(ref _data, Math.Max(_data.Length * 2, _length + read));
                    }
                    buffer.AsSpan(0, read).CopyTo(_data.AsSpan(_length));
                    _length += read;
                }
                Signal();
            }
        }
        catch (Exception fault) when (fault is IOException or SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // A reset is an end like any other; which one it was does not matter here.
        }
        GoneAt = DateTimeOffset.UtcNow;
        _ended = true;
        Signal();
        await _gone.CancelAsync();
    }

    /// <summary>The next request, or null when the connection has ended or was idle for too long.</summary>
    public async Task<HttpRequest?> ReadRequestAsync(int? idleCloseMs)
    {
        var head = "";
        var headEnd = 0;
        while (!TakeHead(ref head, ref headEnd))
        {
            var idle = _length == 0 && idleCloseMs is { } ms && Requests > 0 ? ms : Timeout.Infinite;
            if (_ended)
            {
                return null;
            }
            if (!await _arrived.WaitAsync(idle))
            {
                if (IdleCloseResets)
                {
                    Reset();
                }
                return null;
            }
        }
        if (HttpRequest.Header(head, "Expect") is "100-continue")
        {
            await WriteAsync("HTTP/1.1 100 Continue\r\n\r\n"u8.ToArray());
        }
        var chunked = HttpRequest.Header(head, "Transfer-Encoding") is { } coding && coding.Contains("chunked", StringComparison.OrdinalIgnoreCase);
        var body = chunked ? await ReadChunkedBodyAsync() : await ReadBodyAsync(head);
        if (body is null)
        {
            return null;
        }
        var request = new HttpRequest(head, body);
        Requests++;
        var connection = request.Header("Connection");
        KeepAlive = request.IsHttp10
            ? string.Equals(connection, "keep-alive", StringComparison.OrdinalIgnoreCase)
            : !string.Equals(connection, "close", StringComparison.OrdinalIgnoreCase);
        return request;
    }

    public ValueTask WriteAsync(ReadOnlyMemory<byte> bytes) => stream.WriteAsync(bytes, _gone.Token);

    /// <summary>Ends with RST: whatever the client has not read yet may be lost to it, as in life.</summary>
    public void Reset()
    {
        EndedByUs = true;
        try
        {
            socket.LingerState = new LingerOption(true, 0);
            socket.Close(0);
        }
        catch (Exception fault) when (fault is SocketException or ObjectDisposedException)
        {
            // Already closed: nothing left to reset.
        }
    }

    /// <summary>Ends with FIN. Under TLS without a close_notify, so that a cut looks like one.</summary>
    public async Task CutAsync()
    {
        EndedByUs = true;
        await CloseAsync();
    }

    /// <summary>Sends FIN, gives the client a moment to close its side (closing with unread input would turn FIN into RST), then closes.</summary>
    public async Task CloseAsync()
    {
        try
        {
            socket.Shutdown(SocketShutdown.Send);
            if (!_ended)
            {
                await Task.Delay(2000, _gone.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
        catch (Exception fault) when (fault is SocketException or ObjectDisposedException)
        {
            // Already closed.
        }
        socket.Dispose();
    }

    private void Signal()
    {
        if (_arrived.CurrentCount == 0)
        {
            _arrived.Release();
        }
    }

    private bool TakeHead(ref string head, ref int headEnd)
    {
        lock (_lock)
        {
            var skip = 0;
            while (skip < _length && _data[skip] is (byte)'\r' or (byte)'\n')
            {
                skip++;
            }
            Drop(skip);
            headEnd = _data.AsSpan(0, _length).IndexOf("\r\n\r\n"u8);
            if (headEnd < 0)
            {
                return _length > MaxHeadBytes ? throw new BadRequestException("the request head is too large") : false;
            }
            head = Encoding.Latin1.GetString(_data, 0, headEnd + 2);
            Drop(headEnd + 4);
        }
        var parts = head[..head.IndexOf("\r\n", StringComparison.Ordinal)].Split(' ');
        return parts is [_, ['/', ..], "HTTP/1.1" or "HTTP/1.0"] ? true : throw new BadRequestException("not an HTTP/1 request line");
    }

    private async Task<byte[]?> ReadBodyAsync(string head)
    {
        var text = HttpRequest.Header(head, "Content-Length");
        if (text is null)
        {
            return [];
        }
        if (!int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var length) || length > MaxBodyBytes)
        {
            throw new BadRequestException("bad Content-Length");
        }
        return await TakeAsync(length);
    }

    private async Task<byte[]?> ReadChunkedBodyAsync()
    {
        using var body = new MemoryStream();
        while (true)
        {
            if (await TakeLineAsync() is not { } line)
            {
                return null;
            }
            if (!int.TryParse(line.Split(';')[0].Trim(), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var size)
                || size < 0 || body.Length + size > MaxBodyBytes)
            {
                throw new BadRequestException("bad chunk size");
            }
            if (size == 0)
            {
                while (await TakeLineAsync() is { } trailer)
                {
                    if (trailer.Length == 0)
                    {
                        return body.ToArray();
                    }
                }
                return null;
            }
            if (await TakeAsync(size) is not { } chunk || await TakeLineAsync() is null)
            {
                return null;
            }
            body.Write(chunk);
        }
    }

    private async Task<byte[]?> TakeAsync(int count)
    {
        while (true)
        {
            lock (_lock)
            {
                if (_length >= count)
                {
                    var taken = _data.AsSpan(0, count).ToArray();
                    Drop(count);
                    return taken;
                }
            }
            if (_ended)
            {
                return null;
            }
            await _arrived.WaitAsync();
        }
    }

    private async Task<string?> TakeLineAsync()
    {
        while (true)
        {
            lock (_lock)
            {
                var end = _data.AsSpan(0, _length).IndexOf("\r\n"u8);
                if (end >= 0)
                {
                    var line = Encoding.Latin1.GetString(_data, 0, end);
                    Drop(end + 2);
                    return line;
                }
                if (_length > MaxHeadBytes)
                {
                    throw new BadRequestException("the line is too long");
                }
            }
            if (_ended)
            {
                return null;
            }
            await _arrived.WaitAsync();
        }
    }

    private void Drop(int count)
    {
        if (count == 0)
        {
            return;
        }
        _data.AsSpan(count, _length - count).CopyTo(_data);
        _length -= count;
        if (_length == 0 && _data.Length > MaxHeadBytes)
        {
            _data = new byte[2048];
        }
    }
}
