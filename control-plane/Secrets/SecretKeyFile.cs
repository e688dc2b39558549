using System.Security.Cryptography;

namespace Evenkeel.Secrets;

/// <summary>The file with the 32 bytes that protect stored secrets; made when missing, readable by its owner only.</summary>
public static class SecretKeyFile
{
    private const int KeyBytes = 32;

    public static byte[] ReadOrCreate(string path)
    {
        if (!File.Exists(path))
        {
            Create(path);
        }

        var key = File.ReadAllBytes(path);
        return key.Length == KeyBytes ? key : throw new InvalidOperationException($"{path} is not a key file: {key.Length} bytes, not {KeyBytes}");
    }

    /// <summary>Written beside and linked into place: two processes starting at once end up with one key.</summary>
    private static void Create(string path)
    {
        var fresh = $"{path}.{Environment.ProcessId}.new";
        using (var file = new FileStream(fresh, new FileStreamOptions
        {
            Mode = FileMode.Create,
            Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        }))
        {
            file.Write(RandomNumberGenerator.GetBytes(KeyBytes));
            file.Flush(flushToDisk: true);
        }

        try
        {
            File.Move(fresh, path, overwrite: false);
        }
        catch (IOException) when (File.Exists(path))
        {
            File.Delete(fresh);
        }
    }
}
