using System.Collections.Concurrent;
using System.Net.Http.Headers;
using System.Text;
using Evenkeel.Auth;
using Evenkeel.Nodes;
using Evenkeel.Tests.Nodes;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Mvc.Testing;
using Microsoft.AspNetCore.TestHost;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using Quartz;

namespace Evenkeel.Tests;

/// <summary>The real control plane in this process, on a database of its own, with tokens and key in a temporary directory.</summary>
public sealed class ControlPlane : WebApplicationFactory<Program>
{
    public const string AdminToken = "admin-token-of-the-test";
    public const string NodeToken = "node-token-of-the-test";

    private readonly string _directory = Directory.CreateTempSubdirectory("evenkeel-cp-").FullName;
    private bool _databaseIsAway;

    private ControlPlane(string connectionString) => ConnectionString = connectionString;

    /// <summary>Password included.</summary>
    public string ConnectionString { get; }

    public string SecretKeyFile => Path.Combine(_directory, "secret.key");

    /// <summary>How many refused callers are answered before they are told to wait.</summary>
    public FailureLimiter Failures { get; init; } = new(burst: 10_000);

    /// <summary>What it says of callers.</summary>
    internal RefusalLines Log { get; } = new();

    public string AdminTokenFile => Path.Combine(_directory, "admin-token");

    public static async Task<ControlPlane> StartAsync(PostgresFixture postgres, FailureLimiter? failures = null) =>
        new(await postgres.CreateDatabaseAsync()) { Failures = failures ?? new(burst: 10_000) };

    /// <summary>Its database is at the end of a wire that can be silent or cut.</summary>
    internal static async Task<ControlPlane> StartAsync(PostgresFixture postgres, FrailWire wire) =>
        new(new NpgsqlConnectionStringBuilder(await postgres.CreateDatabaseAsync()) { Port = wire.Port, Timeout = 2, CommandTimeout = 4 }.ConnectionString);

    /// <summary>A new process, as it were, on a database that is there already; it has another secret key.</summary>
    public static ControlPlane On(string connectionString) => new(connectionString);

    /// <summary>A second process, as it were, on the same database and with the same files.</summary>
    public ControlPlane Another()
    {
        var other = new ControlPlane(ConnectionString);
        File.Copy(SecretKeyFile, other.SecretKeyFile);
        return other;
    }

    /// <summary>A caller with the admin's token.</summary>
    public HttpClient Admin() => Caller(AdminToken);

    /// <summary>A caller with the nodes' token.</summary>
    public HttpClient Node() => Caller(NodeToken);

    public HttpClient Caller(string? token)
    {
        var client = CreateClient();
        client.DefaultRequestHeaders.Authorization = token is null ? null : new AuthenticationHeaderValue("Bearer", token);
        return client;
    }

    /// <summary>From here on a test does by hand what the jobs of this group do, and does it alone.</summary>
    public async Task PauseJobsAsync(string group)
    {
        var scheduler = await SchedulerAsync();
        await scheduler.PauseJobGroups(GroupMatcher<JobKey>.GroupEquals(group));
        await NodeCalls.EventuallyAsync($"no job of {group} runs", async () => (await scheduler.QueryFireInstances(new FireInstanceQuery { TriggerGroup = GroupMatcher<TriggerKey>.GroupEquals(group) })).Items.Count == 0);
    }

    public async Task ResumeJobsAsync(string group) => await (await SchedulerAsync()).ResumeJobGroups(GroupMatcher<JobKey>.GroupEquals(group));

    private async Task<IScheduler> SchedulerAsync() => await Services.GetRequiredService<ISchedulerFactory>().GetScheduler();

    /// <summary>For a look past the API.</summary>
    public async Task<NpgsqlConnection> OpenDatabaseAsync()
    {
        var connection = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(ConnectionString) { SearchPath = "evenkeel", Pooling = false }.ConnectionString);
        await connection.OpenAsync();
        return connection;
    }

    /// <summary>Takes the database away from this control plane, which has its nodes in memory by then, or gives it back; other databases of the server go on.</summary>
    public async Task SetDatabaseAsync(bool away)
    {
        var connection = new NpgsqlConnectionStringBuilder(ConnectionString);
        var name = connection.Database!;
        connection.Database = "postgres";
        await using var server = new NpgsqlConnection(connection.ConnectionString);
        await server.OpenAsync();
        var memory = Services.GetRequiredService<NodeMemory>();
        var nodes = Services.GetRequiredService<NodeStore>();
        if (away) await NodeCalls.EventuallyAsync("the nodes are remembered", async () => memory.Leads && memory.Nodes.Count == (await nodes.ListAsync()).Count);
        await ExecuteAsync($"alter database {name} with allow_connections {!away}");
        _databaseIsAway = away;
        if (away) await ExecuteAsync($"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");

        async Task ExecuteAsync(string sql)
        {
            await using var command = new NpgsqlCommand(sql, server);
            await command.ExecuteNonQueryAsync();
        }
    }

    protected override void ConfigureWebHost(IWebHostBuilder builder)
    {
        string Written(string name, string text)
        {
            var path = Path.Combine(_directory, name);
            File.WriteAllText(path, text + "\n");
            return path;
        }

        builder.UseSetting("Evenkeel:Database", ConnectionString);
        builder.UseSetting("Evenkeel:AdminTokenFile", Written("admin-token", AdminToken));
        builder.UseSetting("Evenkeel:NodeTokenFile", Written("node-token", NodeToken));
        builder.UseSetting("Evenkeel:SecretKeyFile", SecretKeyFile);
        builder.UseSetting("Evenkeel:DatabaseWaitSeconds", "5");
        // All callers of a test come from nowhere: one bucket for all of them.
        builder.ConfigureTestServices(services => services.AddSingleton(Failures).AddSingleton<ILoggerProvider>(Log));
    }

    public override async ValueTask DisposeAsync()
    {
        if (_databaseIsAway) await SetDatabaseAsync(away: false);     // sooner over: the scheduler waits some seconds for its store
        await base.DisposeAsync();
        Directory.Delete(_directory, recursive: true);
    }
}

/// <summary>The lines about callers that were refused.</summary>
internal sealed class RefusalLines : ILoggerProvider, ILogger
{
    public ConcurrentQueue<string> Lines { get; } = new();

    public ILogger CreateLogger(string categoryName) => categoryName == "Evenkeel.Auth" ? this : NullLogger.Instance;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => Lines.Enqueue(formatter(state, exception));

    public bool IsEnabled(LogLevel logLevel) => true;

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public void Dispose()
    {
    }
}

internal static class Body
{
    public static StringContent Yaml(string text) => new(text, Encoding.UTF8, "application/yaml");

    public static StringContent Json(string text) => new(text, Encoding.UTF8, "application/json");
}
