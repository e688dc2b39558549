using System.Text.Json;
using Evenkeel.Config;
using Evenkeel.Health;
using Xunit;

namespace Evenkeel.Tests.Health;

public sealed class ProbeTests
{
    [Theory]
    [InlineData(ProbeKind.Models, 200, null, "{}", ProbeVerdict.Good, "ok", false)]
    [InlineData(ProbeKind.Models, 401, "auth", "", ProbeVerdict.Bad, "auth", false)]
    [InlineData(ProbeKind.Models, 402, "quota", "", ProbeVerdict.Bad, "quota", false)]
    [InlineData(ProbeKind.Models, 429, "rate_limited", "", ProbeVerdict.Neutral, "rate_limited", false)]   // it lives
    [InlineData(ProbeKind.Models, 500, "server_error", "", ProbeVerdict.Bad, "server_error", false)]
    [InlineData(ProbeKind.Models, 502, "bad_gateway", "", ProbeVerdict.Bad, "bad_gateway", false)]
    [InlineData(ProbeKind.Models, 400, "client_error", "", ProbeVerdict.Bad, "client_error", false)]
    [InlineData(ProbeKind.Models, 404, "server_error", "", ProbeVerdict.Neutral, "server_error", true)]
    [InlineData(ProbeKind.Models, 405, "client_error", "", ProbeVerdict.Neutral, "client_error", true)]
    [InlineData(ProbeKind.Completion, 404, "server_error", "", ProbeVerdict.Bad, "server_error", false)]   // no such model: no call would do
    [InlineData(ProbeKind.Models, 404, null, "", ProbeVerdict.Neutral, null, false)]                      // the node knows no such instance
    [InlineData(ProbeKind.Models, 502, null, "", ProbeVerdict.Neutral, null, false)]                      // its door is not open yet
    [InlineData(ProbeKind.Models, 401, null, "", ProbeVerdict.Neutral, null, false)]                      // the node wants another token
    [InlineData(ProbeKind.Models, 503, "circuit_open", "", ProbeVerdict.Neutral, "circuit_open", false)]
    [InlineData(ProbeKind.Balance, 200, null, """{"is_available":true,"balance_infos":[]}""", ProbeVerdict.Good, "ok", false)]
    [InlineData(ProbeKind.Balance, 200, null, """{"is_available":false,"balance_infos":[]}""", ProbeVerdict.Bad, "quota", false)]
    [InlineData(ProbeKind.Balance, 200, null, "[1]", ProbeVerdict.Good, "ok", false)]
    [InlineData(ProbeKind.Balance, 200, null, """{"is_avail""", ProbeVerdict.Good, "ok", false)]
    [InlineData(ProbeKind.Balance, 404, "server_error", "", ProbeVerdict.Neutral, "server_error", true)]
    [InlineData(ProbeKind.Completion, 502, "empty", "", ProbeVerdict.Bad, "empty", false)]
    [InlineData(ProbeKind.Completion, 504, "timeout_first_token", "", ProbeVerdict.Bad, "timeout_first_token", false)]
    public void An_answer_speaks_for_or_against_the_instance_or_not_at_all(
        ProbeKind kind, int status, string? outcome, string body, ProbeVerdict verdict, string? said, bool missing)
    {
        var result = Probe.Judge(kind, new DoorAnswer(status, outcome, body));
        Assert.Equal((verdict, said, missing), (result.Verdict, result.Outcome, result.Missing));
    }

    [Fact]
    public void Its_words_are_cut_between_characters() =>
        Assert.Equal("500 " + new string('x', 295), Probe.Judge(ProbeKind.Models, new DoorAnswer(500, "server_error", new string('x', 295) + "\ud83d\ude00")).Words);

    [Fact]
    public void Silence_is_the_instances_fault_and_a_node_that_is_away_is_not()
    {
        Assert.Equal(ProbeVerdict.Bad, Probe.Judge(ProbeKind.Models, new DoorAnswer(null, null, "", TimedOut: true)).Verdict);
        Assert.Equal(ProbeResult.NotTold("connection refused"), Probe.Judge(ProbeKind.Models, new DoorAnswer(null, null, "", "connection refused")));
    }

    [Fact]
    public void Each_kind_falls_back_to_what_more_providers_know()
    {
        Assert.Equal([ProbeKind.Models, ProbeKind.Completion], Probe.Order(ProbeKind.Models));
        Assert.Equal([ProbeKind.Balance, ProbeKind.Models, ProbeKind.Completion], Probe.Order(ProbeKind.Balance));
        Assert.Equal([ProbeKind.Completion], Probe.Order(ProbeKind.Completion));
    }

    [Fact]
    public void A_completion_leaves_room_to_think_and_is_judged_by_its_first_token()
    {
        var body = JsonDocument.Parse(Probe.Call(ProbeKind.Completion, "r1")!.Body!).RootElement;
        Assert.Equal("r1", body.GetProperty("model").GetString());
        Assert.True(body.GetProperty("stream").GetBoolean());
        Assert.True(body.GetProperty("max_tokens").GetInt32() > 1);
        Assert.Null(Probe.Call(ProbeKind.Completion, null));
    }

    [Fact]
    public void The_model_to_ask_is_the_instances_own_or_a_tiers_or_a_public_name()
    {
        var plain = new InstanceConfig { Name = "a", BaseUrl = "http://a/v1" };
        ConfigDocument With(PoolConfig pool) => new() { Instances = [plain], Pools = [pool] };
        Assert.Equal("own", Probe.ModelOf(With(new PoolConfig { Name = "p", Models = ["m"] }), plain with { Model = "own" }));
        Assert.Equal("lite", Probe.ModelOf(With(new PoolConfig { Name = "p", Models = ["m"], Tiers = [new TierConfig("t", ["a"], "lite")] }), plain));
        Assert.Equal("m", Probe.ModelOf(With(new PoolConfig { Name = "p", Models = ["*", "m"] }), plain));
        Assert.Null(Probe.ModelOf(With(new PoolConfig { Name = "p", Models = ["*"] }), plain));
    }
}
