using System.Diagnostics;
using System.Security.Cryptography;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests;

/// <summary>
/// A private PostgreSQL cluster from Debian's binaries, started when the first test asks, stopped when the last is done,
/// on a free loopback port, in a temporary directory. PostgreSQL will not run as root, so under root it runs as the
/// system user "postgres". Most tests share one by <c>[Collection(PostgresCollection.Name)]</c> and run one after the
/// other; a class whose tests wait for seconds has its own, by <c>IClassFixture&lt;PostgresFixture&gt;</c>, and runs
/// beside the others. One <see cref="CreateDatabaseAsync"/> per control plane.
/// </summary>
public sealed class PostgresFixture : IAsyncLifetime
{
    private const string Superuser = "evenkeel";

    private readonly string _directory = Directory.CreateTempSubdirectory("evenkeel-pg-").FullName;
    private readonly string _password = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(16));
    private readonly string _bin = FindBin();
    private int _databases;
    private Process? _watchdog;

    public int Port { get; private set; }

    public string PasswordFile => Path.Combine(_directory, "password");

    public async Task InitializeAsync()
    {
        await File.WriteAllTextAsync(PasswordFile, _password);
        if (Environment.IsPrivilegedProcess)
        {
            await Run("chown", "postgres:", _directory, PasswordFile);
        }

        await Run("initdb", "-D", Data, "-U", Superuser, "--auth=scram-sha-256", "--pwfile=" + PasswordFile, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync");
        for (var attempt = 1; ; attempt++)
        {
            Port = Agent.AgentNode.FreePort();
            try
            {
                await Run("pg_ctl", "-D", Data, "-l", Path.Combine(_directory, "log"), "-w", "-t", "60",
                    "-o", $"-c listen_addresses=127.0.0.1 -c port={Port} -c unix_socket_directories='' -c fsync=off -c max_connections=200", "start");
                break;
            }
            catch (InvalidOperationException) when (attempt < 5)
            {
                // Somebody took the port between looking and listening.
            }
        }

        _watchdog = StopWhenThisProcessDies();
    }

    /// <summary>Stops the cluster; a connection that a test left open does not hold it up.</summary>
    public async Task DisposeAsync()
    {
        _watchdog?.StandardInput.Close();
        if (_watchdog is not null)
        {
            await _watchdog.WaitForExitAsync();
        }

        NpgsqlConnection.ClearAllPools();
    }

    /// <summary>A new empty database.</summary>
    /// <returns>Its connection string, password included.</returns>
    public async Task<string> CreateDatabaseAsync()
    {
        var name = $"test_{Interlocked.Increment(ref _databases)}";
        await using var connection = new NpgsqlConnection(ConnectionString("postgres"));
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand($"create database {name} template template0", connection);
        await command.ExecuteNonQueryAsync();
        return ConnectionString(name);
    }

    private string ConnectionString(string database) => new NpgsqlConnectionStringBuilder
    {
        Host = "127.0.0.1",
        Port = Port,
        Username = Superuser,
        Password = _password,
        Database = database,
        MaxPoolSize = 20,
    }.ConnectionString;

    private string Data => Path.Combine(_directory, "data");

    /// <summary>
    /// A shell that waits for the end of its input, then stops the cluster and removes it: also when a test run is killed,
    /// because the kernel closes the pipe then. In a session of its own, so that Ctrl-C does not take it first.
    /// </summary>
    private Process StopWhenThisProcessDies()
    {
        const string Script = "read -r _; \"$0\" -D \"$1/data\" -m immediate -w stop >/dev/null 2>&1; cd /; rm -rf \"$1\"";
        var start = Command("setsid", "sh", "-c", Script, Path.Combine(_bin, "pg_ctl"), _directory);
        start.RedirectStandardInput = true;
        return Process.Start(start)!;
    }

    private async Task Run(string program, params string[] arguments)
    {
        var start = Command(program, arguments);
        start.RedirectStandardError = true;
        start.RedirectStandardOutput = true;
        if (program == "chown")
        {
            start = new ProcessStartInfo("chown", arguments) { RedirectStandardError = true, RedirectStandardOutput = true };
        }

        using var process = Process.Start(start)!;

        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync(new CancellationTokenSource(TimeSpan.FromSeconds(90)).Token);
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException($"{program} ended with {process.ExitCode}: {await errors} {await output}");
        }
    }

    private ProcessStartInfo Command(string program, params string[] arguments)
    {
        var path = File.Exists(Path.Combine(_bin, program)) ? Path.Combine(_bin, program) : program;
        string[] command = Environment.IsPrivilegedProcess
            ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", path, .. arguments]
            : [path, .. arguments];
        return new ProcessStartInfo(command[0], command[1..]) { WorkingDirectory = _directory };
    }

    private static string FindBin() =>
        Directory.GetDirectories("/usr/lib/postgresql")
            .OrderByDescending(d => int.TryParse(Path.GetFileName(d), out var version) ? version : 0)
            .Select(d => Path.Combine(d, "bin"))
            .First(d => File.Exists(Path.Combine(d, "initdb")));
}

/// <summary>Tests that need PostgreSQL share one cluster and run one after the other.</summary>
[CollectionDefinition(Name)]
public sealed class PostgresCollection : ICollectionFixture<PostgresFixture>
{
    public const string Name = "PostgreSQL";
}
