using System.Globalization;

namespace Evenkeel.Config;

/// <summary>
/// One mapping of the tree, read key by key into typed values. What is wrong becomes a fault with its path and the
/// default takes its place, so that reading goes on and every fault is found at once. A key that nobody asked for by
/// the time of <see cref="RefuseUnknownKeys"/> is a fault too.
/// </summary>
internal sealed class ConfigMap
{
    private readonly Dictionary<string, ConfigNode> _values = [];
    private readonly HashSet<string> _asked = [];
    private readonly MapNode _node;
    private readonly FaultList _faults;

    private ConfigMap(MapNode node, string path, FaultList faults)
    {
        _node = node;
        Path = path;
        _faults = faults;
        foreach (var (key, _, value) in node.Entries)
        {
            _values[key] = value;
        }
    }

    public string Path { get; }

    public static ConfigMap Of(ConfigNode? node, string path, FaultList faults)
    {
        if (node is MapNode map)
        {
            return new ConfigMap(map, path, faults);
        }

        if (node is not null and not ScalarNode { Kind: ScalarKind.Null })
        {
            faults.Add(path, $"expected keys and values, found {Named(node)}", node.Line);
        }

        return new ConfigMap(new MapNode(node?.Line ?? 0, []), path, faults);
    }

    /// <summary>True when the key is written, also as null.</summary>
    public bool Has(string key) => _values.ContainsKey(key);

    public bool IsEmpty => _values.Count == 0;

    public string PathOf(string key) => ConfigTree.Below(Path, key);

    public ConfigMap Map(string key) => Of(Take(key), PathOf(key), _faults);

    public IEnumerable<ConfigMap> Maps(string key) => Items(key).Select(i => Of(i.Node, i.Path, _faults));

    public string? Text(string key)
    {
        var node = Take(key);
        return node is null ? null : AsText(node, PathOf(key));
    }

    public string RequiredText(string key)
    {
        if (Take(key) is { } node)
        {
            return AsText(node, PathOf(key)) ?? "";
        }

        Require(key);
        return "";
    }

    public void Require(string key)
    {
        if (Take(key) is null)
        {
            _faults.Add(PathOf(key), "is required", _node.Line);
        }
    }

    public IReadOnlyList<string> Texts(string key) =>
        [.. Items(key).Select(i => AsText(i.Node, i.Path) ?? "")];   // a faulty item keeps its place, so that later paths stay right

    public bool Boolean(string key, bool otherwise) => Boolean(key) ?? otherwise;

    public bool? Boolean(string key) => Read<bool>(key, "true or false", n =>
        n.Kind == ScalarKind.Boolean ? n.Text[0] is 't' or 'T' : null);

    public int Integer(string key, int otherwise) => Integer(key) ?? otherwise;

    public int? Integer(string key) => Read<int>(key, "a whole number", n =>
        n.Kind == ScalarKind.Number && int.TryParse(n.Text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var i) ? i : null);

    public double Number(string key, double otherwise) => (double?)Decimal(key) ?? otherwise;

    /// <summary>An exact decimal, without trailing zeros.</summary>
    public decimal? Decimal(string key) => Read<decimal>(key, "a number", n =>
        n.Kind == ScalarKind.Number && n.Text.Length <= 32 && decimal.TryParse(n.Text, NumberStyles.Float, CultureInfo.InvariantCulture, out var d)
            ? d / 1.0000000000000000000000000000m
            : null);

    /// <summary>Every key with its number; null when there is none.</summary>
    public IReadOnlyDictionary<string, decimal>? Decimals() =>
        IsEmpty ? null : _values.Keys.Order(StringComparer.Ordinal).ToDictionary(key => key, key => Decimal(key) ?? 0);

    public TimeSpan Duration(string key, TimeSpan otherwise) => Duration(key) ?? otherwise;

    public TimeSpan? Duration(string key)
    {
        var reason = "";
        return Read<TimeSpan>(key, "a duration as in 800ms, 10s or 5m", n =>
            n.Kind is ScalarKind.Text or ScalarKind.Number ? Units.ParseDuration(n.Text, out reason) : null, () => reason);
    }

    /// <summary>A moment in UTC, to the second.</summary>
    public DateTime? Instant(string key) => Read<DateTime>(key, "a time as in 2027-01-31T00:00:00Z", n =>
        n.Kind == ScalarKind.Text && DateTime.TryParseExact(n.Text, "yyyy-MM-dd'T'HH:mm:ss'Z'", CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal | DateTimeStyles.AdjustToUniversal, out var at)
            ? at
            : null);

    public double Ratio(string key, double otherwise)
    {
        var reason = "";
        return Read<double>(key, "a share as in 50% or 0.5", n =>
            n.Kind is ScalarKind.Text or ScalarKind.Number ? Units.ParseRatio(n.Text, out reason) : null, () => reason) ?? otherwise;
    }

    /// <summary>A number or a text, as it is written.</summary>
    public string? TextOrNumber(string key) => Take(key) switch
    {
        null => null,
        ScalarNode { Kind: ScalarKind.Number } number => number.Text,
        var node => AsText(node, PathOf(key)),
    };

