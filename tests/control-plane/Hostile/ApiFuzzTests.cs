using System.Diagnostics;
using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Dapper;
using Evenkeel.Tests.Config;
using FsCheck;
using FsCheck.Fluent;
using Xunit;
using Xunit.Abstractions;

namespace Evenkeel.Tests.Hostile;

/// <summary>
/// Every operation of docs/openapi.json with hostile paths, queries, headers and bodies. Whatever comes, the answer is no server error, is
/// a problem document where it refuses, and tells nothing of the inside. The same calls at every run; bounded in time.
/// </summary>
[Collection(PostgresCollection.Name)]
public sealed partial class ApiFuzzTests(PostgresFixture postgres, ITestOutputHelper output)
{
    private const int RoundsMost = 12;
    private static readonly TimeSpan s_atMost = TimeSpan.FromSeconds(12);

    private sealed record Call(string Method, string Path, List<(string Name, string Value)> Headers, HttpContent? Content, string Words);

    [Fact]
    public async Task No_call_breaks_the_control_plane_and_no_answer_tells_of_its_inside()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        using var node = plane.Node();
        await admin.PutConfigAsync(Sample.Example);
        var document = JsonNode.Parse(await File.ReadAllTextAsync(Repository.PathOf("docs", "openapi.json")))!;
        var operations = document["paths"]!.AsObject()
            .SelectMany(path => path.Value!.AsObject().Select(operation => (Path: path.Key, Method: operation.Key.ToUpperInvariant(), Operation: operation.Value!)))
            .Where(o => !o.Operation.ToJsonString().Contains("text/event-stream", StringComparison.Ordinal))      // never ends
            .ToList();
        Assert.True(operations.Count > 30);

        var (calls, statuses, watch) = (0, new SortedDictionary<int, int>(), Stopwatch.StartNew());
        for (var round = 0; round < RoundsMost && watch.Elapsed < s_atMost; round++)
        {
            foreach (var (index, (path, method, operation)) in operations.Index())
            {
                var call = Hostile.Sample(Calls(document, path, method, operation), 1, (ulong)(1_000 + (round * 1_000) + index)).Single();
                using var request = Request(call);
                if (request is null)
                {
                    continue;
                }

                using var response = await (path.StartsWith("/node/", StringComparison.Ordinal) ? node : admin).SendAsync(request);
                calls++;
                statuses[(int)response.StatusCode] = statuses.GetValueOrDefault((int)response.StatusCode) + 1;
                await JudgeAsync(call, response);
            }
        }

