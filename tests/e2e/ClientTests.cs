using System.Diagnostics;
using System.Net;
using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>Clients with keys, limits and budgets of their own; TLS between them and the edge.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class ClientTests(SharedStack shared)
{
    /// <summary>A reload waits for the end of the last one's old workers.</summary>
    private static readonly TimeSpan s_reload = TimeSpan.FromSeconds(40);

    [Fact]
    public async Task A_key_that_the_API_made_works_until_it_is_rotated_switched_off_or_expires_and_nodes_know_at_once() => await WithAsync([], async () =>
    {
        var key = await shared.Admin.NewClientKeyAsync("clients", new { name = "app" });
        await AnswersAsync(key, 200, "the new key works");
        Assert.Equal(401, (await AskAsync("a-guess")).Status);

        // The old key goes on for the overlap.
        var next = await shared.Admin.NewClientKeyAsync("clients/app/rotate");
        await AnswersAsync(next, 200, "the next key works");
        Assert.Equal(200, (await AskAsync(key)).Status);
        var last = await shared.Admin.NewClientKeyAsync("clients/app/rotate", new { overlap = "0s" });
        await AnswersAsync(key, 401, "the old key does not");

        // Off within a second: the quickest of a few, as other programs run on this machine too.
        var quickest = TimeSpan.MaxValue;
        for (var i = 0; i < 5 && quickest > TimeSpan.FromSeconds(1); i++)
        {
            await shared.Admin.ChangeClientAsync("app", new { enabled = true });
            await AnswersAsync(last, 200, "it is on");
            var watch = Stopwatch.StartNew();
            await shared.Admin.ChangeClientAsync("app", new { enabled = false });
            await AnswersAsync(last, 401, "it is off");
            quickest = watch.Elapsed < quickest ? watch.Elapsed : quickest;
        }
        Assert.True(quickest < TimeSpan.FromSeconds(1), $"off after {quickest}");
        // Every worker looks for itself.
        await Wait.Until(async () => await AskAsync(last) is { Status: 401 } off && (string?)off.Error["code"] == "client_disabled", "it is told why");

        await shared.Admin.ChangeClientAsync("app", new { enabled = true, expires = "2020-01-01T00:00:00Z" });
        await Wait.Until(async () => (string?)(await AskAsync(last)).Error["code"] == "api_key_expired", "it has expired");
    });

    [Fact]
    public async Task Requests_a_minute_are_counted_over_all_workers_and_one_clients_limit_is_nothing_to_another() => await WithAsync(
        [new { name = "three", key = "the-key-of-three", requests_per_minute = 3 }, new { name = "other", key = "the-key-of-other" }], async () =>
    {
        var answers = await Task.WhenAll(Enumerable.Range(0, 12).Select(_ => AskAsync("the-key-of-three", ("Connection", "close"))));
        Assert.Equal((3, 9), (answers.Count(a => a.Status == 200), answers.Count(a => a.Status == 429)));
        Assert.All(answers, answer => Assert.Equal("3", answer.Header("x-ratelimit-limit-requests")));
        Assert.Equal(["0", "1", "2"], answers.Where(a => a.Status == 200).Select(a => a.Header("x-ratelimit-remaining-requests")).Order());
        Assert.All(answers.Where(a => a.Status == 429), answer =>
        {
            Assert.Equal(("rate_limit_exceeded", "rate_limit_error"), ((string?)answer.Error["code"], (string?)answer.Error["type"]));
            Assert.InRange(int.Parse(answer.Header("Retry-After")!), 1, 20);
            Assert.DoesNotContain("other", answer.Body);
        });
        Assert.Equal(200, (await AskAsync("the-key-of-other")).Status);
        Assert.Null((await AskAsync("the-key-of-other")).Header("x-ratelimit-limit-requests"));
    });

    [Fact]
    public async Task Each_refusal_of_a_client_leaves_one_line_in_the_access_log_and_none_in_the_error_log() => await WithAsync(
        [
            new { name = "off", key = "the-key-of-off", enabled = false },
            new { name = "late", key = "the-key-of-late", expires = "2020-01-01T00:00:00Z" },
            new { name = "narrow", key = "the-key-of-narrow", models = new[] { "gone-model" } },
            new { name = "slow", key = "the-key-of-slow", requests_per_minute = 1 },
        ], async () =>
    {
        var log = new RefusalLog(shared.Stack);
        log.Add("no key", 401, await shared.Gateway.AskAsync("plain-model"));
        log.Add("a guess", 401, await AskAsync("a-guess"));
        log.Add("switched off", 401, await AskAsync("the-key-of-off"));
        log.Add("expired", 401, await AskAsync("the-key-of-late"));
        log.Add("another's model", 404, await AskAsync("the-key-of-narrow"));
        Expect.Served(await AskAsync("the-key-of-slow"));
        log.Add("too often", 429, await AskAsync("the-key-of-slow"));
        await log.AssertOneLineEachAsync();
    });

    [Fact]
    public async Task Calls_at_once_are_limited_and_a_place_is_free_as_soon_as_one_is_over() => await WithAsync(
        [new { name = "two", key = "the-key-of-two", max_concurrent = 2 }], async () =>
    {
        shared.Providers["plain"].AddFault("delay=6000", times: 2);
        var slow = Enumerable.Range(0, 2).Select(_ => AskAsync("the-key-of-two")).ToList();
        await Wait.Until(() => shared.Providers["plain"].Counters.InFlight == 2, "two calls are under way");
        var third = await AskAsync("the-key-of-two");
        Assert.Equal((429, "too_many_concurrent_requests"), (third.Status, (string?)third.Error["code"]));
        Expect.Served(await Task.WhenAll(slow));
        Expect.Served(await AskAsync("the-key-of-two"));
    });

    [Fact]
    public async Task Nobody_is_given_what_another_client_was_told() => await WithAsync(
        [new { name = "one", key = "the-key-of-one" }, new { name = "two", key = "the-key-of-two" }], async () =>
    {
        const string Body = """{"model":"gone-model","temperature":0,"messages":[{"role":"user","content":"between us"}]}""";
        Task<Reply> As(string key) => shared.Gateway.PostAsync("/v1/chat/completions", Body, ("Authorization", "Bearer " + key));
        var told = await As("the-key-of-one");
        Expect.Served(told);
        shared.Providers["gone"].AddFault("status=503", times: 1000);
        try
        {
            var again = await As("the-key-of-one");
            Assert.Equal((200, "stale", told.Body), (again.Status, again.Header("x-evenkeel-cache"), again.Body));
            var other = await As("the-key-of-two");
            Assert.Equal((503, null), (other.Status, other.Header("x-evenkeel-cache")));
            Assert.DoesNotContain("one", (string?)other.Error["message"]);
        }
        finally
        {
            shared.Providers["gone"].ClearFaults();
            await shared.Stack.Node.ForgiveAsync("gone");
        }
    });

    [Fact]
    public async Task Tokens_a_minute_are_those_that_the_provider_counted_and_a_budget_warns_before_it_stops() => await WithAsync(
        [
            new { name = "talker", key = "the-key-of-talker", tokens_per_minute = 120 },
            new { name = "saver", key = "the-key-of-saver", budget = new { amount = 200, per = "day", warn_at = 0.01 } },
            new { name = "other", key = "the-key-of-other" },
        ], async () =>
    {
        // One after another, each gives its estimate back: only what was really used can fill the bucket.
        var used = 0;
        Reply talk = null!;
        await Wait.Until(async () =>
        {
            talk = await AskAsync("the-key-of-talker");
            used += talk.Status == 200 ? (int)talk.Json["usage"]!["total_tokens"]! : 0;
            return talk.Status == 429;
        }, "the minute's tokens are used up");
        Assert.Equal(("rate_limit_exceeded", "120"), ((string?)talk.Error["code"], talk.Header("x-ratelimit-limit-tokens")));
        Assert.True(used > 60, $"{used} tokens were used");

        // A token costs one dollar.
        var answers = new List<Reply>();
        await Wait.Until(async () =>
        {
            answers.Add(await AskAsync("the-key-of-saver"));
            return answers[^1].Status == 429;
        }, "the budget is used up");
        Assert.Equal(200, answers[0].Status);
        Assert.Null(answers[0].Header("x-evenkeel-budget-warning"));
        Assert.Contains(answers, answer => answer.Status == 200 && answer.Header("x-evenkeel-budget-warning") is not null);
        Assert.Equal("budget_exceeded", (string?)answers[^1].Error["code"]);
        Assert.InRange(int.Parse(answers[^1].Header("Retry-After")!), 1, 86_400);
        Assert.Equal(200, (await AskAsync("the-key-of-other")).Status);
        await Wait.Until(async () => (await shared.Admin.ListAsync("incidents?kind=budget_exceeded")).Count > 0, "an incident tells of it");
    }, dollarsPerToken: 1);

    [Fact]
    public async Task The_edge_speaks_TLS_and_HTTP_2_when_it_has_a_certificate()
    {
        var folder = Stack.ScratchDirectory();
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = new CertificateRequest("CN=edge.test", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
        await File.WriteAllTextAsync(Path.Combine(folder, "edge.pem"), certificate.ExportCertificatePem());
        await File.WriteAllTextAsync(Path.Combine(folder, "edge.key"), key.ExportPkcs8PrivateKeyPem());
        var config = shared.Config.Document.DeepClone().AsObject();
        config["gateway"]!["tls"] = Config.Json(new { certificate_file = Path.Combine(folder, "edge.pem"), key_file = Path.Combine(folder, "edge.key") });
        await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(config), s_reload);
        try
        {
            using var handler = new SocketsHttpHandler { SslOptions = new SslClientAuthenticationOptions { RemoteCertificateValidationCallback = (_, shown, _, _) => shown?.Subject == "CN=edge.test" } };
            using var http = new HttpClient(handler) { BaseAddress = new Uri($"https://127.0.0.1:{shared.Stack.Port}") };
            foreach (var version in new[] { HttpVersion.Version20, HttpVersion.Version11 })
            {
                foreach (var stream in new[] { false, true })
                {
                    HttpResponseMessage? answer = null;
                    await Wait.Until(async () =>
                    {
                        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/chat/completions") { Version = version, VersionPolicy = HttpVersionPolicy.RequestVersionExact };
                        request.Content = new StringContent(Gateway.ChatBody("plain-model", stream: stream), Encoding.UTF8, "application/json");
                        try { answer = await http.SendAsync(request); }
                        catch (HttpRequestException) { return false; }              // the reload is under way
                        return true;
                    }, $"an answer over {version}");
                    Assert.Equal((version, HttpStatusCode.OK), (answer!.Version, answer.StatusCode));
                    Assert.Contains(stream ? "data: [DONE]" : "\"usage\"", await answer.Content.ReadAsStringAsync());
                    answer.Dispose();
                }
            }
            // Plain HTTP is told so.
            Assert.Equal(400, (await shared.Gateway.GetAsync("/v1/models", ("Connection", "close"))).Status);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document), s_reload);
            await Wait.Until(async () => (await shared.Gateway.GetAsync("/v1/models")).Status == 200, "plain HTTP again");
            Directory.Delete(folder, recursive: true);
        }
    }

    // With these clients, and callers without a key refused; afterwards all is as it was.
    private async Task WithAsync(object[] clients, Func<Task> test, int dollarsPerToken = 0)
    {
        var config = shared.Config.Document.DeepClone().AsObject();
        config["clients"] = new JsonArray([.. clients.Select(Config.Json)]);
        config["gateway"]!["anonymous"] = false;
        if (dollarsPerToken > 0)
        {
            var plain = config["instances"]!.AsArray().Single(instance => (string?)instance!["name"] == "plain")!;
            plain["price"] = Config.Json(new { input_per_million = dollarsPerToken * 1_000_000, output_per_million = dollarsPerToken * 1_000_000 });
        }
        await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(config));
        try
        {
            await test();
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
    }

    private Task<Reply> AskAsync(string key, params (string, string)[] headers) =>
        shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("plain-model"), [("Authorization", "Bearer " + key), .. headers]);

    private Task AnswersAsync(string key, int status, string what) => Wait.Until(async () => (await AskAsync(key)).Status == status, what);
}
