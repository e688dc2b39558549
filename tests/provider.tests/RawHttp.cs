using System.Globalization;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Evenkeel.Provider.Tests;

/// <summary>How the other side ended the connection.</summary>
internal enum End
{
    Fin,
    Reset,
}

/// <summary>An answer taken apart, with its framing kept visible.</summary>
internal sealed record RawAnswer(string Head, byte[] RawBody, End End)
{
    public int Status => int.Parse(Head.AsSpan(9, 3), CultureInfo.InvariantCulture);
    public bool IsChunked => Header("transfer-encoding") == "chunked";
    public string Text => Encoding.UTF8.GetString(Body);
    public JsonElement Json => JsonDocument.Parse(Body).RootElement;
    public string[] DataLines => [.. Text.Split('\n').Select(line => line.TrimEnd('\r')).Where(line => line.StartsWith("data: ", StringComparison.Ordinal)).Select(line => line[6..])];
    public string Error => Json.GetProperty("error").GetProperty("code").ToString();

    /// <summary>The sizes of the HTTP chunks, without the last one of size 0.</summary>
    public IReadOnlyList<int> Chunks => Body is null ? [] : _chunks;

    private readonly List<int> _chunks = [];

    /// <summary>True when the last chunk (or the promised length) came.</summary>
    public bool IsComplete => Body is not null && _isComplete;

    public byte[] Body => _body ??= Unframe();

    private byte[]? _body;
    private bool _isComplete;

    public string? Header(string name) => Head.Split("\r\n").Skip(1).Where(line => line.StartsWith(name + ":", StringComparison.OrdinalIgnoreCase))
        .Select(line => line[(name.Length + 1)..].Trim()).FirstOrDefault();

    /// <summary>The text of one choice over all parsable chunks of a stream.</summary>
    public string StreamedText(int choice = 0, string field = "content") => string.Concat(Deltas(choice)
        .Select(delta => delta.TryGetProperty(field, out var text) && text.ValueKind == JsonValueKind.String ? text.GetString() : ""));

    public IEnumerable<JsonElement> Deltas(int choice = 0) => Events.SelectMany(e => e.TryGetProperty("choices", out var choices) ? choices.EnumerateArray().ToArray() : [])
        .Where(c => c.GetProperty("index").GetInt32() == choice).Select(c => c.GetProperty("delta"));

    public IEnumerable<JsonElement> Events => DataLines.Where(line => line != "[DONE]").Select(TryParse).Where(e => e.ValueKind == JsonValueKind.Object);

    public string[] FinishReasons => [.. Events.SelectMany(e => e.TryGetProperty("choices", out var choices) ? choices.EnumerateArray().ToArray() : [])
        .Select(c => c.GetProperty("finish_reason").GetString()!).Where(reason => reason is not null)];

    private static JsonElement TryParse(string text)
    {
        try
        {
            return JsonDocument.Parse(text).RootElement;
        }
        catch (JsonException)
        {
            return default;
        }
    }

    private byte[] Unframe()
    {
        if (!IsChunked)
        {
            _isComplete = Header("content-length") is not { } length || int.Parse(length, CultureInfo.InvariantCulture) == RawBody.Length;
            return RawBody;
        }
        using var body = new MemoryStream();
        var rest = RawBody.AsSpan();
        while (rest.IndexOf("\r\n"u8) is >= 0 and var line)
        {
            var size = int.Parse(Encoding.ASCII.GetString(rest[..line]), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
            rest = rest[(line + 2)..];
            if (size == 0)
            {
                _isComplete = rest.SequenceEqual("\r\n"u8);
                break;
            }
            if (rest.Length < size + 2)
            {
                body.Write(rest);
                break;
            }
            _chunks.Add(size);
            body.Write(rest[..size]);
            rest = rest[(size + 2)..];
        }
        return body.ToArray();
    }
}

/// <summary>A client that shows exactly what comes over the wire. Every wait ends by a deadline.</summary>
internal sealed class RawHttp : IDisposable
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(30);
    private readonly TcpClient _tcp = new() { NoDelay = true };
    private readonly CancellationTokenSource _deadline = new(Deadline);

    public Stream Stream { get; private set; } = Stream.Null;

