using System.Text.Json.Serialization;

namespace Evenkeel.Telemetry;

// What the telemetry API answers with. Money is in units of its currency, times are UTC.

/// <summary>What a latency is the time of.</summary>
public enum LatencyMeasure { FirstToken, Total, PerOutputToken }

public enum LatencyBy { Pool, Instance }

/// <summary>Attempt: what instances answered. Request: what clients got.</summary>
public enum ErrorLevel { Attempt, Request }

public enum CostBy { Instance, Client, Model, Pool, Traffic, Waste }

/// <summary>Percentiles over time, and the distribution over the whole window. From and to are the window's, on whole steps.</summary>
public sealed record LatencyView(LatencyMeasure Measure, int StepS, DateTime From, DateTime To, IReadOnlyList<LatencySeries> Series, IReadOnlyList<LatencyBucket> Distribution);

/// <summary>Steps in which nothing was measured are left out.</summary>
public sealed record LatencySeries(string Name, IReadOnlyList<LatencyPoint> Points);

/// <summary>At is the begin of the step. Percentiles are exact to the bucket, linear inside it.</summary>
public sealed record LatencyPoint(DateTime At, long Count, double P50Ms, double P90Ms, double P99Ms);

/// <param name="LeMs">Upper bound; null: everything above the last one.</param>
/// <param name="Count">In this bucket alone.</param>
public sealed record LatencyBucket([property: JsonIgnore(Condition = JsonIgnoreCondition.Never)] double? LeMs, long Count);

public sealed record ErrorsView(ErrorLevel Level, int StepS, DateTime From, DateTime To, IReadOnlyList<ErrorPoint> Points);

/// <summary>Every step has a point. Requests is the sum of the outcomes (attempts at level attempt).</summary>
public sealed record ErrorPoint(DateTime At, long Requests, IReadOnlyDictionary<string, long> Outcomes);

public sealed record HeatmapView(int StepS, DateTime From, DateTime To, IReadOnlyList<HeatmapInstance> Instances);

public sealed record HeatmapInstance(string Instance, IReadOnlyList<HeatmapCell> Cells);

/// <summary>Out: a probe, breaker or blocked incident in that step; degraded: a cooldown or grey one; unknown: nobody had heard of it.</summary>
public enum HeatmapState { Up, Degraded, Out, Draining, Unknown }

/// <param name="At">Begin of the step.</param>
/// <param name="Attempts">Of clients' requests.</param>
/// <param name="Failed">Those with an outcome that speaks against the instance.</param>
/// <param name="ErrorRate">Failed / attempts; 0 without attempts.</param>
/// <param name="State">The worst in that step.</param>
/// <param name="Incidents">Those that were open in that step.</param>
public sealed record HeatmapCell(DateTime At, long Attempts, long Failed, double ErrorRate, HeatmapState State, IReadOnlyList<long> Incidents);

public sealed record CostView(CostBy By, int StepS, DateTime From, DateTime To, IReadOnlyList<CostRow> Rows, IReadOnlyList<BudgetView> Budgets);

/// <param name="Name">Of the instance, client …; "" is the anonymous client, and waste "" is what clients got.</param>
/// <param name="Currency">One row per name and currency.</param>
/// <param name="Total">In the window.</param>
/// <param name="Estimated">The part of it that rests on estimated tokens.</param>
/// <param name="PerHour">Total per hour of the window that has passed.</param>
/// <param name="ProjectedMonth">730 such hours.</param>
/// <param name="Points">Steps without cost are left out.</param>
public sealed record CostRow(string Name, string Currency, decimal Total, decimal Estimated, decimal PerHour, decimal ProjectedMonth, IReadOnlyList<CostPoint> Points);

public sealed record CostPoint(DateTime At, decimal Amount);

/// <param name="Client">Whose budget.</param>
/// <param name="Amount">The budget.</param>
/// <param name="Currency">The budget's.</param>
/// <param name="Per">day or month, UTC.</param>
/// <param name="Spent">Since the period began, in the budget's currency.</param>
/// <param name="UsedShare">Spent / amount.</param>
/// <param name="Unconverted">Currencies that money was spent in and no exchange rate is known for: not in spent.</param>
public sealed record BudgetView(string Client, decimal Amount, string Currency, string Per, decimal Spent, double UsedShare, IReadOnlyList<string> Unconverted);

/// <param name="From">Begin of the window.</param>
/// <param name="To">Its end.</param>
/// <param name="Spent">By currency.</param>
/// <param name="OutagePreventedMinutes">Minutes in which a pool answered although its first choice was out or failing.</param>
/// <param name="RevenuePerHour">As configured; absent: not set.</param>
/// <param name="Currency">Of revenue, saved and net.</param>
/// <param name="Saved">Prevented minutes × revenue.</param>
/// <param name="Net">Saved − what redundancy cost, as far as it can be converted.</param>
/// <param name="Unconverted">Currencies without an exchange rate: not in net.</param>
/// <param name="Method">How it is computed, in words.</param>
public sealed record RoiView(
    DateTime From, DateTime To, IReadOnlyList<RoiSpent> Spent, long OutagePreventedMinutes, decimal? RevenuePerHour, string? Currency, decimal? Saved, decimal? Net,
    IReadOnlyList<string> Unconverted, string Method);

/// <summary>Redundancy is the sum of failed, cut, probes and ghosts.</summary>
public sealed record RoiSpent(string Currency, decimal Total, decimal Redundancy, decimal Failed, decimal Cut, decimal Probes, decimal Ghosts);

/// <summary>One request, as a node told it.</summary>
public sealed record TraceView
{
    public required long Id { get; init; }
    public required DateTime At { get; init; }
    public required string Node { get; init; }
    public required string RequestId { get; init; }
    /// <summary>"" is an anonymous caller.</summary>
    public required string Client { get; init; }
    public required string Pool { get; init; }
    public required string Model { get; init; }
    public required string Kind { get; init; }
    public required string Mode { get; init; }
    public required int Status { get; init; }
    public required string Outcome { get; init; }
    /// <summary>That the answer came from; 0: a stale one; absent: from none.</summary>
    public int? Tier { get; init; }
    public required bool Degraded { get; init; }
    public required double DurationMs { get; init; }
    public required double QueuedMs { get; init; }
    public double? FirstTokenMs { get; init; }
    /// <summary>Why nobody was asked any more.</summary>
    public string? Reason { get; init; }
    public required long Revision { get; init; }
    public required IReadOnlyList<TraceAttempt> Attempts { get; init; }
}
