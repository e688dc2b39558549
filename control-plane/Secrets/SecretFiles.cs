using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Evenkeel.Secrets;

/// <summary>
/// What "file:PATH" may read. Whoever writes the configuration could send what a file holds to an address of his choice, so the control
/// plane's own secrets are never given away, and with a directory set (<see cref="EvenkeelOptions.SecretDirectory"/>) only what lies below
/// it is. Links are followed before that is judged. Reading never waits: a pipe is no secret.
/// </summary>
public sealed class SecretFiles(EvenkeelOptions options)
{
    /// <returns>The text without line ends after it, at most two characters longer than a secret may be; or why not.</returns>
    public ResolvedSecret Read(string path)
    {
        try
        {
            var real = RealPath(path);
            if (Own().Contains(real))
            {
                return new(null, $"the file {path} is the control plane's own");
            }

            if (options.SecretDirectory is { Length: > 0 } directory && !real.StartsWith(RealPath(directory).TrimEnd('/') + "/", StringComparison.Ordinal))
            {
                return new(null, $"the file {path} is not below {directory}");
            }

            using var handle = OpenWithoutWaiting(real);
            using var file = new FileStream(handle, FileAccess.Read, bufferSize: 0);
            var buffer = new byte[SecretReference.MostCharacters + 2];
            var length = file.ReadAtLeast(buffer, buffer.Length, throwOnEndOfStream: false);
            return new(Encoding.UTF8.GetString(buffer, 0, length).TrimEnd('\r', '\n'), null);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            return new(null, $"the file {path} cannot be read");
        }
    }

    private HashSet<string> Own() => [.. new[]
    {
        options.AdminTokenFile, options.NodeTokenFile, options.DatabasePasswordFile,
        options.TlsKeyFile ?? options.TlsCertificateFile, options.NodeKeyFile ?? options.NodeCertificateFile,
        options.SecretKeyFile, SecretKeyFile.NextOf(options.SecretKeyFile), SecretKeyFile.PreviousOf(options.SecretKeyFile),
    }.OfType<string>().Where(File.Exists).Select(RealPath)];

    private static SafeFileHandle OpenWithoutWaiting(string path)
    {
        const int readOnlyNonBlockingCloseOnExec = 0x0800 | 0x80000;     // O_RDONLY | O_NONBLOCK | O_CLOEXEC
        var descriptor = Open(path, readOnlyNonBlockingCloseOnExec);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException(Marshal.GetLastPInvokeErrorMessage());
    }

    private static string RealPath(string path)
    {
        var buffer = new byte[4096];      // PATH_MAX
        return Resolve(path, buffer) != 0
            ? Encoding.UTF8.GetString(buffer.AsSpan(0, Array.IndexOf<byte>(buffer, 0)))
            : throw new IOException(Marshal.GetLastPInvokeErrorMessage());
    }

    [DllImport("libc", EntryPoint = "open", SetLastError = true)]
    private static extern int Open([MarshalAs(UnmanagedType.LPUTF8Str)] string path, int flags);

    [DllImport("libc", EntryPoint = "realpath", SetLastError = true)]
    private static extern nint Resolve([MarshalAs(UnmanagedType.LPUTF8Str)] string path, byte[] resolved);
}
