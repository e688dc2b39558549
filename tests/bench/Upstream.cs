namespace Evenkeel.Bench;

/// <summary>
/// The providers: one nginx with three ports that answer at once and three that answer after 20 ms. Streams have a provider of their own.
/// </summary>
internal sealed class Upstream
{
    public const int DelayMs = 20;

    private const string Answer = """{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","content":"The keel was even and the wind was fair; nothing else is to be told of this day, and that is the best there is to tell."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":220,"completion_tokens":29,"total_tokens":249}}""";

    private Upstream(int[] atOnce, int[] delayed) => (AtOnce, Delayed) = (atOnce, delayed);

    public int[] AtOnce { get; }
    public int[] Delayed { get; }
    public int Pid { get; private set; }

    public static Upstream Start(Stage stage)
    {
        int[] Three() => [stage.FreePort(), stage.FreePort(), stage.FreePort()];
        var upstream = new Upstream(Three(), Three());
        var folder = stage.Folder("upstream");
        static string Listen(int[] ports) => string.Concat(ports.Select(port => $"listen 127.0.0.1:{port} backlog=8192; "));
        File.WriteAllText(Path.Combine(folder, "nginx.conf"), $$"""
            {{NginxFiles.Modules}}
            worker_processes 1; daemon off; pid nginx.pid; error_log error.log warn;
            events { worker_connections 16384; }
            http {
                {{NginxFiles.Lua}}
                {{NginxFiles.Temporary}}
                access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; default_type application/json; tcp_nodelay on;
                client_body_buffer_size 256k; client_max_body_size 20m; client_body_in_single_buffer on;
                server {
                    {{Listen(upstream.AtOnce)}}
                    location / { return 200 '{{Answer}}'; }
                }
                server {
                    {{Listen(upstream.Delayed)}}
                    location / { content_by_lua_block {
                        ngx.req.read_body()
                        ngx.sleep({{DelayMs / 1000.0}})
                        ngx.header.content_length = {{Answer.Length}}
                        ngx.print([==[{{Answer}}]==])
                    } }
                }
            }
            """);
        var nginx = stage.Start(folder, null, "nginx", "-p", folder, "-e", "error.log", "-c", "nginx.conf");
        stage.AwaitPort(upstream.Delayed[2], nginx, "the upstream");
        upstream.Pid = nginx.Id;
        return upstream;
    }
}

/// <summary>What every nginx.conf of a bench begins with.</summary>
internal static class NginxFiles
{
    public const string Modules = """
        load_module /usr/lib/nginx/modules/ndk_http_module.so; load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
        """;

    public const string Lua = """
        lua_package_path "/usr/share/lua/5.1/?.lua;;"; lua_package_cpath "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;";
        """;

    public const string Temporary = """
        client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; scgi_temp_path scgi; uwsgi_temp_path uwsgi;
        """;
}
