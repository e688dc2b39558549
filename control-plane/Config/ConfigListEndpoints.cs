using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Auth;
using Evenkeel.Database;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Config;

/// <summary>
/// The members of one list of the configuration as resources: list, show, add, replace, patch, remove. A write takes the
/// document in force, changes one entry in its written form, reads that one again and asks all rules of the whole, so
/// that what holds for a whole configuration holds here. `operatorKeys` are what an operator may patch; the rest is for admins.
/// </summary>
internal class ConfigListEndpoints<T>(
    string list, string noun, Func<ConfigDocument, IReadOnlyList<T>> itemsOf, Func<T, string> nameOf, string[]? operatorKeys = null)
    where T : class
{
    private const string MergePatchType = "application/merge-patch+json";

    private readonly string title = char.ToUpperInvariant(noun[0]) + noun[1..];

    public RouteGroupBuilder Map(IEndpointRouteBuilder app)
    {
        var group = app.MapGroup($"/api/v1/{list}").WithTags(list).ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", List).WithName("list" + title + "s").WithMetadata(new AnswersFromMemory()).WithSummary($"All {list}.");
        group.MapGet("/{name}", Get).WithName("get" + title).WithMetadata(new AnswersFromMemory()).WithSummary($"One {noun}.")
            .ProducesProblem(StatusCodes.Status404NotFound);
        MapPost(group).WithName("add" + title)
            .Accepts<T>(ConfigApi.JsonType).WritesConfig()
            .ProducesProblem(StatusCodes.Status409Conflict);
        group.MapPut("/{name}", Put).WithName("put" + title).WithSummary($"Replaces one {noun}, or adds it.")
            .Accepts<T>(ConfigApi.JsonType).WritesConfig();
        group.MapPatch("/{name}", Patch).WithName("patch" + title).RequireRole(operatorKeys is null ? Role.Admin : Role.Operator).WithSummary($"Changes some keys of one {noun} (JSON merge patch: null brings the default back).")
            .Accepts<JsonObject>(MergePatchType, ConfigApi.JsonType).WritesConfig()
            .ProducesProblem(StatusCodes.Status404NotFound);
        group.MapDelete("/{name}", Delete).WithName("delete" + title).WithSummary($"Removes one {noun}.")
            .WithMetadata(new WritesConfig())
            .ProducesProblem(StatusCodes.Status404NotFound)
            .ProducesProblem(StatusCodes.Status409Conflict)
            .ProducesProblem(StatusCodes.Status412PreconditionFailed);
        return group;
    }

    private async Task<Ok<IReadOnlyList<T>>> List(HttpContext context, ConfigStore store)
    {
        var current = await store.LoadAsync(context.RequestAborted);
        ConfigApi.SetETag(context.Response, current.Revision);
        return TypedResults.Ok(itemsOf(current.Document));
    }

    private async Task<Results<Ok<T>, ProblemHttpResult>> Get(string name, HttpContext context, ConfigStore store)
    {
        var current = await store.LoadAsync(context.RequestAborted);
        if (Find(current, name) is not { } item)
        {
            return ConfigApi.NotFound(NoSuch(name));
        }

        ConfigApi.SetETag(context.Response, current.Revision);
        return TypedResults.Ok(item);
    }

    protected virtual RouteHandlerBuilder MapPost(RouteGroupBuilder group) => group.MapPost("", Post).WithSummary($"Adds one {noun}.");

    private async Task<Results<Created<T>, ProblemHttpResult>> Post(HttpContext context, ConfigStore store)
    {
        var written = await AddAsync(context, store);
        return written.Problem is { } problem ? problem : Created(written.Item!);
    }

    /// <param name="context">Its body is the new entry.</param>
    /// <param name="store">Where it goes.</param>
    /// <param name="prepare">What else is to be written into it.</param>
    protected Task<Written> AddAsync(HttpContext context, ConfigStore store, Action<JsonObject>? prepare = null) =>
        Write(context, store, null, (items, body) =>
        {
            prepare?.Invoke(body);

            // A name that is missing or no text is for the reader to refuse.
            var name = body["name"] is JsonValue given && given.TryGetValue<string>(out var text) ? text : "";
            return IndexOf(items, name) >= 0 ? Edit.Conflict($"The name \"{Units.Shown(name)}\" is taken by another {noun}.") : new Entry(items.Count, body);
        });

    private async Task<Results<Ok<T>, Created<T>, ProblemHttpResult>> Put(string name, HttpContext context, ConfigStore store)
    {
        var written = await Write(context, store, name, (items, body) =>
        {
            body["name"] = name;
            return new Entry(IndexOf(items, name) is var index and >= 0 ? index : items.Count, body);
        });
        return written.Problem is { } problem ? problem : written.IsNew ? Created(written.Item!) : TypedResults.Ok(written.Item!);
    }

    private async Task<Results<Ok<T>, ProblemHttpResult>> Patch(string name, HttpContext context, ConfigStore store)
    {
        var written = await Write(context, store, name, (items, patch) =>
        {
            if (Caller.Of(context)?.Role < Role.Admin && patch.Any(change => !operatorKeys!.Contains(change.Key)))
            {
                return Edit.Forbidden($"An operator changes {string.Join(", ", operatorKeys!)} and nothing else.");
            }

            if (IndexOf(items, name) is var index && index < 0)
            {
                return Edit.NotFound(NoSuch(name));
            }

            var item = MergePatch.Apply(JsonSerializer.SerializeToNode(items[index], ConfigJson.Options)!, patch)!.AsObject();
            item["name"] = name;
            return new Entry(index, item);
        });
        return written.Problem is { } problem ? problem : TypedResults.Ok(written.Item!);
    }

    private async Task<Results<NoContent, ProblemHttpResult>> Delete(string name, HttpContext context, ConfigStore store)
    {
        var result = await store.ChangeAsync(current =>
        {
            if (IndexOf(itemsOf(current.Document), name) is var index && index < 0)
            {
                return Edit.NotFound(NoSuch(name));
            }

            var read = ConfigReader.WithoutEntry(current.Document, list, index);

            // The document was valid with it, so what is wrong without it is that something needs it.
            return read.IsValid
                ? read
                : Edit.Conflict($"The {noun} \"{name}\" is in use by {ConfigPlace.Users(read.Faults, read.Document)}; take it out there first.");
        }, ConfigApi.Note(context.Request), ConfigApi.IfMatch(context.Request), context.RequestAborted);
        if (result is not ChangeResult.Saved saved)
        {
            return ConfigApi.Problem(result);
        }

        ConfigApi.SetETag(context.Response, saved.Now.Revision);
        return TypedResults.NoContent();
    }

    // What a change makes of an entry, and where it goes (behind the last: it is new); or why not.
    private sealed record Entry(int Index, JsonObject? Item, Edit? Refusal = null)
    {
        public static implicit operator Entry(Edit refusal) => new(-1, null, refusal);
    }

    protected readonly record struct Written(T? Item, bool IsNew, ProblemHttpResult? Problem)
    {
        public static implicit operator Written(ProblemHttpResult problem) => new(null, false, problem);
    }

    // `name` is the one in the address, null when the body has it; `change` tells what becomes of the entry, or refuses.
    private async Task<Written> Write(
        HttpContext context, ConfigStore store, string? name, Func<IReadOnlyList<T>, JsonObject, Entry> change)
    {
        if (ConfigApi.FormatOf(context.Request.ContentType) != ConfigFormat.Json)
        {
            return ConfigApi.UnknownFormat(ConfigApi.JsonType);
        }

        if (await ConfigApi.BodyAsync(context.Request) is not { } bytes)
        {
            return ConfigApi.TooLarge();
        }

        var faults = new FaultList();
        if (Body(bytes, faults) is not { } body)
        {
            return ConfigApi.Invalid(faults.All());
        }

        if (name is not null && body["name"] is { } written && written.ToJsonString() != JsonValue.Create(name).ToJsonString())
        {
            return ConfigApi.Invalid([new ConfigFault("name", $"is \"{Units.Shown(name)}\" in the address, and names do not change")]);
        }

        var (place, read) = ("", (ReadResult?)null);
        var result = await store.ChangeAsync(current =>
        {
            var entry = change(itemsOf(current.Document), (JsonObject)body.DeepClone());
            if (entry.Refusal is { } refusal) return refusal;
            (place, read) = ($"{list}[{entry.Index}]", ConfigReader.ReadEntry(current.Document, list, entry.Index, entry.Item!));
            return read;
        }, ConfigApi.Note(context.Request), ConfigApi.IfMatch(context.Request), context.RequestAborted);
        if (result is not ChangeResult.Saved saved)
        {
            return result is ChangeResult.Invalid invalid
                ? ConfigApi.Invalid([.. invalid.Faults.Select(fault => ConfigPlace.Within(fault, place, read!.Document))])
                : ConfigApi.Problem(result);
        }

        ConfigApi.SetETag(context.Response, saved.Now.Revision);
        var item = name is null ? itemsOf(saved.Now.Document)[^1] : Find(saved.Now, name)!;
        return new Written(item, Find(saved.Before, nameOf(item)) is null, null);
    }

    private Created<T> Created(T item) => TypedResults.Created($"/api/v1/{list}/{nameOf(item)}", item);

    /// <summary>Under the same bounds as a whole configuration: depth, duplicate keys, strings that are text.</summary>
    private static JsonObject? Body(ReadOnlyMemory<byte> utf8, FaultList faults)
    {
        switch (ConfigTree.Parse(utf8, ConfigFormat.Json, faults))
        {
            case MapNode when faults.IsEmpty:
                return JsonNode.Parse(utf8.Span)!.AsObject();
            case not null when faults.IsEmpty:
                faults.Add("", "expected a JSON object");
                return null;
            default:
                return null;
        }
    }

    private int IndexOf(IReadOnlyList<T> items, string name)
    {
        for (var i = 0; i < items.Count; i++)
        {
            if (nameOf(items[i]) == name) return i;
        }

        return -1;
    }

    protected T? Find(StoredConfig config, string name) => itemsOf(config.Document).FirstOrDefault(item => nameOf(item) == name);

    protected string NoSuch(string name) => $"There is no {noun} \"{Units.Shown(name)}\".";
}
