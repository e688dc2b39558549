using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>A configuration that nginx will not run: traffic does not notice, the operator reads why.</summary>
[Collection(OwnStackCollection.Name)]
public sealed class RefusedTextTests(OwnStack own)
{
    [Fact]
    public async Task A_text_that_nginx_rejects_is_recorded_as_refused_with_its_words_while_the_old_workers_serve_on()
    {
        var workers = own.Stack.Workers;
        var text = own.Stack.NginxConf;
        await using var load = own.Gateway.StartLoad("chat-model", callers: 5);

        var revision = await own.Admin.ChangeInstanceAsync("one", new { tls = new { ca_file = "/no/such/authority.pem" } });
        var refusal = await RefusalOfAsync(revision);

        Assert.Equal("test", (string?)refusal["stage"]);
        Assert.Contains("/no/such/authority.pem", (string?)refusal["words"]);
        Assert.False((bool)(await own.Admin.StatusAsync())["acknowledged"]!);
        var report = (await own.Admin.ReportsAsync())[0];
        Assert.Equal((revision, "refused", "test"), (report.Revision, report.Result, report.Stage));
        Assert.Equal(text, own.Stack.NginxConf);

        // What needs no reload still arrives: the operator can steer while the text is wrong.
        await own.Admin.SetWeightAsync("two", 0);
        var since = own.Providers.Ledger.Entries()[^1].Sequence;
        await Wait.Until(async () => await RunRevisionAsync() > revision, "the weight was pushed");
        await load.MoreAsync(50);
        Assert.Contains(own.Providers.Ledger.Entries("one", since), call => call.Method == "POST");

        await own.Admin.ChangeInstanceAsync("one", new { tls = new { ca_file = (string?)null } });
        await own.Admin.AcknowledgedAsync(await own.Admin.SetWeightAsync("two", 1));
        Assert.Equal(workers, own.Stack.Workers);
        Expect.Served(await load.StopAsync());

        // And a good text is taken again.
        await own.Admin.AcknowledgedAsync(await own.Admin.AddInstanceAsync("three", own.Providers["three"].BaseUrl, new { api_key = SharedStack.KeyOf("three") }));
        Assert.NotEqual(workers, own.Stack.Workers);
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
    }

    [Fact]
    public async Task Lua_that_fails_to_load_leaves_the_old_workers_in_service_and_is_recorded_with_its_words()
    {
        var workers = own.Stack.Workers;
        var text = own.Stack.NginxConf;
        var file = own.Stack.PathOf("release/lua/evenkeel/edge.lua");
        var whole = await File.ReadAllTextAsync(file);
        await using var load = own.Gateway.StartLoad("chat-model", callers: 5);

        await File.WriteAllTextAsync(file, "error(\"the edge was tampered with\")\n" + whole);
        var revision = await own.Admin.AddInstanceAsync("three", own.Providers["three"].BaseUrl, new { api_key = SharedStack.KeyOf("three") });
        var refusal = await RefusalOfAsync(revision);

        Assert.Equal("load", (string?)refusal["stage"]);
        Assert.Contains("the edge was tampered with", (string?)refusal["words"]);
        Assert.Equal(workers, own.Stack.Workers);
        Assert.Equal(text, own.Stack.NginxConf);
        await load.MoreAsync(50);
        Expect.Served(await load.StopAsync());

        // Mended: the next text goes in.
        await File.WriteAllTextAsync(file, whole);
        await own.Admin.RemoveInstanceAsync("three");
        await own.Admin.AcknowledgedAsync(await own.Admin.AddInstanceAsync("four", own.Providers["three"].BaseUrl, new { api_key = SharedStack.KeyOf("three") }));
        await own.Admin.AcknowledgedAsync(await own.Admin.SetFirstTierAsync("chat", "four"));
        Assert.Equal("four", (await own.Gateway.AskAsync("chat-model")).Instance);
        await own.Admin.AcknowledgedAsync(await own.Admin.PutConfigAsync(own.Config.Document));
    }

    private async Task<JsonObject> RefusalOfAsync(long revision)
    {
        await Wait.Until(async () => (long?)(await own.Admin.NodeAsync())["last_refusal"]?["revision"] == revision, $"revision {revision} is recorded as refused",
            TimeSpan.FromSeconds(30), async () => (await own.Admin.NodeAsync()).ToJsonString());
        return (await own.Admin.NodeAsync())["last_refusal"]!.AsObject();
    }

    private async Task<long> RunRevisionAsync() => (await own.Stack.Node.WorkersAsync()).Min(worker => worker.Revision);
}
