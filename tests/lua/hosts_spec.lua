local dns = require "evenkeel.dns"
local hosts = require "evenkeel.hosts"

describe("/etc/hosts", function()
  for _, case in ipairs {
    { "a name and its address", "10.0.0.7 self-c\n", { ["self-c"] = "10.0.0.7" } },
    { "several names of one address", "10.0.0.7\tself-c  self-c.example gpu", { ["self-c"] = "10.0.0.7", ["self-c.example"] = "10.0.0.7",
      gpu = "10.0.0.7" } },
    { "the first entry of a name", "10.0.0.1 a\n10.0.0.2 a\n", { a = "10.0.0.1" } },
    { "IPv4 before IPv6, whichever comes first", "::1 localhost\n127.0.0.1 localhost\n", { localhost = "127.0.0.1" } },
    { "IPv6 in brackets, as sockets want it", "fd00::7 self-c\n", { ["self-c"] = "[fd00::7]" } },
    { "no link-local addresses: their zone means nothing here", "fe80::1%lo0 localhost\n127.0.0.1 localhost", { localhost = "127.0.0.1" } },
    { "names in any case", "10.0.0.7 Self-C\n", { ["self-c"] = "10.0.0.7" } },
    { "no comments", "# 10.0.0.1 a\n10.0.0.2 b # c\n  # d\n", { b = "10.0.0.2" } },
    { "lines of other systems", "10.0.0.1 a\r\n10.0.0.2 b\r\n", { a = "10.0.0.1", b = "10.0.0.2" } },
    { "no addresses without a name", "10.0.0.1\n\n   \n10.0.0.2 \n", {} },
    { "an empty file", "", {} },
  } do
    it("gives " .. case[1], function() assert.same(case[3], hosts.parse(case[2])) end)
  end
end)

describe("the address to connect to", function()
  setup(function() hosts.load("/nonexistent") end)

  it("is the one in /etc/hosts", function() assert(hosts.resolve("localhost"):find("^[%d%[]"), hosts.resolve("localhost")) end)
  it("is found in any case", function() assert.equal(hosts.resolve("localhost"), hosts.resolve("LocalHost")) end)
  it("is one of those that the name servers tell otherwise, and none that is never a provider", function()
    local resolve = dns.resolve
    local answer = { "169.254.169.254", "10.0.0.7", "[fe80::1]" }
    dns.resolve = function(name) return name == "api.deepseek.example" and answer or nil, "the name has no address" end
    for _ = 1, 20 do assert.equal("10.0.0.7", (hosts.resolve("api.deepseek.example"))) end
    answer = { "169.254.169.254" }
    assert.same({ nil, "the address is link-local or otherwise never a provider" }, { hosts.resolve("api.deepseek.example") })
    assert.equal("169.254.169.254", hosts.resolve("api.deepseek.example", true))
    assert.same({ nil, "nobody.example could not be resolved: the name has no address" }, { hosts.resolve("nobody.example") })
    dns.resolve = resolve
  end)
  it("is an IPv4 address as it is", function() assert.equal("10.0.0.7", hosts.resolve("10.0.0.7")) end)
  it("is an IPv6 address in brackets, once", function()
    assert.equal("[2001:db8::1]", hosts.resolve("2001:db8::1"))
    assert.equal("[2001:db8::1]", hosts.resolve("[2001:db8::1]"))
  end)
end)

describe("an address that is never a provider", function()
  local file = assert(io.open("tests/contract/targets.txt"))
  for line in file:lines() do
    local address, verdict = line:match("^([^#%s]+) (%a+)$")
    if address then
      it("is told: " .. line, function()
        assert.equal(verdict == "refused", hosts.is_refused(address))
        assert.equal(verdict == "refused", hosts.resolve(address) == nil)
        assert.is_string(hosts.resolve(address, true))
      end)
    end
  end
  file:close()

  it("is no name", function()
    for _, name in ipairs { "api.example.com", "0x7f.example", "fe80.example", "169.254.example" } do
      assert.is_false(hosts.is_refused(name))
    end
  end)
end)
