using System.Net;
using Evenkeel.Net;

namespace Evenkeel.Config;

/// <summary>
/// Addresses that are never a provider or a webhook unless the operator says so: where clouds hand out credentials to whoever can reach
/// it, link-local, multicast, unspecified and broadcast ones, in whatever notation. Private and loopback addresses are fine: that is
/// where self-hosted models live. tests/contract/targets.txt is the list by example, for this and for the node (lua/evenkeel/hosts.lua).
/// </summary>
public static class TargetAddress
{
    // No address of one machine; those kept for documentation are harmless.
    private static readonly IPNetwork[] s_nobody =
        [IPNetwork.Parse("0.0.0.0/8"), IPNetwork.Parse("224.0.0.0/3"), IPNetwork.Parse("::/128"), IPNetwork.Parse("ff00::/8")];

    private static readonly string[] s_refusedNames = ["metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal"];

    public static bool IsRefused(IPAddress address)
    {
        var plain = AddressRules.Plain(address);
        return AddressRules.KindOf(plain) == AddressKind.LinkLocal || s_nobody.Any(network => network.Contains(plain));
    }

    /// <summary>Loopback and private networks: what goes there is not on the open net.</summary>
    public static bool IsPrivate(IPAddress address) => AddressRules.KindOf(address) is AddressKind.Private or AddressKind.Loopback;

    /// <summary>A host as it is written: any notation of an address that some resolver takes, or a name that means one.</summary>
    public static bool IsRefused(string host) =>
        IPAddress.TryParse(host.Trim('[', ']'), out var address)
            ? IsRefused(address)
            : s_refusedNames.Contains(host.TrimEnd('.'), StringComparer.OrdinalIgnoreCase);
}
