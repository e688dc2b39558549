using Dapper;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Database;

[Collection(PostgresCollection.Name)]
public sealed class ShutdownTests(PostgresFixture postgres)
{
    /// <summary>Well below what service managers wait for before they kill.</summary>
    private static readonly TimeSpan s_atMost = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task Told_to_stop_while_the_database_is_away_it_ends_by_itself()
    {
        var directory = Directory.CreateTempSubdirectory("evenkeel-stop-").FullName;
        var connection = await postgres.CreateDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(connection);
        var name = settings.Database!;
        settings.Database = "postgres";
        await using var server = new NpgsqlConnection(settings.ConnectionString);
        await server.OpenAsync();
        using (var plane = await PlaneProcess.StartAsync(connection, directory))
        {
            await server.ExecuteAsync($"alter database {name} with allow_connections false");
            await server.ExecuteAsync("select pg_terminate_backend(pid) from pg_stat_activity where datname = @name", new { name });
            Assert.Equal(0, await plane.EndAsync(s_atMost));
        }

        Directory.Delete(directory, recursive: true);
    }
}
