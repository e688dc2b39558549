using Evenkeel.Alerts;
using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Alerts;

/// <summary>Rules against series of values, with fed time: the watch as it runs in production, a round every five seconds.</summary>
public sealed class AlertRoundTests
{
    private static readonly DateTime Start = new(2026, 1, 1, 0, 0, 0, DateTimeKind.Utc);
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(5);
    private static readonly AlertRule Slow = Rule(new() { Name = "slow", Metric = "p99_latency", Above = "3s", For = TimeSpan.FromMinutes(5) });
    private static readonly AlertRule Down = Rule(new() { Name = "down", Metric = "instance_down" });

    [Fact]
    public void It_fires_after_its_time_and_is_over_after_another()
    {
        var watch = new Watch(Slow);
        watch.Run(TimeSpan.FromMinutes(4), 4);
        Assert.Equal(AlertPhase.Pending, watch.Only.Phase);
        Assert.Empty(watch.Notices);
        watch.Run(TimeSpan.FromMinutes(2), 4);
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
        Assert.Single(watch.Notices);
        watch.Run(TimeSpan.FromMinutes(4), 1);
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
        watch.Run(TimeSpan.FromMinutes(2), 1);
        Assert.Equal(AlertPhase.Resolved, watch.Only.Phase);
        Assert.Equal(["firing slow: chat", "resolved slow: chat"], watch.Words);
        Assert.Equal((4, 1), (watch.Only.Worst, watch.Only.Value));
    }

    [Fact]
    public void One_look_at_a_good_value_ends_what_is_pending()
    {
        var watch = new Watch(Slow);
        for (var i = 0; i < 10; i++)
        {
            watch.Run(TimeSpan.FromMinutes(4), 4);
            watch.Run(Tick, 2.99);
        }
        Assert.Empty(watch.Notices);
        Assert.Empty(watch.Alerts);
    }

    [Fact]
    public void Between_threshold_and_resolve_at_nothing_changes()
    {
        var watch = new Watch(Slow);
        watch.Run(TimeSpan.FromMinutes(6), 4);
        watch.Run(TimeSpan.FromHours(1), 2.8);   // 2.7 is where it counts as over
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
        watch.Run(TimeSpan.FromMinutes(6), 2.7);
        Assert.Equal(AlertPhase.Resolved, watch.Only.Phase);
    }

    [Fact]
    public void Availability_is_bad_when_it_is_low()
    {
        var watch = new Watch(Rule(new() { Name = "unavailable", Metric = "availability", Below = "99%" }));
        watch.Run(TimeSpan.FromMinutes(1), 0.995);
        Assert.Empty(watch.Alerts);
        watch.Run(TimeSpan.FromMinutes(1), 0.98);
        watch.Run(TimeSpan.FromMinutes(5), 0.9905);   // 99.1% is where it counts as over
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
        Assert.Equal(0.98, watch.Only.Worst);
        watch.Run(TimeSpan.FromMinutes(2), 0.9915);
        Assert.Equal(AlertPhase.Resolved, watch.Only.Phase);
    }

    [Fact]
    public void Nobody_asking_is_not_bad_and_what_could_not_be_measured_changes_nothing()
    {
        var watch = new Watch(Slow);
        watch.Run(TimeSpan.FromMinutes(6), 4);
        watch.Unmeasured(TimeSpan.FromHours(1));
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
        watch.Run(TimeSpan.FromMinutes(6), value: null);
        Assert.Equal(AlertPhase.Resolved, watch.Only.Phase);
    }

    [Fact]
    public void Who_did_not_look_does_not_say_that_it_was_bad_all_the_time()
    {
        var watch = new Watch(Slow);
        watch.Run(TimeSpan.FromMinutes(1), 4);
        watch.Unmeasured(TimeSpan.FromMinutes(30));
        watch.Run(TimeSpan.FromMinutes(4), 4);
        Assert.Equal(AlertPhase.Pending, watch.Only.Phase);
        watch.Run(TimeSpan.FromMinutes(2), 4);
        Assert.Equal(AlertPhase.Firing, watch.Only.Phase);
    }

