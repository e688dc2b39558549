using System.Globalization;
using System.Text;
using System.Text.Json;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Evenkeel.Config;

public enum ConfigFormat { Yaml, Json }

/// <summary>
/// Text → a tree of plain nodes with line numbers: the same tree for YAML and JSON. Bounded before it is built: size,
/// depth and number of values, aliases counted as often as they are used, so that no text can grow in memory.
/// Duplicate keys are faults, not overwrites.
/// </summary>
internal abstract record ConfigNode(int Line)
{
    /// <summary>Values below and including this one, aliases counted at each use.</summary>
    public virtual long Size => 1;
}

internal enum ScalarKind { Null, Boolean, Number, Text }

internal sealed record ScalarNode(int Line, ScalarKind Kind, string Text) : ConfigNode(Line);

internal sealed record ListNode(int Line, IReadOnlyList<ConfigNode> Items) : ConfigNode(Line)
{
    public override long Size { get; } = 1 + Items.Sum(i => i.Size);
}

internal sealed record MapNode(int Line, IReadOnlyList<(string Key, int Line, ConfigNode Value)> Entries) : ConfigNode(Line)
{
    public override long Size { get; } = 1 + Entries.Sum(e => e.Value.Size);
}

internal static class ConfigTree
{
    public const int MaxBytes = 24 * 1024 * 1024;
    public const int MaxDepth = 24;
    public const int MaxValues = 2_000_000;

    /// <returns>The root, or null (and at least one more fault) when the text has no tree.</returns>
    public static ConfigNode? Parse(ReadOnlyMemory<byte> utf8, ConfigFormat format, FaultList faults)
    {
        if (utf8.Length > MaxBytes)
        {
            faults.Add("", $"larger than {MaxBytes / (1024 * 1024)} MiB");
            return null;
        }

        try
        {
            return format == ConfigFormat.Json ? new JsonTree(utf8, faults).Root() : new YamlTree(utf8, faults).Root();
        }
        catch (TreeException e)
        {
            faults.Add(e.Path, e.Message, e.Line);
        }
        catch (YamlException e)
        {
            faults.Add("", "not YAML: " + Units.Shown(Detail(e)), (int)e.Start.Line);
        }
        catch (JsonException e)
        {
            faults.Add("", $"not JSON, at character {e.BytePositionInLine + 1} of the line", (int?)e.LineNumber + 1);
        }
        catch (DecoderFallbackException)
        {
            faults.Add("", "not UTF-8 text");
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException or IndexOutOfRangeException)
        {
            // The YAML scanner gives up on some texts with these instead of an exception of its own.
            faults.Add("", "not YAML");
        }

        return null;
    }

    /// <summary>The line where a path of known keys begins; of its nearest parent where it is not written.</summary>
    public static int LineOf(ConfigNode root, string path)
    {
        var node = root;
        var line = root.Line;
        foreach (var step in path.Replace("[", ".[").Split('.', StringSplitOptions.RemoveEmptyEntries))
        {
            switch (node)
            {
                case ListNode list when step[0] == '[' && int.TryParse(step.AsSpan(1).TrimEnd(']'), out var i) && i < list.Items.Count:
                    node = list.Items[i];
                    line = node.Line;
                    break;
                case MapNode map when map.Entries.FirstOrDefault(e => e.Key == step) is { Value: not null } entry:
                    node = entry.Value;
                    line = entry.Line;
                    break;
                default:
                    return line;
            }
        }

        return line;
    }

    private static string Detail(YamlException e)
    {
        // "(Line: 3, Col: 1, Idx: 20) - (Line: …): While parsing …": the position has a place of its own in a fault.
        var end = e.Message.LastIndexOf("): ", StringComparison.Ordinal);
        return end < 0 ? e.Message : e.Message[(end + 3)..];
    }

    private sealed class TreeException(string path, string message, int line) : Exception(message)
    {
        public string Path => path;
        public int Line => line;
    }

