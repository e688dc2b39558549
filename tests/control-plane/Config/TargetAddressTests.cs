using System.Net;
using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Config;

public sealed class TargetAddressTests
{
    public static TheoryData<string, bool> Cases()
    {
        var cases = new TheoryData<string, bool>();
        foreach (var line in File.ReadLines(Repository.PathOf("tests", "contract", "targets.txt")).Where(l => l.Length > 0 && l[0] != '#'))
        {
            var words = line.Split(' ');
            cases.Add(words[0], words[1] == "refused");
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void An_address_that_is_never_a_provider_is_told(string address, bool refused)
    {
        Assert.Equal(refused, TargetAddress.IsRefused(IPAddress.Parse(address)));
        Assert.Equal(refused, TargetAddress.IsRefused(address));
    }

    [Theory]
    [InlineData("metadata.google.internal", true)]
    [InlineData("METADATA.goog.", true)]
    [InlineData("2852039166", true)]
    [InlineData("0xa9.0xfe.0xa9.0xfe", true)]
    [InlineData("0251.0376.0251.0376", true)]
    [InlineData("0", true)]
    [InlineData("metadata.example.com", false)]
    [InlineData("localhost", false)]
    public void Names_and_other_notations_are_seen_through(string host, bool refused) => Assert.Equal(refused, TargetAddress.IsRefused(host));

    [Fact]
    public void The_operator_can_allow_them()
    {
        const string Instance = "instances: [{name: a, base_url: \"http://169.254.1.1/v1\"}]";
        Assert.Contains("gateway.link_local_targets", Assert.Single(ConfigReader.Read(Instance, ConfigFormat.Yaml).Faults).Message);
        Assert.True(ConfigReader.Read(Instance + "\ngateway: {link_local_targets: true}", ConfigFormat.Yaml).IsValid);
    }
}
