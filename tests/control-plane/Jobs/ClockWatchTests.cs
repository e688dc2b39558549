using Evenkeel.Jobs;
using Evenkeel.Tests.Nodes;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Quartz;
using Xunit;

namespace Evenkeel.Tests.Jobs;

[Collection(PostgresCollection.Name)]
public sealed class ClockWatchTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    /// <summary>A time of day that can be set, over a clock that only grows.</summary>
    private sealed class SettableTime : TimeProvider
    {
        public TimeSpan Offset { get; set; }

        public override DateTimeOffset GetUtcNow() => System.GetUtcNow() + Offset;
    }

    private static readonly TimeSpan Hour = TimeSpan.FromHours(1);

    [Theory]
    [InlineData(2, 2, false)]
    [InlineData(2, 3, false)]
    [InlineData(2, 3600, true)]
    [InlineData(3600, 3590, false)]
    [InlineData(3600, 86400, true)]
    [InlineData(2, -3600, false)]
    public void What_is_due_later_than_its_interval_lies_too_far_ahead(int intervalS, int inS, bool expected) =>
        Assert.Equal(expected, ClockWatch.LiesTooFarAhead(DateTimeOffset.UnixEpoch.AddSeconds(inS), TimeSpan.FromSeconds(intervalS), DateTimeOffset.UnixEpoch));

    [Theory]
    [InlineData(1)]
    [InlineData(-1)]
    [InlineData(24)]
    public async Task A_clock_that_was_set_is_noticed_and_one_that_merely_went_on_is_not(int hours)
    {
        var time = new SettableTime();
        using var watch = new ClockWatch(fixture.Plane.Services.GetRequiredService<ISchedulerFactory>(), time, NullLogger<ClockWatch>.Instance);
        Assert.False(watch.WasSetWithin(Hour));
        await Task.Delay(20);
        Assert.False(watch.WasSetWithin(Hour));
        time.Offset = TimeSpan.FromHours(hours);
        Assert.True(watch.WasSetWithin(Hour));
        Assert.False(watch.WasSetWithin(TimeSpan.Zero));
    }

    [Fact]
    public async Task A_job_that_a_clock_set_back_has_put_off_is_due_at_once()
    {
        var scheduler = await fixture.Plane.Services.GetRequiredService<ISchedulerFactory>().GetScheduler();
        var key = new TriggerKey("node-liveness", "nodes");
        var trigger = (await scheduler.GetTrigger(key))!;
        // As it is when an hour was taken away after it was made due.
        await scheduler.RescheduleJob(key, trigger.GetTriggerBuilder().StartAt(DateTimeOffset.UtcNow + Hour).Build());
        using var watch = new ClockWatch(fixture.Plane.Services.GetRequiredService<ISchedulerFactory>(), TimeProvider.System, NullLogger<ClockWatch>.Instance);
        await watch.StartAsync(CancellationToken.None);
        await NodeCalls.EventuallyAsync("it is due", async () => (await scheduler.GetTrigger(key))!.NextFireTimeUtc < DateTimeOffset.UtcNow.AddSeconds(10));
        await watch.StopAsync(CancellationToken.None);
    }
}
