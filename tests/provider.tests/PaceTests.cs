namespace Evenkeel.Provider.Tests;

public sealed class PaceTests
{
    private static readonly InstanceSettings Article = new() { LatencyMs = 800 };

    [Fact]
    public void A_stream_of_the_article_starts_after_a_quarter_second_and_takes_eight_tenths()
    {
        var pace = Pace.Draw(Article, tokens: 20, uptimeMs: 0, new Random(1));
        Assert.Equal(250, pace.FirstTokenMs, 3);
        Assert.Equal(800, pace.DueMs(19), 3);
    }

    [Fact]
    public void A_pace_in_tokens_per_second_stands_above_the_whole()
    {
        var pace = Pace.Draw(Article with { TokensPerSecond = 50, FirstTokenMs = 100 }, tokens: 20, uptimeMs: 0, new Random(1));
        Assert.Equal((100, 20), (pace.FirstTokenMs, pace.TokenMs));
    }

    [Fact]
    public void Sigma_spreads_around_the_median_the_same_way_for_the_same_seed()
    {
        double[] DrawMany() => [.. Samples(Article with { LatencySigma = 0.25 })];
        var drawn = DrawMany();
        Assert.Equal(drawn, DrawMany());
        Array.Sort(drawn);
        Assert.InRange(drawn[500], 770, 830);
        // Log-normal: the 84th percentile lies at e^sigma times the median.
        Assert.InRange(drawn[841], 800 * 1.2, 800 * 1.37);

        static IEnumerable<double> Samples(InstanceSettings settings)
        {
            var random = new Random(1);
            return Enumerable.Range(0, 1001).Select(_ => Pace.Draw(settings, 20, 0, random).DueMs(19));
        }
    }

    [Fact]
    public void The_multiplier_and_windows_of_jitter_slow_everything()
    {
        var settings = Article with { LatencyMultiplier = 15, JitterEveryMs = 1000, JitterForMs = 100, JitterMultiplier = 2 };
        Assert.Equal(12_000, Pace.Draw(settings, 20, uptimeMs: 5500, new Random(1)).DueMs(19), 3);
        Assert.Equal(24_000, Pace.Draw(settings, 20, uptimeMs: 5050, new Random(1)).DueMs(19), 3);
    }
}
