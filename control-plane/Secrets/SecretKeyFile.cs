using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Evenkeel.Secrets;

/// <summary>
/// The files with the 32 bytes that protect stored secrets, readable by their owner only: the key in force, made when missing; beside it,
/// while keys are being changed, the next one (".next") and the one before (".previous").
/// </summary>
public static class SecretKeyFile
{
    private const int KeyBytes = 32;

    public static string NextOf(string path) => path + ".next";

    public static string PreviousOf(string path) => path + ".previous";

    /// <exception cref="SetupException">It can be neither read nor made, or is no key.</exception>
    public static byte[] ReadOrCreate(string path)
    {
        try
        {
            if (!File.Exists(path))
            {
                Write(path, RandomNumberGenerator.GetBytes(KeyBytes));
            }

            return Read(path)!;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new SetupException($"{path} can be neither read nor made: {e.Message}");
        }
    }

    /// <summary>Every key that may have sealed a secret, the one in force first; the others where they exist.</summary>
    public static IReadOnlyList<byte[]> ReadAll(string path) =>
        [ReadOrCreate(path), .. new[] { NextOf(path), PreviousOf(path) }.Select(Read).OfType<byte[]>()];

    /// <summary>The next key takes force, and the one in force becomes the previous one. Each step is whole or not at all, and may be done again.</summary>
    public static void Promote(string path)
    {
        if (Read(NextOf(path)) is null)
        {
            return;
        }

        File.Delete(PreviousOf(path));
        Write(PreviousOf(path), Read(path)!);
        File.Move(NextOf(path), path, overwrite: true);
    }

    private static byte[]? Read(string path)
    {
        if (!File.Exists(path))
        {
            return null;
        }

        var key = File.ReadAllBytes(path);
        return key.Length == KeyBytes ? key : throw new SetupException($"{path} is not a key file: {key.Length} bytes, not {KeyBytes}");
    }

    /// <summary>Written beside and moved into place only where nothing is: all who start at once end up with one key.</summary>
    private static void Write(string path, byte[] key)
    {
        var fresh = $"{path}.{Guid.NewGuid():N}.new";
        using (var file = new FileStream(fresh, new FileStreamOptions
        {
            Mode = FileMode.CreateNew,
            Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        }))
        {
            file.Write(key);
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
