using System.Net;
using System.Text;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Secrets;
using Evenkeel.Tests.Config;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace Evenkeel.Tests.Secrets;

[Collection(PostgresCollection.Name)]
public sealed class SecretTests(PlaneFixture fixture) : IClassFixture<PlaneFixture>
{
    private readonly ControlPlane _plane = fixture.Plane;
    private readonly HttpClient _admin = fixture.Plane.Admin();

    [Fact]
    public async Task A_literal_is_stored_encrypted_and_comes_back_only_as_a_reference()
    {
        const string Url = "https://hooks.example/T0/B0/very-secret-path";
        var yaml = Sample.Yaml + $"\nclients: [{{name: c, key: sk-client-literal}}]\nwebhooks: [{{name: h, url: \"{Url}\"}}]";
        var number = await _admin.PutConfigAsync(yaml);
        string[] secrets = [Sample.LiteralOfB, "sk-client-literal", Url];

        var seen = new StringBuilder();
        foreach (var path in new[] { "/api/v1/config", "/api/v1/instances", "/api/v1/instances/b", "/api/v1/revisions", $"/api/v1/revisions/{number}", "/openapi/v1.json" })
        {
            seen.Append(await _admin.GetStringAsync(path));
        }

        await using var connection = await _plane.OpenDatabaseAsync();
        foreach (var table in await connection.QueryAsync<string>("select table_schema || '.' || table_name from information_schema.tables where table_schema in ('evenkeel', 'quartz')"))
        {
            seen.AppendJoin('\n', await connection.QueryAsync<string>($"select t::text from {table} t"));   // bytea comes as hex
        }

        var text = seen.ToString();
        foreach (var secret in secrets)
        {
            Assert.DoesNotContain(secret, text, StringComparison.OrdinalIgnoreCase);
            Assert.DoesNotContain(Convert.ToHexString(Encoding.UTF8.GetBytes(secret)), text, StringComparison.OrdinalIgnoreCase);
        }

        var stored = (await _plane.Services.GetRequiredService<ConfigStore>().LoadAsync()).Document;
        var references = SecretFields.Of(stored).Select(f => f.Text).ToList();
        Assert.All(references, r => Assert.Matches("^secret:[0-9a-f]{20}$", r));
        var resolved = await _plane.Services.GetRequiredService<SecretResolver>().ResolveAsync(references);
        Assert.Equal(secrets, references.Select(r => resolved[r].Value));
    }

    [Fact]
    public async Task A_secret_that_is_not_in_the_store_is_a_fault_with_its_path()
    {
        var yaml = Sample.Yaml.Replace(Sample.LiteralOfB, "secret:00000000000000000000");
        string[] expected = ["instances[1].api_key: no stored secret \"00000000000000000000\""];
        Assert.Equal(expected, (await _admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml(yaml), HttpStatusCode.UnprocessableEntity)).Errors());
        Assert.Equal(expected, (await _admin.SendAsync(HttpMethod.Post, "/api/v1/config/validate", Body.Yaml(yaml))).Errors());
    }

    [Fact]
    public async Task A_refused_secret_is_not_repeated_in_the_answer()
    {
        foreach (var secret in new[] { "sk-top secret", "98765432123456", "[sk-in-a-list]", "\"sk-line\\nX-Evil: 1\"" })
        {
            var answer = await _admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml(Sample.Yaml.Replace(Sample.LiteralOfB, secret)), HttpStatusCode.UnprocessableEntity);
            foreach (var part in new[] { "top", "98765", "in-a-list", "sk-", "Evil" })
            {
                Assert.DoesNotContain(part, answer.ToJsonString());
            }
        }
    }

    [Fact]
    public async Task References_resolve_from_environment_file_and_store_or_say_why_not()
    {
        var file = Path.GetTempFileName();
        var variable = "EVENKEEL_TEST_" + Guid.NewGuid().ToString("N");
        try
        {
            await File.WriteAllTextAsync(file, "sk-from-file\n");
            Environment.SetEnvironmentVariable(variable, "sk-from-environment");
            var resolver = _plane.Services.GetRequiredService<SecretResolver>();
            var resolved = await resolver.ResolveAsync(["file:" + file, "env:" + variable, "file:/nowhere/at/all", "env:EVENKEEL_NOT_SET", "secret:00000000000000000000", "sk-literal"]);
            Assert.Equal("sk-from-file", resolved["file:" + file].Value);
            Assert.Equal("sk-from-environment", resolved["env:" + variable].Value);
            Assert.Equal("the file /nowhere/at/all cannot be read", resolved["file:/nowhere/at/all"].Fault);
            Assert.Equal("the environment variable EVENKEEL_NOT_SET is not set", resolved["env:EVENKEEL_NOT_SET"].Fault);
            Assert.Equal("no stored secret \"00000000000000000000\"", resolved["secret:00000000000000000000"].Fault);
            Assert.NotNull(resolved["sk-literal"].Fault);

            await File.WriteAllTextAsync(file, "two\nlines\n");
            Assert.Null((await resolver.ResolveAsync("file:" + file)).Value);
            await File.WriteAllTextAsync(file, new string('x', SecretReference.MostCharacters + 1));
            Assert.Null((await resolver.ResolveAsync("file:" + file)).Value);
        }
        finally
        {
            Environment.SetEnvironmentVariable(variable, null);
            File.Delete(file);
        }
    }

    [Fact]
    public void Only_the_key_that_sealed_a_secret_opens_it_and_only_under_its_own_id()
    {
        var vault = new SecretVault([.. Enumerable.Range(0, 32).Select(i => (byte)i)]);
        var document = new ConfigDocument { Instances = [new InstanceConfig { Name = "a", BaseUrl = "http://a", ApiKey = "sk-1" }, new InstanceConfig { Name = "b", BaseUrl = "http://b", ApiKey = "sk-1" }] };
        var (withReferences, secrets) = vault.Seal(document);
        var secret = Assert.Single(secrets);
        Assert.Equal("secret:" + secret.Id, withReferences.Instances[0].ApiKey);
        Assert.Equal("sk-1", vault.Open(secret));
        Assert.Null(new SecretVault(new byte[32]).Open(secret));
        Assert.Null(vault.Open(secret with { Id = new string('0', 20) }));
        Assert.Null(vault.Open(secret with { Ciphertext = [.. secret.Ciphertext.Select((b, i) => i == 0 ? (byte)(b ^ 1) : b)] }));
        Assert.Equal(secret.Id, vault.Seal(document).Secrets.Single().Id);
        Assert.NotEqual(secret.Nonce, vault.Seal(document).Secrets.Single().Nonce);
    }

    [Fact]
    public void The_key_file_is_made_once_and_for_its_owner_only()
    {
        var directory = Directory.CreateTempSubdirectory("evenkeel-key-");
        var path = Path.Combine(directory.FullName, "secret.key");
        var keys = new byte[8][];
        Parallel.For(0, keys.Length, i => keys[i] = SecretKeyFile.ReadOrCreate(path));
        Assert.All(keys, key => Assert.Equal(keys[0], key));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
        Assert.Equal(["secret.key"], directory.GetFiles().Select(f => f.Name));
        File.WriteAllBytes(path, [1, 2, 3]);
        Assert.Throws<SetupException>(() => SecretKeyFile.ReadOrCreate(path));
        Assert.Throws<SetupException>(() => SecretKeyFile.ReadOrCreate(Path.Combine(path, "below a file")));
        directory.Delete(recursive: true);
    }
}
