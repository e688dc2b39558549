using System.IO.Compression;

namespace Evenkeel.Provider;

/// <summary>
/// Turns pieces of a body into bytes on the wire: gzip, HTTP framing, and the splitting or gathering the plan asks
/// for. Nothing is sent before a flush, so what is due at the same moment goes out in one packet.
/// </summary>
internal sealed class ResponseWriter(HttpConnection connection, AnswerPlan plan, bool chunked) : IDisposable
{
    private readonly ByteBuffer _out = new();
    private readonly ByteBuffer _gathered = new();
    // Lengths of the HTTP chunks at the end of _out, so that a chunk-level split can send each on its own.
    private readonly List<int> _chunks = [];
    private MemoryStream? _packed;
    private GZipStream? _gzip;
    private int _gatheredPieces;
    private bool _firstChunk = true;

    /// <summary>Bytes written but not sent.</summary>
    public int Pending => _out.Length;

    private bool Chunked => chunked && !plan.Http10Close;

    /// <summary>The head; <paramref name="length"/> of the body where it is known and the framing is not chunked.</summary>
    public void Head(int status, string contentType, int? length, string extraHeaders)
    {
        if (plan.InterimStatus is { } interim)
        {
            _out.AppendText($"HTTP/1.1 {interim} Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n");
        }
        _out.AppendText(plan.StatusLine ?? (plan.Http10Close ? "HTTP/1.0 " : "HTTP/1.1 ") + status + " " + HttpAnswer.Reason(status));
        _out.Append("\r\ncontent-type: "u8);
        _out.AppendText(plan.ContentType ?? contentType);
        _out.AppendText("\r\n" + extraHeaders);
        if (plan.Gzip)
        {
            _out.Append("content-encoding: gzip\r\n"u8);
        }
        if (plan.Http10Close)
        {
            connection.KeepAlive = false;
        }
        else if (Chunked)
        {
            _out.Append("transfer-encoding: chunked\r\n"u8);
        }
        else if (length is { } bytes)
        {
            _out.AppendText($"content-length: {bytes}\r\n");
        }
        switch (plan.BadFraming)
        {
            case "both":
                _out.AppendText(chunked ? "content-length: 7\r\n" : "transfer-encoding: chunked\r\n");
                break;
            case "double_length":
                _out.Append("content-length: 5\r\ncontent-length: 6\r\n"u8);
                break;
            case "negative_length":
                _out.Append("content-length: -1\r\n"u8);
                break;
        }
        if (!connection.KeepAlive)
        {
            _out.Append("connection: close\r\n"u8);
        }
        _out.Append("\r\n"u8);
    }

    /// <summary>A piece of the body that belongs together (an SSE event, a JSON text).</summary>
    public void Body(ReadOnlySpan<byte> piece)
    {
        if (plan.Coalesce == 0)
        {
            Encode(piece);
            return;
        }
        _gathered.Append(piece);
        if (++_gatheredPieces >= plan.Coalesce)
        {
            Ungather();
        }
    }

    /// <summary>Sends what is due. With coalesce, pieces still being gathered stay back.</summary>
    public async ValueTask FlushAsync()
    {
        if (_out.Length == 0)
        {
            return;
        }
        if (plan.SplitBytes == 0)
        {
            await connection.WriteAsync(_out.Memory);
        }
        else if (plan.SplitOnWire || !Chunked)
        {
            for (var at = 0; at < _out.Length; at += plan.SplitBytes)
            {
                await connection.WriteAsync(_out.Memory.Slice(at, Math.Min(plan.SplitBytes, _out.Length - at)));
                await GapAsync();
            }
        }
        else
        {
            await FlushChunkwiseAsync();
        }
        _out.Clear();
        _chunks.Clear();
    }

    /// <summary>The regular end: what is left, and the terminating chunk. The connection stays as it is.</summary>
    public async ValueTask EndAsync()
    {
        Ungather();
        if (_gzip is not null)
        {
            await _gzip.DisposeAsync();
            Frame(_packed!.ToArray());
        }
        if (Chunked)
        {
            _out.Append("0\r\n\r\n"u8);
            _chunks.Add(5);
        }
        await FlushAsync();
    }

    /// <summary>Sends what was written so far, gathered pieces included, without an end.</summary>
    public async ValueTask FlushAllAsync()
    {
        Ungather();
        await FlushAsync();
    }

    public void Dispose()
    {
        _out.Dispose();
        _gathered.Dispose();
        _packed?.Dispose();
    }

    private void Ungather()
    {
        if (_gatheredPieces > 0)
        {
            Encode(_gathered.Span);
            _gathered.Clear();
            _gatheredPieces = 0;
        }
    }

    private void Encode(ReadOnlySpan<byte> piece)
    {
        if (!plan.Gzip)
        {
            Frame(piece);
            return;
        }
        _packed ??= new MemoryStream();
        _gzip ??= new GZipStream(_packed, CompressionLevel.Fastest, leaveOpen: true);
        _gzip.Write(piece);
        _gzip.Flush();
        Frame(_packed.GetBuffer().AsSpan(0, (int)_packed.Length));
        _packed.SetLength(0);
    }

    private void Frame(ReadOnlySpan<byte> bytes)
    {
        if (!Chunked)
        {
            _out.Append(bytes);
            return;
        }
        var size = plan.SplitBytes > 0 && !plan.SplitOnWire ? plan.SplitBytes : bytes.Length;
        while (bytes.Length > 0)
        {
            var chunk = bytes[..Math.Min(size, bytes.Length)];
            var before = _out.Length;
            if (_firstChunk && plan.BadFraming == "bad_chunk")
            {
                _out.Append("zz"u8);
            }
            _firstChunk = false;
            _out.AppendHex(chunk.Length);
            _out.Append("\r\n"u8);
            _out.Append(chunk);
            _out.Append("\r\n"u8);
            if (plan.SplitBytes > 0)
            {
                _chunks.Add(_out.Length - before);
            }
            bytes = bytes[chunk.Length..];
        }
    }

    private async ValueTask FlushChunkwiseAsync()
    {
        var at = _out.Length - _chunks.Sum();
        if (at > 0)
        {
            await connection.WriteAsync(_out.Memory[..at]);
        }
        foreach (var length in _chunks)
        {
            await GapAsync();
            await connection.WriteAsync(_out.Memory.Slice(at, length));
            at += length;
        }
    }

    private Task GapAsync() => plan.SplitGapMs > 0 ? Task.Delay(plan.SplitGapMs, connection.Gone) : Task.CompletedTask;

    internal static byte[] Pack(ReadOnlySpan<byte> bytes)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest))
        {
            gzip.Write(bytes);
        }
        return packed.ToArray();
    }
}
