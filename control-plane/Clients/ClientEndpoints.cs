using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Config;
using Evenkeel.Secrets;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Clients;

/// <param name="Client">The client as it is now in the configuration.</param>
/// <param name="Key">The new key. It is shown here and never again; null when the client was added with a key of its own.</param>
public sealed record NewClientKey(ClientConfig Client, string? Key);

/// <param name="Overlap">How long the old keys go on, as in "1h" or "0s"; at most 90d.</param>
public sealed record RotateKey(string? Overlap = null);

/// <summary>
/// Clients as resources. They are the <c>clients</c> of the configuration document: each change is a revision, and is with every node
/// within a second.
/// </summary>
internal sealed class ClientEndpoints() : ConfigListEndpoints<ClientConfig>("clients", "client", d => d.Clients, c => c.Name, ["enabled"])
{
    protected override RouteHandlerBuilder MapPost(RouteGroupBuilder group)
    {
        group.MapPost("/{name}/rotate", Rotate).WithName("rotateClient")
            .WithSummary("Makes a new key, shown once; the old ones go on for the overlap (1h unless said).")
            .Accepts<RotateKey>(ConfigApi.JsonType).WritesConfig()
            .ProducesProblem(StatusCodes.Status404NotFound)
            .ProducesProblem(StatusCodes.Status409Conflict);
        return group.MapPost("", AddClient).WithSummary("Adds one client. Without key and keys a key is made, and shown once.");
    }

    private async Task<Results<Created<NewClientKey>, ProblemHttpResult>> AddClient(HttpContext context, ConfigStore store)
    {
        string? made = null;
        var written = await AddAsync(context, store, body =>
        {
            if (body["key"] is not null || body["keys"] is not null) return;
            made = ClientKeys.New();
            body["keys"] = JsonSerializer.SerializeToNode(ClientKeys.Rotate([], made, TimeSpan.Zero, DateTime.UtcNow), ConfigJson.Options);
        });
        if (written.Problem is { } problem) return problem;
        context.Response.Headers.CacheControl = "no-store";
        return TypedResults.Created($"/api/v1/clients/{written.Item!.Name}", new NewClientKey(written.Item, made));
    }

    private async Task<Results<Ok<NewClientKey>, ProblemHttpResult>> Rotate(
        string name, HttpContext context, ConfigStore store, SecretResolver secrets, TimeProvider time)
    {
        if (await OverlapAsync(context.Request) is not { } overlap)
        {
            return ConfigApi.Invalid([new ConfigFault("overlap", $"expected a duration as in 1h, {Units.FormatDuration(ClientKeys.LongestOverlap)} at most")]);
        }

        // A key that stands elsewhere goes on by its hash; one that cannot be read works nowhere.
        var reference = Find(await store.LoadAsync(context.RequestAborted), name)?.Key;
        var old = reference is null ? null : (await secrets.ResolveAsync(reference, context.RequestAborted)).Value;
        var now = time.GetUtcNow().UtcDateTime;
        var key = ClientKeys.New();
        var result = await store.ChangeAsync(current =>
        {
            if (Find(current, name) is not { } client) return Edit.NotFound(NoSuch(name));
            if (client.Key != reference) return Edit.Conflict("The client's key was changed meanwhile. Try again.");
            var held = old is null ? client.Keys : [new ClientKey(Publishing.SnapshotBuilder.HashOf(old)), .. client.Keys];
            var changed = client with { Key = null, Keys = ClientKeys.Rotate([.. held.DistinctBy(k => k.Sha256)], key, overlap, now) };
            var document = current.Document with { Clients = [.. current.Document.Clients.Select(c => c.Name == name ? changed : c)] };
            return new ReadResult(document, ConfigValidator.Validate(document));
        }, ConfigApi.Note(context.Request), ConfigApi.IfMatch(context.Request), context.RequestAborted);
        if (result is not ChangeResult.Saved saved) return ConfigApi.Problem(result);

        ConfigApi.SetETag(context.Response, saved.Now.Revision);
        context.Response.Headers.CacheControl = "no-store";
        return TypedResults.Ok(new NewClientKey(Find(saved.Now, name)!, key));
    }

    // No body is the default. Null: what is there is no overlap.
    private static async Task<TimeSpan?> OverlapAsync(HttpRequest request)
    {
        if (await ConfigApi.BodyAsync(request) is not { Length: <= 1024 } bytes) return null;
        if (bytes.Length == 0) return ClientKeys.DefaultOverlap;
        try
        {
            var body = JsonSerializer.Deserialize<JsonObject>(bytes.Span);
            if (body?["overlap"] is not { } given) return body is { Count: 0 } ? ClientKeys.DefaultOverlap : null;
            var overlap = given is JsonValue value && value.TryGetValue<string>(out var text) ? Units.ParseDuration(text, out _) : null;
            return overlap <= ClientKeys.LongestOverlap ? overlap : null;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or ArgumentException)
        {
            return null;
        }
    }
}
