using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Evenkeel.Secrets;

/// <summary>The file with the 32 bytes that protect stored secrets; made when missing, readable by its owner only.</summary>
public static class SecretKeyFile
{
    private const int KeyBytes = 32;

    public static byte[] ReadOrCreate(string path)
    {
        try
        {
            if (!File.Exists(path))
            {
                Create(path);
            }

            var key = File.ReadAllBytes(path);
            return key.Length == KeyBytes ? key : throw new SetupException($"{path} is not a key file: {key.Length} bytes, not {KeyBytes}");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new SetupException($"{path} can be neither read nor made: {e.Message}");
        }
    }

    /// <summary>Written beside and moved into place only where nothing is: all who start at once end up with one key.</summary>
    private static void Create(string path)
    {
        var fresh = $"{path}.{Guid.NewGuid():N}.new";
        using (var file = new FileStream(fresh, new FileStreamOptions
        {
            Mode = FileMode.CreateNew,
            Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        }))
        {
            file.Write(RandomNumberGenerator.GetBytes(KeyBytes));
            file.Flush(flushToDisk: true);
        }

        // link(2) never replaces what is there, and says so; File.Move looks first and may replace what came in between.
        const int exists = 17;
        var failed = Link(fresh, path) != 0 ? Marshal.GetLastPInvokeError() : 0;
        File.Delete(fresh);
        if (failed is not (0 or exists))
        {
            throw new IOException(Marshal.GetPInvokeErrorMessage(failed));
        }
    }

    [DllImport("libc", EntryPoint = "link", SetLastError = true)]
    private static extern int Link([MarshalAs(UnmanagedType.LPUTF8Str)] string from, [MarshalAs(UnmanagedType.LPUTF8Str)] string to);
}
