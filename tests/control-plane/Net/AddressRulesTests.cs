using System.Net;
using Evenkeel.Net;
using Xunit;

namespace Evenkeel.Tests.Net;

public sealed class AddressRulesTests
{
    [Theory]
    [InlineData("93.184.216.34", AddressKind.Public)]
    [InlineData("172.15.255.255", AddressKind.Public)]
    [InlineData("172.32.0.1", AddressKind.Public)]
    [InlineData("2606:2800:220:1::1", AddressKind.Public)]
    [InlineData("10.0.0.7", AddressKind.Private)]
    [InlineData("172.16.0.1", AddressKind.Private)]
    [InlineData("172.31.255.255", AddressKind.Private)]
    [InlineData("192.168.1.1", AddressKind.Private)]
    [InlineData("100.64.0.1", AddressKind.Private)]
    [InlineData("fd12:3456::1", AddressKind.Private)]
    [InlineData("fec0::1", AddressKind.Private)]
    [InlineData("127.0.0.1", AddressKind.Loopback)]
    [InlineData("127.255.0.1", AddressKind.Loopback)]
    [InlineData("::1", AddressKind.Loopback)]
    [InlineData("169.254.169.254", AddressKind.LinkLocal)]
    [InlineData("fe80::1%1", AddressKind.LinkLocal)]
    [InlineData("fd00:ec2::254", AddressKind.LinkLocal)]
    [InlineData("100.100.100.200", AddressKind.LinkLocal)]
    [InlineData("168.63.129.16", AddressKind.LinkLocal)]
    [InlineData("0.0.0.0", AddressKind.Unusable)]
    [InlineData("::", AddressKind.Unusable)]
    [InlineData("224.0.0.1", AddressKind.Unusable)]
    [InlineData("255.255.255.255", AddressKind.Unusable)]
    [InlineData("192.0.2.1", AddressKind.Unusable)]
    [InlineData("ff02::1", AddressKind.Unusable)]
    [InlineData("2001:db8::1", AddressKind.Unusable)]
    [InlineData("::7f00:1", AddressKind.Unusable)]
    public void What_an_address_is(string address, AddressKind kind) => Assert.Equal(kind, AddressRules.KindOf(IPAddress.Parse(address)));

    [Theory]
    [InlineData("::ffff:{0}")]
    [InlineData("::ffff:0:{0}")]
    [InlineData("64:ff9b::{0}")]
    public void An_address_inside_another_is_judged_as_itself(string form)
    {
        Assert.Equal(AddressKind.LinkLocal, AddressRules.KindOf(IPAddress.Parse(string.Format(null, form, "169.254.169.254"))));
        Assert.Equal(AddressKind.Loopback, AddressRules.KindOf(IPAddress.Parse(string.Format(null, form, "127.0.0.1"))));
        Assert.Equal(AddressKind.Private, AddressRules.KindOf(IPAddress.Parse(string.Format(null, form, "10.1.2.3"))));
        Assert.Equal(AddressKind.Public, AddressRules.KindOf(IPAddress.Parse(string.Format(null, form, "93.184.216.34"))));
    }

    [Fact]
    public void A_tunnel_leads_where_its_end_is()
    {
        Assert.Equal(AddressKind.Loopback, AddressRules.KindOf(IPAddress.Parse("2002:7f00:1::1")));
        Assert.Equal(AddressKind.Private, AddressRules.KindOf(IPAddress.Parse("2002:a00:1::1")));
    }
}
