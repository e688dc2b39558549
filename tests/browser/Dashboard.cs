using System.Collections.Concurrent;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using Microsoft.Playwright;
using Xunit;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]
[assembly: CollectionBehavior(DisableTestParallelization = true)]

namespace Evenkeel.Browser;

/// <summary>
/// The demo as `./evenkeel up` starts it, with some traffic behind it, and one headless Chromium. Its instances a, b and c share the pool
/// "chat", lite is the second tier.
/// </summary>
public sealed class Dashboard : IAsyncLifetime
{
    private Stack? _stack;
    private readonly HttpClient _providers = new();
    private IPlaywright? _playwright;
    private IBrowser? _browser;

    internal Stack Stack => _stack!;
    internal string Token => File.ReadAllText(Stack.PathOf("admin-token")).Trim();

    public async Task InitializeAsync()
    {
        // Five seconds by itself: a promise about time is measured by its test.
        Assertions.SetDefaultExpectTimeout((float)Wait.Patience.TotalMilliseconds);
        var launch = LaunchAsync();
        _stack = await Stack.StartAsync("browser", config: null);
        _providers.BaseAddress = new Uri($"http://127.0.0.1:{Stack.Recorded("PROVIDER_CONTROL_PORT")}");

        // Something to be seen: calls, a failure that another instance made good, and samples of what was asked.
        var revision = await Stack.Admin.ChangePoolAsync("chat", new { ghost = new { sample = 1 } });
        await Stack.Admin.AcknowledgedAsync(revision);
        await ProvidersAsync(HttpMethod.Post, "/instances/c/faults", new { fault = "status=500", times = 1 });
        Expect.Served(await Stack.Gateway.AskManyAsync("deepseek-chat", calls: 60, atATime: 30));
        // It is seen when it is read from the node, some seconds later; and the page asks for samples twice a minute only.
        await Wait.Until(async () => (await Stack.Admin.GetAsync("telemetry/errors"))["points"]!.AsArray().Sum(point => (int)point!["requests"]!) > 60, "calls and the failure are counted");
        await Wait.Until(async () => (await Stack.Admin.ListAsync("ghosts/samples")).Count > 0, "samples are kept");
        await launch;
    }

    private async Task LaunchAsync()
    {
        _playwright = await Playwright.CreateAsync();
        _browser = await _playwright.Chromium.LaunchAsync(new BrowserTypeLaunchOptions
        {
            ExecutablePath = "/usr/bin/chromium",
            Args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        });
    }

    public async Task DisposeAsync()
    {
        if (_browser is not null)
        {
            await _browser.DisposeAsync();
        }
        _playwright?.Dispose();
        if (_stack is not null)
        {
            await _stack.DisposeAsync();
        }
        _providers.Dispose();
    }

    /// <summary>What the demo's providers are told to do, in the words of tests/provider.</summary>
    internal async Task ProvidersAsync(HttpMethod method, string path, object? body = null)
    {
        using var answer = await _providers.SendAsync(new HttpRequestMessage(method, path) { Content = body is null ? null : new StringContent(JsonSerializer.Serialize(body)) });
        Assert.True(answer.IsSuccessStatusCode, $"{method} {path}: {(int)answer.StatusCode} {await answer.Content.ReadAsStringAsync()}");
    }

    /// <summary>A visitor with a fresh profile, before the sign-in.</summary>
    internal async Task<Visitor> VisitAsync(int width = 1440, ColorScheme scheme = ColorScheme.Light)
    {
        var context = await _browser!.NewContextAsync(new BrowserNewContextOptions
        {
            BaseURL = $"http://127.0.0.1:{Stack.AdminPort}",
            ViewportSize = new ViewportSize { Width = width, Height = 900 },
            ColorScheme = scheme,
            ReducedMotion = ReducedMotion.Reduce,
        });
        var page = await context.NewPageAsync();
        page.SetDefaultTimeout((float)Wait.Patience.TotalMilliseconds);
        var visitor = new Visitor(this, context, page);
        await page.GotoAsync("/");
        return visitor;
    }

    /// <summary>A visitor that is signed in and looks at a view.</summary>
    internal async Task<Visitor> OpenAsync(string view, int width = 1440, ColorScheme scheme = ColorScheme.Light)
    {
        var visitor = await VisitAsync(width, scheme);
        await visitor.SignInAsync(Token);
        await visitor.GoAsync(view);
        return visitor;
    }
}

