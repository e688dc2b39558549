using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Config;

public sealed class EffectiveConfigTests
{
    private const string Instances = "instances: [{name: a, base_url: \"http://a\"}, {name: b, base_url: \"http://b\"}, {name: lite, base_url: \"http://c\", model: small}]\n";

    [Theory]
    [InlineData("pools: [{models: [m]}]", "primary(a b lite)")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [b]}]}]", "tier-1(b)")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a, b]}]}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a b) degraded(a b)=small")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a]}, {instances: [b, a]}]}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a) tier-2(b a) degraded(a b)=small")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a]}, {instances: [b], model: small}]}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a) tier-2(b)=small")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a]}, {instances: [lite]}]}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a) tier-2(lite)")]
    [InlineData("pools: [{models: [m], tiers: [{name: degraded, instances: [a]}]}]\nfailover_config: {fallback: {degraded_model: small}}", "degraded(a) degraded-2(a)=small")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a]}], failover_config: {fallback: {degraded_model: tiny}}}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a) degraded(a)=tiny")]
    [InlineData("pools: [{models: [m], tiers: [{instances: [a]}], failover_config: {fallback: {degraded_model: null}}}]\nfailover_config: {fallback: {degraded_model: small}}", "tier-1(a)")]
    public void Tiers_that_are_only_implied_are_made_explicit(string yaml, string expected)
    {
        var document = Read(Instances + yaml);
        Assert.Equal(expected, string.Join(' ', document.EffectiveTiers(document.Pools[0])
            .Select(t => $"{t.Name}({string.Join(' ', t.Instances)}){(t.Model is null ? "" : "=" + t.Model)}")));
    }

    [Fact]
    public void An_instance_obeys_the_block_of_the_pool_that_has_one_of_its_own()
    {
        var document = Read(Instances + """
            pools:
              - {models: [m], tiers: [{instances: [a, b]}]}
              - {models: [n], tiers: [{instances: [b]}], failover_config: {circuit_breaker: {min_requests: 3}}}
            failover_config: {health_check: {interval: 7s}}
            """);
        var blocks = document.FailoverByInstance();
        Assert.Equal((20, 3, 20), (blocks["a"].CircuitBreaker.MinRequests, blocks["b"].CircuitBreaker.MinRequests, blocks["lite"].CircuitBreaker.MinRequests));
        Assert.Equal(TimeSpan.FromSeconds(7), blocks["b"].HealthCheck.Interval);   // what the pool leaves out is the global block's
    }

    [Theory]
    [InlineData("{}", true)]
    [InlineData("{gateway: {anonymous: false}}", false)]
    [InlineData("{clients: [{name: c, key: env:K}]}", false)]
    [InlineData("{clients: [{name: c, key: env:K}], gateway: {anonymous: true}}", true)]
    public void Callers_without_a_key_are_served_as_long_as_there_is_no_client(string yaml, bool expected) =>
        Assert.Equal(expected, Read(yaml).IsAnonymous());

    private static ConfigDocument Read(string yaml)
    {
        var read = ConfigReader.Read(yaml, ConfigFormat.Yaml);
        Assert.Empty(read.Faults);
        return read.Document;
    }
}