    [Fact]
    public void Many_instances_of_one_cause_are_one_notice_and_of_two_are_two()
    {
        var watch = new Watch(Down);
        var names = Enumerable.Range(0, 40).Select(i => $"i{i}").ToArray();
        for (var i = 0; i < 24; i++) watch.Round([.. names.Select((name, n) => Instance(name, 1, n < 30 ? "bad_gateway" : "quota"))]);
        Assert.Equal(2, watch.Notices.Count);
        Assert.Equal([30, 10], watch.Notices.Select(notice => notice.Telling.Firing.Count));
        // All of the first cause come back, one after the other within a minute.
        for (var i = 0; i < 48; i++) watch.Round([.. names.Select((name, n) => Instance(name, n < 30 && n < i * 3 ? 0 : 1, null))]);
        Assert.Equal(3, watch.Notices.Count);
        Assert.Equal(30, watch.Notices[2].Telling.Resolved.Count);
        Assert.Empty(watch.Notices[2].Telling.Firing);
    }

    [Fact]
    public void What_joins_later_is_told_with_those_that_are_there_already()
    {
        var watch = new Watch(Down);
        for (var i = 0; i < 4; i++) watch.Round([Instance("a", 1), Instance("b", 0)]);
        for (var i = 0; i < 24; i++) watch.Round([Instance("a", 1), Instance("b", 1)]);
        Assert.Equal(["firing down: a", "firing down: b a"], watch.Words);
    }

    [Fact]
    public void A_silence_keeps_quiet_until_it_ends_and_never_hides_that_something_is_over()
    {
        var watch = new Watch(Down) { Silenced = alert => alert.Subject.Instance == "a" };
        for (var i = 0; i < 24; i++) watch.Round([Instance("a", 1), Instance("b", 1)]);
        Assert.Equal(["firing down: b"], watch.Words);
        watch.Silenced = _ => false;
        for (var i = 0; i < 3; i++) watch.Round([Instance("a", 1), Instance("b", 1)]);
        Assert.Equal(["firing down: b", "firing down: a b"], watch.Words);
        watch.Silenced = _ => true;
        for (var i = 0; i < 24; i++) watch.Round([Instance("a", 0), Instance("b", 0)]);
        Assert.Equal(["firing down: b", "firing down: a b", "resolved down: a b"], watch.Words.Select(Sorted));
    }

    [Fact]
    public void What_leaves_the_configuration_is_over()
    {
        var watch = new Watch(Down);
        for (var i = 0; i < 4; i++) watch.Round([Instance("a", 1)]);
        for (var i = 0; i < 24; i++) watch.Round([]);
        Assert.Equal(["firing down: a", "resolved down: a"], watch.Words);
    }

    [Fact]
    public void A_silence_of_a_pool_covers_the_instances_that_are_only_there()
    {
        var until = Start.AddHours(1);
        var alert = new Alert { Rule = "down", Subject = new AlertSubject(Instance: "a"), Phase = AlertPhase.Firing, Since = Start, SeenAt = Start };
        var pool = new Silence(null, "chat", null, until);
        Assert.True(pool.Covers(alert, _ => ["chat"], Start));
        Assert.False(pool.Covers(alert, _ => ["chat", "other"], Start));
        Assert.False(pool.Covers(alert, _ => ["chat"], until));
        Assert.True(new Silence("down", null, "a", until).Covers(alert, _ => [], Start));
        Assert.False(new Silence("down", null, "b", until).Covers(alert, _ => [], Start));
        Assert.False(new Silence("slow", null, null, until).Covers(alert, _ => [], Start));
        Assert.True(new Silence(null, null, null, until).Covers(alert, _ => [], Start));
    }

