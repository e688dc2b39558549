using Evenkeel.Config;
using Evenkeel.Health;
using Xunit;

namespace Evenkeel.Tests.Health;

public sealed class HealthStateTests
{
    private static readonly HealthCheckConfig ThreeAndTwo = new() { UnhealthyThreshold = 3, HealthyThreshold = 2 };
    private static readonly DateTime Start = new(2026, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    /// <summary>Results one second apart (g good, b bad, n neutral) and the status after each (? unknown, + up, - down).</summary>
    [Theory]
    [InlineData("b", "?")]
    [InlineData("g", "+")]                              // one good answer is enough for what nobody knows
    [InlineData("bbb", "??-")]
    [InlineData("bbg", "??+")]
    [InlineData("gbbb", "+++-")]
    [InlineData("gbbgbb", "++++++")]                    // only consecutive ones count
    [InlineData("gbbgbbb", "++++++-")]
    [InlineData("bbbg", "??--")]
    [InlineData("bbbgg", "??--+")]
    [InlineData("bbbgbg", "??----")]
    [InlineData("bbbgbgg", "??----+")]
    [InlineData("gbnbnb", "+++++-")]                    // what says nothing neither helps nor harms
    [InlineData("nnnn", "????")]
    [InlineData("bbbgng", "??---+")]
    [InlineData("bbbnnn", "??----")]
    [InlineData("bbbggbbb", "??--+++-")]
    public void So_many_failures_in_a_row_take_an_instance_out_and_so_many_successes_bring_it_back(string results, string expected)
    {
        var state = new HealthState(HealthStatus.Unknown, 0, Start);
        var seen = "";
        for (var i = 0; i < results.Length; i++)
        {
            state = state.After(Verdict(results[i]), ThreeAndTwo, Start.AddSeconds(i + 1));
            seen += Sign(state.Status);
        }
        Assert.Equal(expected, seen);
    }

    [Fact]
    public void A_threshold_of_one_is_one()
    {
        var once = new HealthCheckConfig { UnhealthyThreshold = 1, HealthyThreshold = 1 };
        var down = new HealthState(HealthStatus.Up, 0, Start).After(ProbeVerdict.Bad, once, Start);
        Assert.Equal(HealthStatus.Down, down.Status);
        Assert.Equal(HealthStatus.Up, down.After(ProbeVerdict.Good, once, Start).Status);
    }

    [Fact]
    public void A_lower_threshold_holds_at_once()
    {
        var state = new HealthState(HealthStatus.Up, 5, Start).After(ProbeVerdict.Bad, ThreeAndTwo, Start);
        Assert.Equal(HealthStatus.Down, state.Status);
    }

    [Fact]
    public void Since_is_when_the_status_began()
    {
        var state = new HealthState(HealthStatus.Up, 0, Start);
        for (var second = 1; second <= 5; second++) state = state.After(ProbeVerdict.Bad, ThreeAndTwo, Start.AddSeconds(second));
        Assert.Equal((HealthStatus.Down, Start.AddSeconds(3)), (state.Status, state.Since));
    }

    private static ProbeVerdict Verdict(char sign) => sign switch { 'g' => ProbeVerdict.Good, 'b' => ProbeVerdict.Bad, _ => ProbeVerdict.Neutral };

    private static char Sign(HealthStatus status) => status switch { HealthStatus.Up => '+', HealthStatus.Down => '-', _ => '?' };
}
