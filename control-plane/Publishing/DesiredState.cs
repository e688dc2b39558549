using System.Collections.Concurrent;
using Evenkeel.Config;

namespace Evenkeel.Publishing;

/// <summary>What the nodes should run: one revision, its document, and the snapshot made of it.</summary>
public sealed class Desired(ConfigDocument document, Snapshot snapshot)
{
    private readonly ConcurrentDictionary<NodeSettings, RenderedText> texts = new();

    public long Revision => Snapshot.Revision;
    public ConfigDocument Document { get; } = document;
    public Snapshot Snapshot { get; } = snapshot;

    /// <summary>The text for a node, rendered once.</summary>
    public RenderedText TextFor(NodeSettings node, Renderer renderer) => texts.GetOrAdd(node, settings => renderer.Render(Document, settings));
}

/// <summary>The last desired state that was read, kept while the database is away; wakes whoever waits for the next.</summary>
public sealed class DesiredState
{
    private volatile TaskCompletionSource changed = NewSource();
    private volatile Desired? current;

    /// <summary>Null until a configuration was read.</summary>
    public Desired? Current => current;

    /// <summary>Ends with the next change. Take it before <see cref="Current"/>, or a change in between is missed.</summary>
    public Task Changed => changed.Task;

    public void Set(Desired desired)
    {
        current = desired;
        Interlocked.Exchange(ref changed, NewSource()).SetResult();
    }

    private static TaskCompletionSource NewSource() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}
