using System.Text.Json.Nodes;
using Evenkeel.Config;
using Evenkeel.Ghosts;
using Xunit;

namespace Evenkeel.Tests.Ghosts;

public sealed class GreyStateTests
{
    private static readonly DateTime Start = new(2026, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    /// <summary>Verdicts (g good, b bad, n neutral) and what is left of the weight at the end.</summary>
    [Theory]
    [InlineData("", GhostStatus.Unknown, 1)]
    [InlineData("n", GhostStatus.Unknown, 1)]
    [InlineData("g", GhostStatus.Ok, 1)]
    [InlineData("b", GhostStatus.Suspect, 1)]
    [InlineData("gggb", GhostStatus.Suspect, 1)]                  // one is enough for a closer look
    [InlineData("gggbggg", GhostStatus.Ok, 1)]                    // which shows that it was nothing
    [InlineData("bbb", GhostStatus.Suspect, 1)]
    [InlineData("bnbnbn", GhostStatus.Suspect, 1)]                // what says nothing counts neither way
    [InlineData("bbbb", GhostStatus.Grey, 0.5)]
    [InlineData("gbbgbb", GhostStatus.Grey, 0.5)]                 // most of the last six
    [InlineData("bgbgbgbgbgbg", GhostStatus.Suspect, 1)]          // half is not most
    [InlineData("bbbbbbb", GhostStatus.Grey, 0.5)]                // each step begins a new count
    [InlineData("bbbbbbbb", GhostStatus.Grey, 0.25)]
    [InlineData("bbbbbbbbbbbb", GhostStatus.Grey, 0.1)]
    [InlineData("bbbbbbbbbbbbbbbbbbbbbbbb", GhostStatus.Grey, 0.1)]   // never nothing
    [InlineData("bbbbg", GhostStatus.Recovering, 0.5)]
    [InlineData("bbbbgb", GhostStatus.Grey, 0.5)]
    [InlineData("bbbbgggg", GhostStatus.Ok, 1)]
    [InlineData("bbbbbbbbbbbbgggg", GhostStatus.Recovering, 0.25)]
    [InlineData("bbbbbbbbbbbbgggggggg", GhostStatus.Recovering, 0.5)]
    [InlineData("bbbbbbbbbbbbgggggggggggg", GhostStatus.Ok, 1)]
    [InlineData("bbbbgggbgggg", GhostStatus.Ok, 1)]               // a run of good ones
    public void The_weight_goes_down_and_comes_back_step_by_step(string verdicts, GhostStatus status, double factor)
    {
        var state = Run(verdicts);
        Assert.Equal((status, factor), (state.Status, state.WeightFactor));
    }

    [Fact]
    public void Since_is_the_moment_of_the_step_or_of_the_first_suspicion()
    {
        Assert.Equal(Start.AddSeconds(3), Run("ggbbg").Since);
        Assert.Equal(Start.AddSeconds(4), Run("bbbbgb").Since);
    }

    /// <summary>Whatever comes, the weight moves by one step at a time, and never without four verdicts that ask for it.</summary>
    [Fact]
    public void No_sequence_makes_it_jump_or_flap()
    {
        var random = new Random(7);
        for (var round = 0; round < 300; round++)
        {
            var (state, since, bias) = (GreyState.New(Start), 0, random.NextDouble());
            for (var i = 0; i < 60; i++)
            {
                var before = state.WeightFactor;
                state = state.After(random.NextDouble() < bias ? GhostVerdict.Good : GhostVerdict.Bad, Start);
                since++;
                Assert.InRange(state.WeightFactor, 0.1, 1);
                Assert.InRange(state.Verdicts.Length, 0, 6);
                if (before == state.WeightFactor) continue;
                Assert.InRange(state.WeightFactor / before, 0.4, 2.5);
                Assert.True(since >= 4);
                since = 0;
            }
        }
    }

    private static GreyState Run(string verdicts)
    {
        var state = GreyState.New(Start);
        for (var i = 0; i < verdicts.Length; i++)
        {
            state = state.After(verdicts[i] switch { 'g' => GhostVerdict.Good, 'b' => GhostVerdict.Bad, _ => GhostVerdict.Neutral }, Start.AddSeconds(i + 1));
        }
        return state;
    }
}

public sealed class GhostPlanTests
{
    private static readonly DateTime Noon = new(2026, 1, 1, 12, 0, 0, DateTimeKind.Utc);

