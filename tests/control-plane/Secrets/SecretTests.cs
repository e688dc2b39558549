using System.Net;
using System.Text;
using Dapper;
using Evenkeel.Config;
using Evenkeel.Jobs;
using Evenkeel.Secrets;
using Evenkeel.Tests.Config;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
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

    [Fact]
    public async Task A_stored_secret_goes_when_nothing_in_force_needs_it_and_no_sooner()
    {
        const string Url = "instances: [{name: a, base_url: \"http://a/v1\", api_key: KEY}]\npools: [{models: [m]}]";
        await _admin.PutConfigAsync(Url.Replace("KEY", "sk-to-be-deleted"));
        var id = ((string)(await _admin.GetJsonAsync("/api/v1/instances/a"))["api_key"]!)["secret:".Length..];
        var listed = (await _admin.GetJsonAsync("/api/v1/secrets")).AsArray().Single(s => (string?)s!["id"] == id)!;
        Assert.True((bool)listed["in_use"]!);
        Assert.DoesNotContain("sk-to-be-deleted", listed.ToJsonString());
        await _admin.SendAsync(HttpMethod.Delete, $"/api/v1/secrets/{id}", expect: HttpStatusCode.Conflict);

        await _admin.PutConfigAsync(Url.Replace("KEY", "sk-another"));
        await _admin.SendAsync(HttpMethod.Delete, $"/api/v1/secrets/{id}", expect: HttpStatusCode.NoContent);
        await _admin.SendAsync(HttpMethod.Delete, $"/api/v1/secrets/{id}", expect: HttpStatusCode.NotFound);
        await _admin.SendAsync(HttpMethod.Put, "/api/v1/config", Body.Yaml(Url.Replace("KEY", "secret:" + id)), HttpStatusCode.UnprocessableEntity);
    }

    [Fact]
    public async Task The_hourly_sweep_takes_only_what_no_revision_refers_to()
    {
        await _admin.PutConfigAsync("instances: [{name: a, base_url: \"http://a/v1\", api_key: sk-swept-1}]\npools: [{models: [m]}]");
        await _admin.PutConfigAsync("{}");
        await using var connection = await _plane.OpenDatabaseAsync();
        await connection.ExecuteAsync("insert into secret (id, key_id, nonce, ciphertext) select @id, key_id, nonce, ciphertext from secret limit 1; update secret set created_at = now() - interval '2 days'",
            new { id = new string('f', 20) });
        var before = await connection.QueryAsync<string>("select id from secret");
        await SecretStore.PruneAsync(_plane.Services.GetRequiredService<NpgsqlDataSource>(), default);
        Assert.Equal(before.Where(id => id[0] != 'f' || id != new string('f', 20)).Order(), (await connection.QueryAsync<string>("select id from secret")).Order());
    }

    [Fact]
    public async Task What_is_referred_to_again_while_the_sweep_looks_is_not_taken()
    {
        await using var connection = await _plane.OpenDatabaseAsync();
        string[] ids = [new('a', 20), new('b', 20), new('c', 20)];
        await _admin.PutConfigAsync("instances: [{name: a, base_url: \"http://a/v1\", api_key: sk-swept-2}]\npools: [{models: [m]}]");
        await connection.ExecuteAsync("insert into secret (id, key_id, nonce, ciphertext, created_at) select unnest(@ids), key_id, nonce, ciphertext, now() - interval '2 days' from secret limit 3", new { ids });

        // One is in force when the second step comes, one was for a moment.
        var found = await SecretStore.UnreferencedAsync(connection, default);
        Assert.Equal(ids, found.Ids.Intersect(ids).Order());
        foreach (var id in ids[..2]) await _admin.PutConfigAsync($"instances: [{{name: a, base_url: \"http://a/v1\", api_key: \"secret:{id}\"}}]\npools: [{{models: [m]}}]");
        await SecretStore.ForgetAsync(connection, found, default);
        Assert.Equal(ids[..2], await connection.QueryAsync<string>("select id from secret where id = any(@ids) order by id", new { ids }));

        // Whoever comes later finds it gone, or keeps it: a change in the middle of the second step waits for it.
        await _admin.PutConfigAsync("{}");
        await SecretStore.PruneAsync(_plane.Services.GetRequiredService<NpgsqlDataSource>(), default);
        Assert.Equal(ids[..2], await connection.QueryAsync<string>("select id from secret where id = any(@ids) order by id", new { ids }));
    }

    [Fact]
    public async Task The_sweep_waits_for_a_change_only_where_there_is_something_to_take()
    {
        await using var connection = await _plane.OpenDatabaseAsync();
        var database = _plane.Services.GetRequiredService<NpgsqlDataSource>();
        await _admin.PutConfigAsync("instances: [{name: a, base_url: \"http://a/v1\", api_key: sk-swept-3}]\npools: [{models: [m]}]");
        await SecretStore.PruneAsync(database, default);
        await using var change = await connection.BeginTransactionAsync();
        await ConfigStore.LockAsync(connection, change, default);
        await PruneJob.PruneRevisionsAsync(database, 1, default).WaitAsync(TimeSpan.FromSeconds(10));
        await SecretStore.PruneAsync(database, default).WaitAsync(TimeSpan.FromSeconds(10));

        await connection.ExecuteAsync("insert into secret (id, key_id, nonce, ciphertext, created_at) select @id, key_id, nonce, ciphertext, now() - interval '2 days' from secret limit 1", new { id = new string('d', 20) }, change);
        await change.CommitAsync();
        await using var another = await connection.BeginTransactionAsync();
        await ConfigStore.LockAsync(connection, another, default);
        var sweep = SecretStore.PruneAsync(database, default);
        await Assert.ThrowsAsync<TimeoutException>(() => sweep.WaitAsync(TimeSpan.FromSeconds(1)));
        await another.CommitAsync();
        await sweep;
        Assert.Equal(0, await connection.ExecuteScalarAsync<long>("select count(*) from secret where id = @id", new { id = new string('d', 20) }));
    }

    [Fact]
    public async Task The_control_plane_s_own_secrets_are_nobody_s_provider_key()
    {
        var resolver = _plane.Services.GetRequiredService<SecretResolver>();
        var link = Path.Combine(Path.GetTempPath(), "evenkeel-link-" + Guid.NewGuid().ToString("N"));
        File.CreateSymbolicLink(link, _plane.AdminTokenFile);
        try
        {
            foreach (var path in new[] { _plane.AdminTokenFile, _plane.AdminTokenFile + "/../admin-token", link, _plane.SecretKeyFile })
            {
                var resolved = await resolver.ResolveAsync("file:" + path);
                Assert.Null(resolved.Value);
                Assert.DoesNotContain(ControlPlane.AdminToken, resolved.Fault);
            }

            Environment.SetEnvironmentVariable("Evenkeel__TestOnly", "sk-own");
            Assert.Null((await resolver.ResolveAsync("env:Evenkeel__TestOnly")).Value);
        }
        finally
        {
            Environment.SetEnvironmentVariable("Evenkeel__TestOnly", null);
            File.Delete(link);
        }
    }

    [Fact]
    public void A_file_below_the_directory_is_read_and_no_other_one_and_a_pipe_is_not_waited_for()
    {
        var root = Directory.CreateTempSubdirectory("evenkeel-files-").FullName;
        var (allowed, pipe) = (Path.Combine(root, "allowed"), Path.Combine(root, "allowed", "pipe"));
        Directory.CreateDirectory(allowed);
        File.WriteAllText(Path.Combine(allowed, "key"), "sk-inside\n");
        File.WriteAllText(Path.Combine(root, "outside"), "sk-outside\n");
        File.CreateSymbolicLink(Path.Combine(allowed, "link"), Path.Combine(root, "outside"));
        Directory.CreateDirectory(allowed + "-too");
        File.WriteAllText(allowed + "-too/key", "sk-outside\n");
        using (var made = System.Diagnostics.Process.Start("mkfifo", [pipe]))
        {
            made.WaitForExit();
        }

        var options = new EvenkeelOptions { Database = "", AdminTokenFile = "/none", NodeTokenFile = "/none", SecretKeyFile = "/none" };
        var bound = new SecretFiles(options with { SecretDirectory = allowed + "/" });
        Assert.Equal("sk-inside", bound.Read(Path.Combine(allowed, "key")).Value);
        foreach (var path in new[] { "../outside", "link", "../allowed-too/key", ".", "nothing" })
        {
            Assert.True(string.IsNullOrEmpty(bound.Read(Path.Combine(allowed, path)).Value), path);
        }

        Assert.True(string.IsNullOrEmpty(bound.Read(pipe).Value));
        Assert.Equal("sk-outside", new SecretFiles(options).Read(Path.Combine(root, "outside")).Value);
        Assert.Equal("", new SecretFiles(options).Read("/dev/null").Value);
        Directory.Delete(root, recursive: true);
    }
}

