using System.Buffers.Text;
using System.Security.Cryptography;
using Evenkeel.Config;
using Evenkeel.Publishing;

namespace Evenkeel.Clients;

/// <summary>Keys that the API makes: 256 random bits, told once. What is kept of one is its sha256.</summary>
public static class ClientKeys
{
    /// <summary>A key that is rotated out without a word about it goes on for so long.</summary>
    public static readonly TimeSpan DefaultOverlap = TimeSpan.FromHours(1);

    public static readonly TimeSpan LongestOverlap = TimeSpan.FromDays(90);

    public static string New() => "ek-" + Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(32));

    /// <summary>
    /// The client's keys after a rotation: the new one first and without end, then those that still hold, none beyond the overlap, as many
    /// as there may be. Pure.
    /// </summary>
    public static IReadOnlyList<ClientKey> Rotate(IReadOnlyList<ClientKey> keys, string key, TimeSpan overlap, DateTime now)
    {
        // Written times are whole seconds.
        var end = new DateTime((now + overlap).Ticks / TimeSpan.TicksPerSecond * TimeSpan.TicksPerSecond, DateTimeKind.Utc);
        var old = keys.Select(k => k with { Until = k.Until < end ? k.Until : end }).Where(k => k.Until > now).OrderByDescending(k => k.Until);
        return [new ClientKey(SnapshotBuilder.HashOf(key)), .. old.Take(ConfigValidator.MostKeys - 1)];
    }
}
