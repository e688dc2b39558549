using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

namespace Evenkeel.Chaos;

/// <summary>
/// The time of day of all that is started from here on, but not of this process: a small library (clock.c) that adds an offset, named in an
/// /etc/ld.so.preload that only this mount namespace sees, so that it reaches the parts whatever their environment is.
/// </summary>
internal sealed class TimeOfDay : IDisposable
{
    private const int Detach = 2;
    private readonly string _offset;

    private TimeOfDay(string offset) => _offset = offset;

    /// <summary>Null, with the reason, where the machine does not let it.</summary>
    /// <param name="checkout">Where the source of the library is.</param>
    /// <param name="directory">On a file system of our own, for every user to read.</param>
    /// <param name="why">The reason.</param>
    public static TimeOfDay? Fake(string checkout, string directory, out string why)
    {
        var (library, offset) = (Path.Combine(directory, "clock.so"), Path.Combine(directory, "clock.offset"));
        var (upper, work) = (Path.Combine(directory, "etc"), Path.Combine(directory, "etc-work"));
        var time = new TimeOfDay(offset);
        File.WriteAllBytes(offset, new byte[8]);
        why = Run(out _, "cc", "-shared", "-fPIC", "-O2", $"-DOFFSET_FILE=\"{offset}\"", "-o", library, Path.Combine(checkout, "tests", "chaos", "clock.c"));
        if (why.Length > 0) return null;
        Directory.CreateDirectory(upper);
        Directory.CreateDirectory(work);
        File.WriteAllText(Path.Combine(upper, "ld.so.preload"), library + "\n");
        if (Mount("overlay", "/etc", "overlay", 0, $"lowerdir=/etc,upperdir={upper},workdir={work}") != 0)
        {
            why = "an overlay over /etc is not to be had";
            return null;
        }
        var isFake = false;
        time.Set(TimeSpan.FromHours(-1000));
        try
        {
            why = Run(out var said, "date", "+%s");
            isFake = long.TryParse(said, NumberStyles.None, CultureInfo.InvariantCulture, out var seconds) && DateTimeOffset.UtcNow.ToUnixTimeSeconds() - seconds is > 3_590_000 and < 3_610_000;
            if (!isFake && why.Length == 0) why = "a preloaded clock is not heeded";
        }
        finally
        {
            time.Set(TimeSpan.Zero);
            if (!isFake) time.Dispose();
        }
        return isFake ? time : null;
    }

    /// <summary>Sets the clocks so far from the true time, all at once.</summary>
    public void Set(TimeSpan offset)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, (long)offset.TotalSeconds);
        using var file = File.OpenHandle(_offset, FileMode.Open, FileAccess.Write);
        RandomAccess.Write(file, bytes, 0);
    }

    public void Dispose() => Unmount("/etc", Detach);

    private static string Run(out string said, string program, params string[] arguments)
    {
        said = "";
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            var error = process.StandardError.ReadToEndAsync();
            said = process.StandardOutput.ReadToEnd().Trim();
            process.WaitForExit();
            return process.ExitCode == 0 ? "" : $"{program}: {error.Result.Trim()}";
        }
        catch (System.ComponentModel.Win32Exception fault)
        {
            return $"{program}: {fault.Message}";
        }
    }

    [DllImport("libc", EntryPoint = "mount", CharSet = CharSet.Ansi)]
    private static extern int Mount(string source, string target, string type, ulong flags, string options);

    [DllImport("libc", EntryPoint = "umount2", CharSet = CharSet.Ansi)]
    private static extern int Unmount(string target, int flags);
}
