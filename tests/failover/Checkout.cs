namespace Evenkeel.Failover;

/// <summary>Where ./evenkeel is: above the program or above the current directory.</summary>
internal static class Checkout
{
    public static string? Find() => Above(Directory.GetCurrentDirectory()) ?? Above(AppContext.BaseDirectory);

    private static string? Above(string directory)
    {
        for (var at = new DirectoryInfo(directory); at is not null; at = at.Parent)
        {
            if (File.Exists(Path.Combine(at.FullName, "evenkeel")) && File.Exists(Path.Combine(at.FullName, "ControlPlane.sln")))
            {
                return at.FullName;
            }
        }
        return null;
    }
}
