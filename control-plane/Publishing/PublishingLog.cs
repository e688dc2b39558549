namespace Evenkeel.Publishing;

internal static partial class PublishingLog
{
    [LoggerMessage(Level = LogLevel.Information, Message = "revision {Revision} is desired (state {State}, snapshot {Digest}, {Bytes} bytes)")]
    public static partial void Desired(ILogger log, long revision, long state, string digest, int bytes);

    [LoggerMessage(Level = LogLevel.Error, Message = "{Path}: {Fault}")]
    public static partial void Left(ILogger log, string path, string fault);

    [LoggerMessage(Level = LogLevel.Information, Message = "node {Node} is here, at {AdminUrl}")]
    public static partial void NodeSeen(ILogger log, string node, string adminUrl);

    [LoggerMessage(Level = LogLevel.Warning, Message = "node {Node} has not been heard of for {Seconds} s")]
    public static partial void NodeGone(ILogger log, string node, double seconds);

    [LoggerMessage(Level = LogLevel.Warning, Message = "node {Node} is served from memory and not registered: {Reason}")]
    public static partial void NotRegistered(ILogger log, string node, string reason);

    [LoggerMessage(Level = LogLevel.Information, Message = "node {Node} runs revision {Revision} ({Milliseconds} ms)")]
    public static partial void Runs(ILogger log, string node, long revision, long milliseconds);

    [LoggerMessage(Level = LogLevel.Information, Message = "node {Node} applied the text of revision {Revision} ({Stage})")]
    public static partial void Applied(ILogger log, string node, long revision, string stage);

    [LoggerMessage(Level = LogLevel.Error, Message = "node {Node} refused revision {Revision} ({Stage}): {Words}")]
    public static partial void Refused(ILogger log, string node, long revision, string stage, string words);

    [LoggerMessage(Level = LogLevel.Warning, Message = "node {Node}: {Fault}")]
    public static partial void NodeFault(ILogger log, string node, string fault);

    [LoggerMessage(Level = LogLevel.Information, Message = "node {Node} answers again")]
    public static partial void NodeAnswers(ILogger log, string node);

    [LoggerMessage(Level = LogLevel.Warning, Message = "the database is away, the nodes get what is known: {Reason}")]
    public static partial void DatabaseIsAway(ILogger log, string reason);

    [LoggerMessage(Level = LogLevel.Information, Message = "the database is back")]
    public static partial void DatabaseIsBack(ILogger log);

    [LoggerMessage(Level = LogLevel.Error, Message = "publishing failed; it is tried again")]
    public static partial void Failed(ILogger log, Exception failure);
}
