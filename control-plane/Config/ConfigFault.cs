namespace Evenkeel.Config;

/// <summary>One thing that is wrong with a configuration, and where: "pools[0].tiers[1].instances[2]: no instance "x"".</summary>
/// <param name="Path">Keys and indexes from the root; "" is the document itself.</param>
/// <param name="Message">What is wrong, in one line; never holds a secret.</param>
/// <param name="Line">Line in the text that was read, from 1; null where there is no text.</param>
public sealed record ConfigFault(string Path, string Message, int? Line = null)
{
    public override string ToString() =>
        (Path.Length > 0 ? $"{Path}: {Message}" : Message) + (Line is { } line ? $" (line {line})" : "");
}
