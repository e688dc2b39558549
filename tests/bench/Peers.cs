using System.Text.Json;

namespace Evenkeel.Bench;

/// <summary>A gateway in front of three upstreams: where it listens, what it needs in a request, whose CPU time is its own.</summary>
internal sealed record Peer(string Name, string Version, string Settings, int Port, int Pid, IReadOnlyDictionary<string, string> Headers)
{
    public const string Direct = "direct";
    public const string Nginx = "nginx";
    public const string Haproxy = "haproxy";
    public const string Evenkeel = "evenkeel";
    public const string Portkey = "portkey";
}

/// <summary>Brings the peers up. A peer that is not installed is said to be missing, and the others are measured without it.</summary>
internal static class Peers
{
    private static readonly Dictionary<string, string> None = [];

    // balance: how nginx chooses, a directive of its own (nothing: round robin); location: more directives for the location.
    public static Peer StartNginx(Stage stage, string name, int[] upstreams, string balance = "least_conn;", string location = "")
    {
        var (folder, port) = (stage.Folder("nginx-" + name), stage.FreePort());
        File.WriteAllText(Path.Combine(folder, "nginx.conf"), $$"""
            worker_processes 1; daemon off; pid nginx.pid; error_log error.log warn;
            events { worker_connections 16384; }
            http {
                {{NginxFiles.Temporary}}
                access_log off; keepalive_requests 1000000000;
                client_body_buffer_size 256k; client_max_body_size 20m;
                upstream providers {
                    {{balance}}
                    {{string.Concat(upstreams.Select(upstream => $"server 127.0.0.1:{upstream}; "))}}
                    keepalive 512; keepalive_requests 1000000000;
                }
                server {
                    listen 127.0.0.1:{{port}} backlog=4096;
                    location / { proxy_pass http://providers; proxy_http_version 1.1; proxy_set_header Connection ""; {{location}} }
                }
            }
            """);
        var process = stage.Start(folder, null, "nginx", "-p", folder, "-e", "error.log", "-c", "nginx.conf");
        stage.AwaitPort(port, process, "nginx");
        return new Peer(Peer.Nginx, Machine.Words("nginx", "-v").Split('/').Last(), "1 worker, least_conn, keepalive 512, no access log", port, process.Id, None);
    }

    public static Peer? StartHaproxy(Stage stage, string name, int[] upstreams)
    {
        const string Program = "/usr/sbin/haproxy";
        if (!File.Exists(Program))
        {
            return Missing(Peer.Haproxy, "apt-get install haproxy");
        }
        var (folder, port) = (stage.Folder("haproxy-" + name), stage.FreePort());
        File.WriteAllText(Path.Combine(folder, "haproxy.cfg"), $"""
            global
                nbthread 1
                maxconn 8000
            defaults
                mode http
                timeout connect 5s
                timeout client 60s
                timeout server 60s
                http-reuse always
            frontend edge
                bind 127.0.0.1:{port} backlog 4096
                default_backend providers
            backend providers
                balance leastconn
            {string.Concat(upstreams.Select((upstream, i) => $"    server s{i} 127.0.0.1:{upstream}\n"))}
            """);
        var process = stage.Start(folder, null, Program, "-db", "-f", "haproxy.cfg");
        stage.AwaitPort(port, process, "HAProxy");
        return new Peer(Peer.Haproxy, Machine.Words(Program, "-v").Split(' ')[2], "nbthread 1, leastconn, http-reuse always, no log", port, process.Id, None);
    }

    /// <summary>
    /// The node as it is delivered: the text from the control plane's renderer, its snapshot, and the agent that starts nginx; client keys,
    /// access log, answers kept for the fallback, breaker and limits are all on. The control plane itself is away, as it may be.
    /// </summary>
    public static Peer StartEvenkeel(Stage stage, string name, int[] upstreams)
    {
        var instances = upstreams.Select((upstream, i) => (Name: $"provider-{i + 1}", Port: upstream)).ToList();
        var node = Node.Start(stage, "evenkeel-" + name, $"""
            gateway: {"{"}anonymous: false{"}"}
            instances:
            {string.Concat(instances.Select(one => $"  - {{name: {one.Name}, base_url: \"http://127.0.0.1:{one.Port}/v1\", api_key: env:PROVIDER, weight: 50, max_connections: 10000, base_latency: 800ms}}\n"))}
            pools:
              - name: chat
                models: [{Call.Model}]
                tiers: [{"{"}name: primary, instances: [{string.Join(", ", instances.Select(one => one.Name))}]{"}"}]
            clients:
              - {"{"}name: bench, key: env:CLIENT{"}"}
            """, workers: 1);
        return new Peer(Peer.Evenkeel, Machine.Words("git", "-C", stage.Checkout, "describe", "--always", "--dirty"),
            "1 worker, algorithm weighted, client keys, access log, breaker, limits and kept answers on", node.Port, node.Pid, None);
    }

    public static Peer? StartPortkey(Stage stage, string name, int[] upstreams)
    {
        var install = Directory.CreateDirectory(Path.Combine(stage.Checkout, ".evenkeel-build/bench-peers")).FullName;
        var package = Path.Combine(install, "node_modules/@portkey-ai/gateway");
        if (!Directory.Exists(package))
        {
            _ = Machine.Words("npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", install, "@portkey-ai/gateway@1.15.2");
        }
        var server = Path.Combine(package, "build/start-server.js");
        if (!File.Exists(server))
        {
            return Missing(Peer.Portkey, "npm install @portkey-ai/gateway");
        }
        var (folder, port) = (stage.Folder("portkey-" + name), stage.FreePort());
        var process = stage.Start(folder, new Dictionary<string, string> { ["NODE_ENV"] = "production" }, "node", server, $"--port={port}", "--headless");
        stage.AwaitPort(port, process, "Portkey's gateway");
        var config = JsonSerializer.Serialize(new
        {
            strategy = new { mode = "loadbalance" },
            targets = upstreams.Select(upstream => new { provider = "openai", api_key = "provider-key", custom_host = $"http://127.0.0.1:{upstream}/v1", weight = 1 }),
        });
        using var manifest = JsonDocument.Parse(File.ReadAllText(Path.Combine(package, "package.json")));
        return new Peer(Peer.Portkey, manifest.RootElement.GetProperty("version").GetString()!, $"Node {Machine.Words("node", "-v")}, load balance over three custom hosts by config header",
            port, process.Id, new Dictionary<string, string> { ["x-portkey-config"] = config });
    }

    private static Peer? Missing(string name, string remedy)
    {
        Console.WriteLine($"  {name} is not measured: it is not installed ({remedy})");
        return null;
    }
}
