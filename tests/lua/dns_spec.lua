local fake_ngx = require "support.fake_ngx"
local dns

local function u16(n) return string.char(math.floor(n / 256), n % 256) end
local function record(kind, ttl_s, data, name)
  return (name or "\192\12") .. u16(kind) .. "\0\1" .. u16(0) .. u16(ttl_s) .. u16(#data) .. data
end
local function answer(question, flags, ...)
  return question:sub(1, 2) .. u16(flags) .. "\0\1" .. u16(select("#", ...)) .. "\0\0\0\0" .. question:sub(13) .. table.concat({ ... })
end

fake_ngx.install()
package.loaded["evenkeel.dns"] = nil
dns = require "evenkeel.dns"

local A, AAAA, CNAME, FINE = 1, 28, 5, 0x8180
local question = dns.query(4711, "api.example.com", A)

describe("a question to a name server", function()
  it("is one, with recursion", function()
    assert.equal(u16(4711) .. "\1\0\0\1\0\0\0\0\0\0\3api\7example\3com\0\0\1\0\1", question)
    assert.equal(question, dns.query(4711, "api.example.com.", A))
  end)
  for _, name in ipairs { "", ".", "a..b", ("x"):rep(64) .. ".example", ("abcdefgh."):rep(32) } do
    it("is none for what is no name: " .. name:sub(1, 20), function() assert.is_nil(dns.query(1, name, A)) end)
  end
end)

describe("the answer of a name server", function()
  it("is its addresses, for as long as the shortest of its records says, between one second and thirty", function()
    local told = answer(question, FINE, record(CNAME, 7, "\1x\192\16"), record(A, 20, "\10\0\0\7", "\1x\192\16"),
      record(A, 300, "\169\254\169\254"))
    assert.same({ { "10.0.0.7", "169.254.169.254" }, 7 }, { dns.parse(told, question, A) })
    assert.same({ { "10.0.0.7" }, 30 }, { dns.parse(answer(question, FINE, record(A, 3600, "\10\0\0\7")), question, A) })
    assert.same({ { "10.0.0.7" }, 1 }, { dns.parse(answer(question, FINE, record(A, 0, "\10\0\0\7")), question, A) })
  end)
  it("may be IPv6, which sockets want in brackets", function()
    local of = dns.query(1, "x", AAAA)
    assert.same({ "[fe80:0:0:0:0:0:0:1]" }, (dns.parse(answer(of, FINE, record(AAAA, 9, "\254\128" .. ("\0"):rep(13) .. "\1")), of, AAAA)))
  end)
  it("is empty where there is no such name, or no such address", function()
    assert.same({}, (dns.parse(answer(question, 0x8183), question, A)))
    assert.same({}, (dns.parse(answer(question, FINE), question, A)))
  end)

  for _, case in ipairs {
    { "to another question", answer(dns.query(4711, "api.example.org", A), FINE, record(A, 9, "\1\2\3\4")), "not an answer to this" },
    { "with another number", answer(dns.query(4712, "api.example.com", A), FINE, record(A, 9, "\1\2\3\4")), "not an answer to this" },
    { "that is a question", question, "not an answer to this" },
    { "that is cut", answer(question, 0x8380), "truncated" },
    { "that is a failure", answer(question, 0x8182), "the name server answers with code 2" },
    { "with an address of three bytes", answer(question, FINE, record(A, 9, "\1\2\3")), "a broken answer" },
    { "with fewer records than it says",
      question:sub(1, 2) .. u16(FINE) .. "\0\1\0\2\0\0\0\0" .. question:sub(13) .. record(A, 9, "\1\2\3\4"), "a broken answer" },
  } do
    it("is refused: one " .. case[1], function() assert.same({ nil, case[3] }, { dns.parse(case[2], question, A) }) end)
  end

  it("never breaks the reader, however it is cut or changed", function()
    math.randomseed(42)
    local good = answer(question, FINE, record(CNAME, 7, "\1x\192\16"), record(A, 20, "\10\0\0\7"), record(AAAA, 9, ("\1"):rep(16)))
    for i = 1, 20000 do
      local bytes = { good:byte(1, math.random(0, #good)) }
      for _ = 1, math.random(0, 4) do if #bytes > 0 then bytes[math.random(#bytes)] = math.random(0, 255) end end
      local list, what = dns.parse(string.char(unpack(bytes)), question, A)
      assert(list == nil and type(what) == "string" or type(list) == "table" and what >= 1 and what <= 30, i)
    end
  end)
end)

describe("a list of name servers", function()
  it("has addresses, with a port or without", function()
    assert.same(
      { { host = "10.0.0.2", port = 53 }, { host = "[fd00::53]", port = 53 }, { host = "127.0.0.1", port = 5353 },
        { host = "[::1]", port = 54 } },
      dns.servers(" 10.0.0.2 [fd00::53]\n127.0.0.1:5353 [::1]:54 "))
    assert.same({}, dns.servers(""))
  end)
end)

describe("a name that is known", function()
  local clock, asked, answers, background
  local function become(list) answers = list end

  before_each(function()
    asked, background = 0, {}
    become { "10.0.0.7" }
    local stand_in = fake_ngx.install()
    clock = stand_in.clock
    stand_in.timer = { at = function(_, run) background[#background + 1] = run return true end }
    local function udp()
      local sent
      return {
        settimeout = function() end, setpeername = function() return true end, close = function() end,
        send = function(_, text) sent = text return true end,
        receive = function()
          asked = asked + 1
          if not answers then return nil, "timeout" end
          local records = {}
          for i, address in ipairs(answers) do
            records[i] = record(A, 10, (address:gsub("(%d+)%.?", function(n) return string.char(n) end)))
          end
          return answer(sent, FINE, unpack(records))
        end,
      }
    end
    stand_in.socket = { udp = udp }
    dns.use("10.0.0.53", false)
  end)

  it("is asked for once, and again in the background when it is old", function()
    for _ = 1, 5 do assert.same({ "10.0.0.7" }, dns.resolve("a.example")) end
    assert.equal(1, asked)
    clock:pass(11)
    become { "10.0.0.8" }
    for _ = 1, 5 do assert.same({ "10.0.0.7" }, dns.resolve("a.example")) end
    assert.equal(1, #background)
    background[1](false)
    assert.same({ "10.0.0.8" }, dns.resolve("a.example"))
    assert.equal(2, asked)
  end)

  it("is asked for by whoever uses it next when nobody has for a while", function()
    dns.resolve("a.example")
    clock:pass(60)
    become { "10.0.0.8" }
    assert.same({ "10.0.0.8" }, dns.resolve("a.example"))
    assert.equal(0, #background)
  end)

  it("goes on for an hour without a name server, and no longer; one waits for that, once", function()
    dns.resolve("a.example")
    become(nil)
    clock:pass(3000)
    assert.same({ "10.0.0.7" }, dns.resolve("a.example"))
    local waited = asked
    clock:pass(60)
    for _ = 1, 5 do assert.same({ "10.0.0.7" }, dns.resolve("a.example")) end
    assert.equal(waited, asked)
    assert.equal(1, #background)
    background[1](false)
    assert.same({ "10.0.0.7" }, dns.resolve("a.example"))
    clock:pass(700)
    assert.same({ nil, "timeout" }, { dns.resolve("a.example") })
  end)

  it("is not asked for again within a second when there is none", function()
    become {}
    for _ = 1, 5 do assert.same({ nil, "the name has no address" }, { dns.resolve("b.example") }) end
    assert.equal(1, asked)
    clock:pass(1.1)
    become { "10.0.0.9" }
    assert.same({ "10.0.0.9" }, dns.resolve("b.example"))
  end)
end)
