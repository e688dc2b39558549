using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Evenkeel.Config;

public enum ConfigFormat { Yaml, Json }

/// <summary>
/// Text → a tree of plain nodes with line numbers: the same tree for YAML and JSON. Bounded before it is built: size,
/// depth, number of values, aliases counted as often as they are used, and the length of every list and map, so that no
/// text can grow in memory. Duplicate keys are faults, not overwrites.
/// </summary>
internal abstract record ConfigNode(int Line)
{
    /// <summary>Values below and including this one, aliases counted at each use.</summary>
    public virtual long Size => 1;
}

internal enum ScalarKind { Null, Boolean, Number, Text }

internal sealed record ScalarNode(int Line, ScalarKind Kind, string Text) : ConfigNode(Line);

internal sealed record ListNode(int Line, ConfigNode[] Items) : ConfigNode(Line)
{
    public override long Size { get; } = 1 + Items.Sum(i => i.Size);
}

internal sealed record MapNode(int Line, (string Key, int Line, ConfigNode Value)[] Entries) : ConfigNode(Line)
{
    public override long Size { get; } = 1 + Entries.Sum(e => e.Value.Size);
}

internal static class ConfigTree
{
    public const int MaxBytes = 24 * 1024 * 1024;
    public const int MaxDepth = 24;
    public const int MaxValues = 2_000_000;

    /// <summary>Of a map; far more than any has.</summary>
    public const int MaxKeys = 1_000;

    /// <summary>Of a list that is not one of the document's own; as many as any holds.</summary>
    public const int MaxItems = ConfigValidator.MostInstances;

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
                case ListNode list when step[0] == '[' && int.TryParse(step.AsSpan(1).TrimEnd(']'), out var i) && i < list.Items.Length:
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

    /// <summary>The text as it is; a NUL in it is a fault, for PostgreSQL keeps none.</summary>
    private static string NotNul(string text, Place at, FaultList faults, int line)
    {
        if (text.Contains('\0'))
        {
            faults.Add(at.ToString(), "has a NUL character", line);
        }

        return text;
    }

    /// <summary>Where a reader is. Most of a text is without a fault, so it is written out only for one.</summary>
    private sealed class Place
    {
        private readonly List<(string? Key, int Index)> _steps = [];

        public void Enter(string key) => _steps.Add((key, 0));

        public void Enter(int index) => _steps.Add((null, index));

        public void Leave() => _steps.RemoveAt(_steps.Count - 1);

        /// <summary>Refuses a list that grows longer than what is here may have; a list of the document's own has a bound of its own.</summary>
        public void RefuseBeyond(int count, int line)
        {
            var most = _steps is [{ Key: { } name }] ? ConfigValidator.MostOf(name) ?? MaxItems : MaxItems;
            if (count > most)
            {
                throw new TreeException(ToString(), $"more than {most} entries", line);
            }
        }

        public override string ToString() =>
            _steps.Aggregate("", (path, step) => step.Key is { } key ? Below(path, key) : $"{path}[{step.Index}]");
    }

    /// <summary>The entries of a map while it is read. Keys are the same few words again and again: each is kept once.</summary>
    private sealed class Entries(Dictionary<string, string> words, Place at, FaultList faults)
    {
        private const int MaxWords = 1_000;
        private const int Few = 16;      // up to so many are compared with each other

        private readonly List<(string Key, int Line, ConfigNode Value)> _entries = [];
        private HashSet<string>? _seen;
        private long _size = 1;

        /// <summary>Goes below the key, which is a fault when it is there already.</summary>
        /// <returns>The key.</returns>
        public string Enter(string key, int line)
        {
            if (_entries.Count == MaxKeys)
            {
                throw new TreeException(at.ToString(), $"more than {MaxKeys} keys", line);
            }

            if (words.TryGetValue(key, out var known))
            {
                key = known;
            }
            else if (words.Count < MaxWords)
            {
                words.Add(key, key);
            }

            if (_seen is null && _entries.Count == Few)
            {
                _seen = [.. _entries.Select(e => e.Key)];
            }

            at.Enter(key);
            if (_seen is null ? _entries.Exists(e => e.Key == key) : !_seen.Add(key))
            {
                faults.Add(at.ToString(), "the key is there twice", line);
            }

            return NotNul(key, at, faults, line);
        }

        public void Add(string key, int line, ConfigNode value)
        {
            at.Leave();
            _size = Bounded(_size, value);
            _entries.Add((key, line, value));
        }

        public (string, int, ConfigNode)[] ToArray() => [.. _entries];
    }

    internal static string Below(string path, string key) => path.Length == 0 ? Units.Shown(key) : path + "." + Units.Shown(key);

    private sealed class YamlTree
    {
        private readonly Parser _parser;
        private readonly Dictionary<AnchorName, ConfigNode> _anchors = [];
        private readonly Dictionary<string, string> _words = [];
        private readonly Place _at = new();
        private readonly FaultList _faults;
        private int _depth;

