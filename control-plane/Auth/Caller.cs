using System.Security.Claims;

namespace Evenkeel.Auth;

/// <summary>What a caller may do; each may do what the ones before may. Viewer: read. Operator: weight, drain, enable, acknowledge. Admin: all.</summary>
public enum Role { Viewer, Operator, Admin }

/// <summary>Who calls, by which right.</summary>
/// <param name="Name">The token's; "admin" for the token of <see cref="EvenkeelOptions.AdminTokenFile"/>.</param>
/// <param name="Role">What that token may do.</param>
/// <param name="TokenHash">SHA-256 of the token.</param>
/// <param name="ExpiresAt">Of the token, or of the session where there is one; null: never.</param>
/// <param name="SessionHash">SHA-256 of the cookie; null: the caller showed the token itself.</param>
/// <param name="Areas">What the token is bound to; null: nothing, it is for all areas.</param>
public sealed record Caller(string Name, Role Role, byte[] TokenHash, DateTime? ExpiresAt = null, byte[]? SessionHash = null, IReadOnlyList<Area>? Areas = null)
{
    private static readonly object s_key = new();

    /// <summary>The caller of a request; null where the endpoint is open or a node's.</summary>
    public static Caller? Of(HttpContext context) => context.Items[s_key] as Caller;

    /// <summary>Whose hand it was, for revisions, comments and the audit log.</summary>
    public static string NameOf(HttpContext context) => Of(context)?.Name ?? "nobody";

    internal void SignIn(HttpContext context)
    {
        context.Items[s_key] = this;
        context.User = new ClaimsPrincipal(new ClaimsIdentity([new Claim(ClaimTypes.Name, Name), new Claim(ClaimTypes.Role, Role.ToString())], "evenkeel"));
    }
}
