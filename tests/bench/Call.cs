using System.Text;
using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>One request, the same for every peer but for the headers that a peer needs.</summary>
internal sealed record Call(string Body, IReadOnlyDictionary<string, string> Headers)
{
    public const string Path = "/v1/chat/completions";
    public const string Model = "bench-model";
    public const string ClientKey = "bench-client-key-0123456789";

    /// <summary>A chat request of about this many bytes.</summary>
    public static Call OfBytes(int bytes, bool stream = false)
    {
        const string Words = "The keel is even and the wind is fair; say in one sentence what the log of the day should tell. ";
        static string Whole(string text, bool stream) => JsonSerializer.Serialize(new Dictionary<string, object>
        {
            ["model"] = Model,
            ["stream"] = stream,
            ["temperature"] = 0.7,
            ["messages"] = new[] { new { role = "system", content = "You are a helpful assistant." }, new { role = "user", content = text } },
        });
        var room = bytes - Whole("", stream).Length;
        var text = string.Concat(Enumerable.Repeat(Words, (Math.Max(room, 1) / Words.Length) + 1))[..Math.Max(room, 1)];
        return new Call(Whole(text, stream), new Dictionary<string, string>
        {
            ["Content-Type"] = "application/json",
            ["Authorization"] = "Bearer " + ClientKey,
        });
    }

    public Call With(IReadOnlyDictionary<string, string> more) => this with { Headers = Headers.Concat(more).ToDictionary() };

    public byte[] Bytes()
    {
        var head = new StringBuilder($"POST {Path} HTTP/1.1\r\nHost: bench\r\n");
        foreach (var (name, value) in Headers)
        {
            head.Append($"{name}: {value}\r\n");
        }
        head.Append($"Content-Length: {Encoding.UTF8.GetByteCount(Body)}\r\n\r\n{Body}");
        return Encoding.UTF8.GetBytes(head.ToString());
    }
}
