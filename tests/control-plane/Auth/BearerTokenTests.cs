using System.Net;
using Evenkeel.Auth;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Routing.Patterns;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Auth;

[Collection(PostgresCollection.Name)]
public sealed class BearerTokenTests(PostgresFixture postgres)
{
    [Fact]
    public async Task Every_endpoint_needs_its_token_but_health_and_the_OpenAPI_document()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var nobody = plane.Caller(null);
        var endpoints = plane.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>().ToList();
        Assert.True(endpoints.Count > 20);

        var open = endpoints.Where(e => e.Metadata.GetMetadata<IAllowAnonymous>() is not null).Select(e => e.RoutePattern.RawText).ToHashSet();
        Assert.Equal(["/", "/api/v1/session/", "/app.css", "/app.js", "/healthz", "/icon.svg", "/node/v1/enrol", "/openapi/{documentName}.json", "/readyz"], open.Order(StringComparer.Ordinal));

        foreach (var endpoint in endpoints.Where(e => e.Metadata.GetMetadata<IAllowAnonymous>() is null))
        {
            var path = "/" + string.Join('/', endpoint.RoutePattern.PathSegments.Select(s => string.Concat(s.Parts.Select(Written))));
            foreach (var method in endpoint.Metadata.GetMetadata<HttpMethodMetadata>()?.HttpMethods ?? ["GET"])
            {
                using var refused = await nobody.SendAsync(new HttpRequestMessage(new HttpMethod(method), path));
                Assert.True(refused.StatusCode == HttpStatusCode.Unauthorized, $"{method} {path} answered {(int)refused.StatusCode} to a caller without a token");
                Assert.Equal("Bearer", refused.Headers.WwwAuthenticate.ToString());
            }
        }

        using var document = await nobody.GetAsync("/openapi/v1.json");
        Assert.Equal(HttpStatusCode.OK, document.StatusCode);
        using var page = await nobody.GetAsync("/openapi/index.html");
        Assert.Equal(HttpStatusCode.OK, page.StatusCode);
        Assert.DoesNotContain("https://", await page.Content.ReadAsStringAsync());
        Assert.Equal("ok\n", await nobody.GetStringAsync("/healthz"));
        Assert.Equal("ready\n", await nobody.GetStringAsync("/readyz"));
    }

    private static string Written(RoutePatternPart part) => part switch
    {
        RoutePatternLiteralPart literal => literal.Content,
        RoutePatternSeparatorPart separator => separator.Content,
        _ => "1",
    };

    [Fact]
    public async Task A_wrong_token_is_refused_and_so_is_the_node_s()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        foreach (var token in new[] { "wrong", ControlPlane.AdminToken + "x", ControlPlane.AdminToken[..^1], ControlPlane.NodeToken })
        {
            using var caller = plane.Caller(token);
            var problem = await caller.SendAsync(HttpMethod.Get, "/api/v1/config", expect: HttpStatusCode.Unauthorized);
            Assert.Equal(401, (int)problem["status"]!);
            Assert.DoesNotContain(token, problem.ToJsonString());
        }
    }

    [Fact]
    public async Task Each_refused_caller_leaves_one_line_in_the_log_and_one_too_many_leaves_none()
    {
        await using var plane = await ControlPlane.StartAsync(postgres, new FailureLimiter(burst: 5));
        using var nobody = plane.Caller(null);
        using var guesser = plane.Caller("a-guess");
        using var node = plane.Node();
        await nobody.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        await guesser.GetAsync("/api/v1/config", HttpStatusCode.Unauthorized);
        await node.GetAsync("/api/v1/nodes", HttpStatusCode.Unauthorized);
        await guesser.GetAsync("/node/v1/local/nginx.conf", HttpStatusCode.Unauthorized);
        await guesser.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json("""{"token":"a-guess"}"""), HttpStatusCode.Unauthorized);
        Assert.Equal(
            ["GET /api/v1/config", "GET /api/v1/config", "GET /api/v1/nodes", "GET /node/v1/local/nginx.conf", "POST /api/v1/session"],
            plane.Log.Lines.Select(line => line[(line.IndexOf(" for ", StringComparison.Ordinal) + 5)..]));
        await guesser.SendAsync(HttpMethod.Post, "/node/v1/enrol?node=x", new StringContent(new string('a', 43)), HttpStatusCode.TooManyRequests);
        Assert.Equal(5, plane.Log.Lines.Count);
        Assert.DoesNotContain(plane.Log.Lines, line => line.Contains("a-guess", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("Bearer")]
    [InlineData("Basic admin")]
    [InlineData("admin")]
    public void Only_what_stands_under_Bearer_is_a_token(string? authorization)
    {
        Assert.Null(BearerTokens.HashOf(authorization));
        Assert.Equal(BearerTokens.Hash("admin"), BearerTokens.HashOf("Bearer admin"));
        Assert.Equal(BearerTokens.Hash("admin"), BearerTokens.HashOf("bearer admin"));
        Assert.NotEqual(BearerTokens.Hash("admin"), BearerTokens.HashOf("Bearer admin extra"));
    }

    [Fact]
    public async Task Every_endpoint_belongs_to_an_area_and_one_that_belongs_to_none_is_for_unbound_tokens_only()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        foreach (var endpoint in plane.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>())
        {
            var isForAdmins = endpoint.Metadata.GetMetadata<IAllowAnonymous>() is null && endpoint.Metadata.GetMetadata<TokenAudience>()?.Audience != Audience.Node;
            var isOwnSession = endpoint.RoutePattern.RawText!.StartsWith("/api/v1/session", StringComparison.Ordinal);
            if (isForAdmins && !isOwnSession)
            {
                Assert.True(Areas.Of(endpoint) is not null, endpoint.RoutePattern.RawText);
            }
        }

        var untagged = new RouteEndpoint(_ => Task.CompletedTask, RoutePatternFactory.Parse("/new"), 0, EndpointMetadataCollection.Empty, "new");
        Assert.False(Areas.Allow(Enum.GetValues<Area>(), untagged));
        Assert.True(Areas.Allow(null, untagged));
    }
}