    /// <summary>Whatever the values do: no alarm without its time, no flood, nothing told twice, nothing that was told is left without its end.</summary>
    [Fact]
    public void Nothing_flaps_whatever_the_values_do()
    {
        for (var seed = 1; seed <= 60; seed++)
        {
            var random = new Random(seed);
            var rule = Rule(new()
            {
                Name = "slow",
                Metric = "p99_latency",
                Above = "3s",
                For = TimeSpan.FromSeconds(random.Next(0, 120)),
                ResolveFor = random.Next(3) == 0 ? null : TimeSpan.FromSeconds(random.Next(5, 240)),
            });
            var watch = new Watch(rule);
            var subjects = Enumerable.Range(0, random.Next(1, 5)).Select(i => new AlertSubject(Instance: $"i{i}")).ToArray();
            var values = subjects.ToDictionary(subject => subject, _ => 2.0);
            var restless = random.NextDouble();
            for (var i = 0; i < 600; i++)
            {
                foreach (var subject in subjects)
                {
                    if (random.NextDouble() < restless) values[subject] = random.NextDouble() * 5;
                }
                watch.Round([.. subjects.Select(subject => new Reading(subject, random.Next(50) == 0 ? null : values[subject], random.Next(2) == 0 ? "stalled" : null))]);
            }
            for (var i = 0; i < 200; i++) watch.Round([.. subjects.Select(subject => new Reading(subject, 1.0))]);

            Assert.All(watch.Alerts, alert => Assert.False(alert.IsOpen, $"seed {seed}: {alert}"));
            foreach (var alert in watch.Alerts)
            {
                Assert.All(watch.ValuesOf(alert.Subject, alert.FiredAt!.Value - rule.For, alert.FiredAt.Value), value => Assert.True(value > 3, $"seed {seed}"));
                Assert.All(watch.ValuesOf(alert.Subject, alert.ResolvedAt!.Value - rule.ResolveFor, alert.ResolvedAt.Value), value => Assert.True(value is null or <= 2.7, $"seed {seed}"));
            }
            foreach (var (before, next) in watch.Alerts.GroupBy(alert => alert.Subject).SelectMany(own => own.OrderBy(alert => alert.FiredAt).Zip(own.OrderBy(alert => alert.FiredAt).Skip(1))))
            {
                Assert.True(next.FiredAt - before.FiredAt >= rule.For + rule.ResolveFor, $"seed {seed}");
            }
            foreach (var group in watch.Notices.GroupBy(notice => notice.Telling.Cause))
            {
                Assert.All(group.Zip(group.Skip(1)), pair => Assert.True(pair.Second.At - pair.First.At >= AlertRound.Distance, $"seed {seed}: two notices within {pair.Second.At - pair.First.At}"));
            }
            var toldOver = watch.Notices.SelectMany(notice => notice.Telling.Resolved).Select(alert => $"{alert.Subject} {alert.Since:o}").ToList();
            Assert.Equal(toldOver.Distinct().Count(), toldOver.Count);
            Assert.Equal(watch.Notices.SelectMany(notice => notice.Telling.Firing).Select(alert => $"{alert.Subject} {alert.Since:o}").Distinct().Order(), toldOver.Order());
        }
    }

    private static AlertRule Rule(AlertConfig config) => AlertRules.Of(config);

    private static Reading Instance(string name, double value, string? cause = null) => new(new AlertSubject(Instance: name), value, cause);

    private static string Sorted(string words) => string.Join(' ', words.Split(' ').Take(2).Concat(words.Split(' ').Skip(2).Order()));

    /// <summary>What the store does around the rounds, in memory.</summary>
    private sealed class Watch(AlertRule rule)
    {
        private readonly List<(DateTime At, AlertSubject Subject, double? Value)> seen = [];
        private DateTime now = Start;
        private long ids;

        public List<Alert> Alerts { get; private set; } = [];
        public List<(DateTime At, Telling Telling)> Notices { get; } = [];
        public Func<Alert, bool> Silenced { get; set; } = _ => false;
        public Alert Only => Assert.Single(Alerts);

        public IEnumerable<string> Words => Notices.Select(notice =>
            $"{(notice.Telling.Firing.Count > 0 ? "firing" : "resolved")} {notice.Telling.RuleName}: {string.Join(' ', notice.Telling.Firing.Concat(notice.Telling.Resolved).Select(alert => alert.Subject.Instance ?? alert.Subject.Pool))}");

        public void Run(TimeSpan time, double? value)
        {
            for (var until = now + time; now < until;) Round([new Reading(new AlertSubject("chat"), value)]);
        }

        public void Unmeasured(TimeSpan time)
        {
            for (var until = now + time; now < until;) Round(null);
        }

        public void Round(IReadOnlyList<Reading>? readings)
        {
            now += Tick;
            foreach (var reading in readings ?? []) seen.Add((now, reading.Subject, reading.Value));
            var measured = new Dictionary<string, IReadOnlyList<Reading>>();
            if (readings is not null) measured[rule.Name] = readings;
            var known = Alerts.Where(alert => alert.IsOpen || alert.ResolvedAt > now.AddHours(-1)).ToList();
            var result = AlertRound.Run([rule], measured, known, Silenced, now);
            var kept = result.Kept.Select(alert => alert.Id == 0 ? alert with { Id = ++ids } : alert).ToDictionary(alert => alert.Id);
            Alerts = [.. Alerts.Where(alert => !kept.ContainsKey(alert.Id) && result.Dropped.All(gone => gone.Id != alert.Id)), .. kept.Values];
            Notices.AddRange(result.Tellings.Select(telling => (now, telling)));
        }

        public IEnumerable<double?> ValuesOf(AlertSubject subject, DateTime from, DateTime to) =>
            seen.Where(one => one.Subject == subject && one.At >= from && one.At <= to).Select(one => one.Value);
    }
}