        public YamlTree(ReadOnlyMemory<byte> utf8, FaultList faults)
        {
            while (utf8.Span.StartsWith(Encoding.UTF8.Preamble))
            {
                utf8 = utf8[Encoding.UTF8.Preamble.Length..];
            }

            var bytes = MemoryMarshal.TryGetArray(utf8, out var array) ? array : utf8.ToArray();
            _parser = new Parser(new StreamReader(
                new MemoryStream(bytes.Array!, bytes.Offset, bytes.Count), new UTF8Encoding(false, throwOnInvalidBytes: true), detectEncodingFromByteOrderMarks: false));
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
            var root = Node();
            _parser.Consume<DocumentEnd>();
            return _parser.Accept<StreamEnd>(out var end)
                ? root
                : throw new TreeException("", "more than one YAML document", (int)(_parser.Current?.Start.Line ?? end?.Start.Line ?? 1));
        }

        private ConfigNode Node()
        {
            if (_parser.TryConsume<AnchorAlias>(out var alias))
            {
                return _anchors.TryGetValue(alias.Value, out var known)
                    ? known
                    : throw new TreeException(_at.ToString(), "this alias has no anchor before it", (int)alias.Start.Line);
            }

            if (++_depth > MaxDepth)
            {
                throw new TreeException("", $"nested deeper than {MaxDepth} levels", (int)_parser.Current!.Start.Line);
            }

            var anchor = (_parser.Current as NodeEvent)?.Anchor ?? AnchorName.Empty;
            ConfigNode node = _parser.Current switch
            {
                MappingStart => Map(),
                SequenceStart => List(),
                _ => Scalar(_parser.Consume<Scalar>()),
            };
            _depth--;
            if (!anchor.IsEmpty)
            {
                _anchors[anchor] = node;
            }

            return node;
        }

        private MapNode Map()
        {
            var start = _parser.Consume<MappingStart>();
            RefuseTag(start);
            var entries = new Entries(_words, _at, _faults);
            while (!_parser.TryConsume<MappingEnd>(out _))
            {
                if (!_parser.TryConsume<Scalar>(out var written))
                {
                    throw new TreeException(_at.ToString(), "a key must be a plain word", (int)_parser.Current!.Start.Line);
                }

                var line = (int)written.Start.Line;
                var key = entries.Enter(written.Value, line);
                entries.Add(key, line, Node());
            }

            return new MapNode((int)start.Start.Line, entries.ToArray());
        }

        private ListNode List()
        {
            var start = _parser.Consume<SequenceStart>();
            RefuseTag(start);
            var items = new List<ConfigNode>();
            var size = 1L;
            while (!_parser.TryConsume<SequenceEnd>(out _))
            {
                _at.RefuseBeyond(items.Count + 1, (int)_parser.Current!.Start.Line);
                _at.Enter(items.Count);
                var item = Node();
                _at.Leave();
                size = Bounded(size, item);
                items.Add(item);
            }

            return new ListNode((int)start.Start.Line, [.. items]);
        }

        private ScalarNode Scalar(Scalar scalar)
        {
            RefuseTag(scalar);
            var kind = scalar.Style == ScalarStyle.Plain ? PlainKind(scalar.Value) : ScalarKind.Text;
            return new ScalarNode((int)scalar.Start.Line, kind, NotNul(scalar.Value, _at, _faults, (int)scalar.Start.Line));
        }

        private void RefuseTag(NodeEvent node)
        {
            if (!node.Tag.IsEmpty && !(node is Scalar { Style: not ScalarStyle.Plain } && node.Tag.IsNonSpecific))
            {
                throw new TreeException(_at.ToString(), "YAML tags are not used here", (int)node.Start.Line);
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
        private readonly Dictionary<string, string> _words = [];
        private readonly Place _at = new();
        private int _counted;
        private int _line = 1;

        public ConfigNode Root()
        {
            var reader = new Utf8JsonReader(utf8.Span, new JsonReaderOptions { MaxDepth = 64 });
            reader.Read();
            var root = Node(ref reader, 1);
            reader.Read();
            return root;
        }

        private ConfigNode Node(ref Utf8JsonReader reader, int depth)
        {
            var line = Line(ref reader);
            if (depth > MaxDepth)
            {
                throw new TreeException("", $"nested deeper than {MaxDepth} levels", line);
            }

            switch (reader.TokenType)
            {
                case JsonTokenType.StartObject:
                    var entries = new Entries(_words, _at, faults);
                    while (reader.Read() && reader.TokenType != JsonTokenType.EndObject)
                    {
                        var keyLine = Line(ref reader);
                        var key = entries.Enter(Text(ref reader, keyLine), keyLine);
                        reader.Read();
                        entries.Add(key, keyLine, Node(ref reader, depth + 1));
                    }

                    return new MapNode(line, entries.ToArray());

                case JsonTokenType.StartArray:
                    var items = new List<ConfigNode>();
                    var size = 1L;
                    while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
                    {
                        _at.RefuseBeyond(items.Count + 1, Line(ref reader));
                        _at.Enter(items.Count);
                        var item = Node(ref reader, depth + 1);
                        _at.Leave();
                        size = Bounded(size, item);
                        items.Add(item);
                    }

                    return new ListNode(line, [.. items]);

                case JsonTokenType.String:
                    return new ScalarNode(line, ScalarKind.Text, NotNul(Text(ref reader, line), _at, faults, line));
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

        private string Text(ref Utf8JsonReader reader, int line)
        {
            try
            {
                return reader.GetString()!;
            }
            catch (InvalidOperationException)
            {
                throw new TreeException(_at.ToString(), "a string that is not Unicode text", line);
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