        output.WriteLine($"{calls} calls of {operations.Count} operations in {watch.Elapsed.TotalSeconds:0.0} s: " + string.Join(", ", statuses.Select(s => $"{s.Key} x {s.Value}")));
        Assert.True(calls >= operations.Count);
        Assert.True(statuses.Where(s => s.Key < 300).Sum(s => s.Value) > calls / 10, "hardly a call was such as the document describes");
        await admin.GetAsync("/api/v1/config", HttpStatusCode.OK);
        Assert.Equal("ready\n", await admin.GetStringAsync("/readyz"));
    }

    [Fact]
    public async Task A_control_character_in_an_address_is_refused_by_the_name_of_its_parameter()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        using var node = plane.Node();
        var document = JsonNode.Parse(await File.ReadAllTextAsync(Repository.PathOf("docs", "openapi.json")))!;
        var tried = 0;
        foreach (var (path, operations) in document["paths"]!.AsObject())
        {
            var plain = Parameter().Replace(path, "1");
            foreach (var (method, operation) in operations!.AsObject())
            {
                foreach (var parameter in operation!["parameters"]?.AsArray() ?? [])
                {
                    var name = (string)parameter!["name"]!;
                    string[] addresses = (string)parameter["in"]! switch
                    {
                        "query" => [$"{plain}?{name}=%00", $"{plain}?{name}=a%01b", $"{plain}?{name}=a&{name}=%7f"],
                        "path" => [Parameter().Replace(path, match => match.Groups[1].Value == name ? "a%01b" : "1")],
                        _ => [],
                    };
                    foreach (var address in addresses)
                    {
                        using var request = new HttpRequestMessage(new HttpMethod(method), address);
                        using var response = await (path.StartsWith("/node/", StringComparison.Ordinal) ? node : admin).SendAsync(request);
                        var text = await response.Content.ReadAsStringAsync();
                        var isNumber = parameter["schema"]?["format"] is not null && address.Contains("/a%01b", StringComparison.Ordinal);      // no such path, then
                        var isNode = path.StartsWith("/node/", StringComparison.Ordinal) && address.Contains("/a%01b", StringComparison.Ordinal);      // its token is of no such node
                        Assert.True(isNumber || isNode ? (int)response.StatusCode is 400 or 401 or 404 : response.StatusCode == HttpStatusCode.BadRequest && text.Contains($"{name}: has control characters", StringComparison.Ordinal),
                            $"{method} {address} → {(int)response.StatusCode} {text}");
                        tried++;
                    }
                }
            }
        }

        Assert.True(tried > 100);
        await admin.GetAsync("/api/v1/incidents?kind=a%0Ab%09", HttpStatusCode.OK);
    }

    [Fact]
    public async Task A_NUL_in_a_body_is_refused_or_goes_nowhere()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        using var node = plane.Node();
        await admin.PutConfigAsync(Sample.Example);
        await using (var database = await plane.OpenDatabaseAsync())
        {
            await database.ExecuteAsync("insert into incident (kind, subject, since, evidence, last_event_at) values ('probe', 'a', now(), '{}', now())");
        }

        var document = JsonNode.Parse(await File.ReadAllTextAsync(Repository.PathOf("docs", "openapi.json")))!;
        foreach (var (path, operations) in document["paths"]!.AsObject())
        {
            foreach (var (method, operation) in operations!.AsObject().Where(o => o.Value!["requestBody"]?["content"]?["application/json"] is not null))
            {
                var schema = operation!["requestBody"]!["content"]!["application/json"]!["schema"]!;
                schema = schema["$ref"] is { } reference ? document["components"]!["schemas"]![((string)reference!).Split('/')[^1]]! : schema;
                var members = schema["properties"]?.AsObject().Select(p => p.Key).ToList() ?? [];
                foreach (var bad in members)
                {
                    var body = new JsonObject(members.Select(m => KeyValuePair.Create(m, (JsonNode?)(m == bad ? "a\0b" : Fitting(schema["properties"]![m])[0] is var fit ? JsonNode.Parse(fit) : null))));
                    var address = Parameter().Replace(path, path.Contains("/incidents/", StringComparison.Ordinal) ? "1" : "chat") + (path == "/node/v1/enrol" ? "?node=n" : "");
                    using var request = new HttpRequestMessage(new HttpMethod(method), address) { Content = Body.Json(body.ToJsonString()) };
                    using var response = await (path.StartsWith("/node/", StringComparison.Ordinal) ? node : admin).SendAsync(request);
                    Assert.True((int)response.StatusCode < 500, $"{method} {address} {body.ToJsonString()} → {(int)response.StatusCode} {await response.Content.ReadAsStringAsync()}");
                }
            }
        }

        foreach (var ghost in new[] { """{"redact": {"drop": ["a\u0000b"]}}""", """{"redact": {"mask": ["a\u0000b"]}}""" })
        {
            var problem = await admin.SendAsync(HttpMethod.Patch, "/api/v1/pools/chat", Body.Json($$"""{"ghost": {{ghost}}}"""), HttpStatusCode.UnprocessableEntity);
            Assert.EndsWith("[0]: has a NUL character", Assert.Single(problem.Errors()));
        }
    }

    [GeneratedRegex(@"\{([^}]+)\}")]
    private static partial Regex Parameter();

    private static async Task JudgeAsync(Call call, HttpResponseMessage response)
    {
        var text = await response.Content.ReadAsStringAsync();
        Assert.True((int)response.StatusCode < 500, $"{call.Words}\n→ {(int)response.StatusCode} {text}");
        if ((int)response.StatusCode >= 400)
        {
            Assert.True(response.Content.Headers.ContentType?.MediaType == "application/problem+json", $"{call.Words}\n→ {response.Content.Headers.ContentType} {text}");
            foreach (var inside in new[] { "   at ", "Exception", "Npgsql", "SqlState", ".cs:", "/home/", "System." })
            {
                Assert.False(text.Contains(inside, StringComparison.Ordinal), $"{call.Words}\n→ {text}");
            }
        }

        Assert.True(response.Headers.Contains("Content-Security-Policy"), call.Words);
    }

    private static HttpRequestMessage? Request(Call call)
    {
        if (!Uri.TryCreate("http://localhost" + call.Path, UriKind.Absolute, out var uri))
        {
            return null;
        }

        var request = new HttpRequestMessage(new HttpMethod(call.Method), uri) { Content = call.Content };
        foreach (var (name, value) in call.Headers)
        {
            request.Headers.TryAddWithoutValidation(name, value);
        }

        return request;
    }

    private static Gen<Call> Calls(JsonNode document, string path, string method, JsonNode operation)
    {
        var parameters = operation["parameters"]?.AsArray().Select(p => p!).ToList() ?? [];
        var drawn = parameters.Select(p => FromSchema(document, p["schema"], 0).Select(v => v is JsonValue value && value.TryGetValue<string>(out var text) ? text : v?.ToJsonString() ?? "")
            .Where(t => (string)p["in"]! != "path" || t is not ("" or "." or "..")));
        var body = operation["requestBody"]?["content"]?.AsObject().ToList();
        var content = body is null
            ? Gen.Constant<(string Type, byte[] Bytes)?>(null)
            : Gen.Elements(body.ToArray()).SelectMany(media => Gen.Frequency(
                (6, FromSchema(document, media.Value?["schema"], 0).Select(v => Encoding.UTF8.GetBytes(v?.ToJsonString() ?? "null"))),
                (2, Hostile.Mutated(Sample.Yaml)),
                (1, Hostile.Text.Select(Encoding.UTF8.GetBytes))).Select(bytes => ((string, byte[])?)(media.Key, bytes)));
        return
            from values in Gen.CollectToArray(drawn)
            from left in Gen.Choose(0, 3)
            from sent in content
            select Build(path, method, parameters, values, left, sent);
    }

    private static Call Build(string path, string method, List<JsonNode> parameters, IEnumerable<string> values, int left, (string Type, byte[] Bytes)? sent)
    {
        var query = new List<string>();
        var headers = new List<(string, string)>();
        foreach (var (parameter, value) in parameters.Zip(values))
        {
            var name = (string)parameter["name"]!;
            switch ((string)parameter["in"]!)
            {
                case "path":
                    path = path.Replace($"{{{name}}}", Uri.EscapeDataString(Paired(value).Replace("\0", "")));
                    break;
                case "query" when left > 0 && name != "wait_s":
                    query.Add($"{name}={Uri.EscapeDataString(Paired(value))}");
                    break;
                case "header":
                    headers.Add((name, value.Replace("\r", "").Replace("\n", "").Replace("\0", "")));
                    break;
            }
        }

        var target = query.Count > 0 ? path + "?" + string.Join('&', query) : path;
        HttpContent? content = null;
        if (sent is var (type, bytes))
        {
            content = new ByteArrayContent(bytes);
            content.Headers.TryAddWithoutValidation("Content-Type", left == 3 ? "application/x-nothing" : type);
        }

        return new Call(method, target, headers, content, $"{method} {target} {(sent is null ? "" : Encoding.UTF8.GetString(sent.Value.Bytes))}");
    }

    // Half of a surrogate pair cannot be escaped; and a NUL in a path is refused before the program sees it.
    private static string Paired(string text) => new([.. text.Where(c => !char.IsSurrogate(c))]);

    /// <summary>A value as the schema wants it, or, at any place, a hostile one.</summary>
    private static Gen<JsonNode?> FromSchema(JsonNode document, JsonNode? schema, int depth)
    {
        if (schema?["$ref"] is { } reference)
        {
            return FromSchema(document, document["components"]!["schemas"]![((string)reference!).Split('/')[^1]], depth);
        }

        if (schema?["properties"] is JsonObject properties && depth < 5)
        {
            var members = properties.Select(p => FromSchema(document, p.Value, depth + 1).Select(v => (p.Key, Value: v))).ToArray();
            return Gen.CollectToArray(members).SelectMany(all => Gen.ArrayOf(Gen.Choose(0, 3), all.Length).Select(keep =>
            {
                var value = new JsonObject();
                foreach (var ((key, member), kept) in all.Zip(keep))
                {
                    if (kept > 0)
                    {
                        value[key] = member?.DeepClone();
                    }
                }

                return (JsonNode?)value;
            }));
        }

        if (schema?["items"] is { } items && depth < 5)
        {
            return Gen.ListOf(FromSchema(document, items, depth + 1), 2).Select(list => (JsonNode?)new JsonArray([.. list.Select(v => v?.DeepClone())]));
        }

        if (schema?["oneOf"] is JsonArray { Count: > 0 } choices && depth < 5)
        {
            return Gen.Elements(choices.ToArray()).SelectMany(choice => FromSchema(document, choice, depth + 1));
        }

        return Gen.Frequency((3, Gen.Elements(Fitting(schema).Select(text => JsonNode.Parse(text)).ToArray())), (2, Hostile.Value));
    }

    // What the schema allows, as JSON; names are such as exist, so that what lies behind them is reached.
    private static string[] Fitting(JsonNode? schema)
    {
        if (schema?["enum"] is JsonArray { Count: > 0 } words)
        {
            return [.. words.Select(word => word?.ToJsonString() ?? "null")];
        }

        string[] types = schema?["type"] switch
        {
            JsonArray several => [.. several.Select(type => (string)type!)],
            { } one => [(string)one!],
            _ => ["string", "integer", "boolean"],
        };
        return [.. types.SelectMany(IEnumerable<string> (type) => (type, (string?)schema?["format"]) switch
        {
            ("string", "date-time") => (string[])["\"2026-01-01T00:00:00Z\"", "\"2026-11-26T01:00:00+02:00\"", "\"0001-01-01T00:00:00Z\""],
            ("string", "uuid") => (string[])["\"00000000-0000-0000-0000-000000000000\""],
            ("string", _) when schema?["pattern"] is not null => (string[])["\"10s\"", "\"0ms\""],
            ("string", _) => (string[])["\"official-1\"", "\"chat\"", "\"node-1\"", "\"m\"", "\"50%\"", "\"10s\"", "\"auto\"", "\"127.0.0.1:80\"", "\"http://127.0.0.1:1/v1\"", "\"1\""],
            ("integer", _) => (string[])["0", "1", "2", "-1", "50", "2147483647", "9223372036854775807"],
            ("number", _) => (string[])["0.5", "0", "10", "-1"],
            ("boolean", _) => (string[])["true", "false"],
            ("array", _) => (string[])["[]"],
            ("object", _) => (string[])["{}"],
            _ => (string[])["null"],
        })];
    }
}
