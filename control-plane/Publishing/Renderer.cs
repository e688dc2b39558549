using System.Security.Cryptography;
using System.Text;
using Evenkeel.Config;

namespace Evenkeel.Publishing;

/// <summary>
/// What one node says about itself. EdgeListen and Workers ("auto" or a number) stand in for the document's, unless null. AdminTls: its
/// admin listener speaks TLS, with the files that its agent names in platform-admin.conf.
/// </summary>
public sealed record NodeSettings(string Name, string AdminListen, string? EdgeListen = null, string? Workers = null, bool AdminTls = false);

/// <summary>The text, and the sha256 (hex) of the text rendered with an empty digest, which the text itself carries.</summary>
public sealed record RenderedText(string Text, string Digest);

/// <summary>
/// Document and node settings to the text of nginx.conf. Pure: the same input gives the same bytes, and only what needs a reload is in
/// them (listeners, workers, the list of adapters with their CA files), so that a change of weights, limits, keys, prices, drain
/// flags, models or pools leaves the text as it is.
/// </summary>
public sealed class Renderer(string template)
{
    private readonly TemplateEngine engine = new(template);

    /// <summary>The template that ships inside the assembly.</summary>
    public static Renderer FromResource()
    {
        using var stream = typeof(Renderer).Assembly.GetManifestResourceStream("nginx/nginx.conf.hbs")
            ?? throw new InvalidOperationException("nginx/nginx.conf.hbs is not embedded in this assembly");
        using var reader = new StreamReader(stream, Encoding.UTF8);
        return new Renderer(reader.ReadToEnd());
    }

    /// <exception cref="FormatException">A value is not what its position in the text takes; validation should have refused it.</exception>
    public RenderedText Render(ConfigDocument document, NodeSettings node)
    {
        // Ordered by name: an entry that moves inside the document is not worth a reload.
        var instances = document.Instances.OrderBy(instance => instance.Name, StringComparer.Ordinal).ToList();
        var groups = instances
            .GroupBy(instance => instance.Tls.CaFile is { } file && NginxQuote.Path(file) is not null ? file : null)
            .OrderBy(group => group.Key, StringComparer.Ordinal)
            .Select(group => new Dictionary<string, object?> { ["caFile"] = group.Key, ["instances"] = Names(group) })
            .ToList();
        var tls = document.Gateway.Tls;
        var model = new Dictionary<string, object?>
        {
            ["textDigest"] = "",
            ["workers"] = NginxQuote.Workers(node.Workers ?? document.Gateway.Workers?.ToString() ?? "auto"),
            ["edgeTls"] = tls is not null,
            ["edgeCertificate"] = tls is not null && NginxQuote.Path(tls.CertificateFile) is not null ? tls.CertificateFile : null,
            ["edgeKey"] = tls is not null && NginxQuote.Path(tls.KeyFile) is not null ? tls.KeyFile : null,
            ["edgeOldTls"] = tls?.MinVersion == "1.2",
            ["edgeListen"] = NginxQuote.Listen(node.EdgeListen ?? document.Gateway.Listen),
            ["adminListen"] = NginxQuote.Listen(node.AdminListen),
            ["adminTls"] = node.AdminTls,
            ["nodeName"] = NginxQuote.Identifier(node.Name),
            ["instances"] = Names(instances),
            ["adapterGroups"] = groups,
        };
        var digest = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(engine.Render(model))));
        model["textDigest"] = digest;
        return new RenderedText(engine.Render(model), digest);
    }

    private static List<Dictionary<string, object?>> Names(IEnumerable<InstanceConfig> instances) =>
        [.. instances.Select(instance => new Dictionary<string, object?> { ["name"] = NginxQuote.Identifier(instance.Name) })];
}