[CollectionDefinition(Name)]
public sealed class DashboardCollection : ICollectionFixture<Dashboard>
{
    public const string Name = "the dashboard of the demo";
}

/// <summary>One page, and everything its console said that it should not.</summary>
internal sealed class Visitor : IAsyncDisposable
{
    private static readonly string s_axe = Path.Combine(Launcher.Checkout, "control-plane", "Dashboard", "node_modules", "axe-core", "axe.min.js");

    private readonly IBrowserContext _context;
    private readonly ConcurrentQueue<string> _complaints = new();

    public Visitor(Dashboard dashboard, IBrowserContext context, IPage page)
    {
        (Dashboard, _context, Page) = (dashboard, context, page);
        page.Console += (_, message) =>
        {
            // A refused call is told on the page; Chromium says it once more.
            if (message.Type is "error" or "warning" && !message.Text.StartsWith("Failed to load resource: the server responded with a status of 4", StringComparison.Ordinal))
            {
                _complaints.Enqueue($"{message.Type}: {message.Text}");
            }
        };
        page.PageError += (_, error) => _complaints.Enqueue(error);
        page.Request += (_, request) =>
        {
            if (!request.Url.StartsWith($"http://127.0.0.1:{dashboard.Stack.AdminPort}/", StringComparison.Ordinal) && !request.Url.StartsWith("blob:", StringComparison.Ordinal))
            {
                _complaints.Enqueue("a call to elsewhere: " + request.Url);
            }
        };
    }

    public Dashboard Dashboard { get; }
    public IPage Page { get; }
    public IReadOnlyCollection<string> Complaints => _complaints;

    public async Task SignInAsync(string token)
    {
        await Page.GetByLabel("Token", new() { Exact = true }).FillAsync(token);
        await Page.GetByRole(AriaRole.Button, new() { Name = "Sign in" }).ClickAsync();
    }

    public async Task GoAsync(string view)
    {
        await Page.Locator(".shell").WaitForAsync();
        await Page.EvaluateAsync("view => { location.hash = '#/' + view }", view);
        await Page.Locator($"main[data-view={view.Split('?')[0]}]").WaitForAsync();
    }

    /// <summary>What the page was answered to a GET of a path, from now on, as soon as <paramref name="when"/> holds for it.</summary>
    public async Task<JsonNode> AnswerAsync(string path, Func<JsonNode, bool> when, Func<Task> after)
    {
        var found = new TaskCompletionSource<JsonNode>(TaskCreationOptions.RunContinuationsAsynchronously);
        Page.Response += Look;
        try
        {
            await after();
            return await found.Task.WaitAsync(Wait.Patience);
        }
        finally
        {
            Page.Response -= Look;
        }

        void Look(object? sender, IResponse response)
        {
            if (new Uri(response.Url).AbsolutePath == "/api/v1" + path && response.Ok)
            {
                _ = Task.Run(() => ReadAsync(response));      // the test waits for the one that is found, not for every one
            }
        }

        async Task ReadAsync(IResponse response)
        {
            try
            {
                var answer = JsonNode.Parse(await response.TextAsync())!;
                if (when(answer))
                {
                    found.TrySetResult(answer);
                }
            }
            catch (PlaywrightException)
            {
                // The page asked again before this answer was read to its end.
            }
        }
    }

    /// <summary>Violations that axe calls serious or critical, in one line each.</summary>
    public async Task<IReadOnlyList<string>> AxeAsync()
    {
        if (!await Page.EvaluateAsync<bool>("'axe' in window"))
        {
            await Page.EvaluateAsync(await File.ReadAllTextAsync(s_axe) + "; null");
        }
        var found = await Page.EvaluateAsync<string[]>(
            """
            async () => (await axe.run(document, { resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] })).violations
              .filter(v => v.impact === 'serious' || v.impact === 'critical')
              .map(v => `${v.id}: ${v.help} at ${v.nodes.slice(0, 3).map(n => n.target.join(' ') + ' ' + n.failureSummary.replaceAll('\n', ' ')).join(' | ')}`)
            """);
        return found;
    }

    public async ValueTask DisposeAsync() => await _context.DisposeAsync();
}
