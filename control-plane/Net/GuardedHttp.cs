using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Net;

/// <summary>An address that this call may not reach.</summary>
public sealed class TargetRefusedException(string message) : IOException(message);

/// <summary>
/// HTTP to URLs that operators wrote: every address is judged when the connection is made, after its name was resolved, so that neither a
/// name that resolves to another address later nor a redirect leads anywhere else. No proxy, no redirects, no connection kept for later.
/// </summary>
public static class GuardedHttp
{
    /// <param name="allows">Whether a call to this host may go to this kind of address.</param>
    /// <param name="connectTimeout">For resolving and connecting.</param>
    public static SocketsHttpHandler Handler(Func<string, AddressKind, bool> allows, TimeSpan connectTimeout) => new()
    {
        UseProxy = false,
        AllowAutoRedirect = false,
        UseCookies = false,
        PooledConnectionLifetime = TimeSpan.Zero,
        ConnectTimeout = connectTimeout,
        MaxResponseHeadersLength = 16,   // KiB
        ConnectCallback = async (context, cancel) => await ConnectAsync(context.DnsEndPoint, allows, cancel),
    };

    private static async Task<Stream> ConnectAsync(DnsEndPoint target, Func<string, AddressKind, bool> allows, CancellationToken cancel)
    {
        var addresses = IPAddress.TryParse(target.Host.Trim('[', ']'), out var literal) ? [literal] : await Dns.GetHostAddressesAsync(target.Host, cancel);
        var allowed = addresses.Where(address => allows(target.Host, AddressRules.KindOf(address))).ToArray();
        if (allowed.Length == 0)
        {
            throw new TargetRefusedException(addresses.Length == 0 ? "the name has no address"
                : $"{addresses[0]} is {Words(AddressRules.KindOf(addresses[0]))}, which is not allowed");
        }

        // All families: the list has been judged, and Socket tries one after the other.
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            await socket.ConnectAsync(allowed, target.Port, cancel);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private static string Words(AddressKind kind) => kind switch
    {
        AddressKind.Private => "a private address",
        AddressKind.Loopback => "a loopback address",
        AddressKind.LinkLocal => "a link-local or metadata address",
        AddressKind.Unusable => "a reserved address",
        _ => "a public address",
    };
}
