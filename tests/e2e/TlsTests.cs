using Evenkeel.EndToEnd.Stacks;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>Connections to providers: whose they are, and whose certificate is taken.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class TlsTests(SharedStack shared)
{
    [Fact]
    public async Task Two_providers_behind_one_address_with_different_TLS_names_never_share_a_connection()
    {
        var x = shared.Gateway.AskManyAsync("vendor-x-model", calls: 60, atATime: 10);
        var y = shared.Gateway.AskManyAsync("vendor-y-model", calls: 60, atATime: 10);
        Expect.Served((await x).Concat(await y));

        var calls = shared.Providers.Ledger.Entries("vendors").Where(call => call.Method == "POST").ToList();
        Assert.All(calls, call => Assert.Equal(call.Model == "vendor-x-model" ? SharedStack.VendorX : SharedStack.VendorY, call.Sni));
        Assert.All(calls.GroupBy(call => call.ConnectionId), connection => Assert.Single(connection.Select(call => call.Model).Distinct()));
        Assert.Contains(calls.GroupBy(call => call.ConnectionId), connection => connection.Count() > 1);
    }

    [Theory]
    [InlineData("expired")]
    [InlineData("selfsigned")]
    [InlineData("wrong-name")]
    [InlineData("unknown-authority")]
    public async Task A_certificate_that_does_not_hold_is_refused_and_another_instance_answers(string pool)
    {
        var impostor = shared.Providers[pool == "unknown-authority" ? "trusted" : pool];
        var before = (shared.Providers.Ledger.Entries(impostor.Name).Count, impostor.Counters.ConnectionsAccepted);

        var answers = await shared.Gateway.AskManyAsync(pool + "-model", calls: 6, atATime: 1);

        Expect.Served(answers);
        Assert.All(answers, answer => Assert.Equal("trusted", answer.Instance));
        Assert.Contains(answers, answer => answer.Attempts == 2);
        if (pool != "unknown-authority")
        {
            // Nothing was ever said to it: neither the request nor the key.
            Assert.Equal(before.Count, shared.Providers.Ledger.Entries(impostor.Name).Count);
            Assert.True(impostor.Counters.ConnectionsAccepted > before.ConnectionsAccepted, "nobody tried");
        }
    }

    [Fact]
    public async Task Verification_can_be_switched_off_for_one_instance()
    {
        var answer = await shared.Gateway.AskAsync("unverified-model");
        Expect.Served(answer);
        Assert.Equal("unverified", answer.Instance);
    }
}
