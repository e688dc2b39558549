using System.Collections.Concurrent;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Evenkeel.Config;

namespace Evenkeel.Ghosts;

/// <summary>
/// Takes out of a client's request what must not be kept. Of the body only what shapes an answer survives; fields that the pool names are
/// dropped, matches of its expressions and of the built-in patterns are masked in every text that is left. Expressions never backtrack,
/// so that their time is linear in the text. Pure.
/// </summary>
public static class Redaction
{
    public const string Mask = "[masked]";
    private const int MaxPattern = 500;

    // user, metadata, store and whatever else a vendor knows: not ours to keep.
    private static readonly HashSet<string> s_shape =
        ["messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty"];

    // Prefixes that vendors give their keys, tokens of three parts, "Bearer …", private keys, long hexadecimal runs, and what is named a secret.
    private static readonly Regex s_key = Expression(string.Join('|',
        @"\b(sk|pk|rk|ek)[-_][a-z0-9_-]{12,}",
        @"\b(gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_|gsk_|AIza|ya29\.)[a-z0-9_.-]{10,}",
        @"\b(AKIA|ASIA)[A-Z0-9]{12,}",
        @"\beyJ[a-z0-9_-]{8,}\.[a-z0-9_-]{4,}(\.[a-z0-9_-]*)?",
        @"\bbearer +[a-z0-9._~+/=-]{8,}",
        @"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[a-z0-9+/=\s]*(-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
        @"\b[a-f0-9]{32,}\b",
        @"\b(password|passwd|secret|api[_-]?key|access[_-]?token)[""']?\s{0,4}[:=]\s{0,4}[""']?[^\s""',;]{4,}"));
    private static readonly Regex s_email = Expression(@"[a-z0-9._%+'-]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}");
    private static readonly Regex s_digits = Expression(@"[+(]?[0-9]((\) |\)-|[ ./()-])?[0-9]){7,22}");
    private static readonly Regex s_groupedPhone = Expression("^[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}$");
    private static readonly ConcurrentDictionary<string, Regex> s_compiled = new();

    /// <summary>Linear in the text, bounded in time, without regard to case; ^ and $ are those of a line.</summary>
    /// <exception cref="ArgumentException">It is no regular expression.</exception>
    /// <exception cref="NotSupportedException">It needs backtracking, or is too large.</exception>
    public static Regex Expression(string pattern) =>
        new(pattern, RegexOptions.NonBacktracking | RegexOptions.CultureInvariant | RegexOptions.IgnoreCase | RegexOptions.Multiline, TimeSpan.FromMilliseconds(250));

    /// <returns>Null, or why the expression cannot be used.</returns>
    public static string? Fault(string pattern)
    {
        if (pattern.Length is 0 or > MaxPattern) return $"an expression has 1 to {MaxPattern} characters";
        try
        {
            _ = Expression(pattern);
            return null;
        }
        catch (NotSupportedException)
        {
            return "look-around, back-references, atomic groups and very large repetitions cannot be used";
        }
        catch (ArgumentException e)
        {
            return "is no regular expression: " + Units.Shown(e.Message);
        }
    }

    /// <returns>The redacted request; null: nothing of it can be kept (no chat, other media than text, a match that took too long).</returns>
    public static JsonObject? Redact(JsonObject request, RedactConfig rules)
    {
        if (request["messages"] is not JsonArray { Count: > 0 } messages || !messages.All(IsText)) return null;
        try
        {
            var drop = rules.Drop.ToHashSet(StringComparer.Ordinal);
            var masks = rules.Mask.Select(pattern => s_compiled.GetOrAdd(pattern, Expression)).ToList();
            var kept = new JsonObject();
            foreach (var (key, value) in request.Where(member => s_shape.Contains(member.Key) && !drop.Contains(member.Key)))
            {
                kept[key] = Copy(value, text => Masked(text, masks, rules.Patterns), drop);
            }
            return kept["messages"] is JsonArray ? kept : null;
        }
        catch (RegexMatchTimeoutException)
        {
            return null;
        }
    }

    private static bool IsText(JsonNode? message) => message is JsonObject one && one["content"] switch
    {
        null or JsonValue => true,
        JsonArray parts => parts.All(part => part is JsonObject known && known["type"] is JsonValue type && type.TryGetValue<string>(out var word) && word == "text"),
        _ => false,
    };

    private static JsonNode? Copy(JsonNode? node, Func<string, string> masked, HashSet<string> drop)
    {
        switch (node)
        {
            case JsonObject map:
                var copy = new JsonObject();
                foreach (var (key, value) in map.Where(member => !drop.Contains(member.Key))) copy[masked(key)] = Copy(value, masked, drop);
                return copy;
            case JsonArray list:
                return new JsonArray([.. list.Select(item => Copy(item, masked, drop))]);
            case JsonValue value when value.TryGetValue<string>(out var text):
                return JsonValue.Create(masked(text.Replace('\0', ' ')));   // PostgreSQL holds no NUL
            case JsonValue value:
                var written = value.ToJsonString();
                return masked(written) == written ? value.DeepClone() : JsonValue.Create(0);   // a card number may come as a number, too
            default:
                return null;
        }
    }

    private static string Masked(string text, List<Regex> masks, bool patterns)
    {
        foreach (var mask in masks) text = mask.Replace(text, Mask);
        if (!patterns) return text;
        text = s_key.Replace(text, Mask);
        text = s_email.Replace(text, Mask);
        return s_digits.Replace(text, match => IsCard(match.Value) || IsPhone(match.Value) ? Mask : match.Value);
    }

    /// <summary>13 to 19 digits whose Luhn sum is right.</summary>
    private static bool IsCard(string text)
    {
        var (sum, digits) = (0, 0);
        for (var i = text.Length - 1; i >= 0; i--)
        {
            if (!char.IsAsciiDigit(text[i])) continue;
            var digit = text[i] - '0';
            if (digits++ % 2 == 1) digit = digit > 4 ? (digit * 2) - 9 : digit * 2;
            sum += digit;
        }
        return digits is >= 13 and <= 19 && sum % 10 == 0;
    }

    /// <summary>International, with an area code, or in the usual groups: not a plain count, date or version.</summary>
    private static bool IsPhone(string text)
    {
        var digits = text.Count(char.IsAsciiDigit);
        return digits is >= 8 and <= 15
            && (text[0] is '+' or '(' || text.StartsWith("00", StringComparison.Ordinal) || (text[0] == '0' && digits >= 9) || s_groupedPhone.IsMatch(text));
    }
}
