using System.Text.Json;
using System.Text.Json.Serialization;
using Evenkeel.Config;

namespace Evenkeel.Telemetry;

// The contract of docs/telemetry.md, as the nodes write it.

/// <summary>Cumulative counters that changed after the number that was asked for.</summary>
public sealed record NodeTelemetry
{
    /// <summary>Numbers are whole, however the node's encoder writes them.</summary>
    public static readonly JsonSerializerOptions Options = new(ConfigJson.Options) { Converters = { new WholeNumberConverter() } };

    public long Seq { get; init; }
    public NodeBounds BoundsS { get; init; } = new();
    public IReadOnlyList<NodeSeries> Series { get; init; } = [];
    public long DroppedSeries { get; init; }
    /// <summary>There is more: where to go on.</summary>
    public long? Next { get; init; }

    private sealed class WholeNumberConverter : JsonConverter<long>
    {
        public override long Read(ref Utf8JsonReader reader, Type type, JsonSerializerOptions options) =>
            reader.TryGetInt64(out var whole) ? whole
            : reader.TryGetDouble(out var number) && Math.Abs(number) < 9e18 ? (long)Math.Round(number)
            : throw new JsonException();

        public override void Write(Utf8JsonWriter writer, long value, JsonSerializerOptions options) => writer.WriteNumberValue(value);
    }
}

public sealed record NodeBounds
{
    public IReadOnlyList<double> Long { get; init; } = [];
    public IReadOnlyList<double> Short { get; init; } = [];
}

/// <summary>One life of a series: the same labels with another <see cref="Born"/> began at zero.</summary>
public sealed record NodeSeries
{
    public required string Family { get; init; }
    public long Born { get; init; }
    public SeriesLabels Labels { get; init; } = new();
    /// <summary>Of the family usage.</summary>
    public string? Currency { get; init; }

    public long Count { get; init; }
    public long Retried { get; init; }
    public long Degraded { get; init; }
    public NodeHistogram? Total { get; init; }
    public NodeHistogram? FirstToken { get; init; }
    public NodeHistogram? PerOutputToken { get; init; }
    public NodeHistogram? Overhead { get; init; }
    public NodeHistogram? Queued { get; init; }

    public long Attempts { get; init; }
    public long Input { get; init; }
    public long CachedInput { get; init; }
    public long Output { get; init; }
    public long Reasoning { get; init; }
    public long EstimatedInput { get; init; }
    public long EstimatedOutput { get; init; }
    public long CostNano { get; init; }
    public long EstimatedCostNano { get; init; }

    /// <summary>
    /// What was added since <paramref name="last"/> was read: all of it when that was another life, or nothing was read before. Never
    /// negative: a counter that fell without a new life adds nothing. Pure.
    /// </summary>
    public NodeSeries Since(NodeSeries? last)
    {
        if (last is null || last.Born != Born) return this;
        return this with
        {
            Count = Added(Count, last.Count),
            Retried = Added(Retried, last.Retried),
            Degraded = Added(Degraded, last.Degraded),
            Total = NodeHistogram.Since(Total, last.Total),
            FirstToken = NodeHistogram.Since(FirstToken, last.FirstToken),
            PerOutputToken = NodeHistogram.Since(PerOutputToken, last.PerOutputToken),
            Overhead = NodeHistogram.Since(Overhead, last.Overhead),
            Queued = NodeHistogram.Since(Queued, last.Queued),
            Attempts = Added(Attempts, last.Attempts),
            Input = Added(Input, last.Input),
            CachedInput = Added(CachedInput, last.CachedInput),
            Output = Added(Output, last.Output),
            Reasoning = Added(Reasoning, last.Reasoning),
            EstimatedInput = Added(EstimatedInput, last.EstimatedInput),
            EstimatedOutput = Added(EstimatedOutput, last.EstimatedOutput),
            CostNano = Added(CostNano, last.CostNano),
            EstimatedCostNano = Added(EstimatedCostNano, last.EstimatedCostNano),
        };
    }

    /// <summary>Whether a delta is worth a row.</summary>
    [JsonIgnore]
    public bool AddsNothing => Count == 0 && Attempts == 0 && Retried == 0 && Degraded == 0 && Input == 0 && Output == 0 && CostNano == 0
        && Total is null && FirstToken is null && PerOutputToken is null && Overhead is null && Queued is null;

    private static long Added(long now, long before) => Math.Max(now - before, 0);
}

public sealed record NodeHistogram
{
    public double Sum { get; init; }
    public IReadOnlyList<long> Buckets { get; init; } = [];

    /// <summary>Null: nothing was observed in between.</summary>
    public static NodeHistogram? Since(NodeHistogram? now, NodeHistogram? before)
    {
        if (now is null || now.Buckets.Count == 0) return null;
        if (before is null || before.Buckets.Count == 0) return now;
        var added = now.Buckets.Select((count, i) => Math.Max(count - (i < before.Buckets.Count ? before.Buckets[i] : 0), 0)).ToList();
        return added.TrueForAll(count => count == 0) ? null : new NodeHistogram { Sum = Math.Max(now.Sum - before.Sum, 0), Buckets = added };
    }
}

/// <summary>Labels that a family does not have are empty.</summary>
public sealed record SeriesLabels
{
    public string Pool { get; init; } = "";
    public string Instance { get; init; } = "";
    public string Client { get; init; } = "";
    public string Model { get; init; } = "";
    public string Kind { get; init; } = "";
    public string Mode { get; init; } = "";
    public short? Tier { get; init; }
    public string Outcome { get; init; } = "";
    public string Traffic { get; init; } = "";
    public string Waste { get; init; } = "";
}

/// <summary>A portion of a node's ring of requests; cursor as of its events.</summary>
public sealed record NodeTraces
{
    public IReadOnlyList<NodeTrace> Traces { get; init; } = [];
    public long Begin { get; init; }
    public long Last { get; init; }
    public long Dropped { get; init; }
    public long SampledOut { get; init; }
}

/// <summary>At is in seconds since 1970.</summary>
public sealed record NodeTrace
{
    public long Id { get; init; }
    public double At { get; init; }
    public string RequestId { get; init; } = "";
    public string? Client { get; init; }
    public string? Pool { get; init; }
    public string? Model { get; init; }
    public string? Kind { get; init; }
    public string? Mode { get; init; }
    public int Status { get; init; }
    public string? Outcome { get; init; }
    public short? Tier { get; init; }
    public bool Degraded { get; init; }
    public double DurationMs { get; init; }
    public double QueuedMs { get; init; }
    public double? FirstTokenMs { get; init; }
    public string? Reason { get; init; }
    public long Revision { get; init; }
    public IReadOnlyList<TraceAttempt> Attempts { get; init; } = [];
}

/// <summary>One try of a request. Began: ms after the request did. Of: how many candidates there were.</summary>
public sealed record TraceAttempt
{
    public string Instance { get; init; } = "";
    public int Tier { get; init; }
    public string Outcome { get; init; } = "";
    public double BeganMs { get; init; }
    public double DurationMs { get; init; }
    public double? FirstTokenMs { get; init; }
    public int? Of { get; init; }
    public double? LiveWeight { get; init; }
    /// <summary>How it continued another attempt's cut stream: prefix or restart; null: it did not.</summary>
    public string? Way { get; init; }
}
