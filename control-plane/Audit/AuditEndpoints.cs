using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Audit;

/// <summary>The audit log, for those who look after things.</summary>
public static class AuditEndpoints
{
    private const int MostPerPage = 500;

    public static void MapAudit(this IEndpointRouteBuilder app) =>
        app.MapGet("/api/v1/audit", List).WithTags("audit").WithName("listAudit")
            .WithSummary("Changes and attempts, newest first; before=ID goes on below ID, who=NAME is one token's.")
            .ProducesProblem(StatusCodes.Status401Unauthorized);

    private static async Task<Ok<IReadOnlyList<AuditEntry>>> List(AuditLog audit, CancellationToken cancel, long before = long.MaxValue, string? who = null, int limit = 50) =>
        TypedResults.Ok(await audit.ListAsync(before, who, Math.Clamp(limit, 1, MostPerPage), cancel));
}
