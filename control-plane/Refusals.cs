using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using System.Text.RegularExpressions;
using Evenkeel.Config;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.AspNetCore.Http.Metadata;
using Microsoft.Extensions.Options;

namespace Evenkeel;

/// <summary>
/// Words for what is refused before an endpoint has its say: parameters and bodies that are none, methods and media types that it does not
/// take, addresses where nothing is. A value of a body is not repeated, it may be a secret.
/// </summary>
internal static partial class Refusals
{
    private static readonly JsonNamingPolicy s_words = JsonNamingPolicy.SnakeCaseLower;

    /// <summary>Put after the gate, so that the audit log learns of what is refused here.</summary>
    public static void UseWordsForBadRequests(this IApplicationBuilder app) => app.Use(async (context, next) =>
    {
        try
        {
            await next(context);
        }
        catch (BadHttpRequestException e) when (!context.Response.HasStarted)
        {
            await TypedResults.Problem(title: TitleOf(e.StatusCode), statusCode: e.StatusCode, detail: e.StatusCode switch
            {
                StatusCodes.Status400BadRequest => WordsFor(context, e),
                StatusCodes.Status413PayloadTooLarge => "The body is larger than this takes.",
                var status => WordsFor(context, status),
            }).ExecuteAsync(context);
        }
    });

    /// <summary>A problem without words gets some.</summary>
    public static void Explain(ProblemDetailsContext problem)
    {
        var (details, context) = (problem.ProblemDetails, problem.HttpContext);
        if (details.Detail is null && WordsFor(context, details.Status ?? context.Response.StatusCode) is { } words)
        {
            (details.Title, details.Detail) = (TitleOf(details.Status ?? context.Response.StatusCode), words);
        }
    }

    private static string? TitleOf(int status) => status switch
    {
        StatusCodes.Status400BadRequest => "Bad request",
        StatusCodes.Status404NotFound => "Not found",
        StatusCodes.Status405MethodNotAllowed => "Method not allowed",
        StatusCodes.Status413PayloadTooLarge => "Too large",
        StatusCodes.Status415UnsupportedMediaType => "Unsupported media type",
        _ => null,      // the framework's own
    };

    private static string? WordsFor(HttpContext context, int status) => status switch
    {
        StatusCodes.Status404NotFound => $"There is nothing at {Units.Shown(context.Request.Path)}; /openapi shows what there is.",
        StatusCodes.Status405MethodNotAllowed when context.Response.Headers.Allow is { Count: > 0 } allowed =>
            $"{Units.Shown(context.Request.Path)} takes {string.Join(", ", allowed.ToString().Split(',', StringSplitOptions.TrimEntries))}, not {Units.Shown(context.Request.Method)}.",
        StatusCodes.Status415UnsupportedMediaType =>
            $"Send content-type: {ConfigApi.JsonType}{(context.Request.Path.StartsWithSegments("/api/v1/config") ? $" or {ConfigApi.YamlType}" : "")}.",
        _ => null,
    };

    private static string WordsFor(HttpContext context, BadHttpRequestException refused)
    {
        var name = ParameterName().Match(refused.Message) is { Success: true } named ? named.Groups["name"].Value : "";
        var type = context.GetEndpoint()?.Metadata.GetOrderedMetadata<IParameterBindingMetadata>().FirstOrDefault(p => p.Name == name)?.ParameterInfo.ParameterType;
        if (refused.InnerException is JsonException json)
        {
            // The reader of JSON itself has a private exception, with the same properties, below the one for a value that does not fit.
            return json.InnerException is JsonException || json.Path is null or "$" && type is null
                ? $"The body is not JSON, at line {json.LineNumber + 1}, character {json.BytePositionInLine + 1} of it."
                : InBody(json.Path ?? "$", type, context.RequestServices.GetRequiredService<IOptions<JsonOptions>>().Value.SerializerOptions);
        }

        return context.Request.Query.TryGetValue(name, out var values) && type is not null
            ? $"{name}: expected {Expected(type)}, found \"{Units.Shown(values.ToString())}\""
            : name.Length > 0 && type is not null && !IsOfQuery(type) ? "This takes a body of JSON."
            : name.Length > 0 ? $"{Units.Shown(name)}: is required or is not what it should be"
            : "The request cannot be read.";
    }

    private static bool IsOfQuery(Type type) => type == typeof(string) || (Nullable.GetUnderlyingType(type) ?? type).IsValueType;

    // "$.areas[1]" is areas[1], and the types on the way to it tell what is allowed there.
    private static string InBody(string path, Type? type, JsonSerializerOptions options)
    {
        foreach (Match step in PathStep().Matches(path))
        {
            var info = type is null ? null : options.GetTypeInfo(type);
            type = step.Groups["index"].Success ? info?.ElementType : info?.Properties.FirstOrDefault(p => p.Name == step.Groups["key"].Value)?.PropertyType;
        }

        var where = path.Length > 2 && path.StartsWith("$.", StringComparison.Ordinal) ? Units.Shown(path[2..]) : "The body";
        return type is null ? $"{where}: is not what it should be" : $"{where}: expected {Expected(type, options)}";
    }

    private static string Expected(Type given, JsonSerializerOptions? options = null)
    {
        var type = Nullable.GetUnderlyingType(given) ?? given;
        return type.IsEnum ? "one of " + string.Join(", ", Enum.GetNames(type).Select(s_words.ConvertName))
            : type == typeof(string) ? "text"
            : type == typeof(bool) ? "true or false"
            : type == typeof(int) || type == typeof(long) ? "a whole number"
            : type == typeof(double) || type == typeof(decimal) ? "a number"
            : type == typeof(DateTimeOffset) || type == typeof(DateTime) ? "a time as in 2027-01-31T00:00:00Z"
            : type == typeof(TimeSpan) ? "a duration as in 800ms, 10s or 5m"
            : type == typeof(Guid) ? "a UUID"
            : options?.GetTypeInfo(type).Kind switch
            {
                JsonTypeInfoKind.Enumerable => "a list",
                JsonTypeInfoKind.Object or JsonTypeInfoKind.Dictionary => "keys and values",
                _ => "something else",
            };
    }

    // The framework's words, as in: Failed to bind parameter "Nullable<bool> open" from "maybe".
    [GeneratedRegex("""parameter "(?:[^"]* )?(?<name>\w+)" """)]
    private static partial Regex ParameterName();

    [GeneratedRegex(@"\.(?<key>\w+)|\[(?<index>\d+)\]")]
    private static partial Regex PathStep();
}
