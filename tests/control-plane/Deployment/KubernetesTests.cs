using k8s;
using k8s.Models;
using Xunit;
using YamlDotNet.RepresentationModel;

namespace Evenkeel.Tests.Deployment;

/// <summary>docs/kubernetes against the API's own types: a field that Kubernetes does not know, or knows as another type, is a failure.</summary>
public sealed class KubernetesTests
{
    private static readonly string Folder = Path.Combine(Repository.Root, "docs", "kubernetes");

    private static readonly Dictionary<string, Type> Known = new()
    {
        ["v1/Namespace"] = typeof(V1Namespace),
        ["v1/Service"] = typeof(V1Service),
        ["apps/v1/Deployment"] = typeof(V1Deployment),
        ["autoscaling/v2/HorizontalPodAutoscaler"] = typeof(V2HorizontalPodAutoscaler),
        ["policy/v1/PodDisruptionBudget"] = typeof(V1PodDisruptionBudget),
        ["networking.k8s.io/v1/NetworkPolicy"] = typeof(V1NetworkPolicy),
    };

    private static readonly List<(string Kind, string Name, object Object, YamlMappingNode Yaml)> All = Read();

    private static List<(string Kind, string Name, object Object, YamlMappingNode Yaml)> Read()
    {
        var all = new List<(string, string, object, YamlMappingNode)>();
        foreach (var file in Resources())
        {
            var text = File.ReadAllText(Path.Combine(Folder, file));
            var stream = new YamlStream();
            stream.Load(new StringReader(text));
            var kinds = stream.Documents.Select(document => (YamlMappingNode)document.RootNode).Select(root => $"{root["apiVersion"]}/{root["kind"]}").ToList();
            var parts = text.Split("\n---\n");
            Assert.Equal(kinds.Count, parts.Length);
            for (var i = 0; i < parts.Length; i++)
            {
                var root = (YamlMappingNode)stream.Documents[i].RootNode;
                var name = root["metadata"]["name"].ToString();
                if (kinds[i] == "monitoring.coreos.com/v1/ServiceMonitor") continue;     // the operator's own kind: see its test
                Assert.True(Known.TryGetValue(kinds[i], out var type), $"{file}: {kinds[i]}");
                var read = KubernetesYaml.LoadAllFromString(parts[i], new Dictionary<string, Type> { [kinds[i]] = type! }, strict: true).Single();
                all.Add((kinds[i], name, read, root));
            }
        }
        return all;
    }

    private static IEnumerable<string> Resources()
    {
        var stream = new YamlStream();
        stream.Load(new StringReader(File.ReadAllText(Path.Combine(Folder, "kustomization.yaml"))));
        return ((YamlSequenceNode)((YamlMappingNode)stream.Documents[0].RootNode)["resources"]).Select(resource => resource.ToString());
    }

    private static IEnumerable<T> Of<T>() => All.Select(one => one.Object).OfType<T>();

    [Fact]
    public void Every_file_is_part_of_the_base_and_every_object_is_valid()
    {
        Assert.Equal(Directory.GetFiles(Folder, "*.yaml").Select(Path.GetFileName).Where(name => name != "kustomization.yaml").Order(), Resources().Order());
        Assert.Equal(2, Of<V1Deployment>().Count());
        Assert.Single(Of<V2HorizontalPodAutoscaler>());
        Assert.Equal(2, Of<V1PodDisruptionBudget>().Count());
        Assert.Equal(3, Of<V1NetworkPolicy>().Count());
    }

    [Fact]
    public void Containers_have_no_rights_they_can_do_without()
    {
        foreach (var pod in Of<V1Deployment>().Select(deployment => deployment.Spec.Template.Spec))
        {
            Assert.True(pod.SecurityContext.RunAsNonRoot);
            Assert.Equal("RuntimeDefault", pod.SecurityContext.SeccompProfile.Type);
            Assert.False(pod.AutomountServiceAccountToken);
            foreach (var container in pod.Containers)
            {
                Assert.True(container.SecurityContext.ReadOnlyRootFilesystem);
                Assert.False(container.SecurityContext.AllowPrivilegeEscalation);
                Assert.Equal(["ALL"], container.SecurityContext.Capabilities.Drop);
                Assert.NotNull(container.Resources.Limits["memory"]);
                Assert.DoesNotContain(container.Env ?? [], variable => variable.Name.Contains("TOKEN", StringComparison.Ordinal) && !variable.Name.EndsWith("_FILE", StringComparison.Ordinal) && variable.Value is not null);
            }
        }
    }

    [Fact]
    public void What_is_named_is_there()
    {
        var pods = Of<V1Deployment>().ToDictionary(deployment => deployment.Metadata.Name, deployment => deployment.Spec.Template);
        foreach (var deployment in Of<V1Deployment>()) Assert.Equal(deployment.Spec.Selector.MatchLabels, deployment.Spec.Template.Metadata.Labels);
        foreach (var service in Of<V1Service>())
        {
            var chosen = pods.Values.Single(pod => service.Spec.Selector.All(label => pod.Metadata.Labels.TryGetValue(label.Key, out var value) && value == label.Value));
            foreach (var port in service.Spec.Ports) Assert.Contains(chosen.Spec.Containers[0].Ports, one => one.Name == port.TargetPort.Value);
        }
        foreach (var budget in Of<V1PodDisruptionBudget>()) Assert.Contains(pods.Values, pod => pod.Metadata.Labels.SequenceEqual(budget.Spec.Selector.MatchLabels));
        Assert.Contains(Of<V2HorizontalPodAutoscaler>().Single().Spec.ScaleTargetRef.Name, pods.Keys);
    }

