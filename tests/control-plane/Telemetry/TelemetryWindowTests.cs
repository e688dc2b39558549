using Evenkeel.Config;
using Evenkeel.Telemetry;
using Xunit;

namespace Evenkeel.Tests.Telemetry;

public sealed class TelemetryWindowTests
{
    private static readonly DateTime Now = new(2026, 11, 25, 12, 34, 56, DateTimeKind.Utc);

    private static TelemetryWindow? Of(TimeSpan length, int? stepS, TimeSpan ago = default) =>
        TelemetryWindow.Of(Now - ago - length, Now - ago, stepS, Now, new RetentionConfig(), out _);

    [Theory]
    [InlineData(3_600, null, 30, "10s")]
    [InlineData(3_600, 1, 10, "10s")]
    [InlineData(3_600, 45, 60, "minute")]
    [InlineData(86_400, 10, 60, "minute")]         // 10 s rows of that time are gone
    [InlineData(604_800, 60, 600, "minute")]       // 2,000 points at most
    [InlineData(30 * 86_400, 60, 3_600, "hour")]
    [InlineData(300 * 86_400, 60, 86_400, "day")]
    public void A_step_is_one_on_offer_that_is_still_kept(int lengthS, int? asked, int step, string level)
    {
        var window = Of(TimeSpan.FromSeconds(lengthS), asked)!;
        Assert.Equal((step, level), (window.StepS, window.LevelName));
        Assert.InRange(window.Points, 1, TelemetryWindow.MostPoints + 1);
    }

    [Fact]
    public void A_window_lies_on_whole_steps_and_holds_what_was_asked_for()
    {
        var window = Of(TimeSpan.FromHours(1), 60)!;
        Assert.Equal((new DateTime(2026, 11, 25, 11, 34, 0, DateTimeKind.Utc), new DateTime(2026, 11, 25, 12, 35, 0, DateTimeKind.Utc)), (window.From, window.To));
        Assert.Equal(61, window.Ats.Count());
    }

    [Theory]
    [InlineData(0, 60)]
    [InlineData(3_600, 0)]
    [InlineData(4_000 * 86_400L, 60)]
    public void What_is_no_window_is_refused(long lengthS, int stepS) => Assert.Null(Of(TimeSpan.FromSeconds(lengthS), stepS));

    [Fact]
    public void Money_is_converted_between_listed_currencies_only()
    {
        var rates = new Dictionary<string, decimal> { ["GBP"] = 1, ["USD"] = 0.8m, ["EUR"] = 0.9m };
        Assert.Equal(8m, ExchangeRates.Convert(10, "USD", "GBP", rates));
        Assert.Equal(8m, ExchangeRates.Convert(9, "USD", "EUR", rates));
        Assert.Equal(10m, ExchangeRates.Convert(10, "JPY", "JPY", null));
        var (sum, unconverted) = ExchangeRates.Sum([(10, "USD"), (1, "GBP"), (5, "JPY"), (0, "CHF")], "GBP", rates);
        Assert.Equal((9m, "JPY"), (sum, Assert.Single(unconverted)));
    }
}
