using System.Text;
using System.Text.Json;

namespace Evenkeel.Provider;

/// <summary>
/// What a simulated model says. The text is a function of the conversation and of <c>text_seed</c> alone, so two
/// instances agree byte for byte. Every word carries its position ("amber0 naïve1 …"), so a doubled or missing
/// word is visible at a glance; some words are multi-byte or need escaping in JSON.
/// </summary>
public static class Answer
{
    private static readonly string[] Plain =
    [
        "amber", "anchor", "autumn", "basin", "beacon", "birch", "bridge", "canyon", "cedar", "cinder", "copper", "coral",
        "delta", "dune", "ember", "fable", "falcon", "fern", "fjord", "garnet", "glacier", "harbour", "hazel", "heron",
        "indigo", "island", "ivory", "jasper", "juniper", "keel", "lagoon", "lantern", "ledger", "linen", "maple", "marble",
        "meadow", "mirror", "nectar", "nimbus", "ocean", "olive", "onyx", "orchard", "pebble", "pine", "quartz", "quill",
        "raven", "reef", "river", "saffron", "signal", "slate", "summit", "tempo", "thistle", "timber", "tundra", "valley",
        "\"velvet\"", "back\\slash", "line\nbreak", "zephyr",
    ];

    private static readonly string[] MultiByte =
        ["naïve", "Zürich", "日本", "🙂", "кит", "λόγος", "smørrebrød", "café", "東京都", "👩‍🚀", "piñata", "façade", "한글", "€", "žluť", "𝄞clef"];

    private static readonly byte[][] PlainJson = [.. Plain.Select(word => ByteBuffer.Escape(word).ToArray())];
    private static readonly byte[][] MultiByteJson = [.. MultiByte.Select(EncodeMultiByte)];

    /// <summary>The whole text an instance gives for this request body (the assistant prefix, if any, is not counted as prompt).</summary>
    public static string Text(string requestJson, int tokens = 20, int textSeed = 0)
    {
        var seed = CallRequest.Parse(Encoding.UTF8.GetBytes(requestJson)).PromptHash;
        var wording = new Wording(Seed(seed, textSeed), null);
        return string.Concat(Enumerable.Range(0, tokens).Select(wording.Text));
    }

    /// <summary>The whole text for a single user message, the commonest request in tests.</summary>
    public static string TextForPrompt(string prompt, int tokens = 20, int textSeed = 0) =>
        Text(JsonSerializer.Serialize(new { messages = new[] { new { role = "user", content = prompt } } }), tokens, textSeed);

    internal static ulong Seed(ulong promptHash, int textSeed) => Mix(promptHash ^ ((ulong)(uint)textSeed << 32));

    /// <summary>Finaliser of SplitMix64 (Steele, Lea, Flood 2014).</summary>
    internal static ulong Mix(ulong x)
    {
        x += 0x9E3779B97F4A7C15;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
        return x ^ (x >> 31);
    }

    private static (string Text, byte[] Json) Word(ulong seed, int index)
    {
        var pick = Mix(seed + (ulong)index);
        // Every eighth word is multi-byte whatever the seed, so that even short answers hold some.
        return index % 8 == 3
            ? (MultiByte[pick % (ulong)MultiByte.Length], MultiByteJson[pick % (ulong)MultiByte.Length])
            : (Plain[pick % (ulong)Plain.Length], PlainJson[pick % (ulong)Plain.Length]);
    }

    /// <summary>One emoji goes out as \u escapes, as some providers write it; the rest as raw UTF-8.</summary>
    private static byte[] EncodeMultiByte(string word) =>
        word == "🙂" ? "\\ud83d\\ude42"u8.ToArray() : Encoding.UTF8.GetBytes(word);

    /// <summary>The words of one choice: by seed, or scripted.</summary>
    internal readonly record struct Wording(ulong Seed, string[]? Scripted)
    {
        public string Text(int index) =>
            Scripted is null ? (index == 0 ? "" : " ") + Word(Seed, index).Text + index : Scripted[index];

        public void AppendJson(ByteBuffer buffer, int index)
        {
            if (Scripted is not null)
            {
                buffer.AppendJsonText(Scripted[index]);
                return;
            }
            if (index > 0)
            {
                buffer.Append(" "u8);
            }
            buffer.Append(Word(Seed, index).Json);
            buffer.AppendNumber(index);
        }

        /// <summary>
        /// Where to go on after <paramref name="prefix"/>: the index of the next word and, when the prefix ends inside
        /// it, the rest of that word. A prefix of foreign words is continued by position.
        /// </summary>
        public (int Index, string? RestOfWord) Continue(string prefix, int tokens)
        {
            var position = 0;
            for (var index = 0; index < tokens; index++)
            {
                var left = prefix.AsSpan(position);
                if (left.IsEmpty)
                {
                    return (index, null);
                }
                var word = Text(index);
                if (left.StartsWith(word, StringComparison.Ordinal))
                {
                    position += word.Length;
                }
                else if (word.AsSpan().StartsWith(left, StringComparison.Ordinal))
                {
                    return (index, word[left.Length..]);
                }
                else
                {
                    return (Math.Min(prefix.Split(' ', StringSplitOptions.RemoveEmptyEntries).Length, tokens), null);
                }
            }
            return (tokens, null);
        }
    }
}
