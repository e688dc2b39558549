using System.Globalization;
using System.Text;
using Evenkeel.Auth;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.Net.Http.Headers;

namespace Evenkeel.Config;

/// <param name="Revision">The revision now in force.</param>
/// <param name="Changed">False: the same configuration was in force already.</param>
/// <param name="Reload">True: nginx.conf differs, so the nodes reload; otherwise the change is pushed only.</param>
public sealed record ConfigChange(long Revision, bool Changed, bool Reload);

/// <summary>The shape of a refused configuration, for the OpenAPI document.</summary>
public sealed class ConfigProblem : Microsoft.AspNetCore.Mvc.ProblemDetails
{
    public required IReadOnlyList<ConfigFault> Errors { get; init; }
}

/// <summary>Marks an endpoint that writes configuration: it takes If-Match and a message, and gives an ETag.</summary>
internal sealed record WritesConfig;

/// <summary>What every endpoint that reads or writes configuration shares: bodies, entity tags, problems.</summary>
internal static class ConfigApi
{
    /// <summary>What a write with a body can answer besides success.</summary>
    public static RouteHandlerBuilder WritesConfig(this RouteHandlerBuilder endpoint) => endpoint
        .WithMetadata(new WritesConfig())
        .ProducesProblem(StatusCodes.Status412PreconditionFailed)
        .ProducesProblem(StatusCodes.Status413PayloadTooLarge)
        .ProducesProblem(StatusCodes.Status415UnsupportedMediaType)
        .Produces<ConfigProblem>(StatusCodes.Status422UnprocessableEntity, "application/problem+json");

    public const string JsonType = "application/json";
    public const string YamlType = "application/yaml";

    private static readonly string[] s_yamlTypes = [YamlType, "application/x-yaml", "text/yaml", "text/x-yaml"];

    /// <summary>Null for a media type that is neither YAML nor JSON.</summary>
    public static ConfigFormat? FormatOf(string? contentType)
    {
        if (!MediaTypeHeaderValue.TryParse(contentType, out var type))
        {
            return null;
        }

        var name = type.MediaType.Value ?? "";
        return name.Equals(JsonType, StringComparison.OrdinalIgnoreCase) || name.Equals("application/merge-patch+json", StringComparison.OrdinalIgnoreCase) ? ConfigFormat.Json
            : s_yamlTypes.Contains(name, StringComparer.OrdinalIgnoreCase) ? ConfigFormat.Yaml
            : null;
    }

    /// <summary>The format the caller prefers; JSON when it does not say.</summary>
    public static ConfigFormat? Accepted(HttpRequest request)
    {
        if (request.Headers.Accept.Count == 0)
        {
            return ConfigFormat.Json;
        }

        if (!MediaTypeHeaderValue.TryParseList(request.Headers.Accept, out var types))
        {
            return null;
        }

        foreach (var type in types.OrderByDescending(t => t.Quality ?? 1))
        {
            if (type.Quality is not 0)
            {
                if (FormatOf(type.MediaType.Value) is { } format)
                {
                    return format;
                }

                if (type.MatchesAllTypes || (type.MatchesAllSubTypes && type.Type.Equals("application", StringComparison.OrdinalIgnoreCase)))
                {
                    return ConfigFormat.Json;
                }
            }
        }

        return null;
    }

    /// <summary>The whole body, or null when it is larger than a configuration may be.</summary>
    public static Task<ReadOnlyMemory<byte>?> BodyAsync(HttpRequest request) => BodyAsync(request, request.HttpContext.RequestAborted);

    /// <summary>The same, within a time.</summary>
    public static async Task<ReadOnlyMemory<byte>?> BodyAsync(HttpRequest request, CancellationToken cancel)
    {
        if (request.ContentLength > ConfigTree.MaxBytes)
        {
            return null;
        }

        using var body = new MemoryStream((int)(request.ContentLength ?? 4096));
        var buffer = new byte[16 * 1024];
        for (int read; (read = await request.Body.ReadAsync(buffer, cancel)) > 0;)
        {
            if (body.Length + read > ConfigTree.MaxBytes)
            {
                return null;
            }

            body.Write(buffer, 0, read);
        }

        return body.GetBuffer().AsMemory(0, (int)body.Length);
    }

    public static string ETag(long revision) => string.Create(CultureInfo.InvariantCulture, $"\"{revision}\"");

    public static void SetETag(HttpResponse response, long revision) => response.Headers.ETag = ETag(revision);

