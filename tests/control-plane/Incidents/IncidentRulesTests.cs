using System.Text.Json.Nodes;
using Evenkeel.Incidents;
using Xunit;

namespace Evenkeel.Tests.Incidents;

public sealed class IncidentRulesTests
{
    private static readonly DateTime Start = new(2026, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    /// <summary>Events as "second kind[:seconds|:outcome]"; incidents as "since-until kind xEvents", open ones without an end.</summary>
    [Theory]
    [InlineData("0 breaker_opened", "0- breaker x1")]
    [InlineData("0 breaker_opened; 5 breaker_half_open; 6 breaker_closed", "0-6 breaker x3")]
    [InlineData("0 breaker_opened; 5 breaker_half_open; 6 breaker_opened", "0- breaker x3")]        // the trial failed: the same incident
    [InlineData("0 breaker_opened; 6 breaker_closed; 7 breaker_opened", "0-6 breaker x2; 7- breaker x1")]
    [InlineData("0 breaker_closed; 1 breaker_half_open", "")]
    [InlineData("0 cooldown:2", "0-2 cooldown x1")]
    [InlineData("0 cooldown:10; 5 cooldown:10", "0-15 cooldown x2")]
    [InlineData("0 cooldown:10; 5 cooldown:2", "0-10 cooldown x2")]                                 // a longer one that runs stays
    [InlineData("0 cooldown:2; 30 cooldown:2", "0-32 cooldown x2")]                                 // again within a minute: the same
    [InlineData("0 cooldown:2; 90 cooldown:2", "0-2 cooldown x1; 90-92 cooldown x1")]
    [InlineData("0 blocked:600; 601 blocked:600", "0-1201 blocked x2")]                             // looked at again, still refused
    [InlineData("0 blocked:600; 30 unblocked", "0-30 blocked x2")]
    [InlineData("0 blocked:600; 700 unblocked", "0-600 blocked x1")]
    [InlineData("0 breaker_opened; 1 cooldown:9; 2 blocked:600; 5 reset", "0-5 breaker x2; 1-5 cooldown x2; 2-5 blocked x2")]
    [InlineData("0 probe_down; 9 probe_up; 20 probe_down", "0-9 probe x2; 20- probe x1")]
    [InlineData("0 grey; 9 grey_step; 20 grey_step; 30 grey_over", "0-30 grey x4")]
    [InlineData("0 grey_step", "")]
    [InlineData("0 tier_degraded:server_error; 20 tier_restored", "0-20 tier_degraded x2")]
    [InlineData("0 pool_opened; 1 tier_degraded; 20 pool_closed; 30 tier_restored", "0-20 pool_open x2; 1-30 tier_degraded x2")]
    [InlineData("0 tier_restored; 1 pool_closed; 2 limit_recovered", "")]
    [InlineData("0 limit_collapsed; 90 limit_recovered", "0-90 limit_collapsed x2")]
    [InlineData("0 limit_collapsed; 9 reset", "0-9 limit_collapsed x2")]
    [InlineData("0 node_lost; 3 node_back", "0-3 node_lost x2")]
    [InlineData("0 revision_refused; 1 revision_refused; 9 revision_runs", "0-9 revision_refused x3")]
    [InlineData("4 events_dropped", "4-4 events_dropped x1")]
    [InlineData("0 stream_resumed; 1 something_new", "")]
    [InlineData("5 probe_down; 3 probe_up", "5-5 probe x2")]                                        // clocks differ: never an end before the beginning
    [InlineData("0 breaker_opened; 1 probe_down; 9 instance_removed", "0-9 breaker x2; 1-9 probe x2")]
    public void Events_make_incidents(string events, string expected)
    {
        var incidents = new List<Incident>();
        foreach (var text in events.Split("; ")) Happen(incidents, Parse(text));
        Assert.Equal(expected, string.Join("; ", incidents.OrderBy(one => one.Since).Select(Show)));
    }

    [Fact]
    public void A_restarted_node_has_no_open_breaker_and_other_nodes_keep_theirs()
    {
        Incident Breaker(string? node) => IncidentRules.Apply(null, Parse("0 breaker_opened") with { Node = node }, new Meaning("breaker", Effect.Open))!;
        var restarted = new Event(9, null, Start.AddSeconds(9), "node_restarted", "one", []);
        Assert.True(IncidentRules.Sweeps(restarted, Breaker("one")));
        Assert.False(IncidentRules.Sweeps(restarted, Breaker("two")));
        Assert.False(IncidentRules.Sweeps(restarted, Breaker(null)));
    }

    [Fact]
    public void The_evidence_keeps_the_first_and_the_newest_words_and_counts_the_causes()
    {
        var incidents = new List<Incident>();
        Happen(incidents, Parse("0 breaker_opened:server_error"));
        Happen(incidents, Parse("1 breaker_opened:stalled"));
        Happen(incidents, Parse("2 breaker_opened:server_error"));
        var incident = Assert.Single(incidents);
        Assert.Equal("server_error", incident.Cause);
        Assert.Equal(0, (int)incident.Evidence.First["second"]!);
        Assert.Equal(2, (int)incident.Evidence.Last["second"]!);
        Assert.Equal([("server_error", 2), ("stalled", 1)], incident.Evidence.Causes.OrderBy(cause => cause.Key).Select(cause => (cause.Key, cause.Value)));
    }

    private static void Happen(List<Incident> incidents, Event happened)
    {
        foreach (var meaning in IncidentRules.Of(happened.Kind))
        {
            var latest = incidents.Where(one => one.Kind == meaning.Kind).MaxBy(one => one.Since);
            if (IncidentRules.Apply(latest, happened, meaning) is not { } now) continue;
            if (now.Id != 0) incidents.Remove(latest!);
            incidents.Add(now.Id != 0 ? now : now with { Id = incidents.Count + 1 });
        }
        foreach (var open in incidents.Where(one => one.Until is null && IncidentRules.Sweeps(happened, one)).ToList())
        {
            incidents.Remove(open);
            incidents.Add(IncidentRules.Closed(open, happened));
        }
    }

    private static Event Parse(string text)
    {
        var words = text.Split(' ', ':');
        var second = int.Parse(words[0]);
        var detail = new JsonObject { ["second"] = second };
        if (words.Length > 2 && double.TryParse(words[2], out var seconds)) detail["seconds"] = seconds;
        else if (words.Length > 2) detail["outcome"] = words[2];
        return new Event(1, null, Start.AddSeconds(second), words[1], "official-1", detail);
    }

    private static string Show(Incident one) => $"{(one.Since - Start).TotalSeconds}-{(one.Until - Start)?.TotalSeconds} {one.Kind} x{one.Events}";
}
