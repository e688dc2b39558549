using System.Runtime.InteropServices;
using System.Text;

namespace Evenkeel.Provider;

/// <summary>The JSON of answers and chunks, in the shape OpenAI and DeepSeek give them.</summary>
internal static class Payloads
{
    /// <summary>A whole chat completion or text completion.</summary>
    public static string Json(Call call, Words words)
    {
        using var json = new ByteBuffer(4096);
        Opening(json, call, chunk: false, 0);
        for (var choice = 0; choice < words.Choices; choice++)
        {
            json.AppendText(choice == 0 ? "{\"index\":" : ",{\"index\":");
            json.AppendNumber(choice);
            json.AppendText(call.Kind == CallKind.Chat ? ",\"message\":" : ",\"text\":\"");
            if (call.Kind == CallKind.Chat)
            {
                Message(json, call, words, choice);
            }
            else
            {
                AppendContent(json, call, words, choice);
                json.Append("\""u8);
            }
            json.Append(",\"logprobs\":null,\"finish_reason\":"u8);
            AppendFinishReason(json, call, words);
            json.Append("}"u8);
        }
        json.Append("]"u8);
        if (call.Plan.Usage != UsageMode.Off)
        {
            json.Append(","u8);
            Usage(json, call, words.Total, words.Reasoning * words.Choices);
        }
        json.Append("}"u8);
        return Encoding.UTF8.GetString(json.Span);
    }

    /// <summary>Everything of an answer or chunk up to and with <c>"choices":[</c>.</summary>
    public static void Opening(ByteBuffer json, Call call, bool chunk, int chunkNumber)
    {
        json.Append(call.Kind == CallKind.Chat ? "{\"id\":\"chatcmpl-"u8 : "{\"id\":\"cmpl-"u8);
        json.AppendText(call.Entry.Instance);
        json.Append("-"u8);
        json.AppendNumber(call.Entry.Sequence);
        if (call.Plan.UnstableId)
        {
            json.Append("-"u8);
            json.AppendNumber(chunkNumber);
        }
        json.Append(call.Kind == CallKind.Completion ? "\",\"object\":\"text_completion\",\"created\":"u8
            : chunk ? "\",\"object\":\"chat.completion.chunk\",\"created\":"u8 : "\",\"object\":\"chat.completion\",\"created\":"u8);
        json.AppendNumber(call.Entry.At.ToUnixTimeSeconds());
        json.Append(",\"model\":\""u8);
        json.AppendJsonText(call.Model);
        json.Append("\",\"system_fingerprint\":\"fp_sim\",\"choices\":["u8);
    }

    public static void Usage(ByteBuffer json, Call call, int completionTokens, int reasoningTokens)
    {
        var prompt = call.Request.PromptTokens;
        var cached = call.CachedTokens;
        json.Append("\"usage\":{\"prompt_tokens\":"u8);
        json.AppendNumber(prompt);
        json.Append(",\"completion_tokens\":"u8);
        json.AppendNumber(completionTokens);
        json.Append(",\"total_tokens\":"u8);
        json.AppendNumber(prompt + completionTokens);
        json.Append(",\"prompt_tokens_details\":{\"cached_tokens\":"u8);
        json.AppendNumber(cached);
        json.Append("},\"prompt_cache_hit_tokens\":"u8);
        json.AppendNumber(cached);
        json.Append(",\"prompt_cache_miss_tokens\":"u8);
        json.AppendNumber(prompt - cached);
        if (reasoningTokens > 0)
        {
            json.Append(",\"completion_tokens_details\":{\"reasoning_tokens\":"u8);
            json.AppendNumber(reasoningTokens);
            json.Append("}"u8);
        }
        json.Append("}"u8);
    }

    public static void AppendFinishReason(ByteBuffer json, Call call, Words words)
    {
        if (call.Plan.NoFinishReason)
        {
            json.Append("null"u8);
            return;
        }
        json.Append("\""u8);
        json.AppendJsonText(call.Plan.FinishReason ?? (words.ToolPieces is not null ? "tool_calls" : words.Shortened ? "length" : "stop"));
        json.Append("\""u8);
    }

