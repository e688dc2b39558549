using System.Net;
using Evenkeel.EndToEnd.Stacks;
using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>What the client gets when the first choice is gone: the next tier, the lesser model, at last the predefined answer.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class DegradationTests(SharedStack shared)
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task The_second_tier_answers_with_its_own_model_when_the_first_is_gone(bool stream)
    {
        shared.Providers["first"].Down();
        try
        {
            for (var i = 0; i < 5; i++)
            {
                var answer = stream ? (await shared.Gateway.StreamAsync("tiers-model")).Head : await shared.Gateway.AskAsync("tiers-model");
                Expect.Served(answer);
                Assert.Equal(("second", "degraded", "true"), (answer.Instance, answer.Tier, answer.Header("x-evenkeel-degraded")));
                Assert.Equal("small-model", shared.CallsOf("second")[^1].Model);
            }
        }
        finally
        {
            await BringBackAsync("first");
        }
        var again = await shared.Gateway.AskAsync("tiers-model");
        Assert.Equal(("first", "primary", null), (again.Instance, again.Tier, again.Header("x-evenkeel-degraded")));
    }

    [Theory]
    [InlineData("status=500")]
    [InlineData("status=503;body=html")]
    [InlineData("status=429;retry_after=30")]
    [InlineData("reset_before_headers")]
    [InlineData("error_json_200")]
    [InlineData("empty_content")]
    public async Task A_failure_of_the_only_instance_of_a_tier_moves_on_to_the_next_tier(string fault)
    {
        shared.Providers["first"].AddFault(fault);
        try
        {
            var answer = await shared.Gateway.AskAsync("tiers-model");
            Expect.Served(answer);
            Assert.Equal("second", answer.Instance);
        }
        finally
        {
            shared.Providers["first"].ClearFaults();
            await BringBackAsync("first");
        }
    }

    [Fact]
    public async Task A_degraded_model_that_no_tier_names_asks_the_same_instances_for_it()
    {
        foreach (var name in new[] { "implied-1", "implied-2" })
        {
            shared.Providers[name].AddFault("status=503", match: new FaultMatch(Model: "implied-model"));
        }
        try
        {
            var answer = await shared.Gateway.AskAsync("implied-model");
            Expect.Served(answer);
            Assert.StartsWith("implied-", answer.Instance);
            Assert.Equal("true", answer.Header("x-evenkeel-degraded"));
            Assert.Equal("lesser-model", shared.CallsOf(answer.Instance)[^1].Model);
        }
        finally
        {
            foreach (var name in new[] { "implied-1", "implied-2" })
            {
                shared.Providers[name].ClearFaults();
                await shared.Stack.Node.ForgiveAsync(name);
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task With_everything_down_the_answer_is_a_clear_503_that_says_when_to_come_back(bool stream)
    {
        shared.Providers["gone"].Down();
        try
        {
            for (var i = 0; i < 5; i++)
            {
                // A question nobody asked before: an answer given once may be given again.
                var answer = await shared.Gateway.PostAsync("/v1/chat/completions", Gateway.ChatBody("gone-model", $"Question {i}, streamed: {stream}", stream));
                Assert.True(answer.Status == (int)HttpStatusCode.ServiceUnavailable, answer.ToString());
                Assert.StartsWith("application/json", answer.Header("Content-Type"));
                Assert.Equal("System busy, please retry shortly", (string?)answer.Error["message"]);
                Assert.False(string.IsNullOrEmpty((string?)answer.Error["code"]));
                Assert.InRange(int.Parse(answer.Header("Retry-After")!), 1, 60);
            }
        }
        finally
        {
            await BringBackAsync("gone");
        }
        Assert.Equal(200, (await shared.Gateway.AskAsync("gone-model")).Status);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task With_everything_down_a_question_that_was_answered_before_gets_that_answer(bool stream)
    {
        var prompt = $"What is a keel? Streamed: {stream}";
        Assert.Equal(200, (await shared.Gateway.AskAsync("gone-model", prompt)).Status);
        shared.Providers["gone"].Down();
        try
        {
            var (answer, text) = stream
                ? await shared.Gateway.StreamAsync("gone-model", prompt) is var streamed ? (streamed.Head, streamed.Text) : default
                : await shared.Gateway.AskAsync("gone-model", prompt) is var whole ? (whole, (string?)whole.Json["choices"]?[0]?["message"]?["content"] ?? "") : default;
            Expect.Served(answer);
            Assert.Equal(("stale", "true"), (answer.Header("x-evenkeel-cache"), answer.Header("x-evenkeel-degraded")));
            Assert.Equal(Answer.TextForPrompt(prompt), text);
        }
        finally
        {
            await BringBackAsync("gone");
        }
    }

    [Fact]
    public async Task A_provider_that_closes_idle_connections_costs_no_client_an_error()
    {
        var idle = shared.Providers["idle"];
        idle.Update(s => s with { LatencyMs = 0, IdleCloseMs = 4 });
        try
        {
            // Gaps around the provider's patience, so that some requests meet the very moment of the close.
            for (var i = 0; i < 150; i++)
            {
                var answer = await shared.Gateway.AskAsync("idle-model");
                Expect.Served(answer);
                await Task.Delay(i % 8);
            }
        }
        finally
        {
            idle.Update(s => s with { LatencyMs = 20, IdleCloseMs = null });
        }
        Assert.True(idle.Counters.ConnectionsAccepted > 1, "the provider closed nothing");
        Assert.Equal("closed", await BreakerOfAsync("idle"));
    }

    [Theory]
    [InlineData("reset_before_headers")]
    [InlineData("accept_and_hang;ms=0;then=close")]
    public async Task A_kept_connection_that_turns_out_to_be_dead_is_not_the_providers_fault(string death)
    {
        var idle = shared.Providers["idle"];
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(200, (await shared.Gateway.AskAsync("idle-model")).Status);
        }
        idle.AddFault(death, match: new FaultMatch(Reused: true));
        try
        {
            // More than the breaker needs to judge by its error rate.
            for (var i = 0; i < 25; i++)
            {
                var answer = await shared.Gateway.AskAsync("idle-model");
                Assert.True(answer is { Status: 200, Attempts: 1 }, $"{answer}, {answer.Attempts} attempts");
            }
        }
        finally
        {
            idle.ClearFaults();
            await shared.Stack.Node.ForgiveAsync("idle");
        }
        Assert.Equal("closed", await BreakerOfAsync("idle"));
    }

    [Fact]
    public async Task A_whole_tier_at_its_limit_is_waited_for_and_not_overrun()
    {
        var c = shared.Providers["idle"];
        await shared.Admin.AcknowledgedAsync(await shared.Admin.ChangeInstanceAsync("idle", new { max_connections = 2 }));
        c.ResetCounters();
        try
        {
            var answers = await shared.Gateway.AskManyAsync("idle-model", calls: 60, atATime: 20);
            Expect.Served(answers);
            Assert.InRange(c.Counters.PeakInFlight, 1, 2);
        }
        finally
        {
            await shared.Admin.AcknowledgedAsync(await shared.Admin.PutConfigAsync(shared.Config.Document));
        }
    }

    private async Task<string?> BreakerOfAsync(string instance) =>
        (string?)(await shared.Stack.Node.StatsAsync())["instances"]![instance]!["breaker"];

    private async Task BringBackAsync(string instance)
    {
        shared.Providers[instance].Up();
        await shared.Stack.Node.ForgiveAsync(instance);
        var model = instance == "gone" ? "gone-model" : "tiers-model";
        await Wait.Until(async () =>
        {
            // Every worker looks for itself, within a moment.
            var answers = await shared.Gateway.AskManyAsync(model, calls: 8, atATime: 8);
            return answers.All(answer => answer.Status == 200 && answer.Instance == instance);
        }, $"{instance} answers again");
    }
}