    [Fact]
    public void The_service_monitor_scrapes_the_admin_port_with_the_token_for_metrics()
    {
        var stream = new YamlStream();
        stream.Load(new StringReader(File.ReadAllText(Path.Combine(Folder, "service-monitor.yaml"))));
        var monitor = stream.Documents.Select(document => (YamlMappingNode)document.RootNode).Single(root => root["kind"].ToString() == "ServiceMonitor");
        var endpoint = monitor["spec"]["endpoints"][0];
        Assert.Contains(Of<V1Service>(), service => service.Metadata.Labels?["app.kubernetes.io/name"] == monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"].ToString()
            && service.Spec.Ports.Any(port => port.Name == endpoint["port"].ToString()));
        var key = endpoint["authorization"]["credentials"]["key"].ToString();
        Assert.Equal("metrics-token", key);
        var node = Of<V1Deployment>().Single(deployment => deployment.Metadata.Name == "node").Spec.Template.Spec;
        Assert.Contains(node.Volumes, volume => volume.Secret?.Items.Any(item => item.Key == key && $"/secrets/{item.Path}" == node.Containers[0].Env.Single(one => one.Name == "EVENKEEL_METRICS_TOKEN_FILE").Value) == true);
        Assert.Equal("/metrics", endpoint["path"].ToString());
        Assert.Equal("true", endpoint["honorLabels"].ToString());       // else the rules and dashboards look for `instance` in vain
    }

    [Fact]
    public void The_autoscaler_goes_by_a_metric_that_nodes_tell()
    {
        var metric = Of<V2HorizontalPodAutoscaler>().Single().Spec.Metrics.Single().Pods.Metric.Name;
        Assert.Contains($"page:metric(\"{metric}\", \"gauge\"", File.ReadAllText(Repository.PathOf("lua", "evenkeel", "telemetry.lua")), StringComparison.Ordinal);
        Assert.Contains($"seriesQuery: {metric}{{", File.ReadAllText(Repository.PathOf("docs", "containers.md")), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("node", "control-plane", 8081)]
    [InlineData("control-plane", "node", 9145)]
    public void The_parts_may_talk_to_each_other_and_nobody_else_to_all_of_them(string from, string to, int port)
    {
        Assert.Contains(Policy(from).Egress, rule => rule.To?.Any(peer => IsPod(peer, to)) == true && Opens(rule.Ports, to, port));
        Assert.Contains(Policy(to).Ingress, rule => rule.FromProperty?.Any(peer => IsPod(peer, from)) == true && Opens(rule.Ports, to, port));
        Assert.DoesNotContain(Policy(to).Ingress, rule => rule.FromProperty is null && Opens(rule.Ports, to, port));
    }

    [Theory]
    [InlineData("node", 53, "UDP")]             // names
    [InlineData("node", 443, "TCP")]            // providers
    [InlineData("control-plane", 53, "UDP")]
    [InlineData("control-plane", 5432, "TCP")]  // the database
    [InlineData("control-plane", 443, "TCP")]   // webhooks
    public void The_parts_reach_what_they_need_outside(string from, int port, string protocol) =>
        Assert.Contains(Policy(from).Egress, rule => (rule.To is null || rule.To.Any(peer => peer.IpBlock?.Cidr == "0.0.0.0/0"))
            && (rule.Ports is null || rule.Ports.Any(one => one.Port.Value == port.ToString() && (one.Protocol ?? "TCP") == protocol)));

    [Fact]
    public void Anybody_may_reach_the_edge_and_nobody_the_clouds_credentials()
    {
        Assert.Contains(Policy("node").Ingress, rule => rule.FromProperty is null && Opens(rule.Ports, "node", 8080));
        var blocks = Policy("node").Egress.SelectMany(rule => rule.To ?? []).Select(peer => peer.IpBlock).OfType<V1IPBlock>().ToList();
        Assert.Equal(["0.0.0.0/0", "::/0"], blocks.Select(block => block.Cidr));
        Assert.Contains("169.254.0.0/16", blocks[0].Except);
        Assert.Contains("fd00:ec2::254/128", blocks[1].Except);
    }

    private static V1NetworkPolicySpec Policy(string pod) => Of<V1NetworkPolicy>().Select(policy => policy.Spec).Single(spec => IsPod(spec.PodSelector, pod));

    private static bool IsPod(V1NetworkPolicyPeer peer, string name) => peer.NamespaceSelector is null && peer.PodSelector is { } pods && IsPod(pods, name);

    private static bool IsPod(V1LabelSelector pods, string name) => pods.MatchLabels?.TryGetValue("app.kubernetes.io/name", out var value) == true && value == name;

    /// <summary>A port may be named, as the pod that is called names it.</summary>
    private static bool Opens(IList<V1NetworkPolicyPort>? ports, string pod, int port) => ports is null || ports.Any(one => one.Port.Value == port.ToString()
        || Of<V1Deployment>().Single(deployment => deployment.Metadata.Name == pod).Spec.Template.Spec.Containers[0].Ports.Any(named => named.Name == one.Port.Value && named.ContainerPort == port));
}
