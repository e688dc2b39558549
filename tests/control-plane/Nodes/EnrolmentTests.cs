using System.Net;
using System.Text;
using Dapper;
using Evenkeel.Nodes;
using Evenkeel.Secrets;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Nodes;

/// <summary>A node on another machine gets a token of its own, which is all that can be stolen there.</summary>
[Collection(PostgresCollection.Name)]
public sealed class EnrolmentTests(PostgresFixture postgres) : IAsyncLifetime
{
    private ControlPlane _plane = null!;
    private HttpClient _admin = null!;

    public async Task InitializeAsync()
    {
        _plane = await ControlPlane.StartAsync(postgres);
        _admin = _plane.Admin();
        await _admin.ApplyAsync(NodeCalls.Config());
    }

    public async Task DisposeAsync() => await _plane.DisposeAsync();

    private static string Own(char letter) => new(letter, 43);

    private async Task<string> OneTimeTokenAsync(string? name = null)
    {
        var made = await _admin.SendAsync(HttpMethod.Post, "/api/v1/nodes/enrolments", Body.Json(name is null ? "{}" : $$"""{"name":"{{name}}"}"""), HttpStatusCode.Created);
        Assert.InRange((DateTime)made["expires_at"]!, DateTime.UtcNow.AddMinutes(59), DateTime.UtcNow.AddMinutes(61));
        return (string)made["token"]!;
    }

    private async Task<HttpStatusCode> EnrolAsync(string oneTime, string node, string own)
    {
        using var caller = _plane.Caller(oneTime);
        using var answer = await caller.PostAsync($"/node/v1/enrol?node={node}", new StringContent(own + "\n", Encoding.ASCII, "text/plain"));
        return answer.StatusCode;
    }

    private async Task<HttpStatusCode> PollAsync(string token, string node)
    {
        using var caller = _plane.Caller(token);
        using var answer = await caller.PollAsync(node);
        return answer.StatusCode;
    }

