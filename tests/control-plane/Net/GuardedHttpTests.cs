using Evenkeel.Net;
using Xunit;

namespace Evenkeel.Tests.Net;

public sealed class GuardedHttpTests
{
    [Theory]
    [InlineData("127.0.0.1")]
    [InlineData("localhost")]
    public async Task What_a_name_resolves_to_is_judged_when_the_connection_is_made(string host)
    {
        var asked = new List<(string, AddressKind)>();
        using var http = new HttpClient(GuardedHttp.Handler((name, kind) =>
        {
            asked.Add((name, kind));
            return false;
        }, TimeSpan.FromSeconds(5)));
        var failure = await Assert.ThrowsAsync<HttpRequestException>(() => http.GetAsync($"http://{host}:1/"));
        Assert.Contains("is a loopback address, which is not allowed", Assert.IsType<TargetRefusedException>(failure.InnerException).Message);
        Assert.All(asked, one => Assert.Equal((host, AddressKind.Loopback), one));
    }
}
