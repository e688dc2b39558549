using System.Globalization;
using System.Text.Json.Nodes;
using Microsoft.Playwright;
using Xunit;
using Xunit.Abstractions;

namespace Evenkeel.Browser;

[Collection(DashboardCollection.Name)]
public sealed class DashboardTests(Dashboard dashboard, ITestOutputHelper output)
{
    private static readonly string[] s_views = ["overview", "health", "latency", "errors", "cost", "incidents", "traces", "alerts", "ghosts", "reports", "fleet", "config", "revisions", "nodes", "access"];

    // ---- who may look

    [Fact]
    public async Task A_token_signs_in_a_reload_keeps_it_and_signing_out_ends_it()
    {
        await using var visitor = await dashboard.VisitAsync();
        var page = visitor.Page;
        await visitor.SignInAsync("no-such-token");
        await Assertions.Expect(page.GetByRole(AriaRole.Alert)).ToContainTextAsync("not known");
        await visitor.SignInAsync(dashboard.Token);
        await page.Locator(".shell").WaitForAsync();
        await page.ReloadAsync();
        await page.Locator(".shell").WaitForAsync();

        // The token is nowhere that a script could read it.
        var kept = await page.EvaluateAsync<string>("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])");
        Assert.DoesNotContain(dashboard.Token, kept);

        await page.GetByRole(AriaRole.Button, new() { Name = "Sign out" }).ClickAsync();
        await page.GetByLabel("Token", new() { Exact = true }).WaitForAsync();
        Assert.Equal(401, await page.EvaluateAsync<int>("async () => (await fetch('/api/v1/status')).status"));
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task A_viewer_s_token_made_on_the_page_sees_everything_and_changes_nothing()
    {
        await using var admin = await dashboard.OpenAsync("access");
        await admin.Page.GetByRole(AriaRole.Button, new() { Name = "Make a token" }).ClickAsync();
        await admin.Page.GetByLabel("Name", new() { Exact = true }).FillAsync("looker");
        await admin.Page.GetByRole(AriaRole.Button, new() { Name = "Make it" }).ClickAsync();
        var token = await admin.Page.Locator("[data-secret]").TextContentAsync();

        await using var viewer = await dashboard.VisitAsync();
        await viewer.SignInAsync(token!);
        await viewer.GoAsync("fleet");
        await viewer.Page.GetByRole(AriaRole.Link, new() { Name = "a", Exact = true }).WaitForAsync();
        await Assertions.Expect(viewer.Page.Locator(".who")).ToContainTextAsync("looker · viewer");
        await Assertions.Expect(viewer.Page.GetByRole(AriaRole.Button, new() { Name = "Drain" })).ToHaveCountAsync(0);
        await Assertions.Expect(viewer.Page.GetByText("Add an instance")).ToHaveCountAsync(0);
        Assert.Empty(viewer.Complaints);
    }

    [Fact]
    public async Task A_token_that_is_bound_to_areas_sees_their_views_and_no_others()
    {
        await using var admin = await dashboard.OpenAsync("access");
        await admin.Page.GetByRole(AriaRole.Button, new() { Name = "Make a token" }).ClickAsync();
        await admin.Page.GetByLabel("Name", new() { Exact = true }).FillAsync("bound");
        await admin.Page.GetByLabel("Areas", new() { Exact = true }).FillAsync("nodes, clients");
        await admin.Page.GetByRole(AriaRole.Button, new() { Name = "Make it" }).ClickAsync();
        var token = await admin.Page.Locator("[data-secret]").TextContentAsync();

        await using var bound = await dashboard.VisitAsync();
        await bound.SignInAsync(token!);
        await bound.Page.GetByRole(AriaRole.Button, new() { Name = "node-1" }).WaitForAsync();
        await Assertions.Expect(bound.Page.Locator(".nav-group a")).ToHaveTextAsync(["Nodes", "Access"]);
        await bound.GoAsync("access");
        await bound.Page.GetByText("No client is set up").WaitForAsync();
        await Assertions.Expect(bound.Page.GetByText("Who did what")).ToHaveCountAsync(1);      // the page's own words, not the panel
        Assert.Empty(bound.Complaints);
    }

    // ---- the pictures show what the API says

    [Fact]
    public async Task The_overview_shows_the_live_state_of_every_instance()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        await Assertions.Expect(visitor.Page.Locator("[data-instance=a]")).ToHaveAttributeAsync("data-condition", "ok");
        await Assertions.Expect(visitor.Page.Locator(".topology [data-instance]")).ToHaveCountAsync(4);
        await Assertions.Expect(visitor.Page.Locator("nav .pulse")).ToHaveTextAsync("live");
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task The_overview_is_cut_off_at_no_width()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        await visitor.Page.Locator("[data-instance=a]").WaitForAsync();
        foreach (var width in new[] { 360, 900, 1024, 1280, 1366, 1400, 1440, 1520 })
        {
            await visitor.Page.SetViewportSizeAsync(width, 800);
            var room = await visitor.Page.EvaluateAsync<int[]>("() => [...document.querySelectorAll('.topology')].map(one => one.clientWidth - one.scrollWidth)");
            Assert.True(room.Length > 0 && room.All(px => px >= 0), $"at {width} px a pool has this much room left: {string.Join(", ", room)} px");
        }
        Assert.Empty(visitor.Complaints);
    }

