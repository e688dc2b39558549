using System.Threading.Channels;
using Evenkeel.Database;
using Evenkeel.Health;
using Evenkeel.Nodes;
using Npgsql;

namespace Evenkeel.Publishing;

/// <summary>
/// Keeps one node at the desired snapshot. Level-triggered: a wake means "look again", wakes that come while it is busy become one, and
/// what it looks at is always the newest. One call to the node at a time. What it sees goes to the store; a store that is away is no
/// reason to stop.
/// </summary>
public sealed class NodeLink : IAsyncDisposable
{
    // After a push the workers have it within a tick of theirs; this only decides how fresh the stored status is.
    private static readonly TimeSpan SettleTime = TimeSpan.FromSeconds(1.5);
    private static readonly TimeSpan ObserveWithin = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan SettleStep = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan RetryRefusedAfter = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan StoreTimeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan KeptWithin = TimeSpan.FromSeconds(3);

    private readonly Channel<bool> wakes = Channel.CreateBounded<bool>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite });
    private readonly CancellationTokenSource ending = new();
    private readonly string name;
    private readonly DesiredState state;
    private readonly NodeAdmin admin;
    private readonly NodeStore nodes;
    private readonly HealthStore health;
    private readonly NodeMemory memory;
    private readonly DatabaseState database;
    private readonly TimeProvider time;
    private readonly ILogger log;
    private readonly Task loop;
    private volatile string adminUrl;
    private bool disposed;

    private NodeStatus? known;          // what the node last said
    private Snapshot? running;          // the snapshot last seen on all its workers
    private Snapshot? refused;
    private long refusedAt;
    private long? observedAt;           // when what it says was last written down
    private long? olderAt;              // since when it holds what is newer than the newest
    private string? lastFault;

    public NodeLink(string name, string adminUrl, DesiredState state, NodeAdmin admin, NodeStore nodes, HealthStore health, NodeMemory memory, DatabaseState database, TimeProvider time, ILogger log)
    {
        (this.name, this.adminUrl, this.state, this.admin, this.nodes, this.health, this.memory, this.database, this.time, this.log) = (name, adminUrl, state, admin, nodes, health, memory, database, time, log);
        loop = Task.Run(RunAsync);
    }

    public void Wake(string newAdminUrl)
    {
        adminUrl = newAdminUrl;
        wakes.Writer.TryWrite(true);
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref disposed, true)) return;
        await ending.CancelAsync();
        await loop;
        ending.Dispose();
    }

    private NodeAddress Address => new(name, adminUrl);

    private async Task RunAsync()
    {
        try
        {
            while (true)
            {
                await wakes.Reader.ReadAsync(ending.Token);
                try
                {
                    await SyncAsync(ending.Token);
                }
                catch (Exception failure) when (failure is not OperationCanceledException)
                {
                    PublishingLog.Failed(log, failure);
                }
            }
        }
        catch (OperationCanceledException)
        {
        }
    }

    private async Task SyncAsync(CancellationToken cancel)
    {
        var desired = state.Current?.Snapshot;
        var outdated = state.Changed;
        string? fault = null;
        var began = time.GetTimestamp();

        // What it is not known to hold goes out at once; otherwise it is asked first, and gets what it lacks.
        known ??= (await admin.StatusAsync(Address, cancel)).Status;
        var pushed = desired is not null && known is not null && Lacks(known, desired);
        if (pushed) fault = await PushAsync(desired!, cancel);
        if (pushed && fault is null && IsOutdated(desired!) && IsFresh) return;
        (known, var silence) = await admin.StatusAsync(Address, cancel);
        if (!pushed && desired is not null && known is not null && Lacks(known, desired))
        {
            pushed = true;
            fault = await PushAsync(desired, cancel);
        }
        if (pushed && fault is null && known is not null)
        {
            while (!known.Runs(desired!, null) && time.GetElapsedTime(began) < SettleTime)
            {
                await Task.WhenAny(Task.Delay(SettleStep, time, cancel), outdated);
                if (IsOutdated(desired!) && IsFresh) return;
                (known, silence) = await admin.StatusAsync(Address, cancel);
                if (known is null || IsOutdated(desired!)) break;
            }
        }

        if (desired is not null && desired != running && known?.Runs(desired, null) == true)
        {
            running = desired;
            PublishingLog.Runs(log, name, desired.Revision, (long)time.GetElapsedTime(began).TotalMilliseconds);
        }
        fault = silence ?? fault;
        if (fault != lastFault)
        {
            if (fault is not null) PublishingLog.NodeFault(log, name, fault);
            else PublishingLog.NodeAnswers(log, name);
            lastFault = fault;
        }
        observedAt = time.GetTimestamp();
        memory.Observed(name, known, fault);
        await StoreAsync(store => nodes.ObservedAsync(name, known, fault, store), cancel);
    }

    // Then the next one goes out at once, without a look at how this one fared: a wake has come with it.
    private bool IsOutdated(Snapshot desired) => state.Current?.Snapshot != desired;

    // However many changes come: a node of which nothing is heard for long is not live.
    private bool IsFresh => observedAt is { } at && time.GetElapsedTime(at) < ObserveWithin;

    // One that holds nothing has to know its share before it serves.
    private async Task WelcomeAsync(Desired current, CancellationToken cancel)
    {
        var others = memory.Nodes.Count(node => node.Live && node.Name != name);
        if (others > 0) await admin.OrderSharesAsync(Address, ShareOrder.ForNewcomer(current.Document.Instances.Select(instance => (instance.Name, instance.MaxConnections)), others + 1), cancel);
    }

    private bool Lacks(NodeStatus status, Snapshot desired)
    {
        if (refused == desired && time.GetElapsedTime(refusedAt) < RetryRefusedAfter) return false;
        return (status.Revision, status.State, status.Digest) != (desired.Revision, desired.State, desired.Digest);
    }

    private async Task<string?> PushAsync(Snapshot snapshot, CancellationToken cancel)
    {
        if (known is { Revision: 0 } && state.Current is { } current) await WelcomeAsync(current, cancel);
        switch (await admin.PushAsync(Address, snapshot, cancel))
        {
            case PushResult.Taken:
                (refused, olderAt) = (null, null);
                return null;
            case PushResult.Older:
                // It goes by what a control plane found while the database was away. That is kept within moments of its return; if not, whoever
                // found it has ended, and what the database says holds.
                olderAt ??= time.GetTimestamp();
                if (known?.Revision == snapshot.Revision && known.State > snapshot.State && time.GetElapsedTime(olderAt.Value) > KeptWithin)
                    await StoreAsync(store => health.OutbidAsync(known.State, store), cancel);
                return $"it holds a newer revision than {snapshot.Revision}: was the database put back?";
            case PushResult.Refused(var words):
                if (refused != snapshot)
                {
                    PublishingLog.Refused(log, name, snapshot.Revision, "push", words);
                    await StoreAsync(store => nodes.ReportAsync(name, new NodeReport { Revision = snapshot.Revision, TextDigest = "", Result = "refused", Stage = "push", Words = words }, store), cancel);
                }
                (refused, refusedAt) = (snapshot, time.GetTimestamp());
                return $"it refuses the snapshot of revision {snapshot.Revision}";
            case PushResult.Failed(var fault):
                return fault;
            default:
                throw new InvalidOperationException();
        }
    }

    private async Task StoreAsync(Func<CancellationToken, Task> write, CancellationToken cancel)
    {
        try
        {
            await database.AskAsync(write, StoreTimeout, cancel);
        }
        catch (NpgsqlException)
        {
            // The publisher says that the database is away.
        }
    }
}
