using Dapper;
using Evenkeel.Auth;
using Evenkeel.Config;
using Microsoft.AspNetCore.Http.HttpResults;
using Npgsql;

namespace Evenkeel.Secrets;

/// <summary>A stored secret, without the secret.</summary>
public sealed record StoredSecret
{
    public required string Id { get; init; }
    /// <summary>Of the key that it is encrypted with.</summary>
    public required string KeyId { get; init; }
    public required DateTime CreatedAt { get; init; }
    /// <summary>The configuration in force refers to it.</summary>
    public required bool InUse { get; init; }
}

/// <summary>What is stored encrypted: which there are, and away with those no longer needed. Nothing gives a secret back.</summary>
public static class SecretEndpoints
{
    public static void MapSecrets(this IEndpointRouteBuilder app)
    {
        var group = app.MapGroup("/api/v1/secrets").WithTags("secrets").RequireRole(Role.Admin).ProducesProblem(StatusCodes.Status401Unauthorized);
        group.MapGet("", List).WithName("listSecrets").WithSummary("The stored secrets, never their values.");
        group.MapDelete("/{id}", Delete).WithName("deleteSecret").WithSummary("Removes a stored secret that the configuration in force does not refer to; older revisions that do cannot be brought back.")
            .ProducesProblem(StatusCodes.Status404NotFound).ProducesProblem(StatusCodes.Status409Conflict);
    }

    private static async Task<Ok<IReadOnlyList<StoredSecret>>> List(SecretStore secrets, CancellationToken cancel) => TypedResults.Ok(await secrets.ListAsync(cancel));

    private static async Task<Results<NoContent, ProblemHttpResult>> Delete(string id, SecretStore secrets, CancellationToken cancel) =>
        await secrets.DeleteAsync(id, cancel) switch
        {
            null => ConfigApi.NotFound($"There is no stored secret \"{Units.Shown(id)}\"."),
            true => TypedResults.NoContent(),
            false => TypedResults.Problem(title: "Conflict", detail: "The configuration in force refers to it.", statusCode: StatusCodes.Status409Conflict),
        };
}

/// <summary>The rows of stored secrets; <see cref="ConfigStore"/> adds to them.</summary>
public sealed class SecretStore(NpgsqlDataSource database, ConfigStore configs)
{
    private sealed record Row(string Id, string KeyId, DateTime CreatedAt);

    public async Task<IReadOnlyList<StoredSecret>> ListAsync(CancellationToken cancel)
    {
        var used = InUse((await configs.LoadAsync(cancel)).Document);
        await using var connection = await database.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<Row>(new CommandDefinition("select id, key_id, created_at from secret order by created_at, id", cancellationToken: cancel));
        return [.. rows.Select(r => new StoredSecret { Id = r.Id, KeyId = r.KeyId, CreatedAt = r.CreatedAt, InUse = used.Contains(r.Id) })];
    }

    /// <returns>Null: there is none. False: it is in use.</returns>
    public async Task<bool?> DeleteAsync(string id, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await ConfigStore.LockAsync(connection, transaction, cancel);       // nobody begins to use it meanwhile
        if (InUse((await configs.LoadAsync(cancel)).Document).Contains(id))
        {
            return false;
        }

        var rows = await connection.ExecuteAsync(new CommandDefinition("delete from secret where id = @id", new { id }, transaction, cancellationToken: cancel));
        await transaction.CommitAsync(cancel);
        return rows > 0 ? true : null;
    }

    /// <summary>Forgets those that no kept revision refers to.</summary>
    public static async Task PruneAsync(NpgsqlDataSource database, CancellationToken cancel)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await ForgetAsync(connection, await UnreferencedAsync(connection, cancel), cancel);
    }

    /// <summary>Secrets that no revision up to <paramref name="Newest"/> refers to.</summary>
    internal sealed record Unreferenced(IReadOnlyCollection<string> Ids, long Newest);

    // A day for whoever is about to put a configuration with the reference that he was given.
    private const string OldSql = """
        select coalesce(max(number), 0) from revision;
        select id from secret where created_at < now() - interval '1 day';
        """;

    // Some that are none may be among them, such as what a text begins with.
    private const string ReferencesSql = """
        with portion as (select number, document from revision where number < @below order by number desc limit @Portion)
        select (select min(number) from portion), array(select distinct left(reference, 20) from portion, string_to_table(document::text, 'secret:') reference)
        """;

    private const int Portion = 50;

    // Revisions do not change, so their text is read without the lock, newest first, until every secret is seen or all are read.
    internal static async Task<Unreferenced> UnreferencedAsync(NpgsqlConnection connection, CancellationToken cancel)
    {
        long newest;
        HashSet<string> ids;
        await using (var tables = await connection.QueryMultipleAsync(new CommandDefinition(OldSql, cancellationToken: cancel)))
        {
            newest = await tables.ReadSingleAsync<long>();
            ids = [.. await tables.ReadAsync<string>()];
        }
        for (long? below = newest + 1; ids.Count > 0 && below is not null;)
        {
            (below, var references) = await connection.QuerySingleAsync<(long?, string[])>(new CommandDefinition(ReferencesSql, new { below, Portion }, commandTimeout: 60, cancellationToken: cancel));
            ids.ExceptWith(references);
        }
        return new Unreferenced(ids, newest);
    }

    private const string ForgetSql = """
        delete from secret where id = any(@ids) and id not in (
            select left(reference, 20) from revision, string_to_table(document::text, 'secret:') reference where number > @Newest)
        """;

    // Numbers grow in the order in which revisions come into force: under the lock, what was not read above is above the newest that was.
    internal static async Task ForgetAsync(NpgsqlConnection connection, Unreferenced found, CancellationToken cancel)
    {
        if (found.Ids.Count == 0) return;
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await ConfigStore.LockAsync(connection, transaction, cancel);
        await connection.ExecuteAsync(new CommandDefinition(ForgetSql, new { ids = found.Ids.ToArray(), found.Newest }, transaction, cancellationToken: cancel));
        await transaction.CommitAsync(cancel);
    }

    private static HashSet<string> InUse(ConfigDocument document) =>
        [.. SecretFields.Of(document).Select(f => SecretReference.Parse(f.Text)).Where(r => r.Kind == SecretKind.Stored).Select(r => r.Value)];
}
