using System.Text.Json;
using Evenkeel.Config;
using Evenkeel.Database;

namespace Evenkeel.Health;

/// <summary>What is asked at an instance's door. Body null: a GET.</summary>
public sealed record ProbeCall(string Path, string? Body);

/// <summary>
/// What came back through a node. Outcome is the adapter's word, absent when the adapter did not speak: then the answer is the node's.
/// </summary>
public sealed record DoorAnswer(int? Status, string? Outcome, string Body, string? Fault = null, bool TimedOut = false);

/// <summary>
/// One probe's result. Outcome is a word of the taxonomy; null when the probe did not get as far as the instance, and then the words say
/// why. Missing: the provider does not know what was asked, so that another kind has to be tried.
/// </summary>
public sealed record ProbeResult(ProbeVerdict Verdict, string? Outcome, string Words = "", bool Missing = false)
{
    public static ProbeResult NotTold(string words) => new(ProbeVerdict.Neutral, null, words);
}

/// <summary>Kinds of probe: what to ask, and what the answer means. Pure.</summary>
public static class Probe
{
    private const int WordsMax = 300;

    /// <summary>The kinds to try, in order: each is for providers that do not know the one before.</summary>
    public static IReadOnlyList<ProbeKind> Order(ProbeKind first) => first switch
    {
        ProbeKind.Balance => [ProbeKind.Balance, ProbeKind.Models, ProbeKind.Completion],
        ProbeKind.Models => [ProbeKind.Models, ProbeKind.Completion],
        _ => [ProbeKind.Completion],
    };

    /// <summary>Null: a completion of an instance for which no model name is known.</summary>
    public static ProbeCall? Call(ProbeKind kind, string? model) => kind switch
    {
        ProbeKind.Models => new ProbeCall("/v1/models", null),
        ProbeKind.Balance => new ProbeCall("/user/balance", null),
        _ => model is null ? null : new ProbeCall("/v1/chat/completions", Completion(model)),
    };

    // A stream, and the adapter answers with the first token of content or reasoning: what a reasoning model thinks counts, however
    // long it would go on, and the rest is not waited for. max_tokens bounds what a provider may bill for it.
    private static string Completion(string model) => JsonSerializer.Serialize(new
    {
        model,
        stream = true,
        max_tokens = 64,
        messages = new[] { new { role = "user", content = "Say OK." } },
    });

    /// <summary>A model that may be asked of the instance: its own, that of a tier, or a public name that it serves.</summary>
    public static string? ModelOf(ConfigDocument document, InstanceConfig instance)
    {
        if (instance.Model is not null) return instance.Model;
        var tiers = document.Pools
            .SelectMany(pool => document.EffectiveTiers(pool).Select(tier => (Pool: pool, Tier: tier)))
            .Where(held => held.Tier.Instances.Contains(instance.Name)).ToList();
        return tiers.Select(held => held.Tier.Model).FirstOrDefault(model => model is not null)
            ?? tiers.SelectMany(held => held.Pool.Models).FirstOrDefault(model => model != "*");
    }

    public static ProbeResult Judge(ProbeKind kind, DoorAnswer answer)
    {
        if (answer.TimedOut) return new ProbeResult(ProbeVerdict.Bad, "timeout_first_token", "no answer in time");
        if (answer.Status is not { } status) return ProbeResult.NotTold(answer.Fault ?? "the node does not answer");
        if (status == 200) return kind == ProbeKind.Balance ? JudgeBalance(answer.Body) : new ProbeResult(ProbeVerdict.Good, "ok");
        if (answer.Outcome is null) return ProbeResult.NotTold($"the node answers {status}");

        var words = KeptText.Of($"{status} {answer.Body}", WordsMax);
        if (kind != ProbeKind.Completion && status is 404 or 405 or 501) return new ProbeResult(ProbeVerdict.Neutral, answer.Outcome, words, Missing: true);
        return answer.Outcome switch
        {
            // It is there and says so; what it says is about this call or about us.
            "rate_limited" or "context_length" or "content_filter" or "client_gone" or "saturated" or "circuit_open" => new ProbeResult(ProbeVerdict.Neutral, answer.Outcome, words),
            var outcome => new ProbeResult(ProbeVerdict.Bad, outcome, words),
        };
    }

    private static ProbeResult JudgeBalance(string body)
    {
        try
        {
            using var balance = JsonDocument.Parse(KeptText.OfJson(body));
            if (balance.RootElement is { ValueKind: JsonValueKind.Object } root && root.TryGetProperty("is_available", out var available) && available.ValueKind == JsonValueKind.False)
                return new ProbeResult(ProbeVerdict.Bad, "quota", "the account is empty");
        }
        catch (JsonException)
        {
            // Longer than is read, or not what DeepSeek says: it answers.
        }
        return new ProbeResult(ProbeVerdict.Good, "ok");
    }
}
