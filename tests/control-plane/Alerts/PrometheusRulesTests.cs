using System.Diagnostics;
using System.Text;
using Evenkeel.Alerts;
using Evenkeel.Config;
using Evenkeel.Tests.Publishing;
using Xunit;

namespace Evenkeel.Tests.Alerts;

public sealed class PrometheusRulesTests
{
    private static string Observability(string file) => Repository.PathOf("nginx", "observability", file);

    [Fact]
    public void The_file_that_is_shipped_holds_the_default_rules() => Golden.Check(Observability("alerts.yml"), PrometheusRules.Render(new ConfigDocument()));

    [Fact]
    public void Prometheus_takes_every_rule_of_a_configuration_that_has_all_kinds()
    {
        var document = Read(File.ReadAllText(Repository.PathOf("tests", "contract", "config", "good", "alerts.yaml")));
        var text = PrometheusRules.Render(document);
        Assert.Equal(document.Alerts.Count, text.Split("- alert:").Length - 1);
        Promtool(text, "check", "rules");
        Promtool(PrometheusRules.Render(Read("""
            instances: [{name: a.b, base_url: "http://a"}, {name: c, base_url: "http://c", drain: true}]
            pools: [{name: chat, models: [m]}]
            alerts:
              - {name: one, metric: instance_down, instance: a.b}
              - {name: some, metric: instance_down, pool: chat}
              - {name: each, metric: instance_down, instance: "*"}
              - {name: slow, metric: p50_first_token, instance: a.b, window: 90s, for: 1500ms}
              - {name: slow-pool, metric: p90_latency, pool: chat, resolve_for: 0s}
              - {name: gone, metric: all_down, pool: chat}
            """)), "check", "rules");
    }

    [Fact]
    public void What_is_shipped_is_right_and_fires_when_it_should()
    {
        Promtool(null, "check", "rules", Observability("rules.yml"), Observability("alerts.yml"));
        Promtool(null, "check", "config", "--syntax-only", Observability("prometheus.yml"), Repository.PathOf("nginx", "compose", "prometheus.yml"));
        Promtool(null, "test", "rules", Repository.PathOf("tests", "observability", "alerts.test.yml"));
    }

    private static ConfigDocument Read(string yaml)
    {
        var read = ConfigReader.Read(Encoding.UTF8.GetBytes(yaml), ConfigFormat.Yaml);
        Assert.True(read.IsValid, string.Join('\n', read.Faults));
        return read.Document;
    }

    private static void Promtool(string? rules, params string[] arguments)
    {
        var file = Path.GetTempFileName();
        try
        {
            if (rules is not null) File.WriteAllText(file, rules);
            using var promtool = Process.Start(new ProcessStartInfo("promtool", rules is null ? arguments : [.. arguments, file]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var errors = promtool.StandardError.ReadToEndAsync();
            var words = promtool.StandardOutput.ReadToEnd() + errors.Result;
            Assert.True(promtool.WaitForExit(TimeSpan.FromSeconds(60)), "promtool does not end");
            Assert.True(promtool.ExitCode == 0, words + "\n" + rules);
        }
        finally
        {
            File.Delete(file);
        }
    }
}