    [Fact]
    public void A_day_has_as_many_ghosts_as_it_should_at_random_times_and_never_two_at_once()
    {
        var random = new Random(1);
        var interval = GhostPlan.Interval(100);
        var times = new List<DateTime>();
        for (var at = Noon; at < Noon.AddDays(10); at = GhostPlan.Next(at, interval, random.NextDouble())) times.Add(at);
        Assert.InRange(times.Count, 960, 1040);
        var gaps = times.Zip(times.Skip(1), (a, b) => b - a).ToList();
        Assert.True(gaps.Min() >= interval / 2 && gaps.Max() <= interval * 1.5);
        Assert.True(gaps.Select(gap => gap.Ticks).Distinct().Count() > 900);
    }

    [Fact]
    public void Downtime_ends_without_a_burst()
    {
        var interval = GhostPlan.Interval(100);
        Assert.Null(GhostPlan.Replan(Noon.AddSeconds(-20), Noon, interval, 0.5));
        var random = new Random(1);
        var planned = Enumerable.Range(0, 500).Select(_ => GhostPlan.Replan(Noon.AddHours(-2), Noon, interval, random.NextDouble())!.Value).ToList();
        Assert.All(planned, at => Assert.InRange(at, Noon, Noon + interval));
        Assert.True(planned.GroupBy(at => (long)(at - Noon).TotalMinutes).Max(minute => minute.Count()) < 80);
    }

    [Fact]
    public void What_was_planned_under_a_longer_interval_is_planned_anew() =>
        Assert.NotNull(GhostPlan.Replan(Noon.AddHours(20), Noon, GhostPlan.Interval(100), 0.5));

    [Theory]
    [InlineData(GhostStatus.Ok, 600, 864)]
    [InlineData(GhostStatus.Unknown, 600, 864)]
    [InlineData(GhostStatus.Suspect, 0, 30)]
    [InlineData(GhostStatus.Grey, 400, 100)]           // a fourth of the time that it has lasted
    [InlineData(GhostStatus.Grey, 36000, 864)]         // never less often than by the schedule
    [InlineData(GhostStatus.Recovering, 36000, 30)]
    public void A_doubtful_instance_is_asked_more_often(GhostStatus status, int lastsSeconds, int everySeconds) =>
        Assert.Equal(TimeSpan.FromSeconds(everySeconds), GhostPlan.Interval(100, new GreyState(status, 1, "", Noon.AddSeconds(-lastsSeconds)), Noon));

    [Fact]
    public void Tokens_last_for_the_whole_day()
    {
        Assert.Equal(2_000, GhostPlan.Allowance(20_000, Noon.Date));
        Assert.Equal(12_000, GhostPlan.Allowance(20_000, Noon));
        Assert.Equal(20_000, GhostPlan.Allowance(20_000, Noon.Date.AddHours(23)));
    }

    [Fact]
    public void An_instance_is_asked_by_the_rules_of_the_first_pool_that_holds_it_and_has_ghosts()
    {
        var document = new ConfigDocument
        {
            Instances = [.. "abc".Select(name => new InstanceConfig { Name = name.ToString(), BaseUrl = "http://a/v1" })],
            Pools =
            [
                new PoolConfig { Name = "silent", Models = ["s"], Tiers = [new TierConfig("t", ["a", "b"])], Ghost = new GhostConfig { PerDay = 0 } },
                new PoolConfig { Name = "first", Models = ["f"], Tiers = [new TierConfig("t", ["a"]), new TierConfig("u", ["a", "b"], "lite")] },
                new PoolConfig { Name = "any", Models = ["*"], Tiers = [new TierConfig("t", ["a", "c"])] },
            ],
        };
        Assert.Equal(["a first f", "b first lite"], GhostTarget.Scheduled(document).Values.Select(target => $"{target.Instance.Name} {target.Pool.Name} {target.Model}").Order());
    }
}

public sealed class GhostJudgeTests
{
    private static readonly TimeSpan Base = TimeSpan.FromMilliseconds(400);
    private static readonly GhostPrompt Plain = Prompt("""{"messages":[{"role":"user","content":"hi"}]}""");
    private static readonly GhostPrompt AsksForPluto = Plain with { MustContain = ["pluto"], Source = PromptSource.File };
    private static readonly GhostHistory Usual = new([300, 310, 290, 305, 295], [50, 50, 50, 50, 50], [100, 100, 100, 100, 100], [true, true, true]);
    private static readonly GhostAnswer Fine = new() { Outcome = "ok", Content = new string('x', 100), FinishReason = "stop", FirstTokenMs = 300, TotalMs = 900, OutputTokens = 31 };

