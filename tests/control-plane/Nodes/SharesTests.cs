using Evenkeel.Nodes;
using Evenkeel.Telemetry;
using FsCheck;
using FsCheck.Fluent;
using Xunit;

namespace Evenkeel.Tests.Nodes;

/// <summary>What all nodes have together is dealt so that they never have more, whatever they say and whoever comes and goes.</summary>
public sealed class SharesTests
{
    [Fact]
    public void A_lone_node_has_all_of_it_at_once()
    {
        Assert.Equal(50, Deal(50, new Holder("a", null, 0))["a"]);
        Assert.Equal(50, Deal(50, new Holder("a", null, 30))["a"]);
        Assert.Equal(50, Deal(50, new Holder("a", 50, 50))["a"]);
    }

    [Fact]
    public void A_newcomer_gets_its_part_when_the_others_have_let_go_of_it()
    {
        var holders = new[] { new Holder("a", 50, 50), new Holder("b", 1, 0) };
        var first = Deal(50, holders);
        Assert.InRange(first["a"], 10, 49);
        Assert.True(first["b"] <= 1);
        // a's calls go on: what they use is nobody's yet.
        var meanwhile = Deal(50, new Holder("a", first["a"], 50), new Holder("b", first["b"], 0));
        Assert.True(meanwhile["b"] <= 1);
        var after = Deal(50, new Holder("a", first["a"], first["a"]), new Holder("b", first["b"], 0));
        Assert.Equal(50, after["a"] + after["b"]);
    }

    [Fact]
    public void Newcomers_that_come_at_once_hold_no_more_than_the_slack_before_they_are_dealt_anything()
    {
        var order = ShareOrder.ForNewcomer([("scarce", 40), ("ample", 1000)], nodes: 2);
        Assert.Equal((0, 1), (order.Instances["scarce"].Permits, order.Instances["ample"].Permits));
        Assert.All(order.Instances.Values, part => Assert.Equal(0, part.Trials));
        Assert.Equal(0.5, order.Share);
    }

    [Fact]
    public void Who_has_more_to_do_has_more_and_the_idle_keep_something()
    {
        var parts = Settle(100, [new Holder("a", 25, 25), new Holder("b", 25, 2), new Holder("c", 25, 2), new Holder("d", 25, 2)]);
        Assert.True(parts["a"] > 60, $"{parts["a"]}");
        Assert.All(new[] { "b", "c", "d" }, node => Assert.InRange(parts[node], 5, 15));
    }

    [Fact]
    public void Ripples_of_the_load_move_nothing_while_nobody_is_short()
    {
        var parts = Deal(100, new Holder("a", 25, 21), new Holder("b", 25, 3), new Holder("c", 25, 12), new Holder("d", 25, 0));
        Assert.All(parts.Values, part => Assert.Equal(25, part));
    }

    [Fact]
    public void A_silent_node_keeps_what_it_holds_and_one_that_is_gone_does_not()
    {
        Holder[] silent = [new("a", 25, 25), new("b", 25, 25), new("c", 50, 50, Answers: false)];
        Assert.Equal(50, Settle(100, silent).Values.Sum());
        Assert.Equal(100, Settle(100, silent[..2]).Values.Sum());
    }

    [Fact]
    public void With_fewer_permits_than_nodes_some_have_none_and_the_sum_is_right()
    {
        var parts = Settle(2, [new Holder("a", 1, 0), new Holder("b", 1, 0), new Holder("c", 1, 0), new Holder("d", 1, 0)]);
        Assert.Equal([0, 0, 1, 1], parts.Values.Order());
    }

    [Fact]
    public void A_lowered_ceiling_is_kept_as_soon_as_calls_have_ended()
    {
        var parts = Settle(10, [new Holder("a", 25, 25), new Holder("b", 25, 0)]);
        Assert.Equal(10, parts.Values.Sum());
    }

    [Fact]
    public void What_nobody_holds_is_not_left_over_while_parts_follow_small_changes_of_the_load()
    {
        var parts = Deal(189, new Holder("a", 17, 0), new Holder("b", 90, 90), new Holder("c", 81, 81));
        Assert.Equal(189, parts.Values.Sum());
    }

    [Fact]
    public void However_nodes_come_go_fall_silent_and_load_changes_calls_never_exceed_the_ceiling_and_it_is_all_dealt_in_the_end()
    {
        var seeds = from ceiling in Gen.Choose(1, 200) from seed in Gen.Choose(0, 1_000_000) select (ceiling, seed);
        Prop.ForAll(seeds.ToArbitrary(), game => Play(game.ceiling, new Random(game.seed))).QuickCheckThrowOnFailure();
    }

