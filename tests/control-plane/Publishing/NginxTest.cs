using System.Diagnostics;
using Xunit;

namespace Evenkeel.Tests.Publishing;

/// <summary>The real <c>nginx -t</c>. It runs no Lua of ours, so the text is all it needs.</summary>
internal static class NginxTest
{
    private static readonly string Binary = Environment.GetEnvironmentVariable("NGINX") ?? "/usr/sbin/nginx";

    public static void Accepts(string text)
    {
        Assert.True(File.Exists(Binary), $"{Binary} is missing: `./evenkeel test` installs it");
        var prefix = Directory.CreateTempSubdirectory("evenkeel-nginx-");
        try
        {
            foreach (var folder in new[] { "logs", "run/instances", "tmp" }) prefix.CreateSubdirectory(folder);
            var modules = new[] { "ndk_http_module.so", "ngx_http_lua_module.so" }.Select(name => "/usr/lib/nginx/modules/" + name).Where(File.Exists);
            File.WriteAllLines(Path.Combine(prefix.FullName, "platform-main.conf"), modules.Select(file => $"load_module {file};"));
            File.WriteAllText(Path.Combine(prefix.FullName, "platform-http.conf"), "");
            File.WriteAllText(Path.Combine(prefix.FullName, "platform-adapters.conf"), "");
            File.WriteAllText(Path.Combine(prefix.FullName, "nginx.conf"), text);
            using var nginx = Process.Start(new ProcessStartInfo(Binary, ["-t", "-q", "-p", prefix.FullName, "-c", "nginx.conf"])
            {
                WorkingDirectory = prefix.FullName,
                RedirectStandardError = true,
            })!;
            var words = nginx.StandardError.ReadToEnd();
            Assert.True(nginx.WaitForExit(TimeSpan.FromSeconds(20)), "nginx -t does not end");
            Assert.True(nginx.ExitCode == 0, words);
        }
        finally
        {
            prefix.Delete(recursive: true);
        }
    }
}
