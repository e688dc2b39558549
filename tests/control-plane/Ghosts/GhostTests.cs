using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Dapper;
using Evenkeel.Ghosts;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Ghosts;

public sealed class GhostTests(PostgresFixture postgres) : IClassFixture<PostgresFixture>, IAsyncLifetime
{
    private const string Answer = """{"choices":[{"message":{"content":"Mercury"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":5}}""";

    private ControlPlane controlPlane = null!;
    private HttpClient admin = null!;
    private HttpClient agent = null!;
    private FakeNode node = null!;

    public async Task InitializeAsync()
    {
        controlPlane = await ControlPlane.StartAsync(postgres);
        (admin, agent) = (controlPlane.Admin(), controlPlane.Node());
        node = await FakeNode.StartAsync();
        node.Door = (_, _) => (200, null, Answer);
    }

    public async Task DisposeAsync()
    {
        await controlPlane.DisposeAsync();
        await node.DisposeAsync();
    }

    [Fact]
    public async Task An_instance_whose_ghosts_are_bad_weighs_less_at_every_node_and_its_whole_weight_comes_back_and_each_step_is_on_record()
    {
        await admin.ApplyAsync(Config(["a", "b"], "per_day: 100000, max_tokens_per_day: 1000000"));
        await RegisterAsync();
        await NodeCalls.EventuallyAsync("both are well", async () => await StatusAsync("a") == "ok" && await StatusAsync("b") == "ok");
        var revision = node.Revision;

        node.Door = (name, path) => name == "a" && path == "/v1/chat/completions" ? (502, "empty", "{}") : (200, null, Answer);
        await NodeCalls.EventuallyAsync("a is grey", () => Factor("a") == 0.5);
        Assert.Equal(1, Factor("b"));
        Assert.Equal(revision, node.Revision);
        var incident = (await IncidentsAsync("a", open: true)).Single();
        Assert.Equal("empty", incident.GetProperty("cause").GetString());
        var first = (await admin.GetFromJsonAsync<JsonElement>("/api/v1/ghosts?verdict=bad&limit=1")).GetProperty("results")[0];
        Assert.Equal(("a", "empty", "chat"), (first.GetProperty("instance").GetString(), first.GetProperty("outcome").GetString(), first.GetProperty("pool").GetString()));

        node.Door = (_, _) => (200, null, Answer);
        await NodeCalls.EventuallyAsync("a is well again", () => Factor("a") == 1);
        await NodeCalls.EventuallyAsync("the incident is over", async () => (await IncidentsAsync("a", open: true)).Count == 0);
        Assert.True((await IncidentsAsync("a", open: false)).Single().GetProperty("events").GetInt64() >= 2);
        Assert.Empty(await IncidentsAsync("b", open: false));
    }

    [Fact]
    public async Task Two_control_planes_send_each_ghost_once()
    {
        await using var another = controlPlane.Another();
        using var other = another.Admin();
        await admin.ApplyAsync(Config(["a", "b", "c"], "per_day: 100000, max_tokens_per_day: 1000000"));
        await RegisterAsync();
        await NodeCalls.EventuallyAsync("the other one knows the configuration", async () => (await other.GetAsync("/api/v1/config")).IsSuccessStatusCode);
        await NodeCalls.EventuallyAsync("many ghosts", () => Ghosts() >= 12);
        await admin.ApplyAsync(Config(["a", "b", "c"], "per_day: 0"));
        await using var database = await controlPlane.OpenDatabaseAsync();
        // One that was claimed before is counted, sent and kept one after the other.
        await NodeCalls.EventuallyAsync("each has one result and is counted once", async () =>
            await database.ExecuteScalarAsync<long>("select count(*) from ghost_state") == 0
            && await database.ExecuteScalarAsync<long>("select sum(ghosts)::bigint from ghost_budget where pool = 'chat'") == Ghosts()
            && await database.ExecuteScalarAsync<long>("select count(*) from ghost_result") == Ghosts());
        Assert.Equal(1, node.MostKnocksAtOnce);
    }

