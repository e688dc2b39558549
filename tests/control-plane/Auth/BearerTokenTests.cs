using System.Net;
using Evenkeel.Auth;
using Microsoft.AspNetCore.Authorization;
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
        Assert.Equal(["/", "/api/v1/session/", "/app.css", "/app.js", "/healthz", "/icon.svg", "/openapi/{documentName}.json", "/readyz"], open.Order(StringComparer.Ordinal));

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

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("Bearer")]
    [InlineData("Bearer ")]
    [InlineData("Basic admin")]
    [InlineData("admin")]
    [InlineData("Bearer node")]
    [InlineData("Bearer admin extra")]
    public void Only_the_whole_token_under_Bearer_is_accepted(string? authorization)
    {
        var tokens = new BearerTokens("admin", "node");
        Assert.False(tokens.Accepts(Audience.Admin, authorization));
        Assert.True(tokens.Accepts(Audience.Admin, "Bearer admin"));
        Assert.True(tokens.Accepts(Audience.Admin, "bearer admin"));
        Assert.True(tokens.Accepts(Audience.Node, "Bearer node"));
    }
}