/// <summary>A new key for the stored secrets, while control planes run.</summary>
[Collection(PostgresCollection.Name)]
public sealed class RotateTests(PostgresFixture postgres)
{
    private static string Config(string key) => $"instances: [{{name: a, base_url: \"http://a/v1\", api_key: {key}}}]\npools: [{{models: [m]}}]";

    private static async Task<string?> KeyInForceAsync(ControlPlane plane)
    {
        var document = (await plane.Services.GetRequiredService<ConfigStore>().LoadAsync()).Document;
        return (await plane.Services.GetRequiredService<SecretResolver>().ResolveAsync(document.Instances[0].ApiKey!)).Value;
    }

    private static async Task<(int Code, string Words)> RotateAsync(ControlPlane plane, params string[] arguments)
    {
        var (output, errors) = (new StringWriter(), new StringWriter());
        var code = await RotateCommand.RunAsync(arguments, plane.Services.GetRequiredService<EvenkeelOptions>(), output, errors);
        return (code, output.ToString() + errors);
    }

    [Fact]
    public async Task Every_secret_has_the_new_key_and_running_control_planes_go_on()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        await admin.PutConfigAsync(Config("sk-rotated"));
        await using var second = plane.Another();
        using var secondAdmin = second.Admin();
        Assert.Equal("sk-rotated", await KeyInForceAsync(second));

