using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>What nearly every test expects of what its clients got.</summary>
internal static class Expect
{
    public static void Served(Reply reply) => Assert.True(reply.Status == 200, reply.ToString());

    public static void Served(IEnumerable<Reply> replies)
    {
        Assert.NotEmpty(replies);
        Assert.All(replies, Served);
    }

    /// <summary>Streamed to the end with exactly this text.</summary>
    public static void Whole(IEnumerable<StreamedReply> streams, string text)
    {
        Assert.NotEmpty(streams);
        Assert.All(streams, stream => Assert.True(
            stream is { Head.Status: 200, Done: true, FinishReason: "stop" } && stream.Text == text, stream.ToString()));
    }
}
