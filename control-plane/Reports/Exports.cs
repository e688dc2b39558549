namespace Evenkeel.Reports;

/// <summary>
/// The exports that are running. Each holds a connection to the database as long as its reader takes, so there are few at once, and none
/// without end: all else shares those connections.
/// </summary>
/// <param name="atOnce">How many.</param>
/// <param name="longest">Of one, from its query to its last byte.</param>
public sealed class Exports(int atOnce, TimeSpan longest)
{
    private readonly SemaphoreSlim _free = new(atOnce);

    public int AtOnce => atOnce;

    /// <returns>To be disposed at its end; null: there are as many as there may be.</returns>
    public Running? TryBegin(CancellationToken cancel) => _free.Wait(0, CancellationToken.None) ? new Running(_free, longest, cancel) : null;

    public sealed class Running : IDisposable
    {
        private readonly SemaphoreSlim _free;
        private readonly CancellationTokenSource _over;

        internal Running(SemaphoreSlim free, TimeSpan longest, CancellationToken cancel)
        {
            _free = free;
            _over = CancellationTokenSource.CreateLinkedTokenSource(cancel);
            _over.CancelAfter(longest);
        }

        /// <summary>Cancelled when its time is over or nobody reads any more.</summary>
        public CancellationToken Over => _over.Token;

        public void Dispose()
        {
            _over.Dispose();
            _free.Release();
        }
    }
}
