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
                Assert.DoesNotContain(container.Env ?? [], variable => variable.Name.Contains("TOKEN", StringComparison.Ordinal) && variable.Value is not null);
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
    public void The_service_monitor_scrapes_the_admin_port_with_the_nodes_token()
    {
        var stream = new YamlStream();
        stream.Load(new StringReader(File.ReadAllText(Path.Combine(Folder, "service-monitor.yaml"))));
        var monitor = stream.Documents.Select(document => (YamlMappingNode)document.RootNode).Single(root => root["kind"].ToString() == "ServiceMonitor");
        var endpoint = monitor["spec"]["endpoints"][0];
        Assert.Contains(Of<V1Service>(), service => service.Metadata.Labels?["app.kubernetes.io/name"] == monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"].ToString()
            && service.Spec.Ports.Any(port => port.Name == endpoint["port"].ToString()));
        Assert.Equal("node-token", endpoint["authorization"]["credentials"]["key"].ToString());
    }
}
