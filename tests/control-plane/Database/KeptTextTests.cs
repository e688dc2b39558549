using System.Text;
using System.Text.Json;
using Evenkeel.Database;
using Xunit;

namespace Evenkeel.Tests.Database;

public sealed class KeptTextTests
{
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    [Theory]
    [InlineData("as it is, with \ud83d\ude00", 99, "as it is, with \ud83d\ude00")]
    [InlineData("ab\ud83d\ude00c", 3, "ab")]
    [InlineData("ab\ud83d\ude00c", 4, "ab\ud83d\ude00")]
    [InlineData("\ud83d\ude00", 1, "")]
    [InlineData("a\0b", 9, "a b")]
    [InlineData("", 9, "")]
    public void It_is_cut_between_characters_and_holds_no_nul(string text, int most, string kept) => Assert.Equal(kept, KeptText.Of(text, most));

    [Fact]
    public void Half_a_pair_is_replaced_wherever_it_stands()      // not as inline data, which is kept as UTF-8
    {
        Assert.Equal("\ufffda", KeptText.Of("\ude00a"));
        Assert.Equal("a\ufffd", KeptText.Of("a\ud83d"));
        Assert.Equal("\ufffd\ud83d\ude00\ufffd", KeptText.Of("\ud83d\ud83d\ude00\ude00"));
        Assert.Equal("\ufffd", KeptText.Of("\ud83d\ud83d", 1));
    }

    [Fact]
    public void Whatever_is_cut_at_whatever_place_is_text()
    {
        var text = string.Concat(Enumerable.Repeat("a\ud83d\ude00\ud83d\0\ude00", 5));
        for (var most = 1; most <= text.Length + 1; most++)
        {
            var kept = KeptText.Of(text, most);
            Assert.InRange(kept.Length, Math.Min(most, text.Length) - 1, most);
            Assert.DoesNotContain('\0', Strict.GetString(Strict.GetBytes(kept)));
        }
    }

    [Theory]
    [InlineData("""["\ud83d"]""", "\ufffd")]
    [InlineData("""["a\uDE00\n"]""", "a\ufffd\n")]
    [InlineData("""["\ud83d\ude00"]""", "\ud83d\ude00")]
    [InlineData("""["\ud83d\ud83d\ude00"]""", "\ufffd\ud83d\ude00")]
    [InlineData("""["\u0000"]""", " ")]
    [InlineData("""["\\ud83d \\u0000"]""", "\\ud83d \\u0000")]
    [InlineData("""["\\\ud83d"]""", "\\\ufffd")]
    [InlineData("""["plain"]""", "plain")]
    public void Escapes_of_json_become_what_can_be_read_and_kept(string json, string text) => Assert.Equal(text, JsonDocument.Parse(KeptText.OfJson(json)).RootElement[0].GetString());
}
