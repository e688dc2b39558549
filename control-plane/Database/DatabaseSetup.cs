using System.Data.Common;
using Dapper;
using Npgsql;

namespace Evenkeel.Database;

/// <summary>The one data source of the process, and the wait for the server behind it.</summary>
public static class DatabaseSetup
{
    public static IServiceCollection AddDatabase(this IServiceCollection services, EvenkeelOptions options)
    {
        services.AddSingleton(_ => Open(options));
        services.AddSingleton<DatabaseState>();
        services.AddSingleton<DbDataSource>(provider => provider.GetRequiredService<NpgsqlDataSource>());   // Quartz asks for this type
        return services;
    }

    // How long a server that is silent keeps whoever has asked it: cancelling is a question to it as well, on a connection of its own. Who
    // writes other times has those. Two control planes leave room on a server of a hundred connections.
    private const string Patience = "Timeout=5;Command Timeout=15;Maximum Pool Size=40;";

    internal static NpgsqlDataSource Open(EvenkeelOptions options)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        NpgsqlConnectionStringBuilder connection;
        try
        {
            connection = new NpgsqlConnectionStringBuilder(Patience + options.Database) { SearchPath = Migrator.Schema, ApplicationName = "evenkeel" };
        }
        catch (ArgumentException e)
        {
            throw new SetupException($"{EvenkeelOptions.Section}:Database is not a connection string: {e.Message}");
        }

        if (options.DatabasePasswordFile is { Length: > 0 } file)
        {
            connection.Password = EvenkeelOptions.ReadSecretFile(file);
        }

        return NpgsqlDataSource.Create(connection);
    }

    /// <summary>Returns when the server answers. A server that answers "no" (password, database) is not waited for.</summary>
    /// <exception cref="SetupException">It never answered, or it said no.</exception>
    public static async Task WaitAsync(NpgsqlDataSource database, TimeSpan atMost, ILogger log, TimeProvider time, CancellationToken cancel)
    {
        var start = time.GetTimestamp();
        while (true)
        {
            try
            {
                await using var connection = await database.OpenConnectionAsync(cancel);
                return;
            }
            catch (NpgsqlException e) when (e is not PostgresException { SqlState: not PostgresErrorCodes.CannotConnectNow and not PostgresErrorCodes.TooManyConnections })
            {
                if (time.GetElapsedTime(start) > atMost)
                {
                    throw new SetupException($"the database did not answer for {atMost.TotalSeconds:0} s: {e.Message}");
                }

                DatabaseLog.Waiting(log, e.Message);
            }
            catch (PostgresException e)
            {
                throw new SetupException($"the database refuses: {e.MessageText}");
            }

            await Task.Delay(TimeSpan.FromSeconds(1), time, cancel);
        }
    }
}

internal static partial class DatabaseLog
{
    [LoggerMessage(EventId = 101, Level = LogLevel.Information, Message = "waiting for the database: {Reason}")]
    public static partial void Waiting(ILogger log, string reason);

    [LoggerMessage(EventId = 102, Level = LogLevel.Information, Message = "migration {Name} applied")]
    public static partial void Migrated(ILogger log, string name);

    [LoggerMessage(EventId = 103, Level = LogLevel.Warning, Message = "the database is away: {Reason}")]
    public static partial void Away(ILogger log, string reason);

    [LoggerMessage(EventId = 104, Level = LogLevel.Warning, Message = "the scheduler did not end within {Seconds} s; it is left to itself")]
    public static partial void SchedulerGivenUp(ILogger log, double seconds);
}
