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
    private const long LockKey = 0x65766b_0016;
    private static readonly TimeSpan Every = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(2);

    private volatile IReadOnlyList<Node> nodes = [];
    private volatile bool leads;

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
        NpgsqlConnection? connection = null;
        var failures = 0;
        try
        {
            while (!stopping.IsCancellationRequested)
            {
                using var bounded = CancellationTokenSource.CreateLinkedTokenSource(stopping);
                bounded.CancelAfter(Timeout);
                try
                {
                    connection ??= await database.OpenConnectionAsync(bounded.Token);
                    // Held already: it is taken once more, which harms nobody, and shows that the connection lives.
                    await using (var take = new NpgsqlCommand($"select pg_try_advisory_lock({LockKey})", connection)) leads = (bool)(await take.ExecuteScalarAsync(bounded.Token))!;
                    nodes = await store.ListAsync(bounded.Token);
                    (state.IsAway, failures) = (false, 0);
                }
                catch (Exception away) when (!stopping.IsCancellationRequested && away is NpgsqlException or OperationCanceledException)
                {
                    state.IsAway = ++failures > 1;     // one may be a connection that was kept from before
                    if (connection is not null) await connection.DisposeAsync();
                    connection = null;
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
            if (connection is not null) await connection.DisposeAsync();
        }
    }
}