    /// <summary>Size of what is being built, checked at every child so that nothing grows past the bound first.</summary>
    private static long Bounded(long size, ConfigNode child) =>
        size + child.Size <= MaxValues
            ? size + child.Size
            : throw new TreeException("", $"more than {MaxValues} values, aliases counted at each use", child.Line);

    internal static string Below(string path, string key) => path.Length == 0 ? Units.Shown(key) : path + "." + Units.Shown(key);

    private sealed class YamlTree
    {
        private readonly Parser _parser;
        private readonly Dictionary<AnchorName, ConfigNode> _anchors = [];
        private readonly FaultList _faults;
        private int _depth;

        public YamlTree(ReadOnlyMemory<byte> utf8, FaultList faults)
        {
            var text = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(utf8.Span).TrimStart('\uFEFF');
            _parser = new Parser(new StringReader(text));
            _faults = faults;
        }

        public ConfigNode Root()
        {
            _parser.Consume<StreamStart>();
            if (_parser.Accept<StreamEnd>(out _))
            {
                return new ScalarNode(1, ScalarKind.Null, "");
            }

            _parser.Consume<DocumentStart>();
            var root = Node("");
            _parser.Consume<DocumentEnd>();
            return _parser.Accept<StreamEnd>(out var end)
                ? root
                : throw new TreeException("", "more than one YAML document", (int)(_parser.Current?.Start.Line ?? end?.Start.Line ?? 1));
        }

        private ConfigNode Node(string path)
        {
            if (_parser.TryConsume<AnchorAlias>(out var alias))
            {
                return _anchors.TryGetValue(alias.Value, out var known)
                    ? known
                    : throw new TreeException(path, "this alias has no anchor before it", (int)alias.Start.Line);
            }

            if (++_depth > MaxDepth)
            {
                throw new TreeException("", $"nested deeper than {MaxDepth} levels", (int)_parser.Current!.Start.Line);
            }

            var anchor = (_parser.Current as NodeEvent)?.Anchor ?? AnchorName.Empty;
            ConfigNode node = _parser.Current switch
            {
                MappingStart => Map(path),
                SequenceStart => List(path),
                _ => Scalar(_parser.Consume<Scalar>(), path),
            };
            _depth--;
            if (!anchor.IsEmpty)
            {
                _anchors[anchor] = node;
            }

            return node;
        }

        private MapNode Map(string path)
        {
            var start = _parser.Consume<MappingStart>();
            RefuseTag(start, path);
            var entries = new List<(string, int, ConfigNode)>();
            var seen = new HashSet<string>();
            var size = 1L;
            while (!_parser.TryConsume<MappingEnd>(out _))
            {
                if (!_parser.TryConsume<Scalar>(out var key))
                {
                    throw new TreeException(path, "a key must be a plain word", (int)_parser.Current!.Start.Line);
                }

                var line = (int)key.Start.Line;
                if (!seen.Add(key.Value))
                {
                    _faults.Add(Below(path, key.Value), "the key is there twice", line);
                }

                var value = Node(Below(path, key.Value));
                size = Bounded(size, value);
                entries.Add((key.Value, line, value));
            }

            return new MapNode((int)start.Start.Line, entries);
        }

        private ListNode List(string path)
        {
            var start = _parser.Consume<SequenceStart>();
            RefuseTag(start, path);
            var items = new List<ConfigNode>();
            var size = 1L;
            while (!_parser.TryConsume<SequenceEnd>(out _))
            {
                var item = Node($"{path}[{items.Count}]");
                size = Bounded(size, item);
                items.Add(item);
            }

            return new ListNode((int)start.Start.Line, items);
        }

        private static ScalarNode Scalar(Scalar scalar, string path)
        {
            RefuseTag(scalar, path);
            var kind = scalar.Style == ScalarStyle.Plain ? PlainKind(scalar.Value) : ScalarKind.Text;
            return new ScalarNode((int)scalar.Start.Line, kind, scalar.Value);
        }