    [Theory]
    [InlineData("overview")]
    [InlineData("fleet")]
    [InlineData("nodes")]
    public async Task What_the_nodes_leave_out_is_told_with_its_reason_wherever_it_is_seen_to_be_down(string view)
    {
        await using var visitor = await dashboard.OpenAsync("health", width: 360);
        const string Reason = "\"lite\" is disabled: the environment variable DEEPSEEK_API_KEY is not set";
        await visitor.Page.RouteAsync("**/api/v1/status", async route =>
        {
            var answer = await route.FetchAsync();
            var status = JsonNode.Parse(await answer.TextAsync())!;
            status["faults"] = new JsonArray(new JsonObject { ["path"] = "instances[3].api_key", ["message"] = Reason });
            await route.FulfillAsync(new() { Response = answer, Body = status.ToJsonString() });
        });
        await visitor.GoAsync(view);
        await Assertions.Expect(visitor.Page.GetByRole(AriaRole.Alert)).ToContainTextAsync(Reason);
        Assert.True(await visitor.Page.EvaluateAsync<bool>("document.documentElement.scrollWidth <= innerWidth"));
        Assert.Empty(await visitor.AxeAsync());
        await visitor.Page.UnrouteAllAsync(new() { Behavior = UnrouteBehavior.IgnoreErrors });
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task The_heatmap_shows_the_cells_of_the_api()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        var map = await visitor.AnswerAsync("/telemetry/heatmap", answer => Attempts(answer, "a") > 0, () => visitor.GoAsync("health"));
        var rows = map["instances"]!.AsArray();
        await Assertions.Expect(visitor.Page.Locator("[data-chart=heatmap] [role=rowheader]")).ToHaveTextAsync([.. rows.Select(row => (string)row!["instance"]!)]);
        var cells = rows[0]!["cells"]!.AsArray();
        await Assertions.Expect(visitor.Page.Locator("[data-cell^='0-']")).ToHaveCountAsync(cells.Count);
        var name = (string)rows[0]!["instance"]!;
        var busy = cells.Select((cell, i) => (Cell: cell!, Index: i)).First(c => Attempts(map, name) == 0 || (long)c.Cell["attempts"]! > 0);
        await Assertions.Expect(visitor.Page.Locator($"[data-cell='0-{busy.Index}']")).ToHaveAttributeAsync("data-state", (string)busy.Cell["state"]!);
        Assert.Empty(visitor.Complaints);

        static long Attempts(JsonNode map, string name) => map["instances"]!.AsArray().Where(row => (string)row!["instance"]! == name).SelectMany(row => row!["cells"]!.AsArray()).Sum(cell => (long)cell!["attempts"]!);
    }

    [Fact]
    public async Task Latency_shows_the_distribution_and_the_percentiles_of_the_api()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        var latency = await visitor.AnswerAsync("/telemetry/latency", answer => Total(answer) > 0, () => visitor.GoAsync("latency"));
        await Assertions.Expect(visitor.Page.Locator("[data-chart=distribution]")).ToHaveAttributeAsync("data-total", Total(latency).ToString(CultureInfo.InvariantCulture));
        var series = latency["series"]!.AsArray().First(one => one!["points"]!.AsArray().Count > 0)!;
        var panel = visitor.Page.GetByRole(AriaRole.Region, new() { Name = (string)series["name"]!, Exact = true });
        await panel.Locator("summary").ClickAsync();
        var told = series["points"]!.AsArray().Reverse().SelectMany(point => new[] { "p50_ms", "p90_ms", "p99_ms" }.Select(key => (double)point![key]!)).ToList();
        // The table is made when it is opened.
        var shown = panel.Locator("tbody data[value]:not([value=''])");
        await Assertions.Expect(shown).ToHaveCountAsync(told.Count);
        Assert.Equal(told, (await shown.EvaluateAllAsync<string[]>("all => all.map(one => one.value)")).Select(text => double.Parse(text, CultureInfo.InvariantCulture)));
        Assert.Empty(visitor.Complaints);

