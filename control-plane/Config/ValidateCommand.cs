namespace Evenkeel.Config;

/// <summary>`validate FILE`: checks a configuration file without a database. Prints every fault; 0: valid, 1: not, 2: no file.</summary>
public static class ValidateCommand
{
    public static int Run(IReadOnlyList<string> arguments, TextWriter output, TextWriter errors)
    {
        if (arguments.Count != 1)
        {
            errors.WriteLine("usage: validate FILE");
            return 2;
        }

        byte[] bytes;
        try
        {
            using var file = File.OpenRead(arguments[0]);
            bytes = new byte[ConfigTree.MaxBytes + 1];
            Array.Resize(ref bytes, file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            errors.WriteLine($"{arguments[0]}: {e.Message}");
            return 2;
        }

        var format = arguments[0].EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? ConfigFormat.Json : ConfigFormat.Yaml;
        var read = ConfigReader.Read(bytes, format);
        foreach (var fault in read.Faults)
        {
            output.WriteLine(fault.ToString());
        }

        return read.IsValid ? 0 : 1;
    }
}