    [Fact]
    public async Task A_claim_is_given_once_and_what_nobody_sent_in_time_is_spread_anew()
    {
        await admin.ApplyAsync(Config(["a", "b", "c"], "per_day: 0"));       // no node: the job claims nothing
        var store = controlPlane.Services.GetRequiredService<GhostStore>();
        string[] names = ["a", "b", "c"];
        var wishes = names.Select(name => new GhostWish(name, 100, TimeSpan.FromMinutes(1))).ToList();
        Task<IReadOnlyList<GhostClaim>> ClaimAsync() => store.ClaimAsync(wishes, names, TimeSpan.FromSeconds(1), Random.Shared);
        Assert.Empty(await ClaimAsync());                                    // the first ones are due minutes from now

        await using var database = await controlPlane.OpenDatabaseAsync();
        await database.ExecuteAsync("update ghost_state set next_at = now()");
        var claims = (await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Task.Run(ClaimAsync)))).SelectMany(all => all).ToList();
        Assert.Equal(names, claims.Select(claim => claim.Instance).Order());

        await database.ExecuteAsync("update ghost_state set next_at = now() - interval '3 hours', claimed_until = null");
        Assert.Empty(await ClaimAsync());
        Assert.True(await database.ExecuteScalarAsync<bool>("select bool_and(next_at between now() - interval '1 second' and now() + interval '864 seconds') from ghost_state"));

        await database.ExecuteAsync("update ghost_state set next_at = now(); insert into instance_health (instance, status) values ('b', 'down')");
        Assert.Equal(["a", "c"], (await ClaimAsync()).Select(claim => claim.Instance).Order());     // b is known to be ill
    }

    [Fact]
    public async Task Ghosts_can_be_sent_now_and_stay_within_the_tokens_of_the_day()
    {
        await admin.ApplyAsync(Config(["a", "b"], "per_day: 1, max_tokens_per_day: 500"));
        await RegisterAsync();
        var run = await RunAsync(new { pool = "chat", count = 2 });
        Assert.Equal((4, 0), (run.GetProperty("sent").GetInt32(), run.GetProperty("skipped").GetInt32()));
        Assert.All(run.GetProperty("results").EnumerateArray(), result => Assert.Equal(("good", "run", 25),
            (result.GetProperty("verdict").GetString(), result.GetProperty("trigger").GetString(), result.GetProperty("input_tokens").GetInt32() + result.GetProperty("output_tokens").GetInt32())));
        Assert.Equal(100, (await BudgetAsync()).GetProperty("tokens").GetInt64());        // settled by what was used, not by what was reserved

        run = await RunAsync(new { pool = "chat", instance = "a", count = 20 });
        Assert.True(run.GetProperty("skipped").GetInt32() > 0);
        var budget = await BudgetAsync();
        Assert.InRange(budget.GetProperty("tokens").GetInt64(), 350, 500);
        Assert.Equal(run.GetProperty("skipped").GetInt64(), budget.GetProperty("skipped").GetInt64());

        Assert.Equal(HttpStatusCode.NotFound, (await admin.PostAsJsonAsync("/api/v1/ghosts/run", new { pool = "none" })).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await admin.PostAsJsonAsync("/api/v1/ghosts/run", new { instance = "none" })).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await admin.PostAsJsonAsync("/api/v1/ghosts/run", new { count = 21 })).StatusCode);
    }

    [Fact]
    public async Task A_character_that_the_bound_of_the_words_would_cut_through_costs_no_verdict()
    {
        await admin.ApplyAsync(Config(["a"], "per_day: 1, max_tokens_per_day: 5000"));
        await RegisterAsync();
        node.Door = (_, _) => (500, "server_error", new string('x', 295) + "\ud83d\ude00 and more");      // after "500 "
        var result = (await RunAsync(new { instance = "a" })).GetProperty("results")[0];
        Assert.Equal(("bad", "server_error", "500 " + new string('x', 295)), (result.GetProperty("verdict").GetString(), result.GetProperty("outcome").GetString(), result.GetProperty("words").GetString()));
        Assert.Equal(0, (await BudgetAsync()).GetProperty("tokens").GetInt64());       // settled
    }

    [Fact]
    public async Task A_node_that_cannot_be_reached_says_nothing_about_an_instance_and_costs_nothing()
    {
        await admin.ApplyAsync(Config(["a"], "per_day: 1"));
        await RegisterAsync();
        await node.DisposeAsync();
        var run = await RunAsync(new { instance = "a" });
        Assert.Equal("neutral", run.GetProperty("results")[0].GetProperty("verdict").GetString());
        Assert.Equal(0, (await BudgetAsync()).GetProperty("tokens").GetInt64());
    }

    [Fact]
    public async Task Samples_are_redacted_before_they_are_kept_bounded_listed_and_deleted()
    {
        var body = JsonSerializer.Serialize("""{"model":"chat","user":"u-1","messages":[{"role":"user","content":"I am anna@mail.example, ticket T-77"}]}""");
        // Half a character and a NUL, as a name and in a text.
        var halves = JsonSerializer.Serialize("""{"\ud83d":1,"messages":[{"role":"user","\u0000":"","content":"\ude00 T-78"}]}""");
        node.Samples = $$"""{"samples":[{"pool":"chat","body":{{body}}},{"pool":"other","body":{{body}}},{"pool":"chat","body":"no json"},{"pool":"chat","body":{{halves}}},{"pool":"chat","body":{{body}}},{"pool":"chat","body":{{body}}}]}""";
        await admin.ApplyAsync(Config(["a"], "per_day: 1, sample: 1%, keep: {count: 2}, redact: {mask: ['t-[0-9]+']}"));
        await RegisterAsync();
        await NodeCalls.EventuallyAsync("the samples are there", async () => (await SamplesAsync()).Count == 2);
        node.Samples = """{"samples":[]}""";
        foreach (var kept in (await SamplesAsync()).Select(sample => sample.GetProperty("body")))
        {
            Assert.Equal(["messages"], kept.EnumerateObject().Select(member => member.Name));
            Assert.Equal("I am [masked], ticket [masked]", kept.GetProperty("messages")[0].GetProperty("content").GetString());
        }

        var id = (await SamplesAsync())[0].GetProperty("id").GetInt64();
        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync($"/api/v1/ghosts/samples/{id}")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await admin.DeleteAsync($"/api/v1/ghosts/samples/{id}")).StatusCode);
        Assert.Equal(1, (await (await admin.DeleteAsync("/api/v1/ghosts/samples?pool=chat")).Content.ReadFromJsonAsync<JsonElement>()).GetProperty("deleted").GetInt32());
        Assert.Empty(await SamplesAsync());
    }

    private static string Config(string[] instances, string ghost) => $$"""
        instances:
        {{string.Join('\n', instances.Select(name => $"  - {{name: {name}, base_url: \"http://127.0.0.1:9001\"}}"))}}
        pools:
          - {name: chat, models: [chat], tiers: [{name: primary, instances: [{{string.Join(", ", instances)}}]}], ghost: { {{ghost}} } }
        failover_config:
          health_check: {interval: 1h}
        """;

    private async Task RegisterAsync()
    {
        node.TextDigest = (await agent.TextAsync("one", node.Url)).TextDigest();
        await NodeCalls.EventuallyAsync("it has a snapshot", () => node.Revision > 0);
    }

    private int Ghosts() => node.Knocks.Count(knock => knock.Path == "/v1/chat/completions");

    private double Factor(string instance) =>
        node.Taken.Last().GetProperty("instances").EnumerateArray().Single(one => one.GetProperty("name").GetString() == instance).TryGetProperty("weight_factor", out var factor) ? factor.GetDouble() : 1;

    private async Task<string?> StatusAsync(string instance) => (await admin.GetFromJsonAsync<JsonElement>($"/api/v1/ghosts?instance={instance}")).GetProperty("instances")
        .EnumerateArray().Select(one => one.GetProperty("status").GetString()).SingleOrDefault();

    private async Task<JsonElement> BudgetAsync() => (await admin.GetFromJsonAsync<JsonElement>("/api/v1/ghosts")).GetProperty("budgets").EnumerateArray().Single();

    private async Task<JsonElement> RunAsync(object body)
    {
        var answer = await admin.PostAsJsonAsync("/api/v1/ghosts/run", body);
        Assert.True(answer.IsSuccessStatusCode, await answer.Content.ReadAsStringAsync());
        return await answer.Content.ReadFromJsonAsync<JsonElement>();
    }

    private async Task<IReadOnlyList<JsonElement>> SamplesAsync() => [.. (await admin.GetFromJsonAsync<JsonElement>("/api/v1/ghosts/samples")).EnumerateArray()];

    private async Task<IReadOnlyList<JsonElement>> IncidentsAsync(string instance, bool open)
    {
        IReadOnlyList<JsonElement> found = [];
        async Task<bool> Look() => (found = [.. (await admin.GetFromJsonAsync<JsonElement>($"/api/v1/incidents?kind=grey&subject={instance}&open={(open ? "true" : "false")}")).EnumerateArray()]).Count > 0;
        if (open && Factor(instance) < 1) await NodeCalls.EventuallyAsync("an incident", Look);
        else await Look();
        return found;
    }
}
