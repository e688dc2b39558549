using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Config;

/// <summary>
/// Addresses that are never a provider or a webhook unless the operator says so: where clouds hand out credentials to whoever can reach
/// it, link-local, multicast, unspecified and broadcast ones, in whatever notation. Private and loopback addresses are fine: that is
/// where self-hosted models live. tests/contract/targets.txt is the list by example, for this and for the node (lua/evenkeel/hosts.lua).
/// </summary>
public static class TargetAddress
{
    private static readonly IPNetwork[] s_refused =
    [
        IPNetwork.Parse("0.0.0.0/8"), IPNetwork.Parse("169.254.0.0/16"), IPNetwork.Parse("224.0.0.0/4"), IPNetwork.Parse("240.0.0.0/4"),
        IPNetwork.Parse("100.100.100.200/32"), IPNetwork.Parse("168.63.129.16/32"), IPNetwork.Parse("192.0.0.192/32"),
        IPNetwork.Parse("::/128"), IPNetwork.Parse("fe80::/10"), IPNetwork.Parse("ff00::/8"), IPNetwork.Parse("fd00:ec2::/32"),
        IPNetwork.Parse("fd20:ce::254/128"),
    ];

    // IPv4 inside IPv6: where in the 16 bytes it stands.
    private static readonly (IPNetwork Prefix, int At)[] s_embedded =
    [
        (IPNetwork.Parse("::ffff:0:0/96"), 12), (IPNetwork.Parse("::/96"), 12), (IPNetwork.Parse("64:ff9b::/96"), 12), (IPNetwork.Parse("2002::/16"), 2),
    ];

    private static readonly string[] s_refusedNames = ["metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal"];

    public static bool IsRefused(IPAddress address)
    {
        if (s_refused.Any(network => network.Contains(address)))
        {
            return true;
        }

        if (address.AddressFamily != AddressFamily.InterNetworkV6 || address.Equals(IPAddress.IPv6Loopback))
        {
            return false;
        }

        var bytes = address.GetAddressBytes();
        return s_embedded.Any(e => e.Prefix.Contains(address) && IsRefused(new IPAddress(bytes.AsSpan(e.At, 4))));
    }

    /// <summary>A host as it is written: any notation of an address that some resolver takes, or a name that means one.</summary>
    public static bool IsRefused(string host) =>
        IPAddress.TryParse(host.Trim('[', ']'), out var address)
            ? IsRefused(address)
            : s_refusedNames.Contains(host.TrimEnd('.'), StringComparer.OrdinalIgnoreCase);
}
