using Evenkeel.Config;

namespace Evenkeel.Secrets;

/// <summary>The fields of a document that hold secrets or references to them: named here and nowhere else.</summary>
public static class SecretFields
{
    /// <summary>The same document with every secret field put through a function. What that leaves as it is stays the same object.</summary>
    public static ConfigDocument Map(ConfigDocument document, Func<string, string> map) => document with
    {
        Instances = [.. document.Instances.Select(i => Mapped(i.ApiKey, map) is var key && key == i.ApiKey ? i : i with { ApiKey = key })],
        Clients = [.. document.Clients.Select(c => Mapped(c.Key, map) is var key && key == c.Key ? c : c with { Key = key })],
        Webhooks = [.. document.Webhooks.Select(w => (Url: map(w.Url), Secret: Mapped(w.Secret, map)) is var now && now == (w.Url, w.Secret) ? w : w with { Url = now.Url, Secret = now.Secret })],
    };

    private static string? Mapped(string? text, Func<string, string> map) => text is null ? null : map(text);

    /// <summary>Path and text of every secret field that is set.</summary>
    public static IEnumerable<(string Path, string Text)> Of(ConfigDocument document)
    {
        foreach (var (i, instance) in document.Instances.Index())
        {
            if (instance.ApiKey is { } key)
            {
                yield return ($"instances[{i}].api_key", key);
            }
        }

        foreach (var (i, client) in document.Clients.Index())
        {
            if (client.Key is { } key)
            {
                yield return ($"clients[{i}].key", key);
            }
        }

        foreach (var (i, webhook) in document.Webhooks.Index())
        {
            yield return ($"webhooks[{i}].url", webhook.Url);
            if (webhook.Secret is { } secret)
            {
                yield return ($"webhooks[{i}].secret", secret);
            }
        }
    }
}
