using System.Globalization;
using System.Text.RegularExpressions;
using Xunit;

namespace Evenkeel.Tests.Database;

public sealed class LockKeyTests
{
    [Fact]
    public void Whoever_takes_an_advisory_lock_has_a_key_of_its_own()
    {
        var keys = Directory.EnumerateFiles(Repository.PathOf("control-plane"), "*.cs", SearchOption.AllDirectories)
            .Where(path => !path.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}"))
            .SelectMany(path => Regex.Matches(File.ReadAllText(path), @"\bLockKey = 0x([0-9a-fA-F_]+)").Select(found => (Of: Path.GetFileName(path), Key: long.Parse(found.Groups[1].Value.Replace("_", ""), NumberStyles.HexNumber))))
            .ToList();
        Assert.True(keys.Count >= 6, string.Join(", ", keys));
        Assert.All(keys.GroupBy(key => key.Key), same => Assert.Single(same.Select(key => key.Of)));
    }
}
