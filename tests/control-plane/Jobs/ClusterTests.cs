using Dapper;
using Evenkeel.Tests.Nodes;
using Npgsql;
using Xunit;

namespace Evenkeel.Tests.Jobs;

/// <summary>Two real processes on one database, and one of them is killed.</summary>
[Collection(PostgresCollection.Name)]
public sealed class ClusterTests(PostgresFixture postgres) : IAsyncLifetime
{
    private static readonly TimeSpan Promised = TimeSpan.FromSeconds(15);

    // The database itself writes down what was fired by whom: one line for each execution that begins.
    private const string WatchSql = """
        create table fired (at timestamptz not null default clock_timestamp(), job text not null, process text not null, due bigint not null);
        create function note_fired() returns trigger language plpgsql as $$
        begin
            insert into evenkeel.fired (job, process, due) values (new.trigger_group || '/' || new.trigger_name, new.instance_name, new.sched_time);
            return null;
        end $$;
        create trigger note_fired after insert or update on quartz.qrtz_fired_triggers for each row when (new.state = 'EXECUTING') execute function note_fired();
        """;

    private readonly string directory = Directory.CreateTempSubdirectory("evenkeel-cluster-").FullName;
    private readonly List<PlaneProcess> processes = [];
    private string connectionString = "";

    public async Task InitializeAsync() => connectionString = await postgres.CreateDatabaseAsync();

    public Task DisposeAsync()
    {
        foreach (var process in processes) process.Dispose();
        Directory.Delete(directory, recursive: true);
        return Task.CompletedTask;
    }

    [Fact]
    public async Task When_the_working_control_plane_is_killed_every_job_goes_on_within_15_s_and_nothing_fires_twice()
    {
        await StartAsync();
        await using var database = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(connectionString) { SearchPath = "evenkeel" }.ConnectionString);
        await database.OpenAsync();
        await database.ExecuteAsync(WatchSql);
        await StartAsync();
        var jobs = (await database.QueryAsync<string>("""
            select trigger_group || '/' || trigger_name from quartz.qrtz_triggers t join quartz.qrtz_simple_triggers s using (sched_name, trigger_group, trigger_name)
            where s.repeat_interval <= 5000
            """)).ToList();
        Assert.True(jobs.Count >= 4, string.Join(", ", jobs));
        await NodeCalls.EventuallyAsync("both are there and every job was fired", async () =>
            await database.ExecuteScalarAsync<int>("select count(*) from quartz.qrtz_scheduler_state") == 2
            && await database.ExecuteScalarAsync<int>("select count(distinct job) from fired where job = any(@jobs)", new { jobs }) == jobs.Count);

        // An instance's id holds its process's: kill the one that works most.
        var busiest = await database.QuerySingleAsync<string>("select process from fired group by process order by count(*) desc limit 1");
        var victim = processes.Single(process => busiest.Contains($"-{process.Id}-", StringComparison.Ordinal));
        victim.Kill();
        var killedAt = await database.QuerySingleAsync<DateTime>("select clock_timestamp()");
        await NodeCalls.EventuallyAsync("every job goes on", async () =>
            await database.ExecuteScalarAsync<int>("select count(distinct job) from fired where job = any(@jobs) and at > @killedAt and process <> @busiest", new { jobs, killedAt, busiest }) == jobs.Count);

        var gap = await database.QuerySingleAsync<TimeSpan>("""
            select max(first) - @killedAt from (select min(at) as first from fired where job = any(@jobs) and at > @killedAt and process <> @busiest group by job) resumed
            """, new { jobs, killedAt, busiest });
        Assert.True(gap < Promised, $"the last job went on after {gap.TotalSeconds:0.0} s");
        Assert.Empty(await database.QueryAsync<string>("select job || ' due ' || due || ' by ' || string_agg(process, ', ') from fired group by job, due having count(*) > 1"));
    }

    private async Task StartAsync() => processes.Add(await PlaneProcess.StartAsync(connectionString, directory));
}
