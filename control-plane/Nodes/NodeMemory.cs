using Dapper;
using Evenkeel.Database;
using Npgsql;

namespace Evenkeel.Nodes;

/// <summary>
/// The nodes as the database last had them, kept while it is away; and whether this control plane leads, which of several is the one that
/// deals shares: it holds an advisory lock, which PostgreSQL gives to another as soon as this process is gone. While the database is
/// away, the one that led last goes on.
/// </summary>
public sealed class NodeMemory(NpgsqlDataSource database, DatabaseState state, NodeStore store, TimeProvider time, ILogger<NodeMemory> log) : BackgroundService
{
    internal const long LockKey = 0x65766b_0016;
    private static readonly TimeSpan Every = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan SilentAfter = TimeSpan.FromSeconds(2);
    private const int CommandTimeoutS = 10;
    private const string LeadsFor = "5s";

    private volatile IReadOnlyList<Node> nodes = [];
    private volatile bool leads;
    private NpgsqlConnection? connection;       // holds the lock

    public IReadOnlyList<Node> Nodes => nodes;
    public bool Leads => leads;

    /// <summary>A node said this; it counts while the database cannot say more.</summary>
    public void Observed(string name, NodeStatus? status, string? fault)
    {
        if (!state.IsAway) return;
        nodes = [.. nodes.Select(node => node.Name != name ? node : node with
        {
            Status = status,
            Fault = fault,
            LastSeenAt = status is null ? node.LastSeenAt : time.GetUtcNow().UtcDateTime,
            Live = status is not null || time.GetUtcNow().UtcDateTime - node.LastSeenAt < NodeStore.LiveFor,
        })];
    }

    protected override async Task ExecuteAsync(CancellationToken stopping)
    {
        Task<IReadOnlyList<Node>> asking = Task.FromResult(nodes);
        var failures = 0;
        try
        {
            while (!stopping.IsCancellationRequested)
            {
                try
                {
                    // A server that says nothing may not even hear that it is not to answer any more: the question stays, and is the only one.
                    asking = AskAsync();
                    while (!asking.IsCompleted && await Task.WhenAny(asking, Task.Delay(SilentAfter, time, stopping)) != asking)
                    {
                        stopping.ThrowIfCancellationRequested();
                        state.Set(isAway: true);
                    }
                    nodes = await asking;
                    failures = 0;
                    state.Set(isAway: false);
                }
                catch (Exception away) when (!stopping.IsCancellationRequested && away is NpgsqlException or OperationCanceledException)
                {
                    await ForgetConnectionAsync();
                    if (++failures == 1) continue;     // it may be a connection that was kept from before
                    state.Set(isAway: true);
                }
                await Task.Delay(Every, time, stopping);
            }
        }
        catch (OperationCanceledException)
        {
        }
        catch (Exception failure)
        {
            FleetLog.Failed(log, failure);
            throw;
        }
        finally
        {
            leads = false;
            if (asking.IsCompleted) await ForgetConnectionAsync();      // else it is waited for by nobody any more
        }
    }

    // Held already: it is taken once more, which harms nobody, and shows that the connection lives. A leader that is frozen, or cut off from
    // the database without either noticing, loses it when it has not asked for so long.
    private const string LeadSql = "select pg_try_advisory_lock(@LockKey) from set_config('idle_session_timeout', @LeadsFor, false)";

    private async Task<IReadOnlyList<Node>> AskAsync()
    {
        connection ??= await database.OpenConnectionAsync();
        leads = await connection.ExecuteScalarAsync<bool>(new CommandDefinition(LeadSql, new { LockKey, LeadsFor }, commandTimeout: CommandTimeoutS));
        return await store.ListAsync();
    }

    private async Task ForgetConnectionAsync()
    {
        if (connection is null) return;
        database.Clear();      // it is really closed, and the lock with it; what is idle besides is of no use any more
        await connection.DisposeAsync();
        connection = null;
    }
}