    public static string ToolCallId(Call call, int toolCall) => $"call_{call.Entry.Sequence}_{toolCall}";

    public static string ToolName(Call call) => call.Plan.ToolName ?? call.Request.ToolName ?? "get_weather";

    /// <summary>Unit vectors that depend on the input alone.</summary>
    public static string Embeddings(Call call)
    {
        using var json = new ByteBuffer(4096);
        json.Append("{\"object\":\"list\",\"data\":["u8);
        var dimensions = Math.Clamp(call.Request.Dimensions ?? call.Settings.EmbeddingDimensions, 1, 8192);
        for (var i = 0; i < call.Request.EmbeddingInputs.Length; i++)
        {
            var vector = Vector(call.Request.EmbeddingInputs[i], dimensions, call.Settings.TextSeed);
            json.Append(i == 0 ? "{\"object\":\"embedding\",\"index\":"u8 : ",{\"object\":\"embedding\",\"index\":"u8);
            json.AppendNumber(i);
            json.AppendText(",\"embedding\":" + (call.Request.Base64
                ? "\"" + Convert.ToBase64String(MemoryMarshal.AsBytes(vector.AsSpan())) + "\"}"
                : "[" + string.Join(',', vector.Select(x => x.ToString("R"))) + "]}"));
        }
        json.Append("],\"model\":\""u8);
        json.AppendJsonText(call.Model);
        json.AppendText($"\",\"usage\":{{\"prompt_tokens\":{call.Request.PromptTokens},\"total_tokens\":{call.Request.PromptTokens}}}}}");
        return Encoding.UTF8.GetString(json.Span);
    }

    private static float[] Vector(string input, int dimensions, int textSeed)
    {
        var seed = input.Aggregate(Answer.Seed(0, textSeed), (hash, c) => Answer.Mix(hash ^ c));
        var vector = Enumerable.Range(0, dimensions).Select(i => (float)(Answer.Mix(seed + (ulong)i) / (double)ulong.MaxValue * 2 - 1)).ToArray();
        var norm = MathF.Sqrt(vector.Sum(x => x * x));
        return [.. vector.Select(x => x / norm)];
    }

    private static void Message(ByteBuffer json, Call call, Words words, int choice)
    {
        json.Append("{\"role\":\"assistant\",\"content\":"u8);
        if (words.ToolPieces is not null || call.Plan.NullContent)
        {
            json.Append("null"u8);
        }
        else
        {
            json.Append("\""u8);
            AppendContent(json, call, words, choice);
            json.Append("\""u8);
        }
        if (words.Reasoning > 0)
        {
            json.Append(",\"reasoning_content\":\""u8);
            for (var position = 0; position < words.Reasoning; position++)
            {
                words.AppendJson(json, choice, position);
            }
            json.Append("\""u8);
        }
        if (words.ToolPieces is not null)
        {
            json.Append(",\"tool_calls\":["u8);
            for (var i = 0; i < call.Plan.ToolCalls; i++)
            {
                json.AppendText((i == 0 ? "" : ",") + $"{{\"id\":\"{ToolCallId(call, i)}\",\"type\":\"function\",\"function\":{{\"name\":\"");
                json.AppendJsonText(ToolName(call));
                json.Append("\",\"arguments\":\""u8);
                json.AppendJsonText(call.Plan.ToolArguments);
                json.Append("\"}}"u8);
            }
            json.Append("]"u8);
        }
        json.Append("}"u8);
    }

    private static void AppendContent(ByteBuffer json, Call call, Words words, int choice)
    {
        for (var position = words.Reasoning; position < words.PerChoice; position++)
        {
            if (call.Plan.BigEventBytes > 0 && !call.Plan.BigEventIsPadding && position == call.Plan.BigEventAt)
            {
                json.AppendText(StreamAnswer.Filler(call.Plan.BigEventBytes));
            }
            words.AppendJson(json, choice, position);
        }
    }
}