    [Fact]
    public void A_usual_answer_is_good() => Judged("", Plain, Fine, Usual);

    [Theory]
    [InlineData(899, "")]
    [InlineData(950, "slow")]
    [InlineData(3000, "slow")]
    public void Three_times_its_own_median_to_the_first_token_is_slow(int ms, string faults) => Judged(faults, Plain, Fine with { FirstTokenMs = ms, TotalMs = ms + 600 }, Usual);

    [Theory]
    [InlineData(1199, "")]
    [InlineData(1300, "slow")]
    public void Without_a_history_the_base_latency_is_the_measure(int ms, string faults) => Judged(faults, Plain, Fine with { FirstTokenMs = ms, TotalMs = ms + 600 }, GhostHistory.None);

    [Fact]
    public void What_nobody_feels_is_not_slow()
    {
        var fast = Usual with { FirstTokenMs = [6, 6, 6, 6, 6] };
        Judged("", Plain, Fine with { FirstTokenMs = 190 }, fast);
        Judged("slow", Plain, Fine with { FirstTokenMs = 210 }, fast);
    }

    [Fact]
    public void A_third_of_its_own_pace_is_slow_too() => Judged("slow_tokens", Plain, Fine with { TotalMs = 300 + 3000 }, Usual);

    [Fact]
    public void Nothing_said_is_bad_and_thinking_or_calling_is_something()
    {
        Judged("empty", Plain, Fine with { Content = "" }, Usual);
        Judged("", Plain, Fine with { Content = "", HasToolCalls = true, FinishReason = "tool_calls" }, Usual);
        Judged("", AsksForPluto, Fine with { Content = "", HasReasoning = true, FinishReason = "length" }, Usual);
    }

    [Fact]
    public void An_answer_has_to_say_why_it_ends() => Judged("no_finish_reason", Plain, Fine with { FinishReason = null }, Usual);

    [Theory]
    [InlineData("server_error", GhostVerdict.Bad)]
    [InlineData("bad_gateway", GhostVerdict.Bad)]
    [InlineData("timeout_first_token", GhostVerdict.Bad)]
    [InlineData("stalled", GhostVerdict.Bad)]
    [InlineData("truncated", GhostVerdict.Bad)]
    [InlineData("empty", GhostVerdict.Bad)]
    [InlineData("rate_limited", GhostVerdict.Neutral)]
    [InlineData("quota", GhostVerdict.Neutral)]
    [InlineData("auth", GhostVerdict.Neutral)]
    [InlineData("content_filter", GhostVerdict.Neutral)]
    [InlineData("client_error", GhostVerdict.Neutral)]
    [InlineData("saturated", GhostVerdict.Neutral)]
    [InlineData(null, GhostVerdict.Neutral)]                 // it did not get as far as the instance
    public void A_failure_speaks_against_the_instance_unless_somebody_else_deals_with_it(string? outcome, GhostVerdict verdict) =>
        Assert.Equal(verdict, GhostJudge.Judge(Plain, new GhostAnswer { Outcome = outcome }, Usual, Base).Verdict);

    [Fact]
    public void What_an_operator_demands_is_demanded()
    {
        Judged("content", AsksForPluto, Fine, GhostHistory.None);
        Judged("", AsksForPluto, Fine with { Content = "It is PLUTO." }, GhostHistory.None);
        Judged("content", Plain with { Source = PromptSource.File, MustMatch = [Redaction.Expression("^[0-9]+$")] }, Fine, GhostHistory.None);
        Judged("", AsksForPluto, Fine with { FinishReason = "length" }, GhostHistory.None);     // cut short: it may have been about to
    }