    /// <summary>The revisions that If-Match allows; null: any. Weak and foreign tags match nothing.</summary>
    public static IReadOnlyCollection<long>? IfMatch(HttpRequest request)
    {
        if (request.Headers.IfMatch.Count == 0)
        {
            return null;
        }

        if (!EntityTagHeaderValue.TryParseList(request.Headers.IfMatch, out var tags))
        {
            return [];
        }

        return tags.Any(t => t.Equals(EntityTagHeaderValue.Any))
            ? null
            : [.. tags.Where(t => !t.IsWeak)
                .Select(t => long.TryParse(t.Tag.AsSpan().Trim('"'), NumberStyles.None, CultureInfo.InvariantCulture, out var n) ? n : -1)
                .Where(n => n >= 0)];
    }

    /// <summary>Who writes and why: the token's name, the request, and the message query parameter.</summary>
    public static ChangeNote Note(HttpRequest request, string otherwise = "")
    {
        var message = request.Query["message"].ToString() is { Length: > 0 } given ? given : otherwise;
        var action = $"{request.Method} {request.Path}";
        return new ChangeNote(Caller.NameOf(request.HttpContext), Short(action, 200), Short(message, 2000)) { Role = Caller.Of(request.HttpContext)?.Role, Source = Gate.SourceOf(request.HttpContext) };
    }

    private static string Short(string text, int most)
    {
        // PostgreSQL holds no NUL, and half of a surrogate pair is no text.
        var clean = new string([.. text.Where(c => !char.IsControl(c) && !char.IsSurrogate(c))]);
        return clean.Length <= most ? clean : clean[..most];
    }

    /// <summary>Whether the nodes have to reload: exactly when the rendered text differs.</summary>
    public static bool NeedsReload(Renderer renderer, ChangeResult.Saved saved)
    {
        var node = new NodeSettings("any", "127.0.0.1:9145");
        return saved.Changed
            && (saved.Before.Revision == 0
                || renderer.Render(saved.Before.Document, node).Digest != renderer.Render(saved.Now.Document, node).Digest);
    }

    public static ProblemHttpResult Problem(ChangeResult failed) => failed switch
    {
        ChangeResult.Stale stale => Problem(StatusCodes.Status412PreconditionFailed, "Changed meanwhile",
            $"If-Match does not name the revision in force, which is {stale.Revision}. Read again, then write.",
            new() { ["revision"] = stale.Revision }),
        ChangeResult.Invalid invalid => Invalid(invalid.Faults),
        ChangeResult.Refused { Refusal: EditRefusal.NotFound } refused => Problem(StatusCodes.Status404NotFound, "Not found", refused.Words),
        ChangeResult.Refused { Refusal: EditRefusal.Forbidden } refused => Problem(StatusCodes.Status403Forbidden, "Forbidden", refused.Words),
        ChangeResult.Refused refused => Problem(StatusCodes.Status409Conflict, "Conflict", refused.Words),
        _ => throw new InvalidOperationException(failed.GetType().Name),
    };

    public static ProblemHttpResult Invalid(IReadOnlyList<ConfigFault> faults) =>
        Problem(StatusCodes.Status422UnprocessableEntity, "Not a valid configuration", $"{faults.Count} fault{(faults.Count == 1 ? "" : "s")}; nothing was changed.",
            new() { ["errors"] = faults });

    public static ProblemHttpResult TooLarge() =>
        Problem(StatusCodes.Status413PayloadTooLarge, "Too large", $"A configuration has {ConfigTree.MaxBytes / (1024 * 1024)} MiB at most.");

    public static ProblemHttpResult TooSlow(TimeSpan within) =>
        Problem(StatusCodes.Status408RequestTimeout, "Too slow", $"A configuration is sent within {Units.FormatDuration(within)}.");

    public static ProblemHttpResult Busy() =>
        Problem(StatusCodes.Status503ServiceUnavailable, "Busy", "Another configuration is being read, one at a time; try again in some seconds. Nothing was changed.");

    public static ProblemHttpResult UnknownFormat(params string[] types) =>
        Problem(StatusCodes.Status415UnsupportedMediaType, "Unsupported media type", "Content-Type must be " + string.Join(" or ", types) + ".");

    public static ProblemHttpResult NotFound(string words) => Problem(StatusCodes.Status404NotFound, "Not found", words);

    private static ProblemHttpResult Problem(int status, string title, string detail, Dictionary<string, object?>? more = null) =>
        TypedResults.Problem(title: title, detail: detail, statusCode: status, extensions: more);

    public static ReadResult Read(System.Text.Json.Nodes.JsonNode document) =>
        ConfigReader.Read(Encoding.UTF8.GetBytes(document.ToJsonString(ConfigJson.Options)), ConfigFormat.Json);
}
