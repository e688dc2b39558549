using System.Globalization;
using System.Text;
using System.Text.Json;
using Evenkeel.Config;

namespace Evenkeel.Alerts;

/// <summary>
/// The rules in force as alert rules of Prometheus (2.42 or newer), judged by what the nodes' /metrics tell: the same thresholds, times and
/// hysteresis. States of pools are judged by traffic there. Pure.
/// </summary>
public static class PrometheusRules
{
    // As outcome_is_failure and outcome_is_loss in migrations/0008_telemetry.sql.
    private const string Failures = "bad_gateway|server_error|timeout_first_token|stalled|truncated|empty|rate_limited|auth|quota";
    private const string Losses = Failures + "|saturated|circuit_open";

    /// <summary>A rules file.</summary>
    public static string Render(ConfigDocument document)
    {
        var text = new StringBuilder("""
            # Alert rules of Evenkeel for Prometheus 2.42 or newer: the rules in force, or the default ones. GET /api/v1/alerts/prometheus.yml
            # writes this file; docs/alerts.md tells what each metric is.
            groups:
              - name: evenkeel-alerts
                rules:

            """);
        foreach (var (rule, expression, by) in AlertRules.Of(document).SelectMany(rule => Expressions(rule, document).Select(one => (rule, one.Expression, one.By))))
        {
            text.Append("      - alert: ").Append(Quoted(rule.Name)).Append('\n');
            text.Append("        expr: ").Append(Quoted(expression.Replace("{}", "", StringComparison.Ordinal))).Append('\n');
            if (rule.For > TimeSpan.Zero) text.Append("        for: ").Append(Span(rule.For)).Append('\n');
            if (rule.ResolveFor > TimeSpan.Zero) text.Append("        keep_firing_for: ").Append(Span(rule.ResolveFor)).Append('\n');
            text.Append("        labels: {source: evenkeel, metric: ").Append(rule.Metric.Name).Append("}\n");
            text.Append("        annotations: {summary: ").Append(Quoted($"{rule.Condition} at {by} {{{{ $labels.{by} }}}}{Value(rule)}")).Append("}\n");
        }
        return text.ToString();
    }

    private static string Value(AlertRule rule) => rule.Metric.Unit switch
    {
        MetricUnit.Duration => " ({{ $value | humanizeDuration }})",
        MetricUnit.Share => " ({{ $value | humanizePercentage }})",
        _ => "",
    };

