using System.Collections.Concurrent;
using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Health;
using Evenkeel.Nodes;
using Evenkeel.Secrets;
using Npgsql;

namespace Evenkeel.Publishing;

/// <summary>
/// Brings every node to the newest revision and state. Both are announced by PostgreSQL (NOTIFY) and pushed at once; what was missed, by
/// us or by a node, is made up for by <see cref="ReconcileAsync"/>, which a Quartz job calls every 2 s. The desired state and the nodes
/// stay in memory, so that a node that restarts while the database is away still gets its snapshot: a clock of our own ticks when
/// Quartz, whose store is that database, does not.
/// </summary>
public sealed class Publisher(
    ConfigStore configs, SecretResolver secrets, HealthStore health, HealthMemory healthMemory, NodeStore nodes, NodeAdmin admin, DesiredState state, NodeMemory memory, AdminTokens tokens, NodeTokens nodeTokens, NpgsqlDataSource database, DatabaseState databaseState, TimeProvider time, ILogger<Publisher> log)
    : BackgroundService
{
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan RememberEvery = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan OwnClockAfter = TimeSpan.FromSeconds(4);
    private static readonly TimeSpan DatabaseTimeout = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan ListenCheck = TimeSpan.FromSeconds(10);

    private readonly ConcurrentDictionary<string, (NodeLink Link, string AdminUrl)> links = new();
    private readonly SemaphoreSlim refreshing = new(1, 1);
    private readonly SemaphoreSlim woken = new(0, 1);
    private long lastReconciled, lastRemembered;
    private bool databaseIsAway;
    private IReadOnlyDictionary<string, ResolvedSecret> resolved = new Dictionary<string, ResolvedSecret>();    // of the document in force

    /// <summary>Reads the newest revision and the nodes, and lets every node be looked at. Returns before they are.</summary>
    public async Task ReconcileAsync(CancellationToken cancel)
    {
        await refreshing.WaitAsync(cancel);
        try
        {
            Interlocked.Exchange(ref lastReconciled, time.GetTimestamp());
            await RefreshAsync_NeedsLock(cancel);
        }
        finally
        {
            refreshing.Release();
        }
    }

    /// <summary>Something has happened at a node: reconcile now.</summary>
    public void Wake()
    {
        try { woken.Release(); }
        catch (SemaphoreFullException) { }
    }

    public override async Task StopAsync(CancellationToken cancel)
    {
        await base.StopAsync(cancel);
        foreach (var (link, _) in links.Values) await link.DisposeAsync();
    }

    protected override Task ExecuteAsync(CancellationToken stopping) => Task.WhenAll(ListenAsync(stopping), ClockAsync(stopping));

    private async Task ClockAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            try
            {
                var called = await woken.WaitAsync(Tick, stopping);
                if (called || time.GetElapsedTime(Interlocked.Read(ref lastReconciled)) > OwnClockAfter) await ReconcileAsync(stopping);
            }
            catch (Exception failure) when (!stopping.IsCancellationRequested)
            {
                PublishingLog.Failed(log, failure);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private async Task ListenAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            try
            {
                await using var connection = await database.OpenConnectionAsync(stopping);
                connection.Notification += (_, _) => Wake();
                await using (var listen = new NpgsqlCommand($"listen {ConfigStore.Channel}", connection)) await listen.ExecuteNonQueryAsync(stopping);
                Wake();   // for what was announced while nobody listened
                await using var check = new NpgsqlCommand("select 1", connection);
                while (true)
                {
                    if (!await connection.WaitAsync(ListenCheck, stopping)) await check.ExecuteNonQueryAsync(stopping);
                }
            }
            catch (Exception away) when (!stopping.IsCancellationRequested)
            {
                if (away is not NpgsqlException) PublishingLog.Failed(log, away);
                await Task.Delay(Tick, time, stopping).ContinueWith(_ => { }, TaskScheduler.Default);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private async Task RefreshAsync_NeedsLock(CancellationToken cancel)
    {
        try
        {
            await databaseState.AskAsync(ReadAsync, DatabaseTimeout, cancel);
            if (databaseIsAway) PublishingLog.DatabaseIsBack(log);
            databaseIsAway = false;
        }
        catch (NpgsqlException away)
        {
            if (!databaseIsAway) PublishingLog.DatabaseIsAway(log, away.Message);
            databaseIsAway = true;
            LayOver();
            WakeLinks();
        }
    }

    private void WakeLinks()
    {
        foreach (var (link, adminUrl) in links.Values) link.Wake(adminUrl);
    }

    private async Task ReadAsync(CancellationToken cancel)
    {
        if (await ReadDesiredAsync(cancel)) WakeLinks();        // those that are known need not wait until we have looked for others
        await ReadNodesAsync(cancel);
        WakeLinks();
        if (lastRemembered != 0 && time.GetElapsedTime(lastRemembered) < RememberEvery) return;     // the next change should not wait for it
        lastRemembered = time.GetTimestamp();
        // To be told while the database is away.
        await health.ListAsync(cancel);
        await tokens.RememberAsync(cancel);
        await nodeTokens.RememberAsync(cancel);
    }

    // What the probes find while the database is away goes to the nodes all the same.
    private void LayOver()
    {
        if (state.Current is not { } current || healthMemory.Fleet is not { } fleet || fleet.Number <= current.Snapshot.State) return;
        if (!References(current.Document).All(resolved.ContainsKey)) return;
        state.Set(new Desired(current.Document, SnapshotBuilder.Build(current.Document, current.Revision, fleet, reference => resolved[reference])));
    }

    /// <returns>Is it another one?</returns>
    private async Task<bool> ReadDesiredAsync(CancellationToken cancel)
    {
        var current = state.Current;
        var revision = await configs.RevisionAsync(cancel);
        if (revision == 0) return false;
        var fleet = healthMemory.Read(await health.FleetAsync(cancel));

        // The same revision can come to mean another snapshot: a file may hold another key by now, a missing one may be there.
        var same = current is not null && current.Revision == revision;
        if (same && current!.Snapshot.State == fleet.Number && current.Snapshot.Faults.Count == 0 && !References(current.Document).Any(reference => reference.StartsWith("file:", StringComparison.Ordinal))) return false;

        var stored = same ? new StoredConfig(revision, "", current!.Document) : await configs.LoadAsync(cancel);
        var found = await ResolveAsync(stored.Document, cancel);
        var snapshot = SnapshotBuilder.Build(stored.Document, stored.Revision, fleet, reference => found[reference]);
        cancel.ThrowIfCancellationRequested();      // nobody waits for it any more, and what it read may be old
        resolved = found;
        if (same && (snapshot.State, snapshot.Digest) == (current!.Snapshot.State, current.Snapshot.Digest)) return false;

        foreach (var fault in snapshot.Faults) PublishingLog.Left(log, fault.Path, fault.Message);
        state.Set(new Desired(stored.Document, snapshot));
        PublishingLog.Desired(log, snapshot.Revision, snapshot.State, snapshot.Digest, snapshot.Json.Length);
        return true;
    }

    // What a stored secret holds never changes, so those that are known are not decrypted again.
    private async Task<IReadOnlyDictionary<string, ResolvedSecret>> ResolveAsync(ConfigDocument document, CancellationToken cancel)
    {
        var found = References(document).Where(reference => SecretReference.Parse(reference).Kind == SecretKind.Stored && resolved.GetValueOrDefault(reference) is { Value: not null })
            .ToDictionary(reference => reference, reference => resolved[reference]);
        foreach (var (reference, secret) in await secrets.ResolveAsync([.. References(document).Where(reference => !found.ContainsKey(reference))], cancel)) found.Add(reference, secret);
        return found;
    }

    private async Task ReadNodesAsync(CancellationToken cancel)
    {
        var found = await nodes.ListAsync(cancel);
        cancel.ThrowIfCancellationRequested();
        foreach (var node in found)
        {
            links.AddOrUpdate(node.Name,
                _ => (new NodeLink(node.Name, node.AdminUrl, state, admin, nodes, health, memory, databaseState, time, log), node.AdminUrl),
                (_, entry) => (entry.Link, node.AdminUrl));
        }
        foreach (var name in links.Keys.Except(found.Select(node => node.Name)).ToList())
        {
            if (links.TryRemove(name, out var entry)) await entry.Link.DisposeAsync();
        }
    }

    private static IEnumerable<string> References(ConfigDocument document) =>
        document.Instances.Select(instance => instance.ApiKey).OfType<string>().Concat(document.Clients.Select(client => client.Key).OfType<string>()).Distinct();
}
