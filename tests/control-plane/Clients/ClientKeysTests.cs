using Evenkeel.Clients;
using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Clients;

public sealed class ClientKeysTests
{
    private static readonly DateTime Now = new(2026, 11, 25, 22, 0, 0, 700, DateTimeKind.Utc);

    [Fact]
    public void Keys_differ_and_fit_a_header() =>
        Assert.Equal(1000, Enumerable.Range(0, 1000).Select(_ => ClientKeys.New()).Where(key => key.Length == 46 && key.All(c => c is > ' ' and <= '~')).Distinct().Count());

    [Fact]
    public void A_rotation_ends_no_key_later_than_it_would_have_ended_and_forgets_those_that_have()
    {
        var keys = ClientKeys.Rotate(
            [new("endless"), new("soon", Now.AddMinutes(1)), new("late", Now.AddDays(1)), new("over", Now.AddSeconds(-1))], "new", TimeSpan.FromHours(1), Now);
        Assert.Equal(["endless", "late", "soon"], keys.Skip(1).Select(k => k.Sha256).Order());
        var overlap = new DateTime(2026, 11, 25, 23, 0, 0, DateTimeKind.Utc);
        Assert.Equal([null, overlap, overlap, Now.AddMinutes(1)], keys.Select(k => k.Until));
    }

    [Fact]
    public void There_are_never_more_keys_than_a_client_may_have()
    {
        IReadOnlyList<ClientKey> keys = [];
        for (var i = 0; i < 30; i++) keys = ClientKeys.Rotate(keys, $"key {i}", TimeSpan.FromDays(1), Now.AddSeconds(i));
        Assert.Equal(ConfigValidator.MostKeys, keys.Count);
        Assert.Equal(keys.Count, keys.Select(k => k.Sha256).Distinct().Count());
    }
}
