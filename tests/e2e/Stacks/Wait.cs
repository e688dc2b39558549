using System.Diagnostics;
using System.Globalization;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>Waiting for something to come true, never for time to pass.</summary>
internal static class Wait
{
    /// <summary>How long anything may take that is not itself a promise about time.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    /// <summary>
    /// A promised time. It is promised for a machine that has time for it: where more wants to run than there are cores, it is as many times
    /// longer, and three times in any case, for what the neighbours of a virtual machine take is in no load average.
    /// </summary>
    public static TimeSpan Promised(double seconds)
    {
        // Of the last minute, and now: "0.61 0.80 0.75 3/210 4711".
        var load = File.ReadAllText("/proc/loadavg").Split(' ');
        var wanted = Math.Max(double.Parse(load[0], CultureInfo.InvariantCulture), double.Parse(load[3].Split('/')[0], CultureInfo.InvariantCulture));
        return TimeSpan.FromSeconds(seconds * 3 * Math.Max(1, wanted / Environment.ProcessorCount));
    }

    public static Task Until(Func<bool> condition, string what, TimeSpan? deadline = null, Func<Task<string>>? evidence = null) =>
        Until(() => Task.FromResult(condition()), what, deadline, evidence);

    /// <summary>
    /// Polls until <paramref name="condition"/> holds. An exception of a part that is away counts as "not yet". Fails the
    /// test after <paramref name="deadline"/>, saying <paramref name="what"/> did not happen.
    /// </summary>
    public static async Task Until(Func<Task<bool>> condition, string what, TimeSpan? deadline = null, Func<Task<string>>? evidence = null)
    {
        var limit = deadline ?? Patience;
        var clock = Stopwatch.StartNew();
        var last = "";
        while (true)
        {
            try
            {
                if (await condition())
                {
                    return;
                }
                last = "";
            }
            catch (Exception away) when (away is HttpRequestException or TaskCanceledException or IOException)
            {
                last = " Last fault: " + away.Message;
            }
            if (clock.Elapsed > limit)
            {
                Assert.Fail($"Not within {limit.TotalSeconds} s: {what}.{last}" + (evidence is null ? "" : "\n" + await evidence()));
            }
            await Task.Delay(25);
        }
    }
}
