using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Net;

/// <summary>Where an address leads to.</summary>
public enum AddressKind
{
    Public,
    /// <summary>Somebody's own network: RFC 1918, carrier NAT, unique local.</summary>
    Private,
    Loopback,
    /// <summary>This very link, and where clouds hand out credentials to whoever asks.</summary>
    LinkLocal,
    /// <summary>No address of one machine: unspecified, multicast, reserved, for documentation.</summary>
    Unusable,
}

/// <summary>
/// What an address is, also one that hides another (IPv4 mapped, translated or tunnelled in IPv6): the one place where it is decided what
/// an operator's URL may reach. Pure.
/// </summary>
public static class AddressRules
{
    private static readonly (IPNetwork Network, AddressKind Kind)[] s_known =
    [
        // Clouds' metadata outside of 169.254.0.0/16 and fe80::/10, before the networks that hold it.
        (IPNetwork.Parse("168.63.129.16/32"), AddressKind.LinkLocal),
        (IPNetwork.Parse("100.100.100.200/32"), AddressKind.LinkLocal),
        (IPNetwork.Parse("192.0.0.192/32"), AddressKind.LinkLocal),
        (IPNetwork.Parse("fd00:ec2::254/128"), AddressKind.LinkLocal),
        (IPNetwork.Parse("fd20:ce::254/128"), AddressKind.LinkLocal),

        (IPNetwork.Parse("0.0.0.0/8"), AddressKind.Unusable),
        (IPNetwork.Parse("10.0.0.0/8"), AddressKind.Private),
        (IPNetwork.Parse("100.64.0.0/10"), AddressKind.Private),
        (IPNetwork.Parse("127.0.0.0/8"), AddressKind.Loopback),
        (IPNetwork.Parse("169.254.0.0/16"), AddressKind.LinkLocal),
        (IPNetwork.Parse("172.16.0.0/12"), AddressKind.Private),
        (IPNetwork.Parse("192.0.0.0/24"), AddressKind.Unusable),
        (IPNetwork.Parse("192.0.2.0/24"), AddressKind.Unusable),
        (IPNetwork.Parse("192.168.0.0/16"), AddressKind.Private),
        (IPNetwork.Parse("198.18.0.0/15"), AddressKind.Private),
        (IPNetwork.Parse("198.51.100.0/24"), AddressKind.Unusable),
        (IPNetwork.Parse("203.0.113.0/24"), AddressKind.Unusable),
        (IPNetwork.Parse("224.0.0.0/3"), AddressKind.Unusable),

        (IPNetwork.Parse("::/128"), AddressKind.Unusable),
        (IPNetwork.Parse("::1/128"), AddressKind.Loopback),
        (IPNetwork.Parse("64:ff9b:1::/48"), AddressKind.Private),
        (IPNetwork.Parse("100::/64"), AddressKind.Unusable),
        (IPNetwork.Parse("2001::/32"), AddressKind.Unusable),
        (IPNetwork.Parse("2001:db8::/32"), AddressKind.Unusable),
        (IPNetwork.Parse("3fff::/20"), AddressKind.Unusable),
        (IPNetwork.Parse("fc00::/7"), AddressKind.Private),
        (IPNetwork.Parse("fe80::/10"), AddressKind.LinkLocal),
        (IPNetwork.Parse("fec0::/10"), AddressKind.Private),
        (IPNetwork.Parse("ff00::/8"), AddressKind.Unusable),
    ];

    private static readonly (IPNetwork Network, int At)[] s_hiding =
    [
        (IPNetwork.Parse("::ffff:0:0/96"), 12),      // mapped
        (IPNetwork.Parse("::ffff:0:0:0/96"), 12),    // translated
        (IPNetwork.Parse("64:ff9b::/96"), 12),       // NAT64
        (IPNetwork.Parse("2002::/16"), 2),           // 6to4
    ];

    public static AddressKind KindOf(IPAddress address)
    {
        var plain = Plain(address);
        foreach (var (network, kind) in s_known)
        {
            if (network.Contains(plain)) return kind;
        }

        // ::a.b.c.d, long out of use: nothing good lives there.
        return plain.AddressFamily == AddressFamily.InterNetworkV6 && plain.GetAddressBytes().AsSpan(0, 12).IndexOfAnyExcept((byte)0) < 0
            ? AddressKind.Unusable : AddressKind.Public;
    }

    /// <summary>Without a scope, and the IPv4 address where one is hidden.</summary>
    public static IPAddress Plain(IPAddress address)
    {
        if (address.AddressFamily == AddressFamily.InterNetwork) return address;
        var bytes = address.GetAddressBytes();
        var plain = new IPAddress(bytes);
        foreach (var (network, at) in s_hiding)
        {
            if (network.Contains(plain)) return new IPAddress(bytes.AsSpan(at, 4));
        }
        return plain;
    }
}
