using System.Runtime.InteropServices;
using System.Text;
using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Config;

/// <summary>A text of the largest size that is made to hurt is read in bounded time, with bounded memory and a bounded answer.</summary>
public sealed class HostileTextTests
{
    private const int Size = ConfigTree.MaxBytes;

    /// <summary>Some seconds on a machine of today; what grows with the square of a text takes hours.</summary>
    private static readonly TimeSpan _most = TimeSpan.FromMinutes(1);

    public static TheoryData<string> Shapes =>
    [
        "open brackets", "open braces", "dashes", "one long word", "one long quoted text", "many unknown keys", "many equal keys",
        "many instances", "wide alias", "colons", "question marks", "anchors", "comments", "tabs", "escapes", "flow commas", "block text",
    ];

    [Theory]
    [MemberData(nameof(Shapes))]
    public void A_hostile_text_is_answered_in_bounded_time_and_size(string shape)
    {
        var text = Text(shape);
        foreach (var format in Enum.GetValues<ConfigFormat>())
        {
            var before = OwnProcessorTime();
            var faults = ConfigReader.Read(Encoding.UTF8.GetBytes(text), format).Faults;
            var took = OwnProcessorTime() - before;
            Assert.True(took < _most, $"{shape} as {format} took {took}");
            Assert.InRange(faults.Count, 1, FaultList.Most + 1);
            Assert.True(faults.Sum(f => f.Path.Length + f.Message.Length) < 200_000);
        }
    }

    public static TheoryData<string, string> TooLong => new()
    {
        { "instances:\n" + Numbered(i => $"- {{name: a{i}}}\n"), "instances: more than 5000 entries (line 5002)" },
        { "pools:\n" + Numbered(i => $"- {{name: a{i}}}\n"), "pools: more than 1000 entries (line 1002)" },
        { "alerts:\n" + Numbered(i => $"- {{name: a{i}}}\n"), "alerts: more than 1000 entries (line 1002)" },
        { "webhooks:\n" + Numbered(i => $"- {{name: a{i}}}\n"), "webhooks: more than 100 entries (line 102)" },
        { "pools:\n- models:\n" + Numbered(i => $"  - a{i}\n"), "pools[0].models: more than 5000 entries (line 5003)" },
        { "gateway:\n" + Numbered(i => $" a{i}: 1\n"), "gateway: more than 1000 keys (line 1002)" },
        { "{\"instances\": [" + Numbered(i => $"{{\"name\": \"a{i}\"}},\n") + "{}]}", "instances: more than 5000 entries (line 5001)" },
    };

    [Theory]
    [MemberData(nameof(TooLong), DisableDiscoveryEnumeration = true)]
    public void What_is_longer_than_it_may_be_is_read_no_further(string text, string fault)
    {
        var bytes = Encoding.UTF8.GetBytes(text);
        var before = GC.GetAllocatedBytesForCurrentThread();
        var faults = ConfigReader.Read(bytes, text[0] == '{' ? ConfigFormat.Json : ConfigFormat.Yaml).Faults;
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 40 * 1024 * 1024);
        Assert.Equal(fault, Assert.Single(faults).ToString());
    }

    [Fact]
    public void A_hundred_thousand_clients_are_read_and_one_more_is_not()
    {
        static byte[] Text(int clients) => Encoding.UTF8.GetBytes("pools: [{models: [m], tiers: [{instances: [a]}]}]\ninstances: [{name: a, base_url: \"http://a\"}]\nclients:\n"
            + string.Concat(Enumerable.Range(0, clients).Select(i => $"- {{name: c{i}, keys: [{{sha256: \"{i:x64}\"}}]}}\n")));
        var read = ConfigReader.Read(Text(ConfigValidator.MostClients), ConfigFormat.Yaml);
        Assert.Empty(read.Faults);
        Assert.Equal(ConfigValidator.MostClients, read.Document.Clients.Count);
        Assert.Equal("clients: more than 100000 entries (line 100004)", Assert.Single(ConfigReader.Read(Text(ConfigValidator.MostClients + 1), ConfigFormat.Yaml).Faults).ToString());
    }

    [Fact]
    public void A_text_above_the_largest_size_is_not_read()
    {
        var fault = Assert.Single(ConfigReader.Read(new byte[Size + 1], ConfigFormat.Yaml).Faults);
        Assert.Equal("larger than 24 MiB", fault.Message);
    }

    /// <summary>Of this thread: however busy the machine is, and whatever runs beside it.</summary>
    private static TimeSpan OwnProcessorTime()
    {
        const int ThreadCpuTime = 3;
        var time = new long[2];
        Assert.Equal(0, ClockGetTime(ThreadCpuTime, time));
        return TimeSpan.FromSeconds(time[0]) + TimeSpan.FromMicroseconds(time[1] / 1000);
    }

    [DllImport("libc", EntryPoint = "clock_gettime")]
    private static extern int ClockGetTime(int clock, [Out] long[] secondsAndNanoseconds);

    private static string Text(string shape) => shape switch
    {
        "open brackets" => new string('[', Size),
        "open braces" => Repeat("{a: "),
        "dashes" => Repeat("- "),
        "one long word" => new string('a', Size),
        "one long quoted text" => "gateway: {listen: \"" + new string('a', Size - 100) + "\"}",
        "many unknown keys" => Numbered(i => $"k{i}: 1\n"),
        "many equal keys" => Repeat("k: 1\n"),
        "many instances" => "instances:\n" + Numbered(i => $"- name: {i}\n"),
        "wide alias" => "a: &a [" + Repeat("x,", Size / 4) + "]\ninstances: [" + Repeat("*a,", Size / 4) + "]",
        "colons" => Repeat(": "),
        "question marks" => Repeat("? "),
        "anchors" => "a: [" + Numbered(i => $"&a{i} x,", Size - 10) + "]",
        "comments" => Repeat("# x\n") + "a: 1",
        "tabs" => Repeat("\t"),
        "escapes" => "a: \"" + Repeat("\\u0041", Size - 100) + "\"",
        "flow commas" => "{a: [" + new string(',', Size - 100),
        "block text" => "a: |\n" + Repeat(" x\n", Size - 100),
        _ => throw new ArgumentOutOfRangeException(nameof(shape)),
    };

    private static string Repeat(string part, int size = Size - 10) => new StringBuilder(size).Insert(0, part, size / part.Length).ToString();

    private static string Numbered(Func<int, string> part, int size = Size - 20)
    {
        var text = new StringBuilder(size);
        for (var i = 0; ; i++)
        {
            var next = part(i);
            if (text.Length + next.Length > size)
            {
                return text.ToString();
            }

            text.Append(next);
        }
    }
}
