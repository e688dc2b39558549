using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Publishing;

/// <summary>A document from a golden case's YAML, which has to be a valid configuration.</summary>
internal static class CaseFile
{
    public static ConfigDocument Load(string file)
    {
        var result = ConfigReader.Read(File.ReadAllText(file), ConfigFormat.Yaml);
        Assert.True(result.IsValid, string.Join('\n', result.Faults));
        return result.Document;
    }
}
