using System.Runtime.CompilerServices;

namespace Evenkeel.Tests;

/// <summary>Files of the checkout, and the one switch that rewrites what is generated from the code.</summary>
internal static class Repository
{
    /// <summary>EVENKEEL_REWRITE=1 makes golden files from what the code gives now; the review is the diff.</summary>
    public static bool Rewrite => Environment.GetEnvironmentVariable("EVENKEEL_REWRITE") == "1";

    public static string Root { get; } = FindRoot();

    public static string PathOf(params string[] parts) => Path.Combine([Root, .. parts]);

    private static string FindRoot([CallerFilePath] string thisFile = "") => Path.GetFullPath(Path.Combine(Path.GetDirectoryName(thisFile)!, "..", ".."));
}
