using System.Text;
using System.Text.Json;

namespace Evenkeel.Provider;

/// <summary>What the simulator needs to know of a request body; anything else in it is ignored, as providers do.</summary>
internal sealed class CallRequest
{
    public string? Error { get; private set; }
    public string Model { get; private set; } = "";
    public bool Stream { get; private set; }
    public bool IncludeUsage { get; private set; }
    public int Choices { get; private set; } = 1;
    public int? MaxTokens { get; private set; }
    public string? User { get; private set; }
    public string? ToolName { get; private set; }
    public ulong PromptHash { get; private set; } = Fnv.Start;
    public int PromptTokens { get; private set; }

    /// <summary>The text of a last message of role assistant, to be continued; null when there is none.</summary>
    public string? Prefill { get; private set; }

    /// <summary>True when the last message says <c>"prefix": true</c> (DeepSeek), false for a plain assistant-last prefill.</summary>
    public bool PrefillIsMarked { get; private set; }

    public string[] EmbeddingInputs { get; private set; } = [];
    public int? Dimensions { get; private set; }
    public bool Base64 { get; private set; }

    public static CallRequest Parse(ReadOnlyMemory<byte> body)
    {
        var call = new CallRequest();
        try
        {
            using var document = JsonDocument.Parse(body);
            call.Read(document.RootElement);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException or FormatException)
        {
            call.Error = "could not parse the JSON body of the request";
        }
        return call;
    }

    private void Read(JsonElement root)
    {
        Model = Text(root, "model") ?? "";
        User = Text(root, "user");
        Stream = Flag(root, "stream");
        IncludeUsage = root.TryGetProperty("stream_options", out var options) && options.ValueKind == JsonValueKind.Object && Flag(options, "include_usage");
        Choices = Math.Clamp(Number(root, "n") ?? 1, 1, 16);
        MaxTokens = Number(root, "max_completion_tokens") ?? Number(root, "max_tokens");
        Dimensions = Number(root, "dimensions");
        Base64 = Text(root, "encoding_format") == "base64";
        if (root.TryGetProperty("tools", out var tools) && tools.ValueKind == JsonValueKind.Array && tools.GetArrayLength() > 0
            && tools[0].TryGetProperty("function", out var function))
        {
            ToolName = Text(function, "name");
        }
        if (root.TryGetProperty("messages", out var messages) && messages.ValueKind == JsonValueKind.Array)
        {
            ReadMessages(messages);
        }
        if (root.TryGetProperty("prompt", out var prompt))
        {
            PromptHash = Fnv.Value(PromptHash, prompt);
            PromptTokens += CountTokens(prompt);
        }
        if (root.TryGetProperty("input", out var input))
        {
            EmbeddingInputs = input.ValueKind == JsonValueKind.Array
                ? [.. input.EnumerateArray().Select(item => item.ToString())]
                : [input.ToString()];
            PromptTokens += CountTokens(input);
        }
    }

    private void ReadMessages(JsonElement messages)
    {
        var last = messages.GetArrayLength() - 1;
        for (var i = 0; i <= last; i++)
        {
            var message = messages[i];
            var role = Text(message, "role") ?? "";
            var content = message.TryGetProperty("content", out var value) ? value : default;
            PromptTokens += 4 + CountTokens(content);
            if (i == last && i > 0 && role == "assistant" && content.ValueKind == JsonValueKind.String)
            {
                Prefill = content.GetString();
                PrefillIsMarked = Flag(message, "prefix");
                continue;
            }
            PromptHash = Fnv.Text(PromptHash, role);
            PromptHash = Fnv.Value(PromptHash, content);
        }
    }

    /// <summary>Four bytes of UTF-8 make a token, rounded up: no tokenizer, but the same on every instance.</summary>
    internal static int CountTokens(JsonElement content) => content.ValueKind switch
    {
        JsonValueKind.Undefined or JsonValueKind.Null => 0,
        JsonValueKind.String => (Encoding.UTF8.GetByteCount(content.GetString()!) + 3) / 4,
        JsonValueKind.Array => content.EnumerateArray().Sum(CountTokens),
        JsonValueKind.Object => content.TryGetProperty("text", out var text) ? CountTokens(text) : 1,
        _ => 1,
    };

    private static string? Text(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

    private static bool Flag(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.True;

    private static int? Number(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var number) ? number : null;

    /// <summary>FNV-1a over JSON *values*: how a gateway escapes or spaces the same text makes no difference.</summary>
    private static class Fnv
    {
        public const ulong Start = 14695981039346656037;
        private const ulong Prime = 1099511628211;

        public static ulong Text(ulong hash, string text)
        {
            foreach (var c in text)
            {
                hash = (hash ^ c) * Prime;
            }
            return (hash ^ 0xFFFF) * Prime;
        }

        public static ulong Value(ulong hash, JsonElement value)
        {
            switch (value.ValueKind)
            {
                case JsonValueKind.String:
                    return Text(hash, value.GetString()!);
                case JsonValueKind.Array:
                    return value.EnumerateArray().Aggregate(hash, Value);
                case JsonValueKind.Object:
                    return value.EnumerateObject().Aggregate(hash, (h, property) => Value(Text(h, property.Name), property.Value));
                case JsonValueKind.Undefined or JsonValueKind.Null:
                    return Text(hash, "");
                default:
                    return Text(hash, value.GetRawText());
            }
        }
    }
}
