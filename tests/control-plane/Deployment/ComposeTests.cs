using System.Text.RegularExpressions;
using Xunit;
using YamlDotNet.RepresentationModel;

namespace Evenkeel.Tests.Deployment;

/// <summary>docker-compose.yml and what it hands to its parts: everything that one file names in another is there. `./evenkeel test containers` runs it.</summary>
public sealed partial class ComposeTests
{
    private static readonly YamlMappingNode Compose = Read("docker-compose.yml");

    [Fact]
    public void The_example_of_settings_has_every_variable_with_its_default()
    {
        var read = Variable().Matches(File.ReadAllText(Repository.PathOf("docker-compose.yml"))).Select(match => (match.Groups["name"].Value, match.Groups["default"].Value));
        var told = File.ReadLines(Repository.PathOf(".env.example")).Where(line => line.Contains('=') && !line.StartsWith('#')).Select(line => line.Split('=', 2)).Select(pair => (pair[0], pair[1]));
        Assert.Equal(read.Distinct().Order(), told.Order());
    }

    [Fact]
    public void Every_file_that_is_mounted_is_in_the_checkout()
    {
        var files = Services().SelectMany(Mounts).Select(mount => mount.Source).Where(source => source.StartsWith("./", StringComparison.Ordinal)).ToList();
        Assert.True(files.Count >= 8, string.Join(' ', files));
        Assert.All(files, file => Assert.True(Path.Exists(Repository.PathOf(file)), file));
    }

    [Fact]
    public void Prometheus_scrapes_both_nodes_with_a_token_and_rules_that_are_mounted()
    {
        var config = Read(MountedAt("prometheus", "/etc/prometheus/prometheus.yml"));
        var scrape = config["scrape_configs"][0];
        var nodes = Services().Select(name => Service(name, "environment")).OfType<YamlMappingNode>()
            .Where(environment => environment.Children.ContainsKey("EVENKEEL_ADMIN_URL")).Select(environment => new Uri(environment["EVENKEEL_ADMIN_URL"].ToString()).Authority);
        Assert.Equal(nodes.Order(), Texts(scrape["static_configs"][0]["targets"]).Order());
        Assert.Contains(Mounts("prometheus"), mount => mount.Source == "secrets" && scrape["authorization"]["credentials_file"].ToString() == mount.Target + "/metrics-token");
        Assert.All(Texts(config["rule_files"]), file => MountedAt("prometheus", "/etc/prometheus/" + file));
        var own = Read("nginx/observability/prometheus.yml")["scrape_configs"][0];
        foreach (var key in new[] { "honor_labels", "metrics_path", "relabel_configs" }) Assert.Equal(own[key].ToString(), scrape[key].ToString());
    }

    [Fact]
    public void Grafana_finds_Prometheus_and_its_dashboards_where_it_looks()
    {
        var source = Read(MountedAt("grafana", "/etc/grafana/provisioning/datasources/evenkeel.yml"))["datasources"][0];
        var url = new Uri(source["url"].ToString());
        Assert.Equal("prometheus", url.Host);
        Assert.EndsWith($":{url.Port}", Texts(Service("prometheus", "ports")!).Single(), StringComparison.Ordinal);
        var folder = Read(MountedAt("grafana", "/etc/grafana/provisioning/dashboards/evenkeel.yml"))["providers"][0]["options"]["path"].ToString();
        Assert.NotEmpty(Directory.GetFiles(Repository.PathOf(MountedAt("grafana", folder)), "*.json"));
    }

    private static YamlMappingNode Read(string file)
    {
        var stream = new YamlStream();
        stream.Load(new StringReader(File.ReadAllText(Repository.PathOf(file))));
        return (YamlMappingNode)stream.Documents[0].RootNode;
    }

    private static IEnumerable<string> Services() => ((YamlMappingNode)Compose["services"]).Children.Keys.Select(name => name.ToString());

    private static YamlNode? Service(string name, string key) => ((YamlMappingNode)Compose["services"][name]).Children.TryGetValue(key, out var value) ? value : null;

    private static IEnumerable<string> Texts(YamlNode list) => ((YamlSequenceNode)list).Select(one => one.ToString());

    private static IEnumerable<(string Source, string Target)> Mounts(string service) =>
        Service(service, "volumes") is { } volumes ? Texts(volumes).Select(text => Variable().Replace(text, "${default}").Split(':')).Select(parts => (parts[0], parts[1])) : [];

    private static string MountedAt(string service, string target) => Assert.Single(Mounts(service), mount => mount.Target == target).Source;

    [GeneratedRegex(@"\$\{(?<name>\w+):-(?<default>[^}]*)\}")]
    private static partial Regex Variable();
}
