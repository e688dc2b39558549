namespace Evenkeel.Bench;

/// <summary>
/// The providers: one nginx with three ports that answer at once, three that answer after 20 ms, and three that stream. A stream's
/// tokens carry the time at which they were sent (CLOCK_MONOTONIC, as <see cref="System.Diagnostics.Stopwatch"/> has it).
/// </summary>
internal sealed class Upstream
{
    public const int DelayMs = 20;

    private const string Answer = """{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","content":"The keel was even and the wind was fair; nothing else is to be told of this day, and that is the best there is to tell."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":220,"completion_tokens":29,"total_tokens":249}}""";

    private Upstream(int[] atOnce, int[] delayed, int[] streaming) => (AtOnce, Delayed, Streaming) = (atOnce, delayed, streaming);

    public int[] AtOnce { get; }
    public int[] Delayed { get; }
    public int[] Streaming { get; }
    public int Pid { get; private set; }

    public static Upstream Start(Stage stage)
    {
        int[] Three() => [stage.FreePort(), stage.FreePort(), stage.FreePort()];
        var upstream = new Upstream(Three(), Three(), Three());
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
                server {
                    {{Listen(upstream.Streaming)}}
                    location / { content_by_lua_file stream.lua; }
                }
            }
            """);
        File.WriteAllText(Path.Combine(folder, "stream.lua"), """
            -- "user": "TOKENS_PER_SECOND/TOKENS" of the request says what to stream.
            local ffi = require "ffi"
            pcall(ffi.cdef, "typedef struct { long s; long ns; } bench_time; int clock_gettime(int clock, bench_time *t);")
            local t = ffi.new("bench_time")
            ngx.req.read_body()
            local rate, tokens = (ngx.req.get_body_data() or ""):match('"user":"([%d.]+)/(%d+)"')
            ngx.header.content_type = "text/event-stream"
            local head = 'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench-model","choices":[{"index":0,"delta":'
            ngx.update_time()
            local began = ngx.now()
            for i = 1, tonumber(tokens) do
              ffi.C.clock_gettime(1, t)
              ngx.print(head, '{"content":"@', string.format("%.0f", tonumber(t.s) * 1e9 + tonumber(t.ns)), ' "},"finish_reason":null}]}\n\n')
              if not ngx.flush(true) then return end
              ngx.sleep(math.max(0.001, began + i / tonumber(rate) - ngx.now()))
            end
            ngx.print(head, '{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
            """);
        var nginx = stage.Start(folder, null, "nginx", "-p", folder, "-e", "error.log", "-c", "nginx.conf");
        stage.AwaitPort(upstream.Streaming[2], nginx, "the upstream");
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
