using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Evenkeel.Tests.Config;
using Xunit;

namespace Evenkeel.Tests.Hostile;

/// <summary>
/// What holds for every text and every value, tried with some thousands that are made to hurt. A case that fails is told whole; what was
/// found this way stands below by name.
/// </summary>
public sealed partial class PropertyTests
{
    private static readonly Renderer s_renderer = Renderer.FromResource();
    private static readonly SecretVault s_vault = new(new byte[32]);
    private static readonly NodeSettings s_node = new("node-1", "127.0.0.1:9145");

    [Fact]
    public void Any_text_is_read_or_refused_with_faults_and_never_anything_else()
    {
        foreach (var bytes in Hostile.Sample(Hostile.Mutated(Sample.Example), 800, 1))
        {
            Judge(bytes, ConfigFormat.Yaml);
        }

        var json = ConfigWriter.Write(ConfigReader.Read(Sample.Example, ConfigFormat.Yaml).Document, ConfigFormat.Json);
        foreach (var bytes in Hostile.Sample(Hostile.Mutated(json), 500, 2))
        {
            Judge(bytes, ConfigFormat.Json);
        }
    }

    [Fact]
    public void Any_value_anywhere_is_refused_or_can_be_written_rendered_and_pushed()
    {
        var accepted = 0;
        foreach (var document in Hostile.Sample(Hostile.Document(Sample.Example), 1_200, 3))
        {
            accepted += Judge(Encoding.UTF8.GetBytes(document.ToJsonString()), ConfigFormat.Json) ? 1 : 0;
        }

        Assert.InRange(accepted, 30, 1_170);      // else the test has lost its point
    }

    /// <returns>Whether it was accepted. Then it reads back the same, makes a snapshot, and its nginx.conf has the shape of a plain one.</returns>
    private static bool Judge(byte[] bytes, ConfigFormat format)
    {
        try
        {
            var read = ConfigReader.Read(bytes, format);
            Assert.True(read.Faults.Count <= FaultList.Most + 1);
            if (!read.IsValid)
            {
                Assert.All(read.Faults, f => Assert.DoesNotContain(f.ToString(), c => char.IsControl(c)));
                return false;
            }

            // As it is stored: a secret that was written out is never written again.
            var document = s_vault.Seal(read.Document).Document;
            var canonical = ConfigWriter.Canonical(document);
            foreach (var written in Enum.GetValues<ConfigFormat>())
            {
                var again = ConfigReader.Read(ConfigWriter.Write(document, written), written);
                Assert.Empty(again.Faults);
                Assert.Equal(canonical, ConfigWriter.Canonical(again.Document));
            }

            Assert.Equal(canonical, ConfigWriter.Canonical(ConfigWriter.FromCanonical(canonical)));
            using var snapshot = JsonDocument.Parse(SnapshotBuilder.Build(document, 1, FleetState.Unknown, _ => new ResolvedSecret("sk-x", null)).Json);
            Assert.Equal(Shape(s_renderer.Render(Plain(document), s_node).Text), Shape(s_renderer.Render(document, s_node).Text));
            return true;
        }
        catch (Exception e)
        {
            Assert.Fail($"{format}: {e.GetType().Name}: {e.Message}\n{Encoding.UTF8.GetString(bytes)}");
            throw;
        }
    }

    /// <summary>The same document with plain values wherever a value reaches nginx.conf.</summary>
    private static ConfigDocument Plain(ConfigDocument document)
    {
        var files = document.Instances.Select(i => i.Tls.CaFile).OfType<string>().Distinct().Order(StringComparer.Ordinal).ToList();
        var names = document.Instances.Select(i => i.Name).Order(StringComparer.Ordinal).ToList();
        return document with
        {
            Gateway = document.Gateway with { Listen = "127.0.0.1:8080", Workers = null },
            Instances = [.. document.Instances.Select(i => i with
            {
                Name = $"i{names.IndexOf(i.Name):0000}",
                Tls = i.Tls with { CaFile = i.Tls.CaFile is { } file ? $"/ca{files.IndexOf(file):0000}" : null },
            })],
        };
    }

    /// <summary>As nginx tokenizes: every word or quoted text is one "w"; what ends a directive and what opens and closes a block stay.</summary>
    private static string Shape(string text)
    {
        var shape = new StringBuilder();
        for (var i = 0; i < text.Length;)
        {
            var c = text[i];
            if (char.IsWhiteSpace(c))
            {
                i++;
            }
            else if (c == '#')
            {
                i = text.IndexOf('\n', i);
            }
            else if (c is ';' or '{' or '}' or '(' or ')')
            {
                shape.Append(c);
                i++;
            }
            else
            {
                var quote = c is '"' or '\'' ? c : '\0';
                for (i += quote == '\0' ? 0 : 1; i < text.Length; i++)
                {
                    if (text[i] == '\\')
                    {
                        i++;
                    }
                    else if (quote == '\0' ? char.IsWhiteSpace(text[i]) || text[i] is ';' or '{' or '}' or '(' or ')' : text[i] == quote)
                    {
                        break;
                    }
                }

                i += quote == '\0' ? 0 : 1;
                shape.Append('w');
            }
        }

        return shape.ToString();
    }

    [Fact]
    public void Any_value_is_one_token_of_nginx_or_refused()
    {
        foreach (var value in Hostile.Sample(Hostile.Text, 5_000, 4))
        {
            string token;
            try
            {
                token = NginxQuote.Token(value);
            }
            catch (FormatException)
            {
                continue;
            }

            if (token.StartsWith('"'))
            {
                Assert.Matches(Quoted(), token);
                Assert.Equal(value, Escaped().Replace(token[1..^1], "$1"));
            }
            else
            {
                Assert.Equal(value, token);
                Assert.DoesNotContain(token, c => char.IsWhiteSpace(c) || c is ';' or '{' or '}' or '"' or '\'' or '\\' or '#' or '$');
            }
        }
    }

    [Fact]
    public void Any_duration_and_share_that_is_read_is_written_and_read_the_same()
    {
        foreach (var text in Hostile.Sample(Hostile.Text, 5_000, 5).Concat(["1.5s", "0.001s", "1d", "36500d", "0ms", "33.3333%", "0.000001"]))
        {
            if (Units.ParseDuration(text, out _) is { } duration)
            {
                Assert.Equal(duration, Units.ParseDuration(Units.FormatDuration(duration), out _));
            }

            if (Units.ParseRatio(text, out _) is { } ratio and <= 10)
            {
                Assert.Equal(ratio, Units.ParseRatio(Units.FormatRatio(ratio), out _));
            }

            Assert.DoesNotContain(Units.Shown(text), c => char.IsControl(c));
        }
    }

    // ---- found by the above ----

    /// <summary>"1a" is a DNS name to the validator once, and no address to nginx: the publisher could not render what was in force.</summary>
    [Theory]
    [InlineData("1a:80")]
    [InlineData("1.example:80")]
    [InlineData("012.0.0.1:80")]
    public void What_nginx_cannot_listen_on_is_refused_before_it_is_stored(string listen) =>
        Assert.Contains(ConfigReader.Read($"gateway: {{listen: \"{listen}\"}}", ConfigFormat.Yaml).Faults, f => f.Path == "gateway.listen");

    [GeneratedRegex("^\"([^\"\\\\]|\\\\[\"\\\\])*\"\\z")]
    private static partial Regex Quoted();

    [GeneratedRegex("\\\\(.)")]
    private static partial Regex Escaped();
}
