using System.Runtime.InteropServices;

namespace Evenkeel.Chaos;

/// <summary>A small file system in memory that holds the state directory, to be filled to the last byte. Only in a mount namespace of one's own: it goes away with it.</summary>
internal sealed class SmallDisk : IDisposable
{
    /// <summary>Set by tests/run.sh when it gave this process mounts of its own.</summary>
    public const string OwnMounts = "EVENKEEL_CHAOS_OWN_MOUNTS";
    private const string Size = "1g";

    private const int Detach = 2;
    private readonly string _directory;
    private readonly string _ballast;

    private SmallDisk(string directory) => (_directory, _ballast) = (directory, Path.Combine(directory, "ballast"));

    public static SmallDisk? Mount(string directory) =>
        Environment.GetEnvironmentVariable(OwnMounts) == "1" && MountFileSystem("chaos", directory, "tmpfs", 0, $"size={Size},mode=755") == 0 ? new SmallDisk(directory) : null;

    public void Fill()
    {
        using var file = File.Create(_ballast);
        var block = new byte[1 << 20];
        for (var size = block.Length; size > 0; size /= 16)
        {
            try
            {
                while (true) { RandomAccess.Write(file.SafeFileHandle, block.AsSpan(0, size), RandomAccess.GetLength(file.SafeFileHandle)); }
            }
            catch (IOException)
            {
                // Full for pieces of this size.
            }
        }
    }

    public void Free() => File.Delete(_ballast);

    public void Dispose() => Unmount(_directory, Detach);

    [DllImport("libc", EntryPoint = "umount2", CharSet = CharSet.Ansi)]
    private static extern int Unmount(string target, int flags);

    [DllImport("libc", EntryPoint = "mount", CharSet = CharSet.Ansi)]
    private static extern int MountFileSystem(string source, string target, string type, ulong flags, string options);
}