        // With two machines: the next key is made here, and copied there before it is used.
        Assert.Equal(0, (await RotateAsync(plane, "--prepare")).Code);
        File.Copy(SecretKeyFile.NextOf(plane.SecretKeyFile), SecretKeyFile.NextOf(second.SecretKeyFile));
        var before = await File.ReadAllBytesAsync(plane.SecretKeyFile);
        Assert.Equal(0, (await RotateAsync(plane)).Code);
        Assert.NotEqual(before, await File.ReadAllBytesAsync(plane.SecretKeyFile));
        Assert.Equal(before, await File.ReadAllBytesAsync(SecretKeyFile.PreviousOf(plane.SecretKeyFile)));
        Assert.False(File.Exists(SecretKeyFile.NextOf(plane.SecretKeyFile)));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(SecretKeyFile.PreviousOf(plane.SecretKeyFile)));
        Assert.Equal("sk-rotated", await KeyInForceAsync(plane));
        Assert.Equal("sk-rotated", await KeyInForceAsync(second));

        // What the second one seals with the key it still has is readable here, and is sealed anew when it takes its turn.
        await secondAdmin.PutConfigAsync(Config("sk-between"));
        Assert.Equal("sk-between", await KeyInForceAsync(plane));
        Assert.Equal(0, (await RotateAsync(second)).Code);
        Assert.Equal("sk-between", await KeyInForceAsync(plane));
        Assert.Equal("sk-between", await KeyInForceAsync(second));
        Assert.Equal(await File.ReadAllBytesAsync(plane.SecretKeyFile), await File.ReadAllBytesAsync(second.SecretKeyFile));
        await using var connection = await plane.OpenDatabaseAsync();
        var key = new SecretVault(await File.ReadAllBytesAsync(plane.SecretKeyFile)).KeyId;
        Assert.All(await connection.QueryAsync<string>("select key_id from secret"), id => Assert.Equal(key, id));
    }

    [Fact]
    public async Task Interrupted_between_database_and_files_nothing_is_lost_and_it_can_go_on()
    {
        await using var plane = await ControlPlane.StartAsync(postgres);
        using var admin = plane.Admin();
        await admin.PutConfigAsync(Config("sk-interrupted"));
        await using var connection = await plane.OpenDatabaseAsync();

        // As if it had died after its commit: the rows have the next key, the files are not moved.
        await RotateAsync(plane, "--prepare");
        var keys = SecretKeyFile.ReadAll(plane.SecretKeyFile);
        var vault = new SecretVault(() => [keys[1], keys[0]]);
        var row = await connection.QuerySingleAsync<SealedSecret>("select id, key_id, nonce, ciphertext from secret");
        await connection.ExecuteAsync("update secret set key_id = @KeyId, nonce = @Nonce, ciphertext = @Ciphertext where id = @Id", vault.Reseal(row)!);
        Assert.Equal("sk-interrupted", await KeyInForceAsync(plane));
        await using (var restarted = plane.Another())
        {
            File.Copy(SecretKeyFile.NextOf(plane.SecretKeyFile), SecretKeyFile.NextOf(restarted.SecretKeyFile));
            Assert.Equal("sk-interrupted", await KeyInForceAsync(restarted));
        }

        Assert.Equal(0, (await RotateAsync(plane)).Code);
        Assert.Equal("sk-interrupted", await KeyInForceAsync(plane));

        // A key that is not there: nothing is changed.
        await connection.ExecuteAsync("update secret set key_id = repeat('0', 16)");
        var (code, words) = await RotateAsync(plane);
        Assert.Equal((1, true), (code, words.Contains("nothing was changed")));
        Assert.Equal(2, (await RotateAsync(plane, "--sideways")).Code);
    }
}
