local ffi = require "ffi"
local fake_ngx = require "support.fake_ngx"

describe("the key of a request", function()
  local clients
  setup(function()
    fake_ngx.install()
    clients = require "evenkeel.clients"
  end)

  for _, case in ipairs {
    { "comes as a bearer token", "Bearer sk-1", nil, "sk-1" },
    { "or as api-key", nil, "sk-1", "sk-1" },
    { "is read whatever the case of the scheme", "bEARER sk-1", nil, "sk-1" },
    { "may stand behind several spaces", "Bearer   sk-1", nil, "sk-1" },
    { "may hold spaces: it is then no key that we know", "Bearer sk 1", nil, "sk 1" },
    { "is the bearer token when there are both", "Bearer sk-1", "sk-2", "sk-1" },
    { "is none with another scheme, whatever else is there", "Basic dXNlcjpwYXNz", "sk-2", nil },
    { "is none in a bare token", "sk-1", nil, nil },
    { "is none without a token", "Bearer", nil, nil },
    { "is none in an empty token", "Bearer ", nil, nil },
    { "is none in an empty header", nil, "", nil },
    { "is none when nothing is sent", nil, nil, nil },
  } do
    it(case[1], function() assert.equal(case[4], clients.key(case[2], case[3])) end)
  end
end)

-- A snapshot whose clients are entries by the hash of their key.
local function with(entries)
  return { anonymous = false, clients = { n = 1, by_key = function(_, sha256) return entries[sha256] end } }
end

describe("the client of a request", function()
  local clients, answered, snapshot, entries, clock
  local loaded = pcall(ffi.load, "libcrypto.so.3", true)       -- in nginx it is linked in

  before_each(function()
    local stand_in = fake_ngx.install()
    clock = stand_in.clock
    stand_in.print = function(body) answered.body = body end
    stand_in.exit = function() answered.status = stand_in.status end
    package.loaded["evenkeel.clients"], package.loaded["evenkeel.errors"] = nil, nil
    clients = require "evenkeel.clients"
    answered = {}
    entries = {}
    snapshot = with(entries)
    if loaded then entries[clients.sha256("sk-1")] = { client = { name = "web-app" } } end
  end)

  local function identify(authorization)
    return clients.identify(snapshot, { http_authorization = authorization })
  end

  local function test(name, check)
    if loaded then it(name, check) else pending(name) end
  end

  test("is found by the digest of its key", function()
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", clients.sha256("abc"))
    assert.equal("web-app", identify("Bearer sk-1").name)
    assert.equal("web-app", identify("Bearer sk-1").name, "and again, without counting it anew")
    assert.same({}, answered)
  end)

  test("is refused with an unknown key, and without one", function()
    for _, given in ipairs { "Bearer sk-2", "Bearer " .. ("x"):rep(5000), "Basic x" } do
      answered = {}
      assert.is_nil(identify(given))
      assert.equal(401, answered.status)
      assert.is_nil(answered.body:find("sk-2", 1, true), "a key is never repeated")
    end
    answered = {}
    identify(nil)
    assert.equal(401, answered.status)
  end)

  test("may be nobody where anonymous requests are allowed; a known key still says who it is", function()
    snapshot.anonymous = true
    assert.is_nil(identify(nil))
    assert.is_nil(identify("Bearer sk-2"))
    assert.same({}, answered)
    assert.equal("web-app", identify("Bearer sk-1").name)
  end)

  test("is refused as soon as a new snapshot does not know the key any more", function()
    identify("Bearer sk-1")
    snapshot = with { [clients.sha256("sk-3")] = { client = { name = "other" } } }
    assert.is_nil(identify("Bearer sk-1"))
    assert.equal(401, answered.status)
  end)

  test("is refused when it is switched off, also where anonymous requests are allowed", function()
    snapshot.anonymous = true
    entries[clients.sha256("sk-1")].client.enabled = false
    assert.is_nil(identify("Bearer sk-1"))
    assert.equal(401, answered.status)
    assert.is_truthy(answered.body:find("client_disabled", 1, true))
  end)

  test("is refused from the second on in which its key ends, though the key was known until then", function()
    entries[clients.sha256("sk-1")].ends = clock.now_s + 10
    assert.equal("web-app", identify("Bearer sk-1").name)
    clock:pass(9)
    assert.equal("web-app", identify("Bearer sk-1").name)
    clock:pass(1)
    assert.is_nil(identify("Bearer sk-1"))
    assert.is_truthy(answered.body:find("api_key_expired", 1, true))
  end)
end)
