using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Dapper;
using Evenkeel.Telemetry;
using Evenkeel.Tests.Config;
using Xunit;

namespace Evenkeel.Tests.Upgrade;

/// <summary>Two versions side by side: on one database, and as node and control plane.</summary>
[Collection(PostgresCollection.Name)]
public sealed class UpgradeTests(PostgresFixture postgres)
{
    public static TheoryData<string> Migrations => [.. Directory.GetFiles(Repository.PathOf("migrations"), "*.sql").Select(path => Path.GetFileName(path)).Order()];

    [Theory]
    [MemberData(nameof(Migrations))]
    public void No_migration_takes_anything_from_the_previous_version_that_runs_beside_it(string name) =>
        Assert.Empty(MigrationRules.Faults(File.ReadAllText(Repository.PathOf("migrations", name))));

    [Theory]
    [InlineData("drop table node;", 1)]
    [InlineData("drop view if exists report.audit;", 1)]
    [InlineData("delete from instance where true;", 1)]
    [InlineData("alter table node rename column name to title;", 1)]
    [InlineData("alter table node rename to machine;", 1)]
    [InlineData("alter table node add column a text, drop column name;", 1)]
    [InlineData("alter table node alter column name type integer using 1;", 1)]
    [InlineData("alter table node alter name set not null, alter column live drop default;", 2)]
    [InlineData("alter table node add column a text not null;", 1)]
    [InlineData("alter table node add column a numeric(4, 2) check (a in (1, 2)) not null;", 1)]
    [InlineData("alter table node add constraint small check (length(name) < 9);", 1)]
    [InlineData("ALTER TABLE ONLY node\n  ADD CHECK (length(name) < 9);", 1)]
    [InlineData("alter table client add column a integer not null default 1;", 1)]
    [InlineData("alter table client add column a integer default 1, add b text, add constraint both check (num_nulls(a, b) in (0, 2));", 0)]
    [InlineData("alter table node add column a text not null default '; not null', add column b integer;", 0)]
    [InlineData("alter table node add column a integer not null generated always as identity;", 0)]
    [InlineData("alter table node drop constraint c; alter table node add constraint c check (true);", 0)]
    [InlineData("alter table node alter column name drop not null;", 0)]
    [InlineData("create table t (a text not null); alter table t add constraint c check (a <> '');", 0)]
    [InlineData("-- drop table node;\nselect 'drop table node;'; do $$ begin execute 'drop table x'; drop table y; end $$;", 0)]
    [InlineData("-- safe beside the previous version: nobody ever read it\nalter table node drop column unread;", 0)]
    public void What_would_break_the_previous_version_is_found_and_nothing_else_is(string sql, int faults) =>
        Assert.Equal(faults, MigrationRules.Faults(sql).Count);

    [Fact]
    public void The_tables_that_are_written_whole_are_those_that_the_rules_know() => Assert.Equal(
        Regex.Matches(File.ReadAllText(Repository.PathOf("control-plane", "Config", "ConfigStore.cs")), @"jsonb_populate_recordset\(null::(\w+)").Select(match => match.Groups[1].Value).Order(),
        MigrationRules.WrittenWhole.Order());

    [Fact]
    public async Task A_control_plane_runs_on_beside_the_next_version_and_another_of_its_own_can_still_start()
    {
        await using var old = await ControlPlane.StartAsync(postgres);
        using var before = old.Admin();
        await before.PutConfigAsync(Sample.Yaml);
        await using (var database = await old.OpenDatabaseAsync())
        {
            // The next version's migration does to every table what the rules allow.
            await database.ExecuteAsync($"""
                do $do$
                declare name text;
                begin
                    for name in select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where n.nspname = 'evenkeel' and c.relkind in ('r', 'p') and not c.relispartition and c.relname <> 'schema_migration' and c.relname not like 'qrtz%'
                    loop
                        execute format('alter table evenkeel.%I add column next_text text, add column next_number integer default 7', name);
                        if not (name = any(array['{string.Join("', '", MigrationRules.WrittenWhole)}'])) then
                            execute format('alter table evenkeel.%I alter column next_number set not null', name);
                        end if;
                        commit;     -- all at once may deadlock with what runs, which takes them in an order of its own
                    end loop;
                    create table evenkeel.next_table (a text primary key);
                    insert into evenkeel.schema_migration (name, sha256) values ('9999_next.sql', 'of the next version');
                end $do$
                """);
        }

        await before.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"weight": 7}"""), HttpStatusCode.OK);
        await using var another = old.Another();
        using var after = another.Admin();
        Assert.Equal("ready\n", await after.GetStringAsync("/readyz"));
        await after.SendAsync(HttpMethod.Patch, "/api/v1/instances/a", Body.Json("""{"weight": 8}"""), HttpStatusCode.OK);
        foreach (var path in new[] { "config", "instances", "pools", "clients", "nodes", "revisions", "revisions/3", "incidents", "audit", "health", "ghosts", "alerts", "status", "telemetry/cost" })
        {
            await before.GetAsync("/api/v1/" + path, HttpStatusCode.OK);
        }
        Assert.Equal(8, (int)(await before.GetJsonAsync("/api/v1/instances/a"))["weight"]!);
    }

    [Theory]
    [InlineData("first")]
    [InlineData("restarted")]
    [InlineData("page-1")]
    public void Fields_that_a_newer_node_tells_besides_change_nothing_of_what_is_read(string name) => ReadsTheSame<NodeTelemetry>(name);

    [Fact]
    public void Nor_do_they_in_traces() => ReadsTheSame<NodeTraces>("traces");

    private static void ReadsTheSame<T>(string name)
    {
        var document = JsonNode.Parse(File.ReadAllText(Repository.PathOf("tests", "contract", "telemetry", name + ".json")))!;
        var known = Read(document);
        Extend(document);
        Assert.Equal(known, Read(document));

        string Read(JsonNode told) => JsonSerializer.Serialize(told.Deserialize<T>(NodeTelemetry.Options), NodeTelemetry.Options);
    }

    private static void Extend(JsonNode? node)
    {
        if (node is JsonArray array)
        {
            foreach (var element in array) Extend(element);
        }
        if (node is not JsonObject document) return;
        foreach (var (_, value) in document.ToList()) Extend(value);
        document["of_the_next_version"] = new JsonObject { ["a"] = new JsonArray(1, "two", null) };
        document["and_a_number"] = 1.5;
    }
}