    // Nodes take calls as their part allows and end them as they like; orders arrive or not.
    private static void Play(int ceiling, Random random)
    {
        var held = new SortedDictionary<string, (int Held, int InFlight)>(StringComparer.Ordinal) { ["n0"] = (ceiling, 0) };
        for (var round = 0; round < 60; round++)
        {
            if (random.Next(10) == 0 && held.Count < 6) held[$"n{round + 1}"] = (0, 0);
            if (random.Next(15) == 0 && held.Count > 1) held.Remove(held.Keys.ElementAt(random.Next(held.Count)));
            foreach (var node in held.Keys.ToList())
            {
                var (part, calls) = held[node];
                calls -= random.Next(calls + 1);
                held[node] = (part, Math.Max(calls, random.Next(3) == 0 ? part : calls));
            }
            Assert.True(held.Values.Sum(node => node.InFlight) <= ceiling, $"{held.Values.Sum(node => node.InFlight)} calls, ceiling {ceiling}");
            var dealt = Shares.Deal(ceiling, [.. held.Select(node => new Holder(node.Key, node.Value.Held, node.Value.InFlight, random.Next(8) > 0))]);
            // Between look and order the node goes on taking calls within its old part.
            foreach (var (node, part) in dealt.Where(_ => random.Next(6) > 0))
            {
                var calls = Math.Max(held[node].InFlight, random.Next(4) == 0 ? held[node].Held : 0);
                held[node] = (part, calls);
            }
        }
        Assert.Equal(ceiling, Settle(ceiling, [.. held.Select(node => new Holder(node.Key, node.Value.Held, 0))]).Values.Sum());
    }

    [Theory]
    [InlineData(1, 4)]
    [InlineData(3, 2)]
    [InlineData(8, 4)]
    public void Trials_are_dealt_whole_and_not_always_to_the_same(int trials, int nodes)
    {
        var names = Enumerable.Range(0, nodes).Select(i => $"n{i}").ToList();
        var dealt = Enumerable.Range(0, 20).Select(i => Shares.DealTrials(trials, $"instance-{(char)('a' + i)}", names)).ToList();
        Assert.All(dealt, parts => Assert.Equal(trials, parts.Values.Sum()));
        if (trials % nodes > 0) Assert.All(names, name => Assert.Contains(dealt, parts => parts[name] == (trials / nodes) + 1));
    }

    [Fact]
    public void Fractions_of_limits_sum_to_one_and_follow_the_load()
    {
        var idle = Shares.DealFractions([("a", 1, 0), ("b", 1, 0)]);
        Assert.Equal([0.5, 0.5], idle.Values);
        var busy = Shares.DealFractions([("a", 0.5, 90), ("b", 0.5, 10)]);
        Assert.Equal(1, busy.Values.Sum(), 5);
        Assert.True(busy["a"] > 0.7);
        Assert.Equal(0.5, Shares.DealFractions([("a", 0.5, 55), ("b", 0.5, 45)])["a"]);
    }

    [Fact]
    public void Only_what_a_node_found_itself_is_passed_on_and_only_to_those_who_know_it_not()
    {
        var open = new InstanceStats { Breaker = "open", Opening = new Finding("7", 20) };
        var heard = new InstanceStats { Breaker = "open", Opening = new Finding("8", 19, "a") };
        var closed = new InstanceStats();
        Assert.Equal([("c", new Hint("x", "open", "a", "7", 20))], HintsOf(("a", open), ("b", heard), ("c", closed)));
        Assert.Equal([("b", new Hint("x", "closed", "a", "8", 0))], HintsOf(("a", closed), ("b", heard), ("c", closed)));
        Assert.Empty(HintsOf(("b", heard), ("c", closed)));

        var cooling = new InstanceStats { CooldownS = 5, Cooldown = new Finding("9", 5) };
        Assert.Equal([("b", new Hint("x", "cooldown", "a", "9", 5))], HintsOf(("a", cooling), ("b", closed)));
        Assert.Empty(HintsOf(("a", new InstanceStats { CooldownS = 0.2, Cooldown = new Finding("9", 0.2) }), ("b", closed)));
    }

    private static IReadOnlyList<(string, Hint)> HintsOf(params (string Node, InstanceStats Stats)[] nodes) =>
        [.. Hints.Of(nodes.ToDictionary(node => node.Node, node => new NodeStats { Instances = new Dictionary<string, InstanceStats> { ["x"] = node.Stats } }))];

    private static IReadOnlyDictionary<string, int> Deal(int ceiling, params Holder[] holders) => Shares.Deal(ceiling, holders);

    // Round after round, with calls that end and parts that are used up by those who were short.
    private static Dictionary<string, int> Settle(int ceiling, Holder[] holders)
    {
        var shortOf = holders.Where(holder => holder.Held == holder.InFlight).Select(holder => holder.Node).ToHashSet();
        for (var round = 0; round < 20; round++)
        {
            var dealt = Shares.Deal(ceiling, holders);
            holders = [.. holders.Select(holder => !holder.Answers ? holder : holder with
            {
                Held = dealt[holder.Node],
                InFlight = shortOf.Contains(holder.Node) ? dealt[holder.Node] : Math.Min(holder.InFlight, dealt[holder.Node]),
            })];
        }
        return holders.Where(holder => holder.Answers).ToDictionary(holder => holder.Node, holder => holder.Held!.Value);
    }
}
