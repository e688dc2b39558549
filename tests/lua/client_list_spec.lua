local cjson = require "cjson"
local client_list = require "evenkeel.client_list"
local fuzz = require "support.fuzz"
local without_null = require("evenkeel.snapshot_check").without_null

-- Digits that differ everywhere, as those of a hash do.
local function sha256(i)
  local digits, x = {}, i
  for k = 1, 8 do
    x = (x * 69069 + 12345) % 2 ^ 32
    digits[k] = ("%08x"):format(x)
  end
  return table.concat(digits)
end

local function doc(clients, before, behind)
  return '{"format":1' .. (before or "") .. ',"clients":' .. clients .. (behind or "") .. "}"
end

local function ready(client) without_null(client).ready = true end

local function no_rest() end
local function no_check() return function() end end

describe("clients in a snapshot's text", function()
  it("are cut out of it, and found by name and by each of their keys", function()
    local two = '[{"name":"a","keys":[{"sha256":"%s"},{"sha256":"%s","until":7}]}, '
      .. '{"keys" : [ {"until":null,"sha256" : "%s"} ] ,\n "name" : "b", "expires":9}]'
    local raw = doc(two:format(sha256(1), sha256(2), sha256(3)), ',"pools":[{"name":"chat"}]', ',"digest":"d"')
    local text, list = client_list.cut(raw, ready)
    assert.same({ format = 1, pools = { { name = "chat" } }, clients = {}, digest = "d" }, cjson.decode(text))
    assert.equal(2, list.n)
    assert.same({}, list:faults(no_rest, no_check))
    local a, b = list:by_name("a"), list:by_name("b")
    assert.same({ "a", "b", true, true }, { a.name, b.name, a.ready, b.ready })
    assert.same({ client = a }, list:by_key(sha256(1)))
    assert.same({ client = a, ends = 7 }, list:by_key(sha256(2)))
    assert.same({ client = b, ends = 9 }, list:by_key(sha256(3)))
    assert.equal(a, list:by_key(sha256(2)).client)
    for _, unknown in ipairs { sha256(4), "", "x", sha256(1):sub(2) } do assert.is_nil(list:by_key(unknown)) end
    for _, unknown in ipairs { "c", "", "keys" } do assert.is_nil(list:by_name(unknown)) end
  end)

  it("of one name or key are the later one, and many of them take no longer", function()
    local texts = {}
    for i = 1, 20000 do texts[i] = ('{"name":"a","n":%d,"keys":[{"sha256":"%s"}]}'):format(i, sha256(1)) end
    local _, list = client_list.cut(doc("[" .. table.concat(texts, ",") .. "]"), ready)
    assert.same({ 20000, 20000 }, { list:by_name("a").n, list:by_key(sha256(1)).client.n })
  end)

  for _, case in ipairs {
    { "there are none", "[]", 0 },
    { "there are none, with space", "[ \n ]", 0 },
    { "a text of theirs holds brackets, quotes and backslashes",
      [=[ [{"x":"]}\\","y":"\"}],{","name":"a","keys":[{"sha256":"KEY"}]}] ]=], 1 },
    { "other members hold names, keys and hashes", [=[ [{"name":"a","keys":[{"sha256":"KEY","more":[{"sha256":"KEY"}]}],
      "budget":{"name":"b","rates":{"keys":1}},"of":[[{"sha256":"KEY"}]],"models":["name","keys"]}] ]=], 1 },
  } do
    it("are told apart when " .. case[1], function()
      local text, list = client_list.cut(doc((case[2]:gsub("KEY", sha256(1)))), ready)
      assert.same({ format = 1, clients = {} }, cjson.decode(text))
      assert.equal(case[3], list.n)
      assert.same({}, list:faults(no_rest, no_check))
      if case[3] > 0 then assert.equal("a", list:by_key(sha256(1)).client.name) end
    end)
  end

  for _, case in ipairs {
    { "there is no such member", '{"format":1}' },
    { "they are null", doc("null") },
    { "they are no array", doc("7") },
    { "another member's value is their name", '{"a":"clients"}' },
    { "they stand deeper", '{"pools":[{"clients":[{"name":"a"}]}]}' },
    { "a text looks like them", [[{"a":"\"clients\":[{}]"}]] },
    { "a key ends like theirs", [[{"\"clients":[{}]}]] },
    { "it is no JSON", "nonsense" },
    { "it is empty", "" },
    { "a string does not end", '{"a' },
    { "a backslash is the last byte", '{"a\\' },
  } do
    it("are none when " .. case[1], function()
      local text, list = client_list.cut(case[2], ready)
      assert.equal(case[2], text)
      assert.is_nil(list)
    end)
  end

  for _, case in ipairs {
    { "one is a number", "[7]", "clients[0]: an object is needed" },
    { "one is an array", "[{},[]]", "clients[1]: an object is needed" },
    { "one is a text", '["a"]', "clients[0]: an object is needed" },
    { "one is null", "[{},null]", "clients[1]: an object is needed" },
    { "they do not end", '[{"name":"a"}', "not JSON: the text ends among its clients" },
    { "a string of theirs does not end", '[{"name":"a', "not JSON: the text ends among its clients" },
  } do
    it("are refused when " .. case[1], function()
      local text, words = client_list.cut(case[3]:find("^not JSON") and '{"clients":' .. case[2] or doc(case[2]), ready)
      assert.is_nil(text)
      assert.equal(case[3], words)
    end)
  end

  for _, case in ipairs {
    { "is not JSON", '{"name":"a",}', "clients[1]: not JSON" },
    { "has two names", '{"name":"a","name":"b","keys":[]}', nil },
    { "has a name with an escape", [[{"name":"\u0061","keys":[]}]], "clients[1].name: " },
    { "has its name's member with an escape", [[{"n\u0061me":"a","keys":[]}]], "clients[1].name: " },
    { "has its keys twice", '{"name":"a","keys":[{"sha256":"KEY"}],"keys":[]}', "clients[1].keys: " },
    { "has a key's hash with an escape", [[{"name":"a","keys":[{"sha\u0032\u0035\u0036":"KEY"}]}]], "clients[1].keys: " },
  } do
    it("are checked: one that " .. case[1], function()
      local _, list = client_list.cut(doc('[{"name":"z","keys":[]},' .. case[2]:gsub("KEY", sha256(1)) .. "]"), ready)
      local faults = list:faults(no_rest, no_check)
      assert.equal(case[3], case[3] and faults[1]:sub(1, #case[3]) or faults[1])
    end)
  end

  it("are checked in pieces, and with a bound of what is told", function()
    local texts, rests = {}, 0
    for i = 1, 1000 do texts[i] = '{"name":"c' .. i .. '","keys":[]}' end
    local _, list = client_list.cut(doc("[" .. table.concat(texts, ",") .. "]"), ready)
    local faults = list:faults(function() rests = rests + 1 end, function(fault) return function(where) fault(where, "wrong") end end)
    assert.equal(100, #faults)
    assert.equal("clients[99]: wrong", faults[100])
    assert.equal(5, rests)
  end)

  it("are a hundred thousand: each is found, and a worker holds a part of them decoded", function()
    local texts, count = {}, 100000
    for i = 1, count do texts[i] = ('{"name":"c%d","keys":[{"sha256":"%s"}],"requests_per_minute":600}'):format(i, sha256(i * 7919)) end
    local raw = doc("[" .. table.concat(texts, ",") .. "]")
    local _, list = client_list.cut(raw, ready)
    assert.equal(count, list.n)
    for i = 1, count, 7 do
      assert.equal("c" .. i, list:by_key(sha256(i * 7919)).client.name)
      assert.equal("c" .. i, list:by_name("c" .. i).name)
    end
    assert(list.decoded_n <= 10000)
  end)

  it("are what cjson finds, whatever they look like", function() fuzz.run(2000, function(random)
    local names, keys = {}, {}
    local function text() return ({ "a", "]", "}", "\\\\", '\\"', "name", "keys", "sha256", ":", "[{", "\\u0041" })[random(11)] end
    local function junk(depth)
      local kind = random(depth > 3 and 4 or 6)
      if kind == 1 then return tostring(random(1000)) end
      if kind == 2 then return "null" end
      if kind <= 4 then return '"' .. text() .. text() .. '"' end
      local parts = {}
      for i = 1, random(3) do parts[i] = (kind == 5 and "" or '"' .. text() .. i .. '":') .. junk(depth + 1) end
      return kind == 5 and "[" .. table.concat(parts, ",") .. "]" or "{" .. table.concat(parts, ", ") .. "}"
    end
    local clients = {}
    for i = 1, random(6) - 1 do
      local name, of = "c" .. i, {}
      for k = 1, random(3) do
        keys[#keys + 1] = { sha256(#keys + 1), name }
        of[k] = '{"u":' .. junk(3) .. ',"sha256":"' .. keys[#keys][1] .. '"}'
      end
      names[i] = name
      clients[i] = '{"x1":' .. junk(1) .. ',"name":"' .. name .. '" ,"keys":[' .. table.concat(of, ",") .. '],"y1":' .. junk(1) .. "}"
    end
    local raw = '{"z":' .. junk(0) .. ',"clients": [' .. table.concat(clients, " , ") .. ' ],"w":' .. junk(0) .. "}"
    local whole = cjson.decode(raw)
    local left, list = client_list.cut(raw, ready)
    whole.clients = {}
    assert.same(whole, cjson.decode(left))
    assert.equal(#clients, list.n)
    assert.same({}, list:faults(no_rest, no_check))
    for _, name in ipairs(names) do assert.equal(name, list:by_name(name).name) end
    for _, pair in ipairs(keys) do assert.equal(pair[2], list:by_key(pair[1]).client.name) end
  end) end)
end)