        static long Total(JsonNode answer) => answer["distribution"]!.AsArray().Sum(bucket => (long)bucket!["count"]!);
    }

    [Fact]
    public async Task Errors_are_stacked_by_outcome_with_the_sums_of_the_api_and_429_and_5xx_apart()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        var errors = await visitor.AnswerAsync("/telemetry/errors", answer => Sum(answer, "server_error") > 0, () => visitor.GoAsync("errors"));
        await Assertions.Expect(visitor.Page.Locator("[data-outcome=server_error]")).ToHaveAttributeAsync("value", Sum(errors, "server_error").ToString(CultureInfo.InvariantCulture));
        await Assertions.Expect(visitor.Page.Locator("[data-outcome=ok]")).ToHaveAttributeAsync("value", Sum(errors, "ok").ToString(CultureInfo.InvariantCulture));
        await Assertions.Expect(visitor.Page.Locator("[data-chart=errors]")).ToHaveAttributeAsync("data-points", errors["points"]!.AsArray().Count.ToString(CultureInfo.InvariantCulture));
        var colours = await visitor.Page.EvaluateAsync<string[]>(
            "() => ['rate-limited', 'server-error'].map(name => { const probe = document.body.appendChild(document.createElement('i')); probe.className = 'bg-o-' + name; return getComputedStyle(probe).backgroundColor })");
        Assert.NotEqual(colours[0], colours[1]);
        Assert.Empty(visitor.Complaints);

        static long Sum(JsonNode answer, string outcome) => answer["points"]!.AsArray().Sum(point => (long?)point!["outcomes"]![outcome] ?? 0);
    }

    [Fact]
    public async Task Cost_shows_what_the_api_says_each_instance_cost()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        Task<JsonNode>? worth = null;
        var cost = await visitor.AnswerAsync("/telemetry/cost", answer => answer["rows"]!.AsArray().Any(row => (string)row!["name"]! == "a"), () =>
        {
            worth = visitor.AnswerAsync("/telemetry/roi", _ => true, () => Task.CompletedTask);
            return visitor.GoAsync("cost");
        });
        foreach (var row in cost["rows"]!.AsArray())
        {
            var shown = visitor.Page.Locator($"[data-cost='{row!["name"]}']");
            Assert.Equal((double)row["total"]!, double.Parse((await shown.GetAttributeAsync("value"))!, CultureInfo.InvariantCulture), 9);
        }
        var roi = await worth!;
        var told = new[] { "outage_prevented_minutes", "saved", "net" }.Select(key => (double)roi[key]!);
        // The page draws what it was answered a moment later.
        var drawn = visitor.Page.Locator("[data-chart=roi] .stats data");
        await Assertions.Expect(drawn).ToHaveCountAsync(3);
        var figures = await drawn.EvaluateAllAsync<string[]>("all => all.map(one => one.value)");
        Assert.Equal(told, figures.Select(text => double.Parse(text, CultureInfo.InvariantCulture)));
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task An_outage_in_the_demo_is_seen_within_five_seconds_without_a_click_and_every_cell_of_it_leads_to_its_incident()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        var page = visitor.Page;
        var card = page.Locator("[data-instance=b]");
        try
        {
            await using var load = dashboard.Stack.Gateway.StartLoad("deepseek-chat", callers: 20);
            await Assertions.Expect(card).ToHaveAttributeAsync("data-condition", "ok");
            await Assertions.Expect(card).Not.ToHaveAttributeAsync("data-in-flight", "0");
            await dashboard.ProvidersAsync(HttpMethod.Post, "/instances/b/down");
            var began = System.Diagnostics.Stopwatch.StartNew();
            await Assertions.Expect(card).Not.ToHaveAttributeAsync("data-condition", "ok");
            output.WriteLine($"seen after {began.Elapsed.TotalSeconds:0.0} s");
            Assert.InRange(began.Elapsed.TotalSeconds, 0, 5);
            await Assertions.Expect(card).ToContainTextAsync("breaker open");
            await Assertions.Expect(card.Locator(".t-fact", new() { HasText = "share" })).ToContainTextAsync("0 %");
        }
        finally
        {
            await dashboard.ProvidersAsync(HttpMethod.Post, "/instances/b/up");
            await dashboard.Stack.Node.ForgiveAsync("b");
        }
        var map = await visitor.AnswerAsync("/telemetry/heatmap", answer => Marked(answer).Any(), () => visitor.GoAsync("health"));
        foreach (var (row, column, incident) in Marked(map).ToList())
        {
            await page.Locator($"[data-cell='{row}-{column}']").ClickAsync();
            await page.Locator($"[data-list=cell-incidents] [data-incident='{incident}']").ClickAsync();
            await Assertions.Expect(page.GetByRole(AriaRole.Dialog)).ToContainTextAsync($"Incident {incident}");
            await page.Keyboard.PressAsync("Escape");
            await Assertions.Expect(page.GetByRole(AriaRole.Dialog)).ToHaveCountAsync(0);
        }
        await visitor.GoAsync("incidents");
        await Assertions.Expect(page.Locator("tr", new() { HasText = "breaker" }).Filter(new() { Has = page.GetByText("b", new() { Exact = true }) }).First).ToBeVisibleAsync();
        Assert.Empty(visitor.Complaints);

        static IEnumerable<(int Row, int Column, long Incident)> Marked(JsonNode map) =>
            map["instances"]!.AsArray().SelectMany((row, r) => row!["cells"]!.AsArray().SelectMany((cell, c) => cell!["incidents"]!.AsArray().Select(id => (r, c, (long)id!))));
    }

    [Fact]
    public async Task Ghosts_show_what_each_instance_made_of_them_and_of_the_samples()
    {
        await using var visitor = await dashboard.OpenAsync("ghosts");
        var page = visitor.Page;
        await page.GetByRole(AriaRole.Button, new() { Name = "Send some now" }).ClickAsync();
        await page.GetByRole(AriaRole.Button, new() { Name = "Send", Exact = true }).ClickAsync();
        var dialog = page.GetByRole(AriaRole.Dialog);
        await Assertions.Expect(dialog.GetByRole(AriaRole.Status)).ToContainTextAsync("4 sent");
        await page.Keyboard.PressAsync("Escape");

        // One instance's results are those that the API gives.
        var found = await visitor.AnswerAsync("/ghosts", answer => answer["results"]!.AsArray() is { Count: > 0 } list && list.All(one => (string)one!["instance"]! == "lite"),
            () => page.Locator("[data-ghosts-of=lite]").ClickAsync());
        var result = found["results"]![0]!;
        await Assertions.Expect(page.GetByRole(AriaRole.Region, new() { Name = "Results of ghosts" }).Locator("tbody tr")).ToHaveCountAsync(found["results"]!.AsArray().Count);
        await page.GetByRole(AriaRole.Button, new() { Name = $"Details of result {result["id"]}", Exact = true }).ClickAsync();
        await Assertions.Expect(dialog).ToContainTextAsync((string)result["verdict"]!);
        await Assertions.Expect(dialog).ToContainTextAsync((string)result["prompt"]!);
        await page.Keyboard.PressAsync("Escape");

        await page.GetByRole(AriaRole.Button, new() { Name = "Show sample" }).First.ClickAsync();
        await Assertions.Expect(dialog).ToContainTextAsync("Hello!");
        await Assertions.Expect(dialog).ToContainTextAsync("Answers");
        Assert.Empty(await visitor.AxeAsync());
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task Reports_are_saved_as_csv()
    {
        await using var visitor = await dashboard.OpenAsync("reports");
        await Assertions.Expect(visitor.Page.Locator("[data-report]")).ToHaveCountAsync((await dashboard.Stack.Admin.ListAsync("reports")).Count);
        var file = await visitor.Page.RunAndWaitForDownloadAsync(() => visitor.Page.Locator("[data-report=error_timeline]").ClickAsync());
        Assert.Equal("error_timeline.csv", file.SuggestedFilename);
        var lines = await File.ReadAllLinesAsync(await file.PathAsync());
        Assert.StartsWith("at,level,pool,instance,", lines[0]);
        Assert.True(lines.Length > 1);
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task What_cannot_be_had_and_what_is_empty_says_what_to_do()
    {
        await using var visitor = await dashboard.OpenAsync("overview");
        var page = visitor.Page;
        await page.RouteAsync("**/api/v1/telemetry/errors?*", route => route.AbortAsync());
        await page.RouteAsync("**/api/v1/instances", route => route.FulfillAsync(new() { Status = 503, ContentType = "application/problem+json", Body = "{\"title\":\"Database away\"}" }));
        await page.RouteAsync("**/api/v1/traces?*", route => route.FulfillAsync(new() { ContentType = "application/json", Body = "[]" }));
        await visitor.GoAsync("errors");
        await Assertions.Expect(page.Locator(".state.fault").First).ToContainTextAsync("./evenkeel status");
        await page.UnrouteAsync("**/api/v1/telemetry/errors?*");
        await page.GetByRole(AriaRole.Button, new() { Name = "Try again" }).First.ClickAsync();
        await page.Locator("[data-chart=errors]").WaitForAsync();
        await visitor.GoAsync("fleet");
        await Assertions.Expect(page.Locator(".state.fault").First).ToContainTextAsync("goes on by itself when it is back");
        await visitor.GoAsync("traces");
        await Assertions.Expect(page.Locator(".state.empty")).ToContainTextAsync("nothing was asked yet");
    }

    // ---- changes

    [Fact]
    public async Task An_edit_that_the_api_refuses_is_told_at_its_field_and_a_good_one_is_published()
    {
        await using var visitor = await dashboard.OpenAsync("fleet?instance=lite");
        var (page, before) = (visitor.Page, await dashboard.Stack.Admin.RevisionAsync());
        var weight = page.GetByLabel("Weight");
        await weight.FillAsync("-3");
        await page.GetByRole(AriaRole.Button, new() { Name = "Save" }).ClickAsync();
        await Assertions.Expect(page.Locator("#f-weight-fault")).Not.ToBeEmptyAsync();
        await Assertions.Expect(weight).ToHaveAttributeAsync("aria-invalid", "true");
        Assert.Equal(before, await dashboard.Stack.Admin.RevisionAsync());

        await weight.FillAsync("7");
        await page.GetByRole(AriaRole.Button, new() { Name = "Save" }).ClickAsync();
        await Assertions.Expect(page.Locator("dialog")).ToHaveCountAsync(0);
        Assert.Equal(7, (int)(await dashboard.Stack.Admin.GetAsync("instances/lite"))["weight"]!);
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task The_key_of_an_instance_that_has_none_is_not_said_to_be_unchanged()
    {
        await using var visitor = await dashboard.OpenAsync("fleet?add=instance");
        var key = visitor.Page.GetByLabel("API key");
        await Assertions.Expect(key).ToHaveAttributeAsync("placeholder", "none given yet");
        await visitor.Page.RouteAsync("**/api/v1/instances", route => route.FulfillAsync(new()
        {
            ContentType = "application/json",
            Body = """[{"name":"keyed","base_url":"http://127.0.0.1:9","api_key":"env:KEY","weight":1,"max_connections":1,"base_latency":"1s","enabled":true,"drain":false}]""",
        }));
        await visitor.GoAsync("overview");
        await visitor.GoAsync("fleet?instance=keyed");
        await Assertions.Expect(key).ToHaveAttributeAsync("placeholder", "unchanged");
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task An_instance_is_drained_and_switched_off_and_taken_back_by_a_click_each()
    {
        await using var visitor = await dashboard.OpenAsync("fleet");
        var row = visitor.Page.Locator("tr", new() { Has = visitor.Page.GetByRole(AriaRole.Link, new() { Name = "lite", Exact = true }) });
        foreach (var (click, back, key, value) in new[] { ("Drain", "Undrain", "drain", true), ("Undrain", "Drain", "drain", false), ("Switch off", "Switch on", "enabled", false), ("Switch on", "Switch off", "enabled", true) })
        {
            await row.GetByRole(AriaRole.Button, new() { Name = click, Exact = true }).ClickAsync();
            await row.GetByRole(AriaRole.Button, new() { Name = back, Exact = true }).WaitForAsync();
            Assert.Equal(value, (bool)(await dashboard.Stack.Admin.GetAsync("instances/lite"))[key]!);
            if (click == "Drain") await Assertions.Expect(row.Locator(".badge")).ToHaveTextAsync("drained");
        }
        Assert.Empty(visitor.Complaints);
    }

    [Fact]
    public async Task An_edit_of_what_somebody_else_changed_meanwhile_is_not_saved_and_says_so()
    {
        await using var visitor = await dashboard.OpenAsync("fleet?instance=c");
        await visitor.Page.GetByLabel("Weight").FillAsync("4");
        await dashboard.Stack.Admin.SetWeightAsync("c", 9);
        await visitor.Page.GetByRole(AriaRole.Button, new() { Name = "Save" }).ClickAsync();
        await Assertions.Expect(visitor.Page.Locator("dialog")).ToContainTextAsync("Somebody changed the configuration meanwhile");
        Assert.Equal(9, (int)(await dashboard.Stack.Admin.GetAsync("instances/c"))["weight"]!);
    }

    [Fact]
    public async Task A_roll_back_asks_first_and_makes_a_new_revision()
    {
        var before = await dashboard.Stack.Admin.SetWeightAsync("a", 49);
        await using var visitor = await dashboard.OpenAsync($"revisions?number={before - 1}");
        var page = visitor.Page;
        await page.GetByRole(AriaRole.Button, new() { Name = "Roll back to it" }).ClickAsync();
        await Assertions.Expect(page.Locator("dialog")).ToContainTextAsync("instances[a].weight");
        Assert.Equal(before, await dashboard.Stack.Admin.RevisionAsync());
        await page.GetByRole(AriaRole.Button, new() { Name = "Roll back", Exact = true }).ClickAsync();
        await Assertions.Expect(page.Locator("dialog")).ToHaveCountAsync(0);
        Assert.Equal(50, (int)(await dashboard.Stack.Admin.GetAsync("instances/a"))["weight"]!);
        Assert.True(await dashboard.Stack.Admin.RevisionAsync() > before);
    }

    // ---- everybody can use it

    [Fact]
    public async Task The_keyboard_alone_gets_from_the_sign_in_to_the_incidents_of_a_cell()
    {
        await using var visitor = await dashboard.VisitAsync();
        var page = visitor.Page;
        await Assertions.Expect(page.GetByLabel("Token", new() { Exact = true })).ToBeFocusedAsync();
        await page.Keyboard.TypeAsync(dashboard.Token);
        await page.Keyboard.PressAsync("Enter");
        await page.Locator(".shell").WaitForAsync();
        await page.GetByRole(AriaRole.Link, new() { Name = "Health" }).FocusAsync();
        await page.Keyboard.PressAsync("Enter");
        await page.Locator("[data-cell='0-0']").WaitForAsync();

        // The grid is one stop of the tab key; inside it the arrows walk.
        await page.Locator("[role=gridcell][tabindex='0']").FocusAsync();
        await page.Keyboard.PressAsync("ArrowDown");
        await page.Keyboard.PressAsync("Home");
        await Assertions.Expect(page.Locator("[data-cell='1-0']")).ToBeFocusedAsync();
        await page.Keyboard.PressAsync("Enter");
        await page.GetByRole(AriaRole.Dialog).WaitForAsync();
        await page.Keyboard.PressAsync("Escape");
        await Assertions.Expect(page.GetByRole(AriaRole.Dialog)).ToHaveCountAsync(0);
        await Assertions.Expect(page.Locator("[data-cell='1-0']")).ToBeFocusedAsync();
    }

    [Fact]
    public async Task Every_entry_of_the_navigation_is_in_sight_on_a_phone()
    {
        await using var visitor = await dashboard.OpenAsync("overview", width: 360);
        var right = await visitor.Page.Locator(".nav-group a").EvaluateAllAsync<double[]>("all => all.map(one => one.getBoundingClientRect().right)");
        Assert.Equal(s_views.Length, right.Length);
        Assert.All(right, edge => Assert.InRange(edge, 0, 360));
    }

    [Fact]
    public Task Every_view_is_free_of_serious_faults_fits_its_width_and_has_a_quiet_console() =>
        Task.WhenAll(LookAtEveryViewAsync(1440, ColorScheme.Light), LookAtEveryViewAsync(360, ColorScheme.Dark));

    private async Task LookAtEveryViewAsync(int width, ColorScheme scheme)
    {
        await using var visitor = await dashboard.OpenAsync("overview", width, scheme);
        foreach (var view in s_views)
        {
            await visitor.GoAsync(view);
            await Assertions.Expect(visitor.Page.Locator("main .state.loading")).ToHaveCountAsync(0);
            var faults = await visitor.AxeAsync();
            Assert.True(faults.Count == 0, $"{view} at {width} px:\n" + string.Join('\n', faults));
            Assert.True(await visitor.Page.EvaluateAsync<bool>("document.documentElement.scrollWidth <= innerWidth"), $"{view} is wider than {width} px");
        }
        Assert.Empty(visitor.Complaints);
    }
}
