using System.Runtime.CompilerServices;
using Xunit;

namespace Evenkeel.Tests.Publishing;

/// <summary>
/// Golden files under tests/contract: adding a case is adding a .yaml file; EVENKEEL_REWRITE=1 writes what the code gives now, for
/// review as a diff.
/// </summary>
internal static class Golden
{
    public static string Folder(string name, [CallerFilePath] string here = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "contract", name));

    /// <summary>The cases of a folder, without ".yaml".</summary>
    public static IEnumerable<object[]> Cases(string folder) =>
        Directory.EnumerateFiles(Folder(folder), "*.yaml").Order(StringComparer.Ordinal).Select(file => new object[] { Path.GetFileNameWithoutExtension(file) });

    public static void Check(string file, string actual)
    {
        if (Environment.GetEnvironmentVariable("EVENKEEL_REWRITE") == "1") File.WriteAllText(file, actual);
        Assert.True(File.Exists(file), $"{file} is missing; EVENKEEL_REWRITE=1 writes it");
        Assert.Equal(File.ReadAllText(file), actual);
    }
}