    public T Word<T>(string key, T otherwise) where T : struct, Enum
    {
        var words = ConfigJson.Words<T>();
        return Read<T>(key, "one of " + string.Join(", ", words.Keys), n =>
            n.Kind == ScalarKind.Text && words.TryGetValue(n.Text, out var word) ? word : null) ?? otherwise;
    }

    /// <summary>The whole number, or null for the word (as in "workers: auto").</summary>
    public int? IntegerOr(string word, string key, int? otherwise)
    {
        if (!_values.ContainsKey(key) || Take(key) is not { } node)
        {
            return otherwise;
        }

        return node is ScalarNode { Kind: ScalarKind.Text } text && text.Text == word
            ? null
            : Read<int>(key, $"a whole number or {word}", n =>
                n.Kind == ScalarKind.Number && int.TryParse(n.Text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var i) ? i : null);
    }

    public void RefuseUnknownKeys()
    {
        foreach (var (key, line, _) in _node.Entries)
        {
            if (!_asked.Contains(key))
            {
                var near = _faults.IsFull ? null : _asked.MinBy(known => Distance(known, key));
                var hint = near is not null && Distance(near, key) <= 2 ? $"; did you mean {near}?" : "";
                _faults.Add(PathOf(key), "unknown key" + hint, line);
            }
        }
    }

    private IEnumerable<(ConfigNode Node, string Path)> Items(string key)
    {
        switch (Take(key))
        {
            case null:
                yield break;
            case ListNode list:
                for (var i = 0; i < list.Items.Length; i++)
                {
                    yield return (list.Items[i], $"{PathOf(key)}[{i}]");
                }

                break;
            case var other:
                _faults.Add(PathOf(key), $"expected a list, found {Named(other)}", other.Line);
                break;
        }
    }

    private ConfigNode? Take(string key)
    {
        _asked.Add(key);
        return _values.TryGetValue(key, out var node) && node is not ScalarNode { Kind: ScalarKind.Null } ? node : null;
    }

    private string? AsText(ConfigNode node, string path)
    {
        if (node is ScalarNode { Kind: ScalarKind.Text } text)
        {
            return text.Text;
        }

        // Without the value: it may be a secret.
        var found = node is ScalarNode { Kind: ScalarKind.Number or ScalarKind.Boolean } bare
            ? $"a {bare.Kind.ToString().ToLowerInvariant()}; quote it if it is meant as text"
            : Named(node);
        _faults.Add(path, "expected text, found " + found, node.Line);
        return null;
    }

    private T? Read<T>(string key, string expected, Func<ScalarNode, T?> parse, Func<string>? reason = null) where T : struct
    {
        if (Take(key) is not { } node)
        {
            return null;
        }

        if (node is ScalarNode scalar && parse(scalar) is { } value)
        {
            return value;
        }

        var why = reason?.Invoke();
        _faults.Add(PathOf(key), string.IsNullOrEmpty(why) ? $"expected {expected}, found {Named(node)}" : why, node.Line);
        return null;
    }

    private static string Named(ConfigNode node) => node switch
    {
        MapNode => "keys and values",
        ListNode => "a list",
        ScalarNode { Kind: ScalarKind.Null } => "nothing",
        ScalarNode { Kind: ScalarKind.Text } s => $"text (\"{Units.Shown(s.Text)}\")",
        ScalarNode s => Units.Shown(s.Text),
        _ => "something else",
    };

    /// <summary>Levenshtein's distance, for "did you mean"; long keys are no typing slips.</summary>
    private static int Distance(string a, string b)
    {
        if (a.Length > 40 || b.Length > 40)
        {
            return int.MaxValue;
        }

        var row = Enumerable.Range(0, b.Length + 1).ToArray();
        for (var i = 1; i <= a.Length; i++)
        {
            var diagonal = row[0];
            row[0] = i;
            for (var j = 1; j <= b.Length; j++)
            {
                var substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(substituted, Math.Min(row[j], row[j - 1]) + 1);
            }
        }

        return row[^1];
    }
}

/// <summary>Faults in the order found, at most so many; one per path, because the first says what is wrong.</summary>
internal sealed class FaultList
{
    /// <summary>Nobody reads more, and a hostile text must not write a book.</summary>
    public const int Most = 200;

    private readonly List<ConfigFault> _faults = [];
    private readonly HashSet<string> _paths = [];
    private bool _hasMore;

    public bool IsEmpty => _faults.Count == 0;

    public int Count => _faults.Count;

    public bool IsFull => _faults.Count >= Most;

    public void Add(string path, string message, int? line = null)
    {
        if (IsFull)
        {
            _hasMore |= !_paths.Contains(path);
        }
        else if (_paths.Add(path))
        {
            _faults.Add(new ConfigFault(path, message, line > 0 ? line : null));
        }
    }

    public IReadOnlyList<ConfigFault> All() =>
        _hasMore ? [.. _faults, new ConfigFault("", $"and more; these are the first {Most}")] : _faults;
}
