using System.Diagnostics;

namespace Evenkeel.Failover;

/// <summary>
/// What one sees while cases run: on a terminal a line that is always current, also when the output goes through a pipe on
/// its way there; anywhere else a line every ten seconds. A case that does not pass is told at once.
/// </summary>
internal sealed class Progress : IDisposable
{
    private readonly TextWriter? _terminal = Terminal();
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private readonly Dictionary<Case, TimeSpan> _running = [];
    private readonly Lock _lock = new();
    private readonly Timer _timer;
    private readonly int _all;
    private int _ended;
    private int _bad;

    public Progress(int all)
    {
        _all = all;
        var every = TimeSpan.FromSeconds(_terminal is not null ? 0.25 : 10);
        _timer = new Timer(_ => Show(), null, every, every);
    }

    public void Begin(Case one)
    {
        lock (_lock)
        {
            _running[one] = _clock.Elapsed;
        }
    }

    public void End(Result result)
    {
        lock (_lock)
        {
            _running.Remove(result.Case);
            _ended++;
            if (result.Verdict is not (Verdict.Pass or Verdict.Skipped))
            {
                _bad++;
                Clear();
                Console.WriteLine($"  {Reports.Word(result.Verdict),-8} {result.Case.Number,-5} {result.Case.Name}: {result.Judgement.Note}");
            }
        }
    }

    public void Dispose()
    {
        _timer.Dispose();
        lock (_lock)
        {
            Clear();
        }
        if (_terminal is StreamWriter)
        {
            _terminal.Dispose();
        }
    }

    private void Show()
    {
        lock (_lock)
        {
            var running = _running.OrderBy(entry => entry.Value).Select(entry => $"{entry.Key.Number} ({(_clock.Elapsed - entry.Value).TotalSeconds:0} s)");
            var line = $"  {_clock.Elapsed.TotalSeconds,4:0} s  {_ended} of {_all} done, {_bad} not passed; running: {string.Join(", ", running)}";
            var width = _terminal is not null ? Math.Max(40, Console.WindowWidth - 1) : 160;
            line = line.Length > width ? line[..(width - 1)] + "…" : line;
            if (_terminal is null)
            {
                Console.WriteLine(line);
                return;
            }
            _terminal.Write("\r\e[2K" + line);
            _terminal.Flush();
        }
    }

    private void Clear()
    {
        _terminal?.Write("\r\e[2K");
        _terminal?.Flush();
    }

    private static TextWriter? Terminal()
    {
        if (!Console.IsOutputRedirected)
        {
            return Console.Out;
        }
        try
        {
            // Nobody looks at a run whose input is no terminal either.
            return Console.IsInputRedirected ? null : new StreamWriter(File.OpenWrite("/dev/tty"));
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