    public static async Task<RawHttp> ConnectAsync(SimulatedInstance instance)
    {
        var client = new RawHttp();
        await client._tcp.ConnectAsync(IPAddress.Loopback, instance.Port, client._deadline.Token);
        client.Stream = client._tcp.GetStream();
        return client;
    }

    public async Task SecureAsync(string name, RemoteCertificateValidationCallback? check = null)
    {
        var ssl = new SslStream(Stream);
        Stream = ssl;
        await ssl.AuthenticateAsClientAsync(
            new SslClientAuthenticationOptions { TargetHost = name, RemoteCertificateValidationCallback = check }, _deadline.Token);
    }

    public async Task SendAsync(string body = Bodies.Chat, string headers = "", string path = "/v1/chat/completions", bool keepAlive = false, string method = "POST")
    {
        var text = $"{method} {path} HTTP/1.1\r\nHost: provider.test\r\nContent-Length: {Encoding.UTF8.GetByteCount(body)}\r\n"
            + (keepAlive ? "" : "Connection: close\r\n") + headers + "\r\n" + body;
        await Stream.WriteAsync(Encoding.UTF8.GetBytes(text), _deadline.Token);
    }

    /// <summary>One read, for tests on what comes in one piece; empty at the end.</summary>
    public async Task<byte[]> ReadSomeAsync()
    {
        var buffer = new byte[64 * 1024];
        return buffer[..await Stream.ReadAsync(buffer, _deadline.Token)];
    }

    public async Task<string> ReadUntilAsync(string mark)
    {
        var text = new StringBuilder();
        while (!text.ToString().Contains(mark, StringComparison.Ordinal))
        {
            var piece = await ReadSomeAsync();
            Assert.True(piece.Length > 0, $"the connection ended before '{mark}': {text}");
            text.Append(Encoding.UTF8.GetString(piece));
        }
        return text.ToString();
    }

    /// <summary>Everything until the other side ends the connection.</summary>
    public async Task<RawAnswer> ReadAllAsync()
    {
        using var all = new MemoryStream();
        var end = End.Fin;
        try
        {
            await Stream.CopyToAsync(all, _deadline.Token);
        }
        catch (IOException fault) when (fault.InnerException is SocketException { SocketErrorCode: SocketError.ConnectionReset })
        {
            end = End.Reset;
        }
        var bytes = all.ToArray();
        var at = bytes.AsSpan().IndexOf("\r\n\r\n"u8);
        return at < 0
            ? new RawAnswer(Encoding.Latin1.GetString(bytes), [], end)
            : new RawAnswer(Encoding.Latin1.GetString(bytes, 0, at), bytes[(at + 4)..], end);
    }

    /// <summary>One request on a connection of its own, with a fault in the header.</summary>
    public static async Task<RawAnswer> AskAsync(SimulatedInstance instance, string? fault = null, string body = Bodies.Chat, string path = "/v1/chat/completions", string headers = "", string method = "POST")
    {
        using var client = await ConnectAsync(instance);
        await client.SendAsync(body, headers + (fault is null ? "" : $"x-sim-fault: {fault}\r\n"), path, method: method);
        return await client.ReadAllAsync();
    }

    public void Dispose()
    {
        _tcp.Dispose();
        _deadline.Dispose();
    }
}

internal static class Bodies
{
    public const string Chat = """{"model":"m","messages":[{"role":"user","content":"hello"}]}""";
    public const string Stream = """{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}""";
    public const string StreamWithUsage = """{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello"}]}""";

    /// <summary>What every instance says to "hello".</summary>
    public static readonly string Text = Answer.TextForPrompt("hello");
}

/// <summary>One instance that answers at once, for tests that bring their fault in a header and leave no trace.</summary>
public sealed class OneInstance : IAsyncLifetime
{
    public ProviderSimulator Simulator { get; private set; } = null!;
    public SimulatedInstance Instance => Simulator["A"];

    public async Task InitializeAsync() =>
        Simulator = await ProviderSimulator.StartAsync(new ProviderOptions { Instances = [new InstanceOptions("A")] });

    public async Task DisposeAsync() => await Simulator.DisposeAsync();
}
