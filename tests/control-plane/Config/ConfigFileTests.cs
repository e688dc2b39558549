using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Config;

/// <summary>Every file of tests/contract/config: see the README there.</summary>
public sealed class ConfigFileTests
{
    public static TheoryData<string> Good => Files("good");

    public static TheoryData<string> Bad => Files("bad");

    [Theory]
    [MemberData(nameof(Good))]
    public void A_good_file_has_no_fault_and_is_written_with_every_default(string name)
    {
        var read = Read("good", name);
        Assert.Empty(read.Faults);
        MatchesGolden(ConfigWriter.Write(read.Document, ConfigFormat.Yaml), "good", Path.GetFileNameWithoutExtension(name) + ".expected.yaml");
    }

    [Theory]
    [MemberData(nameof(Good))]
    public void What_is_written_reads_back_the_same_in_both_formats(string name)
    {
        var document = Read("good", name).Document;
        foreach (var format in Enum.GetValues<ConfigFormat>())
        {
            var again = ConfigReader.Read(ConfigWriter.Write(document, format), format);
            Assert.Empty(again.Faults);
            Assert.Equal(ConfigWriter.Canonical(document), ConfigWriter.Canonical(again.Document));
        }

        Assert.Equal(ConfigWriter.Canonical(document), ConfigWriter.Canonical(ConfigWriter.FromCanonical(ConfigWriter.Canonical(document))));
    }

    [Theory]
    [MemberData(nameof(Bad))]
    public void A_bad_file_is_refused_with_all_its_faults_at_once(string name)
    {
        var faults = Read("bad", name).Faults;
        Assert.NotEmpty(faults);
        MatchesGolden(string.Concat(faults.Select(f => f + "\n")), "bad", name + ".faults");
    }

    private static ReadResult Read(string folder, string name) => ConfigReader.Read(
        File.ReadAllBytes(Repository.PathOf("tests", "contract", "config", folder, name)),
        name.EndsWith(".json", StringComparison.Ordinal) ? ConfigFormat.Json : ConfigFormat.Yaml);

    private static void MatchesGolden(string actual, string folder, string name)
    {
        var path = Repository.PathOf("tests", "contract", "config", folder, name);
        if (Repository.Rewrite)
        {
            File.WriteAllText(path, actual);
        }

        Assert.Equal(File.Exists(path) ? File.ReadAllText(path) : "", actual);
    }

    private static TheoryData<string> Files(string folder)
    {
        var files = new TheoryData<string>();
        foreach (var path in Directory.EnumerateFiles(Repository.PathOf("tests", "contract", "config", folder)).Order(StringComparer.Ordinal))
        {
            var name = Path.GetFileName(path);
            if (!name.EndsWith(".faults", StringComparison.Ordinal) && !name.Contains(".expected.", StringComparison.Ordinal))
            {
                files.Add(name);
            }
        }

        return files;
    }
}