    [Fact]
    public async Task One_time_token_lets_in_one_node_whose_own_token_opens_its_own_paths_and_no_others()
    {
        using var shared = _plane.Node();
        await shared.TextAsync("old");
        var once = await OneTimeTokenAsync();
        Assert.Matches("^eke_[A-Za-z0-9_-]{43}$", once);
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(once, "new", Own('a')));
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(once, "new", Own('a')));        // its answer was lost
        Assert.Equal(HttpStatusCode.Unauthorized, await EnrolAsync(once, "new", Own('b')));
        Assert.Equal(HttpStatusCode.Unauthorized, await EnrolAsync(once, "newer", Own('b')));

        using var node = _plane.Caller(Own('a'));
        Assert.Equal(HttpStatusCode.OK, (await node.TextAsync("new")).StatusCode);
        foreach (var path in new[] { "/node/v1/old/nginx.conf", "/node/v1/newer/nginx.conf", "/api/v1/nodes", "/api/v1/session" })
        {
            await node.GetAsync(path, HttpStatusCode.Unauthorized);
        }

        await node.SendAsync(HttpMethod.Post, "/node/v1/old/reports?revision=1&text_digest=a&result=refused&stage=test", expect: HttpStatusCode.Unauthorized);
        Assert.Equal(HttpStatusCode.Unauthorized, await PollAsync(ControlPlane.NodeToken, "new"));
        Assert.Equal(HttpStatusCode.Unauthorized, await PollAsync(once, "new"));
        Assert.Equal(HttpStatusCode.OK, await PollAsync(ControlPlane.NodeToken, "old"));

        var nodes = (await _admin.GetJsonAsync("/api/v1/nodes")).AsArray();
        Assert.Equal([true, false], nodes.Select(n => n!["enrolled_at"] is not null));
        await using var connection = await _plane.OpenDatabaseAsync();
        var rows = string.Join('\n', await connection.QueryAsync<string>("select t::text from node_token t union all select t::text from node_enrolment t union all select t::text from audit_log t"));
        Assert.DoesNotContain(once, rows);
        Assert.DoesNotContain(Convert.ToHexStringLower(Encoding.ASCII.GetBytes(Own('a'))), rows);
        Assert.DoesNotContain(Own('a'), rows);
    }

    [Fact]
    public async Task Who_may_enrol_as_whom()
    {
        using var shared = _plane.Node();
        await shared.TextAsync("old");
        Assert.Equal(HttpStatusCode.Conflict, await EnrolAsync(await OneTimeTokenAsync(), "old", Own('a')));            // it is there
        var forOld = await OneTimeTokenAsync("old");
        Assert.Equal(HttpStatusCode.Forbidden, await EnrolAsync(forOld, "new", Own('a')));
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(forOld, "old", Own('a')));
        Assert.Equal(HttpStatusCode.Conflict, await EnrolAsync(await OneTimeTokenAsync(), "old", Own('b')));
        Assert.Equal(HttpStatusCode.BadRequest, await EnrolAsync(await OneTimeTokenAsync(), "thief", Own('a')));        // somebody else's
        Assert.Equal(HttpStatusCode.BadRequest, await EnrolAsync(await OneTimeTokenAsync(), "new", "short"));
        Assert.Equal(HttpStatusCode.BadRequest, await EnrolAsync(await OneTimeTokenAsync(), "..%2Fnew", Own('b')));

        // Anew: the token that it had is worth nothing from now on.
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(await OneTimeTokenAsync("old"), "old", Own('b')));
        Assert.Equal(HttpStatusCode.Unauthorized, await PollAsync(Own('a'), "old"));
        Assert.Equal(HttpStatusCode.OK, await PollAsync(Own('b'), "old"));

        var late = await OneTimeTokenAsync();
        await using var connection = await _plane.OpenDatabaseAsync();
        await connection.ExecuteAsync("update node_enrolment set expires_at = now()");
        Assert.Equal(HttpStatusCode.Unauthorized, await EnrolAsync(late, "late", Own('c')));
        foreach (var bad in new[] { """{"name":"Bad Name"}""", """{"expires_in":"8d"}""", """{"expires_in":"0s"}""", """{"expires_in":"soon"}""" })
        {
            await _admin.SendAsync(HttpMethod.Post, "/api/v1/nodes/enrolments", Body.Json(bad), HttpStatusCode.BadRequest);
        }
    }

    [Fact]
    public async Task Each_node_is_shown_its_own_token_also_after_a_new_key_for_secrets()
    {
        await using var fake = await FakeNode.StartAsync();
        fake.Token = Own('a');
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(await OneTimeTokenAsync(), "new", Own('a')));
        using var node = _plane.Caller(Own('a'));
        await node.TextAsync("new", fake.Url);
        await NodeCalls.EventuallyAsync("the snapshot is pushed", () => fake.Revision > 0);

        Assert.Equal(0, await RotateCommand.RunAsync([], _plane.Services.GetRequiredService<EvenkeelOptions>(), TextWriter.Null, TextWriter.Null));
        await using var second = _plane.Another();
        using var other = second.Caller(Own('a'));
        fake.Forget();
        await other.TextAsync("new", fake.Url);
        await NodeCalls.EventuallyAsync("and again, by one that has just started", () => fake.Revision > 0);
    }

    [Fact]
    public async Task A_removed_node_is_refused_at_once_and_no_longer_called()
    {
        await using var fake = await FakeNode.StartAsync();
        fake.Token = Own('a');
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(await OneTimeTokenAsync(), "new", Own('a')));
        using var node = _plane.Caller(Own('a'));
        var digest = (await node.TextAsync("new", fake.Url)).TextDigest();
        await NodeCalls.EventuallyAsync("the snapshot is pushed", () => fake.Revision > 0);

        await using (var database = await _plane.OpenDatabaseAsync())
        {
            await database.ExecuteAsync("insert into telemetry_cursor (node) values ('new') on conflict do nothing");
        }

        var waiting = node.PollAsync("new", fake.Url, digest, waitS: 20);
        using var shared = _plane.Node();
        await shared.TextAsync("old");
        await _admin.SendAsync(HttpMethod.Delete, "/api/v1/nodes/old", expect: HttpStatusCode.Conflict);       // its token is not its own
        await _admin.SendAsync(HttpMethod.Delete, "/api/v1/nodes/new", expect: HttpStatusCode.NoContent);
        await _admin.SendAsync(HttpMethod.Delete, "/api/v1/nodes/new", expect: HttpStatusCode.NotFound);
        Assert.Equal(HttpStatusCode.Unauthorized, await PollAsync(Own('a'), "new"));
        var tokens = _plane.Services.GetRequiredService<NodeTokens>();
        Assert.Equal((null, ControlPlane.NodeToken), (await tokens.ForAsync("new", default), await tokens.ForAsync("old", default)));     // what all share is not for it
        await _admin.ApplyAsync(NodeCalls.Config(more: "  - {name: b, base_url: \"http://127.0.0.1:9002\"}"));
        Assert.Equal(HttpStatusCode.Unauthorized, (await waiting).StatusCode);
        Assert.Equal(["old"], (await _admin.GetJsonAsync("/api/v1/nodes")).AsArray().Select(n => (string)n!["name"]!));

        var audit = (await _admin.GetJsonAsync("/api/v1/audit?limit=500")).AsArray().Select(e => $"{e!["who"]} {e["role"]} {e["action"]} {e["status"]}").ToList();
        Assert.Contains("new node POST /node/v1/enrol 204", audit);
        Assert.Contains("admin admin DELETE /api/v1/nodes/new 204", audit);
        Assert.Contains("admin admin POST /api/v1/nodes/enrolments 201", audit);

        // It may come back, and what was read of its counters is not read again.
        await using var connection = await _plane.OpenDatabaseAsync();
        Assert.Equal(1, await connection.ExecuteScalarAsync<int>("select count(*) from telemetry_cursor where node = 'new'"));
        Assert.Equal(HttpStatusCode.NoContent, await EnrolAsync(await OneTimeTokenAsync("new"), "new", Own('b')));
        Assert.Equal(HttpStatusCode.OK, await PollAsync(Own('b'), "new"));
    }
}
