using System.Text.Json.Nodes;
using Evenkeel.Config;
using Evenkeel.Ghosts;
using Xunit;

namespace Evenkeel.Tests.Ghosts;

public sealed class RedactionTests
{
    [Theory]
    [InlineData("write to anna.b+x@mail.example.co.uk now", "write to [masked] now")]
    [InlineData("call +44 20 7946 0958 or (030) 901820-12", "call [masked] or [masked]")]
    [InlineData("call 555-867-5309, or 0171 2345678", "call [masked], or [masked]")]
    [InlineData("card 4111 1111 1111 1111.", "card [masked].")]
    [InlineData("card 5500-0000-0000-0004", "card [masked]")]
    [InlineData("order 4111 1111 1111 1112", "order 4111 1111 1111 1112")]         // its Luhn sum is wrong
    [InlineData("key sk-proj-abcdef0123456789 ok", "key [masked] ok")]
    [InlineData("AKIAIOSFODNN7EXAMPLE", "[masked]")]
    [InlineData("ghp_0123456789abcdefABCDEF", "[masked]")]
    [InlineData("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "[masked]")]
    [InlineData("Authorization: Bearer abcdef.123456", "Authorization: [masked]")]
    [InlineData("my password: hunter22 is bad", "my [masked] is bad")]
    [InlineData("d41d8cd98f00b204e9800998ecf8427e", "[masked]")]
    [InlineData("In 2024 there were 12345678 people, version 10.0.401, 2026-11-25 22:30", "In 2024 there were 12345678 people, version 10.0.401, 2026-11-25 22:30")]
    [InlineData("def add(a, b): return a + b  # 17 + 25", "def add(a, b): return a + b  # 17 + 25")]
    public void Addresses_numbers_and_keys_are_masked_and_plain_text_is_not(string said, string kept) => Assert.Equal(kept, Said(said, new RedactConfig()));

    [Fact]
    public void The_patterns_can_be_switched_off_and_own_ones_added()
    {
        Assert.Equal("a@b.example", Said("a@b.example", new RedactConfig { Patterns = false }));
        Assert.Equal("patient [masked], a@b.example", Said("patient P-1234567, a@b.example", new RedactConfig { Patterns = false, Mask = ["p-[0-9]+"] }));
    }

    [Fact]
    public void Only_what_shapes_an_answer_is_kept_and_named_fields_are_dropped_wherever_they_stand()
    {
        var request = Parse("""
            {"model":"m","user":"u-1","metadata":{"a":1},"store":true,"temperature":0.5,"stream":true,
             "messages":[{"role":"user","name":"anna","content":[{"type":"text","text":"hi a@b.example"}]}],
             "tools":[{"type":"function","function":{"name":"f","parameters":{"account":4111111111111111}}}]}
            """);
        var kept = Redaction.Redact(request, new RedactConfig { Drop = ["name"] })!;
        Assert.Equal("""
            {"temperature":0.5,"messages":[{"role":"user","content":[{"type":"text","text":"hi [masked]"}]}],"tools":[{"type":"function","function":{"parameters":{"account":0}}}]}
            """, kept.ToJsonString());
    }

    [Theory]
    [InlineData("""{"input":"text"}""")]
    [InlineData("""{"messages":[]}""")]
    [InlineData("""{"messages":["x"]}""")]
    [InlineData("""{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}""")]
    public void What_is_no_chat_in_text_is_not_kept(string request) => Assert.Null(Redaction.Redact(Parse(request), new RedactConfig()));

    [Fact]
    public void Nothing_is_kept_of_a_request_whose_messages_are_to_be_dropped() =>
        Assert.Null(Redaction.Redact(Parse("""{"messages":[{"role":"user","content":"x"}]}"""), new RedactConfig { Drop = ["messages"] }));

    [Fact]
    public void A_hostile_text_costs_linear_time()
    {
        var watch = System.Diagnostics.Stopwatch.StartNew();
        _ = Said(string.Concat(Enumerable.Repeat("a.a@1 (1-", 3500)), new RedactConfig { Mask = ["(a|aa)+x", "(.*)*y"] });
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(10), $"{watch.Elapsed}");
    }

    [Theory]
    [InlineData("[", "is no regular expression")]
    [InlineData("(a)\\1", "back-references")]
    [InlineData("(?=a)", "look-around")]
    [InlineData("", "1 to 500 characters")]
    [InlineData("(a{1000}){1000}", "very large repetitions")]
    public void An_expression_that_cannot_be_used_is_refused_with_the_reason(string pattern, string reason) => Assert.Contains(reason, Redaction.Fault(pattern));

    private static string Said(string text, RedactConfig rules)
    {
        var request = new JsonObject { ["messages"] = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = text }) };
        return Redaction.Redact(request, rules) is { } kept ? (string)kept["messages"]![0]!["content"]! : "(not kept)";
    }

    private static JsonObject Parse(string json) => JsonNode.Parse(json)!.AsObject();
}
