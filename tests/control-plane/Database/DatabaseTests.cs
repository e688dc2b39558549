using System.Net;
using Dapper;
using Evenkeel.Database;
using Evenkeel.Tests.Config;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Database;

[Collection(PostgresCollection.Name)]
public sealed class DatabaseTests(PostgresFixture postgres)
{
    [Fact]
    public async Task Of_several_that_start_at_once_one_migrates_and_the_others_wait()
    {
        await using var database = NpgsqlDataSource.Create(await postgres.CreateDatabaseAsync());
        var applied = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Migrator.MigrateAsync(database)));
        Assert.Equal(1, applied.Count(names => names.Count > 0));
        Assert.Empty(await Migrator.MigrateAsync(database));
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
    public async Task Two_control_planes_share_one_database()
    {
        await using var first = await ControlPlane.StartAsync(postgres);
        using var one = first.Admin();
        var number = await one.PutConfigAsync(Sample.Yaml);
        await using var second = first.Another();
        using var other = second.Admin();
        Assert.Equal(number, await other.ETagAsync("/api/v1/config"));
        Assert.Equal("ready\n", await other.GetStringAsync("/readyz"));
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
