using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Auth;

/// <summary>
/// Counts refused callers by where they come from: a burst, then one in a while. It only ever judges callers that were refused already,
/// so nobody with a valid token is locked out, whoever fails from the same address. Memory is bounded: when the table is full, those
/// that have been quiet longest make room. Takes the time as an argument.
/// </summary>
public sealed class FailureLimiter(int burst = 20, double perSecond = 0.2, int mostSources = 4_096)
{
    private readonly record struct Bucket(double Failures, TimeSpan At);

    private readonly Dictionary<UInt128, Bucket> _buckets = [];
    private readonly Lock _lock = new();

    /// <summary>One more failure.</summary>
    /// <param name="source">Null: not by the network.</param>
    /// <param name="now">On any clock that does not go back.</param>
    /// <returns>Null: within bounds. Else how long to wait, in whole seconds.</returns>
    public int? Add(IPAddress? source, TimeSpan now)
    {
        var key = KeyOf(source);
        lock (_lock)
        {
            var bucket = _buckets.TryGetValue(key, out var known) ? Leaked(known, now) : new Bucket(0, now);
            if (bucket.Failures > burst - 1)
            {
                _buckets[key] = bucket;
                return (int)Math.Ceiling((bucket.Failures - (burst - 1)) / perSecond);
            }

            if (!_buckets.ContainsKey(key) && _buckets.Count >= mostSources)
            {
                MakeRoom_NeedsLock();
            }

            _buckets[key] = bucket with { Failures = bucket.Failures + 1 };
            return null;
        }
    }

    internal int Sources { get { lock (_lock) { return _buckets.Count; } } }

    private Bucket Leaked(Bucket bucket, TimeSpan now) => new(Math.Max(0, bucket.Failures - ((now - bucket.At).TotalSeconds * perSecond)), now);

    private void MakeRoom_NeedsLock()
    {
        // A quarter at once, so that a flood of addresses pays for the search seldom.
        foreach (var key in _buckets.OrderBy(b => b.Value.At).Take((mostSources / 4) + 1).Select(b => b.Key).ToList())
        {
            _buckets.Remove(key);
        }
    }

    /// <summary>IPv4 whole, IPv6 by its /64: that is what one subscriber gets.</summary>
    private static UInt128 KeyOf(IPAddress? source)
    {
        if (source is null)
        {
            return 0;
        }

        if (source.IsIPv4MappedToIPv6)
        {
            source = source.MapToIPv4();
        }

        Span<byte> bytes = stackalloc byte[16];
        source.TryWriteBytes(bytes, out var length);
        if (length == 16)
        {
            bytes[8..].Clear();
        }

        return System.Buffers.Binary.BinaryPrimitives.ReadUInt128BigEndian(bytes) | (source.AddressFamily == AddressFamily.InterNetwork ? 1u : 0u);
    }
}
