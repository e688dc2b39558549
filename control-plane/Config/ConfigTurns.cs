using Evenkeel.Auth;

namespace Evenkeel.Config;

/// <summary>
/// Whole configurations are read one at a time, for one may take some hundred megabytes meanwhile: one of an admin's, and beside it one of
/// all others, so that nobody who may only look keeps an admin waiting. Who waits too long is told to come back.
/// </summary>
public sealed class ConfigTurns
{
    private readonly SemaphoreSlim _admins = new(1);
    private readonly SemaphoreSlim _others = new(1);

    /// <summary>How long somebody waits for his turn.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long somebody whose turn it is may take to send what he has.</summary>
    public TimeSpan SendsWithin { get; init; } = TimeSpan.FromSeconds(60);

    /// <returns>To be disposed at its end; null: it did not come in time.</returns>
    public async Task<IDisposable?> TakeAsync(HttpContext context)
    {
        var turns = Caller.Of(context)?.Role == Role.Admin ? _admins : _others;
        return await turns.WaitAsync(Patience, context.RequestAborted) ? new Turn(turns) : null;
    }

    private sealed class Turn(SemaphoreSlim turns) : IDisposable
    {
        public void Dispose() => turns.Release();
    }
}
