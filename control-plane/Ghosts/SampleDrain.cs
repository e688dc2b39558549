using System.Text.Json.Nodes;
using Evenkeel.Database;
using Evenkeel.Nodes;
using Evenkeel.Publishing;

namespace Evenkeel.Ghosts;

/// <summary>
/// Takes sampled requests from the nodes, which keep them in memory only, and keeps them redacted. Whatever goes wrong, a sample is lost
/// rather than kept unredacted, and none is ever logged.
/// </summary>
public sealed class SampleDrain(SampleStore store, NodeStore nodes, NodeAdmin admin, DesiredState state, ILogger<SampleDrain> log)
{
    public async Task RunAsync(CancellationToken cancel)
    {
        if (state.Current is not { } desired) return;
        var pools = desired.Document.Pools.Where(pool => pool.Ghost.Sample > 0).ToDictionary(pool => pool.Name);
        if (pools.Count == 0) return;
        foreach (var node in (await nodes.ListAsync(cancel)).Where(node => node.Live))
        {
            var taken = await admin.TakeSamplesAsync(node.Address, cancel);
            try
            {
                foreach (var of in taken.Where(sample => pools.ContainsKey(sample.Pool)).GroupBy(sample => sample.Pool))
                {
                    var redacted = of.Select(sample => Parse(sample.Body)).OfType<JsonObject>().Select(body => Redaction.Redact(body, pools[of.Key].Ghost.Redact)).OfType<JsonObject>().ToList();
                    if (redacted.Count > 0) await store.AddAsync(of.Key, redacted, cancel);
                }
            }
            catch (Npgsql.NpgsqlException failure)
            {
                // Without its detail, which may quote what was to be kept.
                GhostLog.NotSampled(log, node.Name, (failure as Npgsql.PostgresException)?.SqlState ?? "the database is away");
            }
        }
        await store.PruneAsync(desired.Document, cancel);
    }

    internal static JsonObject? Parse(string body)
    {
        try
        {
            var request = JsonNode.Parse(KeptText.OfJson(body)) as JsonObject;
            _ = request?.Count;   // duplicate names are found only when it is looked into
            return request;
        }
        catch (Exception e) when (e is System.Text.Json.JsonException or ArgumentException)
        {
            return null;
        }
    }
}
