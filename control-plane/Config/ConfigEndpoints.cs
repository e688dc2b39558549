using Evenkeel.Audit;
using Evenkeel.Auth;
using Evenkeel.Database;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Config;

/// <param name="Valid">True when it could be stored as it is.</param>
/// <param name="Errors">Every fault with its path.</param>
public sealed record Validation(bool Valid, IReadOnlyList<ConfigFault> Errors);

/// <summary>The configuration as one document: read, replace, check.</summary>
public static class ConfigEndpoints
{
    public static RouteGroupBuilder MapConfig(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/config").WithTags("config")
            .ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", Get).WithName("getConfig").WithMetadata(new AnswersFromMemory())
            .WithSummary("The configuration in force, as JSON or YAML by Accept. Secrets come as references.")
            .Produces<ConfigDocument>(StatusCodes.Status200OK, ConfigApi.JsonType, ConfigApi.YamlType)
            .ProducesProblem(StatusCodes.Status406NotAcceptable);
        group.MapPut("", Put).WithName("putConfig")
            .WithSummary("Replaces the whole configuration.")
            .Accepts<ConfigDocument>(ConfigApi.JsonType, ConfigApi.YamlType)
            .WritesConfig()
            .ProducesProblem(StatusCodes.Status408RequestTimeout)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
        group.MapPost("/validate", Validate).WithName("validateConfig")
            .WithSummary("Checks a configuration and changes nothing.")
            .WithMetadata(new ChangesNothing()).RequireRole(Role.Viewer)
            .Accepts<ConfigDocument>(ConfigApi.JsonType, ConfigApi.YamlType)
            .ProducesProblem(StatusCodes.Status408RequestTimeout)
            .ProducesProblem(StatusCodes.Status413PayloadTooLarge)
            .ProducesProblem(StatusCodes.Status415UnsupportedMediaType)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);
        return group;
    }

    private static async Task<IResult> Get(HttpContext context, ConfigStore store)
    {
        if (ConfigApi.Accepted(context.Request) is not { } format)
        {
            return TypedResults.Problem(title: "Not acceptable", detail: "The configuration comes as application/json or application/yaml.", statusCode: StatusCodes.Status406NotAcceptable);
        }

        var current = await store.LoadAsync(context.RequestAborted);
        ConfigApi.SetETag(context.Response, current.Revision);
        return TypedResults.Text(ConfigWriter.Write(current.Document, format), format == ConfigFormat.Json ? ConfigApi.JsonType : ConfigApi.YamlType);
    }

    private static async Task<Results<Ok<ConfigChange>, ProblemHttpResult>> Put(HttpContext context, ConfigStore store, ConfigTurns turns, Renderer renderer)
    {
        using var turn = await turns.TakeAsync(context);

        // Read before the lock is taken: a large or faulty text holds nobody up.
        var (read, refused) = await ReadAsync(context, turns, turn);
        if (read is null)
        {
            return refused!;
        }

        if (!read.IsValid)
        {
            return ConfigApi.Invalid(read.Faults);
        }

        var result = await store.ChangeAsync(_ => read, ConfigApi.Note(context.Request), ConfigApi.IfMatch(context.Request), context.RequestAborted);
        if (result is not ChangeResult.Saved saved)
        {
            return ConfigApi.Problem(result);
        }

        ConfigApi.SetETag(context.Response, saved.Now.Revision);
        return TypedResults.Ok(new ConfigChange(saved.Now.Revision, saved.Changed, ConfigApi.NeedsReload(renderer, saved)));
    }

    private static async Task<Results<Ok<Validation>, ProblemHttpResult>> Validate(HttpContext context, ConfigStore store, ConfigTurns turns)
    {
        using var turn = await turns.TakeAsync(context);
        var (read, refused) = await ReadAsync(context, turns, turn);
        if (read is null)
        {
            return refused!;
        }

        var faults = read.IsValid ? await store.UnknownSecretsAsync(read.Document, context.RequestAborted) : read.Faults;
        return TypedResults.Ok(new Validation(faults.Count == 0, faults));
    }

    // What the body holds, or why it is not read.
    private static async Task<(ReadResult? Read, ProblemHttpResult? Refused)> ReadAsync(HttpContext context, ConfigTurns turns, IDisposable? turn)
    {
        if (ConfigApi.FormatOf(context.Request.ContentType) is not { } format)
        {
            return (null, ConfigApi.UnknownFormat(ConfigApi.JsonType, ConfigApi.YamlType));
        }

        if (turn is null)
        {
            context.Response.Headers.RetryAfter = "5";
            return (null, ConfigApi.Busy());
        }

        using var sent = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted);
        sent.CancelAfter(turns.SendsWithin);
        try
        {
            return await ConfigApi.BodyAsync(context.Request, sent.Token) is { } body ? (WithHint(ConfigReader.Read(body, format), body.Span, format), null) : (null, ConfigApi.TooLarge());
        }
        catch (OperationCanceledException) when (!context.RequestAborted.IsCancellationRequested)
        {
            return (null, ConfigApi.TooSlow(turns.SendsWithin));
        }
    }

    // No document of JSON begins with anything else: it is YAML, sent as what it is not.
    private static ReadResult WithHint(ReadResult read, ReadOnlySpan<byte> body, ConfigFormat format) =>
        format == ConfigFormat.Json && read.Faults is [{ Path: "" } fault] && body.TrimStart(" \t\r\n"u8) is [not ((byte)'{' or (byte)'['), ..]
            ? read with { Faults = [fault with { Message = $"{fault.Message}; YAML is sent with content-type: {ConfigApi.YamlType}" }] }
            : read;
}
