using Xunit;
using Xunit.Abstractions;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

// Whole stacks share the machine's cores, and some promises are about time: one after the other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
[assembly: TestCollectionOrderer("Evenkeel.EndToEnd.Stacks.CollectionsByName", "Evenkeel.EndToEnd")]

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>In the order of their names: whether a stack comes up at all is told first.</summary>
public sealed class CollectionsByName : ITestCollectionOrderer
{
    public IEnumerable<ITestCollection> OrderTestCollections(IEnumerable<ITestCollection> testCollections) =>
        testCollections.OrderBy(collection => collection.DisplayName, StringComparer.Ordinal);
}
