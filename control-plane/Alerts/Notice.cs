using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Evenkeel.Config;

namespace Evenkeel.Alerts;

/// <summary>One alert in a notice.</summary>
public sealed record NoticeAlert
{
    public string? Pool { get; init; }
    public string? Instance { get; init; }
    public string? Client { get; init; }
    /// <summary>Seconds, a share of 1, or a count.</summary>
    public double? Value { get; init; }
    public string? Shown { get; init; }
    public required DateTime Since { get; init; }
    public DateTime? Until { get; init; }
}

/// <summary>What a webhook is told, as its JSON is. The id is the same at every try: who has seen it has seen it all.</summary>
public sealed record Notice
{
    public const int MostListed = 50;

    public required Guid Id { get; init; }
    /// <summary>alert or test.</summary>
    public required string Type { get; init; }
    /// <summary>firing or resolved.</summary>
    public required string Status { get; init; }
    public required DateTime At { get; init; }
    /// <summary>The whole in one line for people.</summary>
    public required string Text { get; init; }
    public string? Rule { get; init; }
    public string? Metric { get; init; }
    public string? Condition { get; init; }
    public string? Cause { get; init; }
    public int FiringCount { get; init; }
    public int ResolvedCount { get; init; }
    /// <summary>The first fifty.</summary>
    public IReadOnlyList<NoticeAlert> Firing { get; init; } = [];
    public IReadOnlyList<NoticeAlert> Resolved { get; init; } = [];
}

/// <summary>Tellings → notices → bytes on the wire. Pure.</summary>
public static class Notices
{
    public static Notice Of(Telling telling, Guid id, DateTime now)
    {
        var (firing, resolved) = (telling.Firing, telling.Resolved);
        var status = firing.Count > 0 ? "firing" : "resolved";
        var text = new StringBuilder(status == "firing" ? "FIRING " : "RESOLVED ").Append(telling.RuleName);
        if (telling.Rule is { } rule && rule.Condition != telling.RuleName) text.Append(": ").Append(rule.Condition);
        if (telling.Cause is { } cause) text.Append(" (").Append(cause).Append(')');
        text.Append(" at ").Append(Subjects(firing.Count > 0 ? firing : resolved, telling.Rule, withValues: firing.Count > 0));
        if (firing.Count > 0 && resolved.Count > 0) text.Append("; over at ").Append(Subjects(resolved, telling.Rule, withValues: false));
        return new Notice
        {
            Id = id,
            Type = "alert",
            Status = status,
            At = now,
            Text = text.ToString(),
            Rule = telling.RuleName,
            Metric = telling.Rule?.Metric.Name,
            Condition = telling.Rule?.Condition,
            Cause = telling.Cause,
            FiringCount = firing.Count,
            ResolvedCount = resolved.Count,
            Firing = [.. firing.Take(Notice.MostListed).Select(alert => Listed(alert, telling.Rule))],
            Resolved = [.. resolved.Take(Notice.MostListed).Select(alert => Listed(alert, telling.Rule))],
        };
    }

    public static Notice Test(string webhook, Guid id, DateTime now) =>
        new() { Id = id, Type = "test", Status = "resolved", At = now, Text = $"TEST of the webhook {webhook}: nothing is wrong." };

    /// <param name="notice">As <see cref="Notice"/> is stored.</param>
    /// <param name="format">json or slack.</param>
    public static byte[] Body(string notice, string format)
    {
        if (format != "slack") return Encoding.UTF8.GetBytes(notice);
        var told = JsonSerializer.Deserialize<Notice>(notice, ConfigJson.Options)!;
        var text = told.Text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal);
        var slack = new JsonObject
        {
            ["text"] = text,
            ["attachments"] = new JsonArray(new JsonObject
            {
                ["color"] = told.Type == "test" ? "#888888" : told.Status == "firing" ? "#c62828" : "#2e7d32",
                ["fallback"] = text,
                ["fields"] = new JsonArray([.. told.Firing.Take(10).Select(alert => new JsonObject
                {
                    ["title"] = alert.Instance ?? alert.Client ?? alert.Pool,
                    ["value"] = $"{alert.Shown ?? "-"}, since {alert.Since:yyyy-MM-dd HH:mm:ss} UTC",
                    ["short"] = true,
                })]),
                ["footer"] = "Evenkeel",
                ["ts"] = new DateTimeOffset(told.At).ToUnixTimeSeconds(),
            }),
        };
        return Encoding.UTF8.GetBytes(slack.ToJsonString(ConfigJson.Options));
    }

    /// <summary>"t=SECONDS,v1=HEX": HMAC-SHA256 with the webhook's secret over SECONDS, a dot and the body.</summary>
    public static string Signature(string secret, ReadOnlySpan<byte> body, DateTimeOffset now)
    {
        var seconds = now.ToUnixTimeSeconds().ToString(CultureInfo.InvariantCulture);
        using var hmac = IncrementalHash.CreateHMAC(HashAlgorithmName.SHA256, Encoding.UTF8.GetBytes(secret));
        hmac.AppendData(Encoding.ASCII.GetBytes(seconds + "."));
        hmac.AppendData(body);
        return $"t={seconds},v1={Convert.ToHexStringLower(hmac.GetHashAndReset())}";
    }

    private static string Subjects(IReadOnlyList<Alert> alerts, AlertRule? rule, bool withValues)
    {
        const int named = 3;
        var names = alerts.Take(named).Select(alert =>
            withValues && rule is { Metric.Unit: not MetricUnit.Count } && alert.Value is { } value ? $"{alert.Subject} ({AlertMetrics.Shown(rule.Metric.Unit, value)})" : alert.Subject.ToString());
        return string.Join(", ", names) + (alerts.Count > named ? $" and {alerts.Count - named} more" : "");
    }

    private static NoticeAlert Listed(Alert alert, AlertRule? rule) => new()
    {
        Pool = alert.Subject.Pool,
        Instance = alert.Subject.Instance,
        Client = alert.Subject.Client,
        Value = alert.Value,
        Shown = rule is not null && alert.Value is { } value ? AlertMetrics.Shown(rule.Metric.Unit, value) : null,
        Since = alert.Since,
        Until = alert.ResolvedAt,
    };
}