    [Fact]
    public void A_built_in_prompt_demands_only_what_the_instance_used_to_know()
    {
        var builtIn = AsksForPluto with { Source = PromptSource.BuiltIn };
        Judged("", builtIn, Fine, GhostHistory.None);
        Judged("", builtIn, Fine, Usual with { Held = [false, false, true] });
        Judged("content", builtIn, Fine, Usual with { Held = [true, true, false, true] });
        Assert.False(GhostJudge.Judge(builtIn, Fine, GhostHistory.None, Base).Held);
    }

    [Theory]
    [InlineData("{\"a\": 1}", "")]
    [InlineData("```json\n{\"a\": 1}\n```", "")]
    [InlineData("Sure! {\"a\": 1}", "content")]
    [InlineData("{\"a\": ", "content")]
    public void Json_is_json(string content, string faults) =>
        Judged(faults, Plain with { Json = true, Source = PromptSource.File }, Fine with { Content = content }, GhostHistory.None);

    [Fact]
    public void An_answer_far_from_its_usual_length_is_bad()
    {
        Judged("length", Plain, Fine with { Content = "x" }, Usual);
        Judged("length", Plain, Fine with { Content = new string('x', 700) }, Usual);
        Judged("", Plain, Fine with { Content = "x" }, GhostHistory.None);
    }

    private static void Judged(string faults, GhostPrompt prompt, GhostAnswer answer, GhostHistory history)
    {
        var judged = GhostJudge.Judge(prompt, answer, history, Base);
        Assert.Equal(faults, string.Join(' ', judged.Faults));
        Assert.Equal(faults.Length == 0 ? GhostVerdict.Good : GhostVerdict.Bad, judged.Verdict);
    }

    private static GhostPrompt Prompt(string request) => new() { Name = "file/x", Request = JsonNode.Parse(request)!.AsObject() };
}

public sealed class AnswerReaderTests
{
    [Fact]
    public void A_stream_is_read_as_it_comes()
    {
        var reader = new AnswerReader();
        Assert.True(reader.Line(": keep-alive", 10));
        Assert.True(reader.Line("""data: {"choices":[{"delta":{"role":"assistant"}}]}""", 20));
        Assert.True(reader.Line("""data: {"choices":[{"delta":{"content":"Hel"}}]}""", 120));
        Assert.True(reader.Line("data: {broken", 130));
        Assert.True(reader.Line("""data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}""", 220));
        Assert.True(reader.Line("""data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}""", 230));
        Assert.False(reader.Line("data: [DONE]", 240));
        var answer = reader.Answer(240);
        Assert.Equal(("ok", "Hello", "stop", 120, 240, 7, 2), (answer.Outcome, answer.Content, answer.FinishReason, answer.FirstTokenMs, answer.TotalMs, answer.InputTokens, answer.OutputTokens));
    }

    [Fact]
    public void A_stream_without_its_end_is_truncated_and_one_that_ends_in_an_error_is_that()
    {
        var reader = new AnswerReader();
        reader.Line("""data: {"choices":[{"delta":{"content":"Hel"}}]}""", 120);
        Assert.Equal("truncated", reader.Answer(200).Outcome);
        Assert.False(reader.Line("""data: {"error":{"message":"interrupted","type":"server_error","code":"stream_stalled"}}""", 300));
        Assert.Equal(("stalled", "interrupted"), (reader.Answer(300).Outcome, reader.Answer(300).Words));
    }

    [Theory]
    [InlineData("""{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}""", "ok", "Hi")]
    [InlineData("""{"choices":[]}""", "ok", "")]
    [InlineData("""{"choices":[7]}""", "ok", "")]
    [InlineData("[]", "bad_gateway", "")]
    [InlineData("<html>", "bad_gateway", "")]
    public void A_whole_answer_is_a_completion_or_none(string body, string outcome, string content)
    {
        var reader = new AnswerReader();
        reader.Whole(body, 50);
        Assert.Equal((outcome, content), (reader.Answer(60).Outcome, reader.Answer(60).Content));
    }

