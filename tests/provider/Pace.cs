namespace Evenkeel.Provider;

/// <summary>The timing of one answer, drawn once when the request arrives.</summary>
internal readonly record struct Pace(double FirstTokenMs, double TokenMs)
{
    /// <summary>When the word with this position among those sent is due, counted from the arrival.</summary>
    public double DueMs(int position) => FirstTokenMs + position * TokenMs;

    public static Pace Draw(InstanceSettings settings, int tokens, double uptimeMs, Random random)
    {
        var factor = settings.LatencyMultiplier;
        if (settings.JitterEveryMs > 0 && uptimeMs % settings.JitterEveryMs < settings.JitterForMs)
        {
            factor *= settings.JitterMultiplier;
        }
        if (settings.LatencySigma > 0)
        {
            factor *= Math.Exp(settings.LatencySigma * Gaussian(random));
        }
        var first = settings.FirstTokenMs ?? settings.LatencyMs * 5 / 16;
        var token = settings.TokensPerSecond is { } rate
            ? 1000 / rate
            : Math.Max(0, settings.LatencyMs - first) / Math.Max(1, tokens - 1);
        return new Pace(first * factor, token * factor);
    }

    /// <summary>Box-Muller.</summary>
    private static double Gaussian(Random random) =>
        Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}