    private static IEnumerable<(string Expression, string By)> Expressions(AlertRule rule, ConfigDocument document)
    {
        var threshold = Number(rule.Threshold);
        switch (rule.Metric.Name)
        {
            case "instance_down":
                var outOfService = document.Instances.Where(instance => !instance.Enabled || instance.Drain).Select(instance => instance.Name);
                var those = rule.Instance is not null and not "*" ? $"instance={Quoted(rule.Instance)}"
                    : rule.Pool is not null ? $"instance=~{Quoted(AnyOf(document.Pools.Where(pool => pool.Name == rule.Pool).SelectMany(document.EffectiveTiers).SelectMany(tier => tier.Instances).Except(outOfService)))}"
                    : outOfService.Any() ? $"instance!~{Quoted(AnyOf(outOfService))}" : "";
                yield return ($"max by (instance) ((1 - evenkeel_instance_up{{{those}}}) or evenkeel_breaker_state{{{Join(those, "state=\"open\"")}}}) > {threshold}", "instance");
                break;
            case "pool_degraded":
                yield return ($"(sum by (pool) (rate(evenkeel_requests_degraded_total{{{Pool(rule)}}}[1m])) > bool 0) > {threshold}", "pool");
                break;
            case "all_down":
                yield return ($"((sum by (pool) (rate(evenkeel_requests_total{{{Pool(rule)}}}[1m])) > bool 0) unless on (pool) sum by (pool) (rate(evenkeel_requests_total{{{Join(Pool(rule), "outcome=\"ok\",tier!=\"0\"")}}}[1m])) > 0) > {threshold}", "pool");
                break;
            case "budget_used":
                // Prometheus knows no months: the last 30 days stand for one.
                foreach (var client in document.Clients.Where(client => client.Budget is not null && (rule.Client is null || rule.Client == client.Name)))
                {
                    var budget = client.Budget!;
                    yield return ($"sum by (client) (increase(evenkeel_cost_total{{client={Quoted(client.Name)},currency={Quoted(budget.Currency)},traffic!~\"probe|ghost\"}}[{(budget.Per == "day" ? "1d" : "30d")}])) / {budget.Amount.ToString(CultureInfo.InvariantCulture)} > {threshold}", "client");
                }
                break;
            default:
                yield return Measured(rule, threshold);
                break;
        }
    }

    private static (string Expression, string By) Measured(AlertRule rule, string threshold)
    {
        var window = Span(rule.Window);
        var byInstance = rule.Instance is not null;
        var by = byInstance ? "instance" : "pool";
        var which = !byInstance ? Pool(rule) : rule.Instance == "*" ? "" : $"instance={Quoted(rule.Instance!)}";
        var traffic = byInstance ? "traffic!~\"probe|ghost\"" : "";
        if (rule.Metric.Unit == MetricUnit.Duration)
        {
            var quantile = "0." + rule.Metric.Name[1..3];
            var (streams, answers, ok) = byInstance
                ? ("gen_ai_server_time_to_first_token_seconds", "gen_ai_server_request_duration_seconds", "error_type=\"\"")
                : ("evenkeel_request_time_to_first_token_seconds", "evenkeel_request_duration_seconds", "outcome=\"ok\"");
            string Of(string histogram, string suffix, string mode, string function) => $"{function}({histogram}_{suffix}{{{Join(which, ok, $"mode=\"{mode}\"", traffic)}}}[{window}])";
            string All(string suffix, string function) => rule.Metric.Name.EndsWith("latency", StringComparison.Ordinal)
                ? $"{Of(streams, suffix, "stream", function)} or {Of(answers, suffix, "json", function)}"
                : Of(streams, suffix, "stream", function);
            return ($"histogram_quantile({quantile}, sum by ({by}, le) ({All("bucket", "rate")})) > {threshold} and on ({by}) sum by ({by}) ({All("count", "increase")}) >= {rule.MinRequests}", by);
        }

        var counter = byInstance ? "evenkeel_attempts_total" : "evenkeel_requests_total";
        var bad = rule.Outcome is null ? $"outcome=~\"{(byInstance ? Failures : Losses)}\"" : $"outcome={Quoted(rule.Outcome)}";
        string Sum(string function, params string[] matchers) => $"sum by ({by}) ({function}({counter}{{{Join([which, traffic, .. matchers])}}}[{window}]))";
        var share = $"{Sum("rate", bad)} / {Sum("rate")}";
        var judged = rule.Metric.WhenBelow ? $"1 - {share} < {threshold}" : $"{share} > {threshold}";
        return ($"{judged} and on ({by}) {Sum("increase")} >= {rule.MinRequests}", by);
    }

    private static string Pool(AlertRule rule) => rule.Pool is null ? "" : $"pool={Quoted(rule.Pool)}";

    private static string Join(params string[] matchers) => string.Join(',', matchers.Where(matcher => matcher != ""));

    // Names hold nothing that a pattern or a quoted text could take for something else, but for dots.
    private static string AnyOf(IEnumerable<string> names) => string.Join('|', names.Distinct().Select(name => name.Replace(".", "[.]", StringComparison.Ordinal)));

    private static string Quoted(string text) => JsonSerializer.Serialize(text, ConfigJson.Options);

    private static string Number(double value) => value.ToString("0.######", CultureInfo.InvariantCulture);

    // Prometheus reads "1h30m" and whole units; milliseconds do for the rest.
    private static string Span(TimeSpan span) => Units.FormatDuration(span);
}
