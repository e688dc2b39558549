local cjson = require "cjson"
local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

local GOLDEN = "tests/contract/snapshot/"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function golden_names()
  local names, list = {}, assert(io.popen("ls " .. GOLDEN .. "*.json"))
  for name in list:lines() do names[#names + 1] = name end
  list:close()
  return names
end

local SNAPSHOT_FILE = assert(package.searchpath("evenkeel.snapshot", package.path))

-- A worker with its own view over the dict that all share.
local function new_worker(dict, path)
  local snapshots = dofile(SNAPSHOT_FILE)
  snapshots.use(dict, path)
  return snapshots
end

local function no_rest() end

-- The golden example as a table, changed by `change`, as text.
local function example(change)
  local doc = cjson.decode(read(GOLDEN .. "example.json"))
  if change then change(doc) end
  return cjson.encode(doc)
end

describe("a snapshot", function()
  local ngx_stand_in, snapshots
  setup(function() ngx_stand_in = fake_ngx.install() end)
  before_each(function() snapshots = new_worker(fake_dict.new(ngx_stand_in.clock), "/nonexistent/snapshot.json") end)

  local function compiled(change)
    local snapshot, faults = snapshots.compile(example(change), no_rest)
    assert(snapshot, table.concat(faults or {}, "; "))
    return snapshot
  end

  it("of every golden file of the control plane compiles", function()
    local names = golden_names()
    assert(#names >= 5)
    for _, name in ipairs(names) do
      local snapshot, faults = snapshots.compile(read(name), no_rest)
      assert(snapshot, name .. ": " .. table.concat(faults or {}, "; "))
    end
  end)

  it("may have members that only a newer control plane knows, at every level", function()
    local function extend(value)
      if type(value) ~= "table" then return end
      for key, inner in pairs(value) do
        if key ~= "rates" then extend(inner) end              -- keys there are currencies
      end
      if value[1] == nil and next(value) ~= nil then value.of_the_next_version = { a = { 1, "two", cjson.null } } end
    end
    for _, name in ipairs(golden_names()) do
      local doc = cjson.decode(read(name))
      extend(doc)
      local snapshot, faults = snapshots.compile(cjson.encode(doc), no_rest)
      assert(snapshot, name .. ": " .. table.concat(faults or {}, "; "))
    end
  end)

  it("of a later format is refused", function()
    local snapshot, faults = snapshots.compile(example(function(doc) doc.format = 2 end), no_rest)
    assert.is_nil(snapshot)
    assert.same({ "format: this node understands format 1" }, faults)
  end)

  it("knows its clients by the hash of each of their keys, and when each ends", function()
    local snapshot = assert(snapshots.compile(read(GOLDEN .. "clients.json"), no_rest))
    local doc, known = cjson.decode(read(GOLDEN .. "clients.json")), 0
    for _, client in ipairs(doc.clients) do
      for _, key in ipairs(client.keys) do
        known = known + 1
        local entry = snapshot.clients:by_key(key.sha256)
        assert.equal(snapshot.clients:by_name(client.name), entry.client)
        assert.equal(client.name, entry.client.name)
        if client.name == "hashed-only" then
          assert.is_nil(entry.ends)
          assert.is_false(entry.client.limited)
        else
          assert.equal(key.sha256:find("^0+1$") and 1801396800 or 1893456000, entry.ends, "the key's own end, or the client's")
          assert.is_true(entry.client.limited)
        end
      end
    end
    assert.equal(4, known)
    assert.is_false(snapshot.clients:by_name("all").enabled)
    assert.is_true(snapshot.several_clients)
    assert.is_nil(snapshot.clients:by_key(("ab"):rep(32)))
    assert.is_nil(snapshot.clients:by_name("nobody"))
  end)

  it("knows its instances, pools and models", function()
    local snapshot = compiled()
    assert.equal(12, snapshot.revision)
    assert.same({ "hosted-b", "lite", "official-1", "self-c" }, snapshot.instance_names)
    assert.same({ "deepseek-chat", "deepseek-v3" }, snapshot.model_names)
    local pool = snapshot.models["deepseek-v3"]
    assert.equal(snapshot.pools.chat, pool)
    assert.equal(snapshot.instances["official-1"], pool.tiers[1].instances[1])
    assert.equal("lite", pool.tiers[2].instances[1].name)
    assert.is_true(snapshot.instances["official-1"].can.prefix_completion)
    assert.is_nil(snapshot.instances.lite.can.prefix_completion)
  end)

  it("gives times in seconds", function()
    local inst = compiled().instances["official-1"]
    assert.same({ 0.8, 2, 10, 10, 600 }, { inst.base_latency_s, inst.connect_s, inst.first_token_s, inst.idle_s, inst.total_s })
    assert.same({ 50, 50 }, { inst.weight, inst.max_connections })
  end)

  it("has a door for each instance, relative to the node's directory", function()
    assert.equal("unix:run/instances/official-1.sock", compiled().instances["official-1"].door)
  end)

  for _, case in ipairs {
    { "the default port is not named", {}, "Host: api.deepseek.com\r\n" },
    { "another port is", { port = 8443 }, "Host: api.deepseek.com:8443\r\n" },
    { "plain HTTP has its own default", { scheme = "http", port = 80 }, "Host: api.deepseek.com\r\n" },
    { "an IPv6 address stands in brackets", { host = "2001:db8::1", port = 8000 }, "Host: [2001:db8::1]:8000\r\n" },
    { "the key goes along", {}, "\r\nAuthorization: Bearer fake-DEEPSEEK_API_KEY\r\n" },
  } do
    it("in a request's head " .. case[1], function()
      local inst = compiled(function(doc)
        for key, value in pairs(case[2]) do doc.instances[3][key] = value end
      end).instances["official-1"]
      assert(inst.request_headers:find(case[3], 1, true), inst.request_headers)
    end)
  end

  it("sends no key where there is none", function()
    assert.is_nil(compiled().instances["self-c"].request_headers:find("Authorization", 1, true))
  end)

  it("keeps connections of different TLS settings apart, and verifies unless told otherwise", function()
    local keys = {}
    for i, tls in ipairs { { verify = true }, { verify = false }, { verify = true, server_name = "other.example" } } do
      local inst = compiled(function(doc) doc.instances[3].tls = tls end).instances["official-1"]
      assert.equal(i ~= 2, inst.tls_verify)
      assert.is_nil(keys[inst.pool_key])
      keys[inst.pool_key] = true
    end
    assert.is_true(compiled(function(doc) doc.instances[3].tls = nil end).instances["official-1"].tls_verify)
  end)

  it("knows which instances are in service", function()
    local function in_service(change) return compiled(change).instances["official-1"].in_service end
    assert.is_true(in_service())
    for _, out in ipairs { { "enabled", false }, { "drain", true }, { "healthy", false } } do
      assert.is_false(in_service(function(doc) doc.instances[3][out[1]] = out[2] end), out[1])
    end
    assert.is_true(in_service(function(doc)
      local inst = doc.instances[3]
      inst.enabled, inst.drain, inst.healthy = nil, nil, nil
    end))
  end)

  it("keeps an instance out until the running text has opened its door", function()
    snapshots.use(fake_dict.new(ngx_stand_in.clock), "/nonexistent/snapshot.json", { "lite", "official-1" })
    local instances = compiled().instances
    assert.is_true(instances["official-1"].in_service)
    assert.is_false(instances["hosted-b"].in_service)
  end)

  -- The name that TLS verifies and asks for; nil: none is sent.
  for _, case in ipairs {
    { "the host's", {}, "api.deepseek.com" },
    { "the one that is set", { tls = { server_name = "other.example" } }, "other.example" },
    { "the one that is set for an address", { host = "10.0.0.7", tls = { server_name = "other.example" } }, "other.example" },
    { "none for an IPv4 address", { host = "10.0.0.7" }, nil },
    { "none for an IPv6 address", { host = "2001:db8::1" }, nil },
    { "none without TLS", { scheme = "http", tls = { server_name = "other.example" } }, nil },
    { "the host's, although it begins with digits", { host = "10.example" }, "10.example" },
  } do
    it("names for TLS " .. case[1], function()
      local inst = compiled(function(doc)
        for key, value in pairs(case[2]) do doc.instances[3][key] = value end
      end).instances["official-1"]
      assert.equal(case[3], inst.tls_name)
    end)
  end

  it("puts paths together with one slash", function()
    for _, case in ipairs { { "/v1", "/v1" }, { "", "" }, { "/", "" }, { "/api/beta", "/api/beta" } } do
      assert.equal(case[2], compiled(function(doc) doc.instances[3].path = case[1] end).instances["official-1"].path)
    end
  end)

  it("takes null for absent", function()
    local snapshot = compiled(function(doc)
      local inst, pool = doc.instances[3], doc.pools[1]
      for _, key in ipairs { "provider", "api_key", "model", "capabilities", "tls", "price", "min_tokens_per_second" } do
        inst[key] = cjson.null
      end
      for _, key in ipairs { "queue", "retry", "fallback", "breaker" } do pool[key] = cjson.null end
      pool.tiers[2].model, doc.clients, doc.gateway = cjson.null, cjson.null, cjson.null
    end)
    local inst = snapshot.instances["official-1"]
    assert.is_nil(inst.api_key)
    assert.is_nil(inst.model)
    assert.is_nil(inst.min_tokens_per_second)
    assert.same({}, inst.can)
    assert.same({ {}, {} }, { snapshot.pools.chat.retry, snapshot.pools.chat.fallback })
    assert.is_nil(snapshot.pools.chat.tiers[2].model)
  end)

  it("lets anybody in unless it says otherwise", function()
    assert.is_true(compiled(function(doc) doc.gateway = nil end).anonymous)
    assert.is_false(compiled(function(doc) doc.gateway.anonymous = false end).anonymous)
  end)

  it("finds each client by the hashes of all its keys", function()
    local first, second = ("ab"):rep(32), ("cd"):rep(32)
    local snapshot = compiled(function(doc) doc.clients[1].keys = { { sha256 = first }, { sha256 = second, ["until"] = 1800000000 } } end)
    local client = snapshot.clients:by_key(first).client
    assert.equal(client, snapshot.clients:by_key(second).client)
    assert.equal(client, snapshot.clients:by_name(client.name))
    assert.equal(1800000000, snapshot.clients:by_key(second).ends)
  end)

  it("knows which models a client may use; no list is all of them", function()
    local function client(models)
      local snapshot = compiled(function(doc) doc.clients[1].models = models end)
      return snapshot.clients:by_name("web-app")
    end
    assert.same({ ["deepseek-chat"] = true }, client({ "deepseek-chat" }).may)
    assert.is_nil(client({}).may)
    assert.is_nil(client(nil).may)
  end)

  describe("with a fault", function()
    local null = cjson.null
    for _, case in ipairs {
      -- what is changed, the path that is told
      { "another format", function(doc) doc.format = 2 end, "format: " },
      { "a revision that is a text", function(doc) doc.revision = "12" end, "revision: " },
      { "a part of a revision", function(doc) doc.revision = 1.5 end, "revision: " },
      { "a revision before the first", function(doc) doc.revision = -1 end, "revision: " },
      { "no digest", function(doc) doc.digest = nil end, "digest: " },
      { "no instances", function(doc) doc.instances = null end, "instances: " },
      { "an object for instances", function(doc) doc.instances = { a = 1 } end, "instances: " },
      { "an instance that is null", function(doc) doc.instances[2] = null end, "instances[1]: " },
      { "an instance that is a number", function(doc) doc.instances[2] = 7 end, "instances[1]: " },
      { "no name", function(doc) doc.instances[1].name = nil end, "instances[0].name: " },
      { "a name that leads elsewhere", function(doc) doc.instances[1].name = "../x" end, "instances[0].name: " },
      { "a name in capitals", function(doc) doc.instances[1].name = "Official" end, "instances[0].name: " },
      { "a name that is too long", function(doc) doc.instances[1].name = ("a"):rep(49) end, "instances[0].name: " },
      { "two of one name", function(doc) doc.instances[2].name = doc.instances[1].name end, "instances[1].name: " },
      { "another scheme", function(doc) doc.instances[1].scheme = "ftp" end, "instances[0].scheme: " },
      { "no host", function(doc) doc.instances[1].host = "" end, "instances[0].host: " },
      { "a host with a line break", function(doc) doc.instances[1].host = "a\r\nX: y" end, "instances[0].host: " },
      { "a port beyond the last", function(doc) doc.instances[1].port = 65536 end, "instances[0].port: " },
      { "a part of a port", function(doc) doc.instances[1].port = 80.5 end, "instances[0].port: " },
      { "a path with a line break", function(doc) doc.instances[1].path = "/v1\r\nX: y" end, "instances[0].path: " },
      { "a path with a space", function(doc) doc.instances[1].path = "/v1 x" end, "instances[0].path: " },
      { "a path without its slash", function(doc) doc.instances[1].path = "v1" end, "instances[0].path: " },
      { "a key with a line break", function(doc) doc.instances[1].api_key = "sk\r\nX: y" end, "instances[0].api_key: " },
      { "a key that is a number", function(doc) doc.instances[1].api_key = 7 end, "instances[0].api_key: " },
      { "a model with a line break", function(doc) doc.instances[1].model = "a\nb" end, "instances[0].model: " },
      { "a weight below nothing", function(doc) doc.instances[1].weight = -1 end, "instances[0].weight: " },
      { "a weight that is a text", function(doc) doc.instances[1].weight = "50" end, "instances[0].weight: " },
      { "no room for anybody", function(doc) doc.instances[1].max_connections = 0 end, "instances[0].max_connections: " },
      { "no timeouts", function(doc) doc.instances[1].timeouts_ms = nil end, "instances[0].timeouts_ms: " },
      { "a timeout missing", function(doc) doc.instances[1].timeouts_ms.idle = nil end, "instances[0].timeouts_ms.idle: " },
      { "a timeout of nothing", function(doc) doc.instances[1].timeouts_ms.total = 0 end, "instances[0].timeouts_ms.total: " },
      { "no breaker", function(doc) doc.instances[1].breaker = nil end, "instances[0].breaker: " },
      { "a breaker that needs no failure", function(doc) doc.instances[1].breaker.unhealthy_threshold = 0 end,
        "instances[0].breaker.unhealthy_threshold: " },
      { "a breaker without window", function(doc) doc.instances[1].breaker.sliding_window_s = 0 end,
        "instances[0].breaker.sliding_window_s: " },
      { "a rate above all", function(doc) doc.instances[1].breaker.error_rate_threshold = 50 end,
        "instances[0].breaker.error_rate_threshold: " },
      { "capabilities that are an object", function(doc) doc.instances[3].capabilities = { a = true } end, "instances[2].capabilities: " },
      { "a capability that is a number", function(doc) doc.instances[3].capabilities[1] = 1 end, "instances[2].capabilities[0]: " },
      { "TLS that is a text", function(doc) doc.instances[3].tls = "yes" end, "instances[2].tls: " },
      { "TLS verified by a text", function(doc) doc.instances[3].tls.verify = "no" end, "instances[2].tls.verify: " },
      { "enabled by a number", function(doc) doc.instances[3].enabled = 0 end, "instances[2].enabled: " },
      { "no pools", function(doc) doc.pools = nil end, "pools: " },
      { "a pool without name", function(doc) doc.pools[1].name = nil end, "pools[0].name: " },
      { "two pools of one name", function(doc) doc.pools[2] = { name = "chat", models = {}, tiers = doc.pools[1].tiers } end,
        "pools[1].name: " },
      { "two pools that take one model", function(doc)
        doc.pools[2] = { name = "b", models = { "deepseek-v3" }, tiers = doc.pools[1].tiers }
      end, "pools[1].models[0]: " },
      { "a model that is null", function(doc) doc.pools[1].models[1] = null end, "pools[0].models[0]: " },
      { "an unknown algorithm", function(doc) doc.pools[1].algorithm = "live_weight" end, "pools[0].algorithm: " },
      { "no tiers", function(doc) doc.pools[1].tiers = nil end, "pools[0].tiers: " },
      { "not one tier", function(doc) doc.pools[1].tiers = {} end, "pools[0].tiers: " },
      { "a tier that is null", function(doc) doc.pools[1].tiers[2] = null end, "pools[0].tiers[1]: " },
      { "a tier without instances", function(doc) doc.pools[1].tiers[2].instances = nil end, "pools[0].tiers[1].instances: " },
      { "an instance that does not exist", function(doc) doc.pools[1].tiers[1].instances[3] = "nobody" end,
        "pools[0].tiers[0].instances[2]: " },
      { "an instance twice in a tier", function(doc) doc.pools[1].tiers[1].instances[3] = "official-1" end,
        "pools[0].tiers[0].instances[2]: " },
      { "a tier's model with a line break", function(doc) doc.pools[1].tiers[2].model = "a\r\nX: y" end, "pools[0].tiers[1].model: " },
      { "a queue without size", function(doc) doc.pools[1].queue.size = nil end, "pools[0].queue.size: " },
      { "a negative wait", function(doc) doc.pools[1].queue.timeout_ms = -1 end, "pools[0].queue.timeout_ms: " },
      { "a retry budget that is a text", function(doc) doc.pools[1].retry.budget_ratio = "20%" end, "pools[0].retry.budget_ratio: " },
      { "a fallback that is a text", function(doc) doc.pools[1].fallback = "sorry" end, "pools[0].fallback: " },
      { "a default response that is none", function(doc) doc.pools[1].fallback.default_response = {} end,
        "pools[0].fallback.default_response: " },
      { "a client without key", function(doc) doc.clients[1].keys = nil end, "clients[0].keys: " },
      { "a client with its key in clear", function(doc) doc.clients[1].keys[1].sha256 = "sk-secret" end,
        "clients[0].keys[0].sha256: " },
      { "a budget of nothing", function(doc) doc.clients[1].budget = { amount = 0, currency = "USD", per = "day" } end,
        "clients[0].budget.amount: " },
      { "a client that is a text", function(doc) doc.clients[1] = "web-app" end, "clients[0]: " },
      { "a client's models that are a text", function(doc) doc.clients[1].models = "all" end, "clients[0].models: " },
    } do
      it("is refused with its path: " .. case[1], function()
        local snapshot, faults = snapshots.compile(example(case[2]), no_rest)
        assert.is_nil(snapshot)
        assert.equal(case[3], faults[1]:sub(1, #case[3]))
        assert(#faults[1] > #case[3] + 5, "it says what is needed")
        for i = 2, #faults do                       -- an instance that is not one is missed by the pools
          assert(faults[i]:find(": there is no such instance", 1, true), faults[i])
        end
      end)
    end

    it("tells all of them at once", function()
      local _, faults = snapshots.compile(example(function(doc)
        doc.format, doc.instances[1].port, doc.instances[4].scheme, doc.pools[1].tiers[1].instances[1] = 9, 0, "x", "y"
      end), no_rest)
      table.sort(faults)
      assert.equal(4, #faults, table.concat(faults, "\n"))
    end)

    it("never tells a secret", function()
      local _, faults = snapshots.compile(example(function(doc) doc.instances[1].api_key = "very secret" end), no_rest)
      assert.is_nil(table.concat(faults):find("very", 1, true))
    end)

    for _, raw in ipairs {
      "", "not json", "null", "7", '"x"', "[]", "[1]", "{}", '{"format":1}', ("["):rep(5000), example():sub(1, 500),
    } do
      it("is refused, whatever it is: " .. raw:sub(1, 20), function()
        local snapshot, faults = snapshots.compile(raw, no_rest)
        assert.is_nil(snapshot)
        assert(#faults >= 1)
      end)
    end

    -- Whatever is pushed, the node refuses it or can run it; it never trips.
    it("is refused or does no harm: every value of the example, replaced by every kind of value", function()
      local function paths(value, path, out)
        if type(value) == "table" then
          for k, v in pairs(value) do
            local deeper = { unpack(path) }
            deeper[#deeper + 1] = k
            out[#out + 1] = deeper
            paths(v, deeper, out)
          end
        end
        return out
      end
      local taken, refused = 0, 0
      local replacements = { null, true, false, 0, -1, 1.5, 1e300, "", "x", "a b", "\n", {}, { 1 }, { "x" }, { x = 1 }, { {} } }
      for _, path in ipairs(paths(cjson.decode(example()), {}, {})) do
        for i = 1, #replacements + 1 do
          local raw = example(function(doc)
            local at = doc
            for step = 1, #path - 1 do at = at[path[step]] end
            at[path[#path]] = replacements[i]
          end)
          local snapshot, faults = snapshots.compile(raw, no_rest)
          if snapshot then
            taken = taken + 1
            for _, pool in pairs(snapshot.pools) do
              assert(#pool.tiers > 0 and pool.queue.size >= 0 and type(pool.retry) == "table" and type(pool.fallback) == "table")
              for _, tier in ipairs(pool.tiers) do
                for _, inst in ipairs(tier.instances) do
                  assert(inst.base_latency_s > 0 and inst.total_s > 0 and inst.breaker.min_requests)
                end
              end
            end
          else
            refused = refused + 1
            assert(#faults > 0)
          end
        end
      end
      assert(taken > 100 and refused > 1000, taken .. " taken, " .. refused .. " refused")
    end)
  end)
end)

describe("pushing a snapshot", function()
  local stand_in, dict, path, snapshots
  before_each(function()
    stand_in = fake_ngx.install()
    dict = fake_dict.new(stand_in.clock)
    path = os.tmpname()
    os.remove(path)
    snapshots = new_worker(dict, path)
  end)
  after_each(function()
    os.remove(path)
    os.remove(path .. ".new")
  end)

  local function revision(number, digest)
    return example(function(doc) doc.revision, doc.digest = number, digest or "d" .. number end)
  end

  it("is answered 202 when it is new, 204 when it is known, 409 when it is older, 422 when it is invalid", function()
    assert.equal(202, (snapshots.accept(revision(5))))
    assert.equal(204, (snapshots.accept(revision(5))))
    assert.equal(409, (snapshots.accept(revision(4))))
    assert.equal(202, (snapshots.accept(revision(6))))
    assert.equal(204, (snapshots.accept(revision(6))))
    local status, faults = snapshots.accept("{}")
    assert.equal(422, status)
    assert(#faults > 0)
    assert.equal(6, snapshots.current().revision)
  end)

  it("takes the same revision with another digest: what the control plane says last is true", function()
    snapshots.accept(revision(5))
    assert.equal(202, (snapshots.accept(revision(5, "other"))))
    assert.equal("other", snapshots.current().digest)
  end)

  it("takes a newer state of the same revision, and no older one", function()
    local function state(number, number_of_revision)
      return example(function(doc) doc.revision, doc.state, doc.digest = number_of_revision or 5, number, "state " .. number end)
    end
    assert.equal(202, (snapshots.accept(state(7))))
    assert.equal(204, (snapshots.accept(state(7))))
    assert.equal(409, (snapshots.accept(state(6))))
    assert.equal(202, (snapshots.accept(state(8))))
    assert.equal(8, snapshots.current().state)
    assert.equal(409, (snapshots.accept(state(9, 4))), "the revision goes first")
    assert.equal(202, (snapshots.accept(state(1, 6))))
    assert.equal(6, snapshots.current().revision)
  end)

  it("takes what has no state as the state before all others", function()
    assert.equal(202, (snapshots.accept(example(function(doc) doc.revision, doc.state = 5, nil end))))
    assert.equal(0, snapshots.current().state)
    assert.equal(202, (snapshots.accept(example(function(doc) doc.revision, doc.state = 5, 1 end))))
  end)

  it("changes nothing when it is refused", function()
    snapshots.accept(revision(5))
    local before = snapshots.current()
    snapshots.accept("{}")
    snapshots.accept(revision(4))
    assert.equal(before, snapshots.current())
    assert.equal(revision(5), read(path))
  end)

  it("reaches every worker at its next look, as a whole", function()
    local other = new_worker(dict, path)
    assert.is_nil(other.current())
    snapshots.accept(revision(5))
    local first = other.current()
    assert.equal(5, first.revision)
    assert.equal(first, other.current(), "nothing is decoded again while nothing changes")
    snapshots.accept(revision(6))
    assert.equal(6, other.current().revision)
    assert.equal(5, first.revision, "a request keeps the one it began with")
  end)

  it("brings anew what differs in it, and shares with the one before the instances that do not", function()
    local other = new_worker(dict, path)
    snapshots.accept(revision(5))
    local before = { snapshots.current(), other.current() }
    snapshots.accept(example(function(doc) doc.revision, doc.instances[1].weight = 6, 7 end))
    for i, worker in ipairs { snapshots, other } do
      local was, now = before[i].instances, worker.current().instances
      assert.same({ 50, 7 }, { was["hosted-b"].weight, now["hosted-b"].weight })
      for name, inst in pairs(now) do assert.equal(name ~= "hosted-b", inst == was[name], name) end
      assert.equal(now["hosted-b"], worker.current().pools.chat.tiers[1].instances[2])
    end
  end)

  it("keeps an instance's state apart by the tier it is first in, though its text is the same", function()
    snapshots.accept(revision(5))
    local before = snapshots.current().instances.lite
    local keys = before.keys
    snapshots.accept(example(function(doc)
      doc.revision = 6
      doc.pools[1].tiers[1].instances[3] = "lite"
    end))
    local now = snapshots.current().instances.lite
    assert.are_not.equal(before, now)
    assert.equal(keys, before.keys, "a request that is under way keeps what it began with")
    assert.are_not.same(keys, now.keys)
  end)

  it("is refused when an array stands there twice", function()
    for _, name in ipairs { "clients", "instances" } do
      local status, faults = snapshots.accept('{"' .. name .. '":[],"' .. name .. '":[{"name":"x"}]}')
      assert.same({ 422, { name .. ": they stand there twice" } }, { status, faults })
    end
  end)

  it("is kept on disk for the next start", function()
    snapshots.accept(revision(5))
    assert.equal(revision(5), read(path))
    local restarted = new_worker(fake_dict.new(stand_in.clock), path)
    assert.is_true(restarted.restore())
    assert.equal(5, restarted.current().revision)
    assert.equal(204, (restarted.accept(revision(5))))
    assert.equal(409, (restarted.accept(revision(4))))
  end)

  it("goes before what is on disk: a reload takes the one in memory", function()
    snapshots.accept(revision(5))
    snapshots.accept(revision(6))
    local file = assert(io.open(path, "w"))
    file:write(revision(3))
    file:close()
    local reloaded = new_worker(dict, path)
    assert.is_true(reloaded.restore())
    assert.equal(6, reloaded.current().revision)
  end)

  it("is left alone by code that cannot use it, which a reload has brought, until another one comes", function()
    snapshots.accept(revision(5))
    dict:set("raw", (revision(5):gsub('"format":1', '"format":2')))
    local reloaded = new_worker(dict, path)
    assert.same({ nil, "format: this node understands format 1" }, { reloaded.restore() })
    assert.is_nil(reloaded.current())
    assert.equal(202, (reloaded.accept(revision(6))))
    assert.equal(6, reloaded.current().revision)
  end)

  it("does not spoil the good one on disk when the disk is full", function()
    snapshots.accept(revision(5))
    assert(os.execute("ln -s /dev/full " .. path .. ".new") == 0)
    assert.equal(202, (snapshots.accept(revision(6))), "it is served all the same")
    assert.equal(revision(5), read(path))
    assert(table.concat(stand_in.logged, "\n"):find("could not keep the snapshot on disk", 1, true))
  end)

  it("is answered 507 when it does not fit, and the last one stays", function()
    snapshots.accept(revision(5))
    dict.full = true
    local status, words = snapshots.accept(revision(6))
    assert.equal(507, status)
    assert(words[1]:find("no memory", 1, true))
    assert.equal(5, snapshots.current().revision)
    assert.equal(revision(5), read(path))
  end)

  it("begins without one when there is none on disk, or a spoilt one", function()
    assert.same({ nil, "none on disk" }, { snapshots.restore() })
    local file = assert(io.open(path, "w"))
    file:write(revision(5):sub(1, 100))
    file:close()
    local ok, why = snapshots.restore()
    assert.is_nil(ok)
    assert(why:find("not JSON", 1, true))
    assert.is_nil(snapshots.current())
    assert.equal(202, (snapshots.accept(revision(5))))
  end)
end)
