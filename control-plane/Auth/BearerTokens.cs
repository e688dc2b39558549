using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Authorization;

namespace Evenkeel.Auth;

public enum Audience { Admin, Node }

/// <summary>Says whose token an endpoint takes; an endpoint that says nothing takes the admin's.</summary>
public sealed record TokenAudience(Audience Audience);

/// <summary>
/// The two bearer tokens of the control plane. Every endpoint needs one of them unless it says AllowAnonymous, so that a
/// new endpoint cannot be open by oversight. Comparison takes the same time whatever was sent.
/// </summary>
public sealed class BearerTokens(string adminToken, string nodeToken)
{
    private readonly byte[] _admin = Hash(adminToken);
    private readonly byte[] _node = Hash(nodeToken);

    public static BearerTokens From(EvenkeelOptions options) =>
        new(EvenkeelOptions.ReadSecretFile(options.AdminTokenFile), EvenkeelOptions.ReadSecretFile(options.NodeTokenFile));

    public bool Accepts(Audience audience, string? authorization)
    {
        const string Scheme = "Bearer ";
        return authorization is { Length: <= 4096 }
            && authorization.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            && CryptographicOperations.FixedTimeEquals(Hash(authorization[Scheme.Length..].Trim()), audience == Audience.Node ? _node : _admin);
    }

    private static byte[] Hash(string token) => SHA256.HashData(Encoding.UTF8.GetBytes(token));
}

public static class BearerTokenExtensions
{
    /// <summary>Put after routing: it looks at the endpoint that was chosen.</summary>
    public static void UseBearerTokens(this IApplicationBuilder app) => app.Use(async (context, next) =>
    {
        var endpoint = context.GetEndpoint();
        if (endpoint is null || endpoint.Metadata.GetMetadata<IAllowAnonymous>() is not null)
        {
            await next(context);
            return;
        }

        var audience = endpoint.Metadata.GetMetadata<TokenAudience>()?.Audience ?? Audience.Admin;
        var headers = context.Request.Headers.Authorization;
        if (context.RequestServices.GetRequiredService<BearerTokens>().Accepts(audience, headers.Count == 1 ? headers[0] : null))
        {
            await next(context);
            return;
        }

        context.Response.Headers.WWWAuthenticate = "Bearer";
        await TypedResults.Problem(title: "Unauthorized", statusCode: StatusCodes.Status401Unauthorized,
            detail: audience == Audience.Node ? "This needs the node's bearer token." : "This needs the admin's bearer token.").ExecuteAsync(context);
    });

    /// <summary>The endpoints of this group take the node's token.</summary>
    public static T RequireNodeToken<T>(this T builder) where T : IEndpointConventionBuilder => builder.WithMetadata(new TokenAudience(Audience.Node));
}