        private static void RefuseTag(NodeEvent node, string path)
        {
            if (!node.Tag.IsEmpty && !(node is Scalar { Style: not ScalarStyle.Plain } && node.Tag.IsNonSpecific))
            {
                throw new TreeException(path, "YAML tags are not used here", (int)node.Start.Line);
            }
        }

        /// <summary>The types of YAML 1.2's core schema, decimal numbers only ("no" and "1_000" are text).</summary>
        private static ScalarKind PlainKind(string text) => text switch
        {
            "" or "~" or "null" or "Null" or "NULL" => ScalarKind.Null,
            "true" or "True" or "TRUE" or "false" or "False" or "FALSE" => ScalarKind.Boolean,
            _ when IsNumber(text) => ScalarKind.Number,
            _ => ScalarKind.Text,
        };

        private static bool IsNumber(string text) =>
            !text.AsSpan().ContainsAnyExcept("0123456789.eE+-")
            && double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out _);
    }

    private sealed class JsonTree(ReadOnlyMemory<byte> utf8, FaultList faults)
    {
        private int _counted;
        private int _line = 1;

        public ConfigNode Root()
        {
            var reader = new Utf8JsonReader(utf8.Span, new JsonReaderOptions { MaxDepth = 64 });
            reader.Read();
            var root = Node(ref reader, "", 1);
            reader.Read();
            return root;
        }

        private ConfigNode Node(ref Utf8JsonReader reader, string path, int depth)
        {
            var line = Line(ref reader);
            var size = 1L;
            if (depth > MaxDepth)
            {
                throw new TreeException("", $"nested deeper than {MaxDepth} levels", line);
            }

            switch (reader.TokenType)
            {
                case JsonTokenType.StartObject:
                    var entries = new List<(string, int, ConfigNode)>();
                    var seen = new HashSet<string>();
                    while (reader.Read() && reader.TokenType != JsonTokenType.EndObject)
                    {
                        var keyLine = Line(ref reader);
                        var key = Text(ref reader, path, keyLine);
                        if (!seen.Add(key))
                        {
                            faults.Add(Below(path, key), "the key is there twice", keyLine);
                        }

                        reader.Read();
                        var value = Node(ref reader, Below(path, key), depth + 1);
                        size = Bounded(size, value);
                        entries.Add((key, keyLine, value));
                    }

                    return new MapNode(line, entries);

                case JsonTokenType.StartArray:
                    var items = new List<ConfigNode>();
                    while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
                    {
                        var item = Node(ref reader, $"{path}[{items.Count}]", depth + 1);
                        size = Bounded(size, item);
                        items.Add(item);
                    }

                    return new ListNode(line, items);

                case JsonTokenType.String:
                    return new ScalarNode(line, ScalarKind.Text, Text(ref reader, path, line));
                case JsonTokenType.Number:
                    return new ScalarNode(line, ScalarKind.Number, Encoding.ASCII.GetString(reader.ValueSpan));
                case JsonTokenType.True:
                    return new ScalarNode(line, ScalarKind.Boolean, "true");
                case JsonTokenType.False:
                    return new ScalarNode(line, ScalarKind.Boolean, "false");
                default:
                    return new ScalarNode(line, ScalarKind.Null, "");
            }
        }

        private static string Text(ref Utf8JsonReader reader, string path, int line)
        {
            try
            {
                return reader.GetString()!;
            }
            catch (InvalidOperationException)
            {
                throw new TreeException(path, "a string that is not Unicode text", line);
            }
        }

        private int Line(ref Utf8JsonReader reader)
        {
            var start = (int)reader.TokenStartIndex;
            _line += utf8.Span[_counted..start].Count((byte)'\n');
            _counted = start;
            return _line;
        }
    }
}
