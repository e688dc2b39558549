using System.Text;
using System.Text.Json.Nodes;
using Evenkeel.EndToEnd.Stacks;
using OpenAI.Chat;
using Xunit;

namespace Evenkeel.EndToEnd;

/// <summary>A stream that a provider cuts in the middle, as the official clients see it: one whole answer.</summary>
[Collection(SharedStackCollection.Name)]
public sealed class ContinuedStreamTests(SharedStack shared)
{
    [Theory]
    [InlineData("cut_after_tokens=8")]
    [InlineData("cut_after_tokens=8;how=rst")]
    public async Task The_NET_client_reads_a_continued_stream_without_noticing(string fault)
    {
        const string Prompt = "Tell me of the deep.";
        shared.Providers["cut"].AddFault(fault, times: 1);
        var (text, finishes, ids, usage) = (new StringBuilder(), 0, new HashSet<string>(), (ChatTokenUsage?)null);
        await foreach (var update in shared.Gateway.Chat("cut-model").CompleteChatStreamingAsync(Prompt))
        {
            text.Append(string.Concat(update.ContentUpdate.Select(part => part.Text)));
            finishes += update.FinishReason is null ? 0 : 1;
            ids.Add(update.CompletionId);
            usage = update.Usage ?? usage;
        }

        Assert.Equal(Provider.Answer.TextForPrompt(Prompt), text.ToString());
        Assert.Equal(1, finishes);
        Assert.Single(ids);
        Assert.True(usage?.OutputTokenCount >= 20, $"{usage?.OutputTokenCount} tokens for an answer of twenty");
    }

    [Fact]
    public async Task The_npm_client_reads_a_continued_stream_without_noticing()
    {
        const string Prompt = "Tell me of the reef.";
        var directory = Path.Combine(Launcher.Checkout, "tests", "e2e", "npm");
        await RunAsync("npm", "ci", "--prefix", directory, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error");
        shared.Providers["cut"].AddFault("cut_after_tokens=8", times: 1);

        var output = await RunAsync("node", Path.Combine(directory, "stream.mjs"), new Uri(shared.Gateway.Address, "/v1").ToString(), "cut-model", Prompt);
        var said = JsonNode.Parse(output)!;

        Assert.Equal(Provider.Answer.TextForPrompt(Prompt), (string?)said["text"]);
        Assert.Equal(Provider.Answer.TextForPrompt(Prompt), (string?)said["whole"]);
        Assert.Equal(1, (int?)said["finishes"]);
        Assert.Equal(1, (int?)said["identities"]);
        Assert.True((int?)said["tokens"] >= 20);
    }

    private static async Task<string> RunAsync(string program, params string[] arguments)
    {
        var result = await Launcher.ExecuteAsync(TimeSpan.FromMinutes(2), program, arguments);
        Assert.True(result.ExitCode == 0, $"{program} {string.Join(' ', arguments)}: {result.Output}");
        return result.Output;
    }
}