    [Theory]
    [InlineData(0x61, "a")]
    [InlineData(0xd83d, "\ufffd")]
    [InlineData(0xde00, "\ufffd")]
    public void Half_a_character_is_replaced_whether_it_is_cut_here_or_came_so(int character, string shown)
    {
        Assert.Equal(new string('x', 299), AnswerReader.Failed("server_error", new string('x', 299) + "\ud83d\ude00", 1).Words);
        var reader = new AnswerReader();
        reader.Line($$$"""data: {"choices":[{"delta":{"content":"\u{{{character:x4}}}"},"finish_reason":"\u{{{character:x4}}}\u0000"}]}""", 1);
        reader.Line($$$"""data: {"error":{"message":"\u{{{character:x4}}}","code":"stream_\u{{{character:x4}}}"}}""", 2);
        var answer = reader.Answer(3);
        Assert.Equal((shown, shown + " ", shown, shown), (answer.Content, answer.FinishReason, answer.Outcome, answer.Words));
    }

    [Fact]
    public void A_reasoning_token_is_a_first_token()
    {
        var reader = new AnswerReader();
        reader.Line("""data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}""", 90);
        Assert.Equal((true, 90), (reader.Answer(99).HasReasoning, reader.Answer(99).FirstTokenMs));
    }
}

public sealed class GhostPromptTests
{
    [Fact]
    public void A_ghost_says_that_it_is_one_and_asks_for_little()
    {
        foreach (var prompt in GhostPrompt.BuiltIn)
        {
            var body = JsonNode.Parse(prompt.Body("m"))!;
            Assert.Equal(("m", "evenkeel-ghost", prompt.MaxTokens), ((string?)body["model"], (string?)body["user"], (int)body["max_tokens"]!));
            Assert.InRange(prompt.Estimate, 1, 150);
        }
        Assert.Equal(GhostPrompt.BuiltIn.Count, GhostPrompt.BuiltIn.Select(prompt => prompt.Name).Distinct().Count());
    }

    [Fact]
    public void A_samples_wish_for_length_is_bounded_and_its_client_is_not_told()
    {
        var request = JsonNode.Parse("""{"messages":[{"role":"user","content":"x"}],"max_tokens":9000,"max_completion_tokens":9000,"response_format":{"type":"json_object"}}""")!.AsObject();
        var prompt = GhostPrompt.Of(7, request);
        var body = JsonNode.Parse(prompt.Body("m"))!.AsObject();
        Assert.Equal(("sample/7", true, 64), (prompt.Name, prompt.Json, (int)body["max_tokens"]!));
        Assert.False(body.ContainsKey("max_completion_tokens"));
    }

    [Fact]
    public void A_file_gives_prompts_and_every_fault_with_its_path()
    {
        var set = PromptFiles.Read("p.yaml", """
            prompts:
              - {name: capital, messages: [{role: user, content: "Capital of France?"}], must_contain: [Paris], temperature: 0, max_tokens: 8}
              - {name: bad, messages: [{role: king, content: ""}], max_tokens: 9999, must_match: ["("]}
              - {name: capital, messages: [{role: user, content: twin}]}
              - {messages: [], colour: red}
            """u8.ToArray());
        var prompt = Assert.Single(set.Prompts);
        Assert.Equal(("file/capital", true, 8), (prompt.Name, prompt.IsVouchedFor, prompt.MaxTokens));
        foreach (var start in new[]
        {
            "p.yaml: prompts[1].messages[0].role: expected", "p.yaml: prompts[1].messages[0].content: needs", "p.yaml: prompts[1].max_tokens: 9999",
            "p.yaml: prompts[1].must_match[0]: is no", "p.yaml: prompts: two prompts are named \"capital\"", "p.yaml: prompts[3].name: is required", "p.yaml: prompts[3].messages: needs",
            "p.yaml: prompts[3].colour: unknown key",
        }) Assert.Contains(set.Faults, fault => fault.StartsWith(start, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("p.json", "[1]")]
    [InlineData("p.yaml", "a: &a [*a]")]
    [InlineData("p.yaml", "")]
    public void What_is_no_list_of_prompts_gives_none_and_says_so(string name, string text)
    {
        var set = PromptFiles.Read(name, System.Text.Encoding.UTF8.GetBytes(text));
        Assert.Empty(set.Prompts);
        Assert.NotEmpty(set.Faults);
    }
}
