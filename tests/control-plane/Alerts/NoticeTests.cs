using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Alerts;
using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Alerts;

public sealed class NoticeTests
{
    private static readonly DateTime At = new(2026, 1, 1, 12, 0, 0, DateTimeKind.Utc);

    /// <summary>The key, text and code of docs/alerts.md.</summary>
    [Fact]
    public void The_signature_is_what_the_manual_computes()
    {
        var signature = Notices.Signature("whsec", """{"id":"1"}"""u8, DateTimeOffset.FromUnixTimeSeconds(1767225600));
        Assert.Equal("t=1767225600,v1=c166b09566b8ca1e2d11dcb6fddb0520c6d50c3132b7a33d06aa6bd924692954", signature);
    }

    [Fact]
    public void One_line_says_it_all_and_a_long_list_is_cut()
    {
        var rule = AlertRules.Of(new AlertConfig { Name = "slow", Metric = "p99_latency", Above = "3s" });
        var notice = Notices.Of(new Telling("slow", rule, null, [Firing("chat", 4.25), Firing("code", 12.34)], []), Guid.Empty, At);
        Assert.Equal("FIRING slow: p99_latency above 3 s at pool chat (4.25 s), pool code (12.3 s)", notice.Text);

        var down = AlertRules.Of(new AlertConfig { Name = "down", Metric = "instance_down" });
        var many = Enumerable.Range(0, 120).Select(i => new Alert { Id = i, Rule = "down", Subject = new AlertSubject(Instance: $"i{i}"), Phase = AlertPhase.Resolved, Since = At, ResolvedAt = At, SeenAt = At }).ToList();
        notice = Notices.Of(new Telling("down", down, "quota", [], many), Guid.Empty, At);
        Assert.Equal("RESOLVED down: instance_down (quota) at instance i0, instance i1, instance i2 and 117 more", notice.Text);
        Assert.Equal((120, Notice.MostListed, 0), (notice.ResolvedCount, notice.Resolved.Count, notice.FiringCount));
    }

    [Fact]
    public void Slack_gets_its_own_shape_and_no_markup_of_others()
    {
        var notice = Notices.Test("<!channel> & co", Guid.Empty, At);
        var slack = JsonNode.Parse(Encoding.UTF8.GetString(Notices.Body(JsonSerializer.Serialize(notice, ConfigJson.Options), "slack")))!;
        Assert.Equal("TEST of the webhook &lt;!channel&gt; &amp; co: nothing is wrong.", (string)slack["text"]!);
        Assert.Equal("#888888", (string)slack["attachments"]![0]!["color"]!);
    }

    [Fact]
    public void Retries_back_off_to_a_limit_and_hear_a_receiver_within_it()
    {
        var waits = Enumerable.Range(1, 12).Select(attempts => DeliveryRules.Backoff(attempts, null, 0.5).TotalSeconds).ToArray();
        Assert.Equal([5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900, 900], waits);
        Assert.Equal((4, 6), (DeliveryRules.Backoff(1, null, 0).TotalSeconds, DeliveryRules.Backoff(1, null, 1).TotalSeconds));
        Assert.Equal(60, DeliveryRules.Backoff(1, TimeSpan.FromSeconds(60), 0.5).TotalSeconds);
        Assert.Equal(900, DeliveryRules.Backoff(1, TimeSpan.FromDays(1), 0.5).TotalSeconds);
        Assert.Equal(900, DeliveryRules.Backoff(int.MaxValue, null, 0.5).TotalSeconds);
    }

    private static Alert Firing(string pool, double value) =>
        new() { Id = 1, Rule = "slow", Subject = new AlertSubject(pool), Phase = AlertPhase.Firing, Since = At, FiredAt = At, SeenAt = At, Value = value };
}
