using Evenkeel.Provider;

namespace Evenkeel.Chaos;

/// <summary>Whether what was seen is what a blow allows: null, or what is wrong. Pure.</summary>
internal static class Verdicts
{
    /// <summary>What clients had to bear beyond what the blow may cost.</summary>
    public static string? Of(Cost cost, IReadOnlyList<Judged> answers)
    {
        var worst = cost switch { Cost.Nothing => Got.Left, Cost.Unread => Got.Unread, Cost.Errors => Got.CleanError, _ => Got.Broken };
        var beyond = answers.Where(judged => judged.Got > worst).ToList();
        return beyond.Count == 0 ? null : $"{beyond.Count} answers that the blow may not cost: "
            + string.Join(" | ", beyond.DistinctBy(judged => (judged.Got, judged.Why)).Take(3).Select(judged => $"{judged.Got}: {judged.Why} [{judged.Exchange.Header("x-request-id")}]"));
    }

    /// <param name="counters">What the blow may do to them.</param>
    /// <param name="counted">Attempts that the node has counted in this round.</param>
    /// <param name="calls">The providers' ledger of this round.</param>
    /// <param name="struck">When the blow was dealt.</param>
    public static string? OfNode(Counters counters, long counted, IReadOnlyList<LedgerEntry> calls, DateTimeOffset struck)
    {
        // What a killed worker had under way, or had counted in its last moments.
        var lost = counters == Counters.Exact ? 0 : calls.Count(call => call.At <= struck.AddSeconds(1) && EndedAt(call) > struck.AddSeconds(-3));
        return counted <= calls.Count && counted >= calls.Count - lost ? null : $"{counted} attempts counted, {calls.Count} calls in the providers' ledger";
    }

    public static string? OfDatabase(long counted, long stored) => counted == stored ? null : $"{stored} attempts stored, {counted} counted at the node";

    private static DateTimeOffset EndedAt(LedgerEntry entry) => entry.EndMs is { } ms ? entry.At.AddMilliseconds(ms) : DateTimeOffset.MaxValue;
}
