using Npgsql;

namespace Evenkeel.Database;

/// <summary>
/// Something small of the database that every request looks at, kept for a second: any number of callers cost one query a second. What was
/// changed here counts at once (<see cref="Forget"/>), what another control plane changed within that second. With the database away
/// the last copy holds.
/// </summary>
/// <param name="database">Asked for at most two seconds.</param>
/// <param name="databaseState">While it is away nobody asks.</param>
/// <param name="load">Reads it.</param>
/// <param name="time">What a second is.</param>
/// <param name="notRead">Told why, when it could not be read.</param>
public sealed class KeptCopy<T>(NpgsqlDataSource database, DatabaseState databaseState, Func<NpgsqlConnection, CancellationToken, Task<T>> load, TimeProvider time, Action<string> notRead) : IDisposable
    where T : class
{
    private static readonly TimeSpan s_lasts = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_loadTimeout = TimeSpan.FromSeconds(2);

    private sealed record Kept(T? Value, long Generation, long At);

    private readonly SemaphoreSlim _loading = new(1);
    private volatile Kept _kept = new(null, -1, 0);
    private long _generation;       // grows with every change made here: a copy that was being read meanwhile does not count

    /// <summary>As it was last read; null: never.</summary>
    public T? Last => _kept.Value;

    public void Forget() => Interlocked.Increment(ref _generation);

    /// <exception cref="NpgsqlException">The database is away, and it was never read.</exception>
    public async ValueTask<T> CurrentAsync(CancellationToken cancel)
    {
        if (_kept is var kept && (IsFresh(kept) || databaseState.IsAway))
        {
            return kept.Value ?? throw DatabaseState.IsAwayNow();
        }

        await _loading.WaitAsync(cancel);
        var (generation, at) = (Interlocked.Read(ref _generation), time.GetTimestamp());
        try
        {
            if (!IsFresh(_kept))
            {
                var value = await databaseState.AskAsync(async asked =>
                {
                    await using var connection = await database.OpenConnectionAsync(asked);
                    return await load(connection, asked);
                }, s_loadTimeout, cancel);
                _kept = new Kept(value, generation, at);
            }
        }
        catch (NpgsqlException away)
        {
            notRead(away.Message);
            _kept = _kept with { Generation = generation, At = time.GetTimestamp() };   // asked again in a second, not by every caller
        }
        finally
        {
            _loading.Release();
        }

        return _kept.Value ?? throw DatabaseState.IsAwayNow();
    }

    public void Dispose() => _loading.Dispose();

    private bool IsFresh(Kept kept) => kept.Generation == Interlocked.Read(ref _generation) && time.GetElapsedTime(kept.At) < s_lasts;
}
