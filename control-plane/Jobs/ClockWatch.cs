using Quartz;

namespace Evenkeel.Jobs;

/// <summary>
/// Notices that the time of day was set. Quartz keeps the time of day at which a job is due: after an hour back it would do nothing for an
/// hour, so what lies further ahead than its interval is made due at once. The same at the start, for the last process may have had another
/// time.
/// </summary>
public sealed class ClockWatch(ISchedulerFactory schedulers, TimeProvider time, ILogger<ClockWatch> log) : BackgroundService
{
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(1);

    /// <summary>Less is drift, or a clock that is being steered.</summary>
    private static readonly TimeSpan Noticed = TimeSpan.FromSeconds(2);

    private long setAt = long.MinValue;

    /// <summary>Whether the clock was set so short a time ago, or a moment ago and nobody has noticed yet.</summary>
    public bool WasSetWithin(TimeSpan span)
    {
        Look();
        var at = Interlocked.Read(ref setAt);
        return at != long.MinValue && time.GetElapsedTime(at) < span;
    }

    private readonly Lock looking = new();
    private (DateTimeOffset Wall, long Steady)? last;

    /// <summary>How far the clock was set since the last look.</summary>
    private TimeSpan Look()
    {
        lock (looking)
        {
            var (wall, steady) = (time.GetUtcNow(), time.GetTimestamp());
            var jump = last is { } before ? wall - before.Wall - time.GetElapsedTime(before.Steady, steady) : TimeSpan.Zero;
            last = (wall, steady);
            if (jump.Duration() < Noticed) return TimeSpan.Zero;
            Interlocked.Exchange(ref setAt, steady);
            ClockLog.Set(log, jump.TotalSeconds);
            return jump;
        }
    }

    protected override async Task ExecuteAsync(CancellationToken stopping)
    {
        using var clock = new PeriodicTimer(Tick, time);
        var (settled, seen) = (false, long.MinValue);
        try
        {
            do
            {
                Look();
                var at = Interlocked.Read(ref setAt);
                if (settled && at == seen) continue;
                (settled, seen) = (await MakeDueAsync(stopping), at);
            }
            while (await clock.WaitForNextTickAsync(stopping));
        }
        catch (OperationCanceledException)
        {
        }
    }

    /// <summary>False: not all could be looked at, the database is away.</summary>
    private async Task<bool> MakeDueAsync(CancellationToken cancel)
    {
        try
        {
            var scheduler = await schedulers.GetScheduler(cancel);
            foreach (var key in await scheduler.GetTriggerKeys(GroupMatcher<TriggerKey>.AnyGroup(), cancel))
            {
                if (await scheduler.GetTrigger(key, cancel) is not ISimpleTrigger trigger || !LiesTooFarAhead(trigger.NextFireTimeUtc, trigger.RepeatInterval, time.GetUtcNow())) continue;
                await scheduler.RescheduleJob(key, trigger.GetTriggerBuilder().StartAt(time.GetUtcNow()).Build(), cancel);
            }
            return true;
        }
        catch (Exception failure) when (failure is not OperationCanceledException)
        {
            ClockLog.NotMadeDue(log, failure.Message);
            return false;
        }
    }

    /// <summary>Pure.</summary>
    public static bool LiesTooFarAhead(DateTimeOffset? due, TimeSpan interval, DateTimeOffset now) => due > now + interval + Tick;
}

internal static partial class ClockLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "the clock was set by {Seconds:0.0} s")]
    public static partial void Set(ILogger log, double seconds);

    [LoggerMessage(Level = LogLevel.Warning, Message = "jobs may lie too far ahead, and are looked at again: {Reason}")]
    public static partial void NotMadeDue(ILogger log, string reason);
}
