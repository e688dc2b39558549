using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.Config;
using FsCheck;
using FsCheck.Fluent;

namespace Evenkeel.Tests.Hostile;

/// <summary>Values that somebody would send to break things, and configurations with such values in them. The same seed gives the same.</summary>
internal static class Hostile
{
    private static readonly string[] s_pieces =
    [
        "", " ", "a", "A", "0", "-1", "1e999", "null", "true", "~", "/", "//", "..", "../../etc/passwd", "%2e%2e%2f", "\\", "'", "\"", "`", ";", "{", "}", "{{", "}}", "{{{x}}}",
        "{{textDigest}}", "$", "$host", "${x}", "#", "\n", "\r\n", "\t", "\0", "\u0001", "\u007f", "\u2028", "\ufeff", "\ufffd", "é", "ключ", "\ud83d\ude00", "'; drop table instance; --",
        "' or 1=1 --", "a\"; } server { listen 1.2.3.4:5; } #", "*", "&a", "*a", "!!python/object", "<<", "- ", "? ", ": ", "[", "]", ",", "|", ">", "@", "%", "env:PATH", "file:/etc/passwd",
        "secret:00000000000000000000", "10s", "0ms", "99999999999d", "50%", "1000%", "9223372036854775808", "127.0.0.1:80", "[::1]:80", "0x7f.1", "1a:80", "012.0.0.1:80", "localhost:1",
        "http://169.254.169.254/", "http://[::ffff:a9fe:a9fe]/", "https://a/v1", "http://a:0/", "javascript:alert(1)", "<script>alert(1)</script>", "x-evil: 1", "__proto__", "constructor",
    ];

    private static readonly Gen<string> s_wild = Gen.ArrayOf(Gen.Choose(0, 0x2fff)).Select(codes => new string([.. codes.Select(c => (char)c)]));

    private static readonly Gen<string> s_long = Gen.Elements(49, 129, 513, 4_097, 20_000).SelectMany(n => Gen.Elements('a', '0', '.', '{', '\u00e9').Select(c => new string(c, n)));

    public static readonly Gen<string> Text = Gen.Frequency(
        (12, Gen.Elements(s_pieces)),
        (4, Gen.Two(Gen.Elements(s_pieces)).Select(t => t.Item1 + t.Item2)),
        (3, s_wild),
        (1, s_long));

    /// <summary>Any JSON value, small.</summary>
    public static readonly Gen<JsonNode?> Value = Gen.Frequency(
        (10, Text.Select(t => (JsonNode?)JsonValue.Create(t))),
        (2, Gen.Choose(-2, 2_000_000_000).Select(n => (JsonNode?)JsonValue.Create(n))),
        (1, Gen.Elements(0.5, -1e300, 1e300, 1e-9).Select(n => (JsonNode?)JsonValue.Create(n))),
        (1, Gen.Elements(true, false).Select(b => (JsonNode?)JsonValue.Create(b))),
        (1, Gen.Constant((JsonNode?)null)),
        (1, Text.Select(t => (JsonNode?)new JsonArray(t, 1, null))),
        (1, Text.Select(t => (JsonNode?)new JsonObject { [t] = 1 })));

    /// <summary>The same ones at every run, whatever else runs.</summary>
    public static IEnumerable<T> Sample<T>(Gen<T> gen, int count, ulong seed) => gen.Sample(count, new Rnd(seed), 30);

    /// <summary>A good configuration in which one to three values, somewhere, are hostile ones.</summary>
    public static Gen<JsonNode> Document(string yaml)
    {
        var good = ConfigWriter.Canonical(ConfigReader.Read(yaml, ConfigFormat.Yaml).Document);
        var places = Places(JsonNode.Parse(good)!).Count();
        return Gen.ArrayOf(Gen.Zip(Gen.Choose(0, places - 1), Value), 3).SelectMany(changes => Gen.Elements(1, 1, 1, 2, 3).Select(n =>
        {
            var document = JsonNode.Parse(good)!;
            foreach (var (place, value) in changes.Take(n))
            {
                if (Places(document).Skip(place).FirstOrDefault() is { } put)
                {
                    put(value?.DeepClone());
                }
            }

            return document;
        }));
    }

    /// <summary>A good text in which bytes, lines or whole stretches were moved, doubled, lost or made hostile.</summary>
    public static Gen<byte[]> Mutated(string text)
    {
        var bytes = Encoding.UTF8.GetBytes(text);
        var change = Gen.Zip(Gen.Zip(Gen.Choose(0, bytes.Length - 1), Gen.Choose(0, 40)), Gen.Zip(Gen.Choose(0, 3), Text));
        return Gen.ArrayOf(change, 4).SelectMany(changes => Gen.Choose(1, 4).Select(n =>
        {
            var mutant = bytes.ToList();
            foreach (var ((at, length), (how, hostile)) in changes.Take(n))
            {
                var from = Math.Min(at, mutant.Count);
                var part = mutant.GetRange(from, Math.Min(length, mutant.Count - from));
                switch (how)
                {
                    case 0: mutant.RemoveRange(from, part.Count); break;
                    case 1: mutant.InsertRange(from, part); break;
                    case 2: mutant.InsertRange(from, Encoding.UTF8.GetBytes(hostile)); break;
                    default: if (from < mutant.Count) { mutant[from] = (byte)(at * 31 + length); } break;
                }
            }

            return mutant.ToArray();
        }));
    }

    // Each gives a way to put another value there.
    private static IEnumerable<Action<JsonNode?>> Places(JsonNode node)
    {
        switch (node)
        {
            case JsonObject o:
                foreach (var (key, value) in o.ToList())
                {
                    yield return v => o[key] = v;
                    foreach (var place in value is null ? [] : Places(value))
                    {
                        yield return place;
                    }
                }

                break;
            case JsonArray a:
                for (var i = 0; i < a.Count; i++)
                {
                    var at = i;
                    yield return v => { if (at < a.Count) { a[at] = v; } };
                    foreach (var place in a[i] is { } item ? Places(item) : [])
                    {
                        yield return place;
                    }
                }

                break;
        }
    }
}
