namespace Evenkeel.Ghosts;

public enum GhostStatus { Unknown, Ok, Suspect, Grey, Recovering }

/// <summary>Neutral: the ghost says nothing about the instance.</summary>
public enum GhostVerdict { Good, Bad, Neutral }

/// <summary>
/// How an instance serves, as its ghosts see it: up but struggling is grey. When most of its last ghosts are bad its weight goes down a step,
/// and again as long as they are; a run of good ones brings it back up a step. Each step begins a new count. Since is since when the
/// weight has been so, or the suspicion. Verdicts is "g" and "b" of the ghosts since the last step, newest last. Pure.
/// </summary>
public sealed record GreyState(GhostStatus Status, double WeightFactor, string Verdicts, DateTime Since)
{
    private const int Looked = 6, Most = 4, GoodForStep = 4, GoodForTrust = 3;

    /// <summary>What is left of the weight, step by step. Never nothing: only traffic and ghosts can show a recovery.</summary>
    private static readonly double[] s_steps = [1, 0.5, 0.25, 0.1];

    public static GreyState New(DateTime at) => new(GhostStatus.Unknown, 1, "", at);

    /// <summary>The state after one more verdict, which came <paramref name="at"/>.</summary>
    public GreyState After(GhostVerdict verdict, DateTime at)
    {
        if (verdict == GhostVerdict.Neutral) return this;
        var seen = Verdicts + (verdict == GhostVerdict.Good ? 'g' : 'b');
        seen = seen.Length > Looked ? seen[^Looked..] : seen;
        var step = Array.FindIndex(s_steps, factor => factor <= WeightFactor);
        var good = seen.Length - seen.TrimEnd('g').Length;
        if (seen.Count(sign => sign == 'b') >= Most && step < s_steps.Length - 1) return new GreyState(GhostStatus.Grey, s_steps[step + 1], "", at);
        if (step > 0 && good >= GoodForStep) return new GreyState(step == 1 ? GhostStatus.Ok : GhostStatus.Recovering, s_steps[step - 1], "", at);
        if (step > 0) return this with { Status = good > 0 ? GhostStatus.Recovering : GhostStatus.Grey, Verdicts = seen };
        if (good == seen.Length || good >= GoodForTrust) return new GreyState(GhostStatus.Ok, 1, seen[^good..], Status == GhostStatus.Ok ? Since : at);
        return new GreyState(GhostStatus.Suspect, 1, seen, Status == GhostStatus.Suspect ? Since : at);
    }
}
