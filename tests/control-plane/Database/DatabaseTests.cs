using System.Diagnostics;
using System.Net;
using Dapper;
using Evenkeel.Auth;
using Evenkeel.Database;
using Evenkeel.Nodes;
using Evenkeel.Publishing;
using Evenkeel.Tests.Config;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Database;

[Collection(PostgresCollection.Name)]
public sealed class DatabaseTests(PostgresFixture postgres)
{
    // On a busy machine; who has to wait for the database waits for longer.
    private static readonly TimeSpan s_atOnce = TimeSpan.FromSeconds(4);

    [Fact]
    public async Task Of_several_that_start_at_once_one_migrates_and_the_others_wait()
    {
        await using var database = NpgsqlDataSource.Create(await postgres.CreateDatabaseAsync());
        var applied = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Migrator.MigrateAsync(database)));
        Assert.Equal(1, applied.Count(names => names.Count > 0));
        Assert.Empty(await Migrator.MigrateAsync(database));
    }

    [Theory]
    [InlineData("", 40)]
    [InlineData(";Maximum Pool Size=7", 7)]
    [InlineData(";MaxPoolSize=90", 90)]
    public void It_holds_few_connections_unless_it_is_told_otherwise(string written, int most)
    {
        using var database = DatabaseSetup.Open(new EvenkeelOptions { Database = "Host=127.0.0.1" + written, AdminTokenFile = "", SecretKeyFile = "" });
        Assert.Equal(most, new NpgsqlConnectionStringBuilder(database.ConnectionString).MaxPoolSize);
    }

    [Fact]
    public async Task A_migration_that_was_changed_after_it_ran_stops_the_start()
    {
        await using var database = NpgsqlDataSource.Create(await postgres.CreateDatabaseAsync());
        await Migrator.MigrateAsync(database);
        await using (var connection = await database.OpenConnectionAsync())
        {
            await connection.ExecuteAsync("update evenkeel.schema_migration set sha256 = 'another' where name like '0001%'");
        }

        var stopped = await Assert.ThrowsAsync<SetupException>(() => Migrator.MigrateAsync(database));
        Assert.Contains("0001_evenkeel.sql", stopped.Message);
    }

    [Fact]
    public async Task Of_two_control_planes_on_one_database_each_knows_at_once_what_was_changed_at_the_other_and_changes_nothing_unseen()
    {
        await using var first = await ControlPlane.StartAsync(postgres);
        using var one = first.Admin();
        var number = await one.PutConfigAsync(Sample.Yaml);
        await NodeCalls.EventuallyAsync("the first one leads", async () => (bool)(await one.GetJsonAsync("/api/v1/status"))["leads"]!);
        await using var second = first.Another();
        using var other = second.Admin();
        Assert.Equal(number, await other.ETagAsync("/api/v1/config"));
        Assert.Equal("ready\n", await other.GetStringAsync("/readyz"));

        // One of them leads: it has from the start.
        Assert.True((bool)(await one.GetJsonAsync("/api/v1/status"))["leads"]!);
        Assert.False((bool)(await other.GetJsonAsync("/api/v1/status"))["leads"]!);

        // What is to be pushed is there by notice, at both, not by the clock that makes up for lost notices every two to four seconds.
        HttpClient[] admins = [one, other];
        DesiredState[] states = [first.Services.GetRequiredService<DesiredState>(), second.Services.GetRequiredService<DesiredState>()];
        await NodeCalls.EventuallyAsync("both have the first one", () => states.All(state => state.Current?.Revision == number));
        var took = new List<TimeSpan>();
        for (var i = 0; i < 6; i++)
        {
            number = (long)(await ChangeAsync(admins[i % 2], 11 + i, HttpStatusCode.OK, number))["revision"]!;
            took.Add(await NodeCalls.EventuallyAsync("both want it", () => states.All(state => state.Current?.Revision == number)));
        }
        Assert.True(took.Order().ElementAt(3) < TimeSpan.FromSeconds(1), string.Join(", ", took));

        // Of several that change what all of them have read, one does; the others are told that they have not seen it.
        var answers = await Task.WhenAll(Enumerable.Range(0, 8).Select(async i =>
        {
            using var request = new HttpRequestMessage(HttpMethod.Patch, "/api/v1/instances/a") { Content = Body.Json($$"""{"weight": {{50 + i}}}""") };
            request.Headers.TryAddWithoutValidation("If-Match", $"\"{number}\"");
            using var answer = await admins[i % 2].SendAsync(request);
            return answer.StatusCode;
        }));
        Assert.Equal(1, answers.Count(status => status == HttpStatusCode.OK));
        Assert.Equal(7, answers.Count(status => status == HttpStatusCode.PreconditionFailed));
        Assert.Equal(number + 1, await other.ETagAsync("/api/v1/config"));

        static async Task<System.Text.Json.Nodes.JsonNode> ChangeAsync(HttpClient admin, int weight, HttpStatusCode expect, long seen)
        {
            await admin.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json($$"""{"weight": {{weight}}}"""), expect, $"\"{seen}\"");
            return new System.Text.Json.Nodes.JsonObject { ["revision"] = await admin.ETagAsync("/api/v1/config") };
        }
    }

    [Fact]
    public async Task While_the_database_is_away_answers_are_503_and_all_is_well_when_it_is_back()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        await admin.PutConfigAsync(Sample.Yaml);

        await plane.SetDatabaseAsync(away: true);
        var problem = await admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml("{}"), HttpStatusCode.ServiceUnavailable);
        Assert.Equal("The database is away", (string?)problem["title"]);
        await admin.GetAsync("/readyz", HttpStatusCode.ServiceUnavailable);
        Assert.Equal("ok\n", await admin.GetStringAsync("/healthz"));

        await plane.SetDatabaseAsync(away: false);
        Assert.Equal(2, (await admin.GetJsonAsync("/api/v1/instances")).AsArray().Count);
    }

    [Fact]
    public async Task While_the_database_is_silent_reads_and_pushes_go_on_from_memory_and_what_needs_it_is_refused_at_once()
    {
        await using var wire = new FrailWire(postgres.Port);
        await using var plane = await ControlPlane.StartAsync(postgres, wire);
        await using var node = await FakeNode.StartAsync();
        using var admin = plane.Admin();
        using var agent = plane.Node();
        var revision = await admin.PutConfigAsync(Sample.Yaml);
        using var viewer = plane.Caller(await TokenAsync("viewer", DateTime.UtcNow.AddHours(1)));
        var ends = DateTime.UtcNow.AddSeconds(8);
        using var brief = plane.Caller(await TokenAsync("brief", ends));
        using var browser = plane.CreateClient();
        await browser.SendAsync(HttpMethod.Post, "/api/v1/session", Body.Json($$"""{"token":"{{ControlPlane.AdminToken}}"}"""));
        await agent.TextAsync("one", node.Url);
        await NodeCalls.EventuallyAsync("the node runs it", () => node.Revision == revision);
        // Nobody has used the tokens yet: they are known all the same.
        var tokens = plane.Services.GetRequiredService<AdminTokens>();
        await NodeCalls.EventuallyAsync("all is remembered", () => tokens.Known == (2, 1) && plane.Services.GetRequiredService<NodeMemory>() is { Leads: true, Nodes.Count: 1 });

        wire.Silence();
        try
        {
            // What is under way ends when it is known.
            var began = Stopwatch.StartNew();
            using var change = await admin.PutAsync("/api/v1/config", Body.Yaml("{}"));
            Assert.Equal(HttpStatusCode.ServiceUnavailable, change.StatusCode);
            using var read = await admin.GetAsync("/api/v1/status");
            Assert.True((bool)System.Text.Json.Nodes.JsonNode.Parse(await read.Content.ReadAsStringAsync())!["database_away"]!);
            Assert.True(began.Elapsed < TimeSpan.FromSeconds(20), $"it took {began.Elapsed}");

            foreach (var caller in new[] { admin, viewer, browser })
            {
                foreach (var path in new[] { "session", "status", "nodes", "nodes/one", "nodes/one/nginx.conf", "config", "instances", "instances/a", "health", "alerts/rules" })
                    await AtOnceAsync(caller, HttpMethod.Get, path, HttpStatusCode.OK);
            }
            foreach (var path in new[] { "incidents", "telemetry/errors", "revisions", "tokens", "audit", "ghosts" }) await AtOnceAsync(admin, HttpMethod.Get, path, HttpStatusCode.ServiceUnavailable);
            await AtOnceAsync(admin, HttpMethod.Put, "config", HttpStatusCode.ServiceUnavailable);
            await AtOnceAsync(admin, HttpMethod.Patch, "instances/a", HttpStatusCode.ServiceUnavailable);
            await AtOnceAsync(admin, HttpMethod.Delete, "instances/a", HttpStatusCode.ServiceUnavailable);
            foreach (var path in new[] { "instances", "tokens", "session", "silences", "ghosts/run", "revisions/1/rollback", "config/validate", "incidents/1/acknowledge" })
                await AtOnceAsync(admin, HttpMethod.Post, path, HttpStatusCode.ServiceUnavailable);
            await AtOnceAsync(viewer, HttpMethod.Put, "config", HttpStatusCode.Forbidden);
            using var nobody = plane.Caller("nobody's token");
            await AtOnceAsync(nobody, HttpMethod.Get, "status", HttpStatusCode.Unauthorized);

            node.Forget();
            await NodeCalls.EventuallyAsync("the node has its snapshot again", () => node.Revision == revision);
            Assert.Equal(HttpStatusCode.OK, (await agent.PollAsync("one", node.Url)).StatusCode);

            // Cut off from the database without either noticing, it loses the lead there.
            await using (var direct = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(plane.ConnectionString) { Port = postgres.Port, Pooling = false }.ConnectionString))
            {
                await direct.OpenAsync();
                await NodeCalls.EventuallyAsync("another one could lead", () => direct.ExecuteScalarAsync<bool>("select pg_try_advisory_lock(@LockKey)", new { NodeMemory.LockKey }));
            }

            await NodeCalls.EventuallyAsync("a token ends at its time", async () => (await brief.GetAsync("/api/v1/status")).StatusCode == HttpStatusCode.Unauthorized);
            Assert.True(DateTime.UtcNow >= ends);
        }
        finally
        {
            wire.Speak();
        }
        await NodeCalls.EventuallyAsync("it is back, and leads again", async () => (await admin.GetAsync("/readyz")).IsSuccessStatusCode && (bool)(await admin.GetJsonAsync("/api/v1/status"))["leads"]!);
        Assert.Equal(2, (await admin.GetJsonAsync("/api/v1/instances")).AsArray().Count);
        await admin.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"weight": 9}"""));

        async Task<string> TokenAsync(string name, DateTime expiresAt) => (string)(await admin.SendAsync(HttpMethod.Post, "/api/v1/tokens",
            Body.Json($$"""{"name":"{{name}}","role":"viewer","expires_at":"{{expiresAt:O}}"}"""), HttpStatusCode.Created))["token"]!;

        static async Task AtOnceAsync(HttpClient caller, HttpMethod method, string path, HttpStatusCode expect)
        {
            var clock = Stopwatch.StartNew();
            using var request = new HttpRequestMessage(method, "/api/v1/" + path) { Content = method == HttpMethod.Get ? null : Body.Json("{}"), Headers = { { Gate.CsrfHeader, "1" } } };
            using var answer = await caller.SendAsync(request);
            var text = await answer.Content.ReadAsStringAsync();
            Assert.True(answer.StatusCode == expect, $"{method} {path}: {(int)answer.StatusCode} {text}");
            Assert.True(clock.Elapsed < s_atOnce, $"{method} {path} took {clock.Elapsed}");
            if (expect != HttpStatusCode.ServiceUnavailable) return;
            Assert.Contains("The database is away", text);
            Assert.NotNull(answer.Headers.RetryAfter);
        }
    }

    [Fact]
    public async Task A_start_waits_for_a_server_that_does_not_answer_only_so_long()
    {
        await using var nobody = NpgsqlDataSource.Create("Host=127.0.0.1;Port=1;Username=x;Database=x;Timeout=1");
        var stopped = await Assert.ThrowsAsync<SetupException>(() =>
            DatabaseSetup.WaitAsync(nobody, TimeSpan.FromSeconds(1), NullLogger.Instance, TimeProvider.System, default));
        Assert.StartsWith("the database did not answer for 1 s", stopped.Message);
    }

    [Fact]
    public async Task A_server_that_refuses_the_password_is_not_waited_for()
    {
        var wrong = new NpgsqlConnectionStringBuilder(await postgres.CreateDatabaseAsync()) { Password = "wrong" };
        await using var database = NpgsqlDataSource.Create(wrong.ConnectionString);
        var stopped = await Assert.ThrowsAsync<SetupException>(() =>
            DatabaseSetup.WaitAsync(database, TimeSpan.FromMinutes(5), NullLogger.Instance, TimeProvider.System, default));
        Assert.StartsWith("the database refuses", stopped.Message);
    }
}
