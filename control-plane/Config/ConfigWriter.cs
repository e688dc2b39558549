using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Secrets;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Evenkeel.Config;

/// <summary>
/// <see cref="ConfigDocument"/> → YAML or JSON that <see cref="ConfigReader"/> takes back unchanged. Secrets leave only as
/// references; a literal that was never stored is redacted.
/// </summary>
public static class ConfigWriter
{
    public static string Write(ConfigDocument document, ConfigFormat format) =>
        format == ConfigFormat.Json ? ToNode(document).ToJsonString(s_indented) : Yaml(ToNode(document));

    /// <summary>The wire form as a tree, to edit and read again.</summary>
    public static JsonObject ToNode(ConfigDocument document) =>
        JsonSerializer.SerializeToNode(Redacted(document), ConfigJson.Options)!.AsObject();

    /// <summary>One line, keys in a fixed order: what a revision stores and what its digest is taken of.</summary>
    public static string Canonical(ConfigDocument document) => JsonSerializer.Serialize(Redacted(document), ConfigJson.Options);

    /// <summary>sha256 of the canonical form, in hex.</summary>
    public static string Digest(ConfigDocument document) => Digest(Canonical(document));

    /// <summary>The same of a canonical form that is there already.</summary>
    public static string Digest(string canonical) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(canonical)));

    /// <summary>The inverse of <see cref="Canonical"/> for a document that was valid when it was stored; checks nothing.</summary>
    public static ConfigDocument FromCanonical(string json) => JsonSerializer.Deserialize<ConfigDocument>(json, ConfigJson.Options)!;

    private static readonly JsonSerializerOptions s_indented = new(ConfigJson.Options) { WriteIndented = true };

    private static ConfigDocument Redacted(ConfigDocument document) =>
        SecretFields.Map(document, reference => SecretReference.Parse(reference).ToString());

    private static string Yaml(JsonNode node)
    {
        var text = new StringWriter { NewLine = "\n" };
        var emitter = new Emitter(text, new EmitterSettings().WithBestWidth(int.MaxValue).WithMaxSimpleKeyLength(1024));
        emitter.Emit(new StreamStart());
        emitter.Emit(new DocumentStart(null, null, isImplicit: true));
        Emit(emitter, node);
        emitter.Emit(new DocumentEnd(isImplicit: true));
        emitter.Emit(new StreamEnd());
        return text.ToString();
    }

    private static void Emit(Emitter emitter, JsonNode? node)
    {
        switch (node)
        {
            case JsonObject map:
                emitter.Emit(new MappingStart(null, null, true, map.Count == 0 ? MappingStyle.Flow : MappingStyle.Block));
                foreach (var (key, value) in map)
                {
                    emitter.Emit(new Scalar(key));
                    Emit(emitter, value);
                }

                emitter.Emit(new MappingEnd());
                break;

            case JsonArray list:
                var flow = list.All(item => item is JsonValue);
                emitter.Emit(new SequenceStart(null, null, true, flow ? SequenceStyle.Flow : SequenceStyle.Block));
                foreach (var item in list)
                {
                    Emit(emitter, item);
                }

                emitter.Emit(new SequenceEnd());
                break;

            case JsonValue value when value.GetValueKind() == JsonValueKind.String:
                emitter.Emit(Text(value.GetValue<string>()));
                break;

            default:
                emitter.Emit(new Scalar(node?.ToJsonString() ?? "null"));
                break;
        }
    }

    /// <summary>Plain only where it cannot be read as anything else.</summary>
    private static Scalar Text(string text)
    {
        var plain = text.Length > 0
            && char.IsAsciiLetterOrDigit(text[0]) && char.IsAsciiLetterOrDigit(text[^1]) | text[^1] == '%'
            && text.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' or '/' or ':' or '%' or '+')
            && text.Any(c => char.IsAsciiLetter(c) || c == '%')
            && text.ToLowerInvariant() is not ("null" or "true" or "false" or "yes" or "no" or "on" or "off" or "y" or "n")
            && !double.TryParse(text, out _);
        return new Scalar(AnchorName.Empty, TagName.Empty, text, plain ? ScalarStyle.Plain : ScalarStyle.DoubleQuoted, true, true);
    }
}
