using Xunit;

namespace Evenkeel.Tests.Publishing;

/// <summary>Golden files under tests/contract: adding a case is adding a .yaml file, and <see cref="Repository.Rewrite"/> makes its output.</summary>
internal static class Golden
{
    public static string Folder(string name) => Repository.PathOf("tests", "contract", name);

    /// <summary>The cases of a folder, without ".yaml".</summary>
    public static IEnumerable<object[]> Cases(string folder) =>
        Directory.EnumerateFiles(Folder(folder), "*.yaml").Order(StringComparer.Ordinal).Select(file => new object[] { Path.GetFileNameWithoutExtension(file) });

    public static void Check(string file, string actual)
    {
        if (Repository.Rewrite) File.WriteAllText(file, actual);
        Assert.True(File.Exists(file), $"{file} is missing; EVENKEEL_REWRITE=1 writes it");
        Assert.Equal(File.ReadAllText(file), actual);
    }
}
