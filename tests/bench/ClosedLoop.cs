using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Evenkeel.Bench;

/// <summary>As many requests as the peer can bear, by wrk: so many connections, each sends when it has been answered.</summary>
internal static partial class ClosedLoop
{
    /// <returns>Requests answered, the rest (other statuses, broken connections), and the rate per second.</returns>
    public static (long Requests, long Failed, double PerSecond) Run(Stage stage, int port, Call call, int connections, double seconds)
    {
        stage.Cancel.ThrowIfCancellationRequested();
        var script = Path.Combine(stage.Root, "wrk.lua");
        var words = new StringBuilder("wrk.method = 'POST'\n");
        foreach (var (name, value) in call.Headers)
        {
            words.Append(CultureInfo.InvariantCulture, $"wrk.headers[ {Quoted(name)} ] = {Quoted(value)}\n");
        }
        words.Append(CultureInfo.InvariantCulture, $"wrk.body = {Quoted(call.Body)}\n");
        File.WriteAllText(script, words.ToString());
        using var wrk = Process.Start(new ProcessStartInfo("wrk", ["-t1", $"-c{connections}", $"-d{seconds:0}s", "--timeout", "10s", "-s", script,
            $"http://127.0.0.1:{port}{Call.Path}"])
        { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var complaint = wrk.StandardError.ReadToEndAsync();
        var said = wrk.StandardOutput.ReadToEnd();
        wrk.WaitForExit();
        if (RequestCount().Match(said) is not { Success: true } count || complaint.Result.Length > 0)
        {
            throw new BenchException("wrk says: " + complaint.Result + said);
        }
        long Number(Match match, int group) => match.Success ? long.Parse(match.Groups[group].Value) : 0;
        var broken = SocketErrors().Match(said);
        return (Number(count, 1), Number(OtherStatus().Match(said), 1) + Number(broken, 1) + Number(broken, 2) + Number(broken, 3) + Number(broken, 4),
            double.Parse(PerSecond().Match(said).Groups[1].Value, CultureInfo.InvariantCulture));
    }

    private static string Quoted(string text) => "[==[" + text + "]==]";

    [GeneratedRegex(@"(\d+) requests in")]
    private static partial Regex RequestCount();

    [GeneratedRegex(@"Requests/sec:\s+([\d.]+)")]
    private static partial Regex PerSecond();

    [GeneratedRegex(@"Non-2xx or 3xx responses: (\d+)")]
    private static partial Regex OtherStatus();

    [GeneratedRegex(@"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")]
    private static partial Regex SocketErrors();
}
