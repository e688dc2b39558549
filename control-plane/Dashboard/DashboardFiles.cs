using System.IO.Compression;
using System.Reflection;
using System.Security.Cryptography;
using Microsoft.Net.Http.Headers;

namespace Evenkeel.Dashboard;

/// <summary>
/// The dashboard's files, as they were built into wwwroot/ and into this program: nothing to be found at run time. They are few and
/// small, so they are kept in memory, compressed once. The sources are beside this file; `npm ci &amp;&amp; npm run build` there builds them.
/// </summary>
public static class DashboardFiles
{
    private const string Prefix = "wwwroot/";

    private sealed record Page(byte[] Bytes, byte[] Compressed, string Type, string ETag);

    public static void MapDashboard(this IEndpointRouteBuilder app)
    {
        var assembly = Assembly.GetExecutingAssembly();
        var resources = assembly.GetManifestResourceNames().Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)).ToList();
        if (!resources.Contains(Prefix + "index.html"))
        {
            app.MapGet("/", () => Results.Text("This control plane was built without its dashboard. In control-plane/Dashboard: npm ci && npm run build, then build it again.\nThe REST API: /openapi\n"))
                .AllowAnonymous().ExcludeFromDescription();
        }

        foreach (var resource in resources)
        {
            using var stream = assembly.GetManifestResourceStream(resource)!;
            var name = resource[Prefix.Length..];
            var page = Load(stream, name);
            app.MapMethods(name == "index.html" ? "/" : "/" + name, [HttpMethods.Get, HttpMethods.Head], context => AnswerAsync(context, page))
                .AllowAnonymous().ExcludeFromDescription();
        }
    }

    private static Page Load(Stream stream, string name)
    {
        using var bytes = new MemoryStream();
        stream.CopyTo(bytes);
        using var compressed = new MemoryStream();
        using (var brotli = new BrotliStream(compressed, CompressionLevel.Optimal, leaveOpen: true))
        {
            brotli.Write(bytes.ToArray());
        }

        var type = Path.GetExtension(name) switch
        {
            ".html" => "text/html; charset=utf-8",
            ".js" => "text/javascript; charset=utf-8",
            ".css" => "text/css; charset=utf-8",
            ".svg" => "image/svg+xml",
            _ => "application/octet-stream",
        };
        return new Page(bytes.ToArray(), compressed.ToArray(), type, $"\"{Convert.ToHexStringLower(SHA256.HashData(bytes.ToArray()))[..20]}\"");
    }

    // Kept by the browser, and asked for each time: a new release shows at once, and a page of it never meets files of another.
    private static async Task AnswerAsync(HttpContext context, Page page)
    {
        var headers = context.Response.Headers;
        headers.ETag = page.ETag;
        headers.CacheControl = "no-cache";
        headers.Vary = HeaderNames.AcceptEncoding;
        if (context.Request.Headers.IfNoneMatch.Any(tags => tags?.Contains(page.ETag, StringComparison.Ordinal) == true))
        {
            context.Response.StatusCode = StatusCodes.Status304NotModified;
            return;
        }

        var brotli = context.Request.Headers.AcceptEncoding.ToString().Contains("br", StringComparison.Ordinal);
        var body = brotli ? page.Compressed : page.Bytes;
        if (brotli)
        {
            headers.ContentEncoding = "br";
        }

        context.Response.ContentType = page.Type;
        context.Response.ContentLength = body.Length;
        if (!HttpMethods.IsHead(context.Request.Method))
        {
            await context.Response.Body.WriteAsync(body, context.RequestAborted);
        }
    }
}
