namespace Evenkeel.Failover;

/// <summary>From best to worst; a judgement is as bad as the worst thing found.</summary>
internal enum Verdict
{
    /// <summary>The promised answer, and good conduct towards the providers.</summary>
    Pass,
    /// <summary>The whole answer, but conduct to be noted.</summary>
    Partial,
    /// <summary>No whole answer, but a clean and bounded error.</summary>
    Safe,
    /// <summary>A hang, or a truncated answer presented as a success, or bad conduct.</summary>
    Fail,
    /// <summary>Not played: this gateway cannot be asked.</summary>
    Skipped,
}

internal sealed record Judgement(Verdict Verdict, string Note);
