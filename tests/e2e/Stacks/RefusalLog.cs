using System.Text.RegularExpressions;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>What refused requests leave in the logs of a node: each one line in the access log, none in the error log.</summary>
internal sealed partial class RefusalLog(Stack stack)
{
    private readonly Dictionary<string, string> _ids = [];
    private readonly long _errors = new FileInfo(stack.PathOf("node/logs/error.log")).Length;

    public void Add(string kind, int status, Reply answer)
    {
        Assert.True(answer.Status == status, $"{kind}: {answer}");
        _ids.Add(kind, answer.Header("x-request-id")!);
    }

    /// <param name="kind">Why it is refused.</param>
    /// <param name="status">By which status.</param>
    /// <param name="answer">As it came over the socket.</param>
    public void Add(string kind, int status, string answer)
    {
        Assert.StartsWith($"HTTP/1.1 {status} ", answer);
        _ids.Add(kind, RequestId().Match(answer).Groups[1].Value);
    }

    public async Task AssertOneLineEachAsync()
    {
        await Wait.Until(() => _ids.Values.All(id => Lines(id) > 0), "the access log is written", evidence: () => Task.FromResult(string.Join(", ", _ids.Where(id => Lines(id.Value) == 0).Select(id => id.Key))));
        Assert.All(_ids, id => Assert.True(id.Value.Length > 0 && Lines(id.Value) == 1, $"{id.Key}: {Lines(id.Value)} lines"));
        Assert.Equal(_errors, new FileInfo(stack.PathOf("node/logs/error.log")).Length);
    }

    private int Lines(string id)
    {
        using var reader = new StreamReader(new FileStream(stack.PathOf("node/logs/access.log"), FileMode.Open, FileAccess.Read, FileShare.ReadWrite));
        return reader.ReadToEnd().Split('\n').Count(line => line.Contains(id, StringComparison.Ordinal));
    }

    [GeneratedRegex("(?i)x-request-id: (\\S+)\r\n")]
    private static partial Regex RequestId();
}
