using Evenkeel.Config;

namespace Evenkeel.Secrets;

/// <summary>The fields of a document that hold secrets or references to them: named here and nowhere else.</summary>
public static class SecretFields
{
    /// <summary>The same document with every secret field put through a function.</summary>
    public static ConfigDocument Map(ConfigDocument document, Func<string, string> map) => document with
    {
        Instances = [.. document.Instances.Select(i => i.ApiKey is { } key ? i with { ApiKey = map(key) } : i)],
        Clients = [.. document.Clients.Select(c => c.Key is { } key ? c with { Key = map(key) } : c)],
        Webhooks = [.. document.Webhooks.Select(w => w with { Url = map(w.Url), Secret = w.Secret is { } secret ? map(secret) : null })],
    };

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
