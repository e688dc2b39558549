using System.Buffers;
using System.Text;
using Evenkeel.Config;

namespace Evenkeel.Publishing;

/// <summary>
/// Text that is safe at its position in nginx.conf. Pure; refuses (<see cref="FormatException"/>) rather than repairs, and never
/// repeats the refused value, which may be hostile or secret.
/// </summary>
public static class NginxQuote
{
    private static readonly SearchValues<char> Bare = SearchValues.Create(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-:=,@+%*[]");

    /// <summary>
    /// Any value as one nginx token: bare when nothing in it means anything to nginx (or nothing is in it), else double-quoted. A "$" is
    /// refused: nginx has no escape for it, and whether a directive interpolates it depends on the directive.
    /// </summary>
    public static string Token(string value)
    {
        foreach (var c in value)
        {
            if (char.IsControl(c)) throw new FormatException("a control character in a value for nginx.conf");
            if (c == '$') throw new FormatException("a \"$\" in a value for nginx.conf, which has no escape for it");
        }
        if (!value.AsSpan().ContainsAnyExcept(Bare)) return value;
        var quoted = new StringBuilder("\"", value.Length + 2);
        foreach (var c in value)
        {
            if (c is '"' or '\\') quoted.Append('\\');
            quoted.Append(c);
        }
        return quoted.Append('"').ToString();
    }

    /// <summary>A name of an instance or node: safe bare, inside a file name and inside a Lua string.</summary>
    public static string Identifier(string value) =>
        ConfigValidator.IsName(value) ? value : throw new FormatException("not a name (a-z, 0-9, \".\", \"_\", \"-\"; at most 48)");

    /// <summary>"auto" or a number of processes, 1-1024.</summary>
    public static string Workers(string value) =>
        value == "auto" || (int.TryParse(value, out var count) && count is > 0 and <= 1024 && value == count.ToString())
            ? value
            : throw new FormatException("not \"auto\" or a number of workers from 1 to 1024");

    /// <summary>"ADDRESS:PORT" with an IP address, "*" or "localhost".</summary>
    public static string Listen(string value) =>
        ConfigValidator.IsListen(value) ? value : throw new FormatException("not an address to listen on, like 127.0.0.1:8080");

    /// <summary>An absolute path, quoted when it needs to be.</summary>
    public static string Path(string value) =>
        ConfigValidator.IsPath(value) ? Token(value)
            : throw new FormatException("not an absolute path of at most 512 printable characters without quotes, backslashes or any of ;{}$#");
}
