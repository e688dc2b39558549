-- The configuration that this node serves: one immutable snapshot per revision, pushed by the control plane.
--
-- What probes and ghosts found is laid over it by the control plane ("healthy": false, "weight_factor": 0.5); each change of that has a
-- higher state number, at the same revision.
--
-- The pushed text is kept raw in a shared dict with a version; each worker decodes and compiles once per change what is new in it (clients
-- when they call) and then swaps the whole snapshot or nothing. A request keeps the one it began with. The last good one is on disk
-- (0600) for the next start.

local cjson = require "cjson.safe"
local client_list = require "evenkeel.client_list"
local clock = require "evenkeel.clock"
local json_array = require "evenkeel.json_array"
local limits = require "evenkeel.limits"
local live = require "evenkeel.live"
local snapshot_check = require "evenkeel.snapshot_check"

local without_null = snapshot_check.without_null
local type, ipairs, pairs, next = type, ipairs, pairs, next

local M = {}

local dict
local path
local doors
local current, current_version

--- @param shared its shared dict  @param file where the last good one is kept
--- @param listening names of the instances whose doors the running text opens; nil: all
function M.use(shared, file, listening)
  dict = shared
  path = file
  doors = nil
  if listening then
    doors = {}
    for _, name in ipairs(listening) do doors[name] = true end
  end
  current, current_version = nil, nil
end

-- The first tier that has it, by instance: whose pace it goes by.
local function tiers_of(pools)
  local of = {}
  for _, pool in ipairs(pools) do
    for i, tier in ipairs(pool.tiers) do
      for _, name in ipairs(tier.instances) do of[name] = of[name] or pool.name .. "/" .. i end
    end
  end
  return of
end

local function compile_instance(inst, any_target, tier)
  inst.any_target = any_target
  inst.keys = live.keys(inst.name, tier)
  inst.door = "unix:run/instances/" .. inst.name .. ".sock"
  inst.base_latency_s = math.max(inst.base_latency_ms, 1) / 1000
  inst.weight_factor = inst.weight_factor or 1
  if inst.path == "/" then inst.path = "" end
  local t = inst.timeouts_ms
  inst.connect_s, inst.first_token_s, inst.idle_s, inst.total_s = t.connect / 1000, t.first_token / 1000, t.idle / 1000, t.total / 1000
  local tls = inst.tls or {}
  inst.secure = inst.scheme == "https"
  -- certificates are checked by DNS name; an address without one can only be reached unverified, and has no SNI
  local is_address = inst.host:find(":", 1, true) or inst.host:find("^[%d.]+$")
  inst.tls_name = inst.secure and (tls.server_name or not is_address and inst.host) or nil
  inst.tls_verify = tls.verify ~= false
  local default_port = inst.scheme == "https" and 443 or 80
  local host = inst.host:find(":", 1, true) and "[" .. inst.host .. "]" or inst.host
  inst.host_header = inst.port == default_port and host or host .. ":" .. inst.port
  -- connections are kept per instance and per everything that makes two of them different
  inst.pool_key = table.concat({ inst.name, inst.scheme, inst.host, inst.port, inst.tls_name or "", tostring(inst.tls_verify) }, "|")
  inst.request_headers = table.concat({
    " HTTP/1.1\r\nHost: ", inst.host_header,
    inst.api_key and "\r\nAuthorization: Bearer " .. inst.api_key or "",
    "\r\nUser-Agent: evenkeel\r\nAccept-Encoding: identity\r\n",
  })
  -- a new instance is pushed before the reload that opens its door
  inst.reachable = inst.enabled ~= false and not inst.drain and (doors == nil or doors[inst.name] == true)
  inst.in_service = inst.reachable and inst.healthy ~= false
  inst.can = {}
  for _, capability in ipairs(inst.capabilities or {}) do inst.can[capability] = true end
  return inst
end

local function compile_client(client)
  limits.compile(without_null(client))
  if client.models and #client.models > 0 then
    client.may = {}
    for _, model in ipairs(client.models) do client.may[model] = true end
  end
end

-- Of a snapshot without clients.
local NOBODY = { n = 0, by_key = function() end, by_name = function() end }

local function no_rest() end

-- Instances that are compiled: for which tier and target. They never change after that, so snapshots may share them.
local compiled_for = setmetatable({}, { __mode = "k" })

-- The instances of a snapshot, and by their texts. Those that the snapshot before had, word for word, are the very same: most changes
-- are changes of one.
local function decode_instances(texts)
  local list, by_text, known = {}, {}, current and current.instance_of or {}
  for i, text in ipairs(texts) do
    local inst = known[text]
    if not inst then
      local why
      inst, why = cjson.decode(text)
      if not inst then return nil, "instances[" .. (i - 1) .. "]: not JSON: " .. why end
    end
    list[i], by_text[text] = inst, inst
  end
  return list, by_text
end

local function decode(raw)
  local text, clients = client_list.cut(raw, compile_client)
  if not text then return nil, clients end
  local rest, texts = json_array.cut(text, "instances")
  if not rest then return nil, texts end
  local doc, why = cjson.decode(rest)
  if type(doc) ~= "table" then return nil, "not JSON: " .. tostring(why or "no object") end
  for name in pairs { clients = clients, instances = texts } do
    if type(doc[name]) == "table" and next(doc[name]) ~= nil then return nil, name .. ": they stand there twice" end
  end
  local by_text = {}
  if texts then
    doc.instances, by_text = decode_instances(texts)
    if not doc.instances then return nil, by_text end
  end
  return doc, clients, by_text, texts
end

-- One that is compiled already, if it was for the same.
local function ready_instance(inst, text, any_target, tier)
  local of = compiled_for[inst]
  if of and of.tier == tier and of.any_target == any_target then return inst end
  if of then inst = cjson.decode(text) end         -- requests that are under way have the other one
  compiled_for[inst] = { tier = tier, any_target = any_target }
  return compile_instance(without_null(inst), any_target, tier)
end

local function faults_of(doc, clients, breathe)
  local faults = snapshot_check.faults(doc, compiled_for)
  if #faults > 0 or not clients then return faults end
  return clients:faults(breathe, snapshot_check.of_clients)
end

--- Text → snapshot. @return snapshot, or nil and a list of faults
--- @param breathe for a text that was never checked: called now and then, as there may be many clients
function M.compile(raw, breathe)
  local doc, clients, instance_of, texts = decode(raw)
  if not doc then return nil, { clients } end
  if breathe then
    local faults = faults_of(doc, clients, breathe)
    if #faults > 0 then return nil, faults end
  end
  local instances = doc.instances
  doc.instances = nil                              -- those that were there before are ready
  without_null(doc)
  local snapshot = {
    revision = doc.revision, state = doc.state or 0, digest = doc.digest,
    gateway = doc.gateway or {}, instances = {}, pools = {}, models = {}, model_names = {},
    instance_names = {}, instance_of = instance_of,
  }
  local tier_of = tiers_of(doc.pools)
  for i, inst in ipairs(instances) do
    local name = inst.name
    inst = ready_instance(inst, texts[i], snapshot.gateway.link_local_targets, tier_of[name])
    snapshot.instances[name], instance_of[texts[i]] = inst, inst
    snapshot.instance_names[i] = name
  end
  for _, pool in ipairs(doc.pools) do
    snapshot.pools[pool.name] = pool
    pool.turn = math.random(1000)                  -- so that the workers do not all begin with the same instance
    for _, tier in ipairs(pool.tiers) do
      for i, name in ipairs(tier.instances) do tier.instances[i] = snapshot.instances[name] end
    end
    pool.queue = pool.queue or { size = 100, timeout_ms = 2000 }
    pool.retry = pool.retry or {}
    pool.fallback = pool.fallback or {}
    for _, model in ipairs(pool.models) do
      snapshot.models[model] = pool
      if model ~= "*" then snapshot.model_names[#snapshot.model_names + 1] = model end
    end
  end
  table.sort(snapshot.model_names)
  snapshot.anonymous = snapshot.gateway.anonymous ~= false
  snapshot.clients = clients or NOBODY
  snapshot.several_clients = snapshot.clients.n + (snapshot.anonymous and 1 or 0) > 1
  return snapshot
end

--- The snapshot of this moment, or nil before the first one.
function M.current()
  local version = dict:get("version")
  if version == current_version then return current end
  local raw = dict:get("raw")
  if not raw then return current end
  local compiled, errors = M.compile(raw)          -- it was checked when it came, and again by a reload, which may bring other code
  current_version = version
  if not compiled then
    ngx.log(ngx.ERR, "the stored snapshot does not compile: ", table.concat(errors, "; "))
    return current
  end
  current = compiled
  return current
end

local function publish(raw, snapshot)
  local ok, why = dict:set("raw", raw)
  if not ok then return nil, why end
  dict:set("revision", snapshot.revision)
  dict:set("state", snapshot.state)
  dict:set("digest", snapshot.digest)
  return dict:incr("version", 1, 0)
end

local function save(raw)
  local tmp = path .. ".new"
  local file, why = io.open(tmp, "w")
  if not file then return nil, why end
  local ok, write_why = file:write(raw)
  local closed, close_why = file:close()           -- what is buffered meets a full disk only here
  if not (ok and closed) then return nil, write_why or close_why end
  return os.rename(tmp, path)
end

--- Take a pushed snapshot. @return HTTP status, list of faults (422) or a text (500)
---   202 new · 204 same revision, state and digest · 409 older · 422 invalid · 507 no room
function M.accept(raw)
  local snapshot, errors = M.compile(raw, clock.breathe)
  if not snapshot then return 422, errors end
  local revision, state = dict:get("revision"), dict:get("state") or 0
  if revision then
    local same = snapshot.revision == revision
    if snapshot.revision < revision or same and snapshot.state < state then return 409 end
    if same and snapshot.state == state and snapshot.digest == dict:get("digest") then return 204 end
  end
  local version, why = publish(raw, snapshot)
  if not version then return 507, { "the snapshot does not fit: " .. tostring(why) } end
  current, current_version = snapshot, version
  local saved, save_why = save(raw)
  if not saved then ngx.log(ngx.ERR, "could not keep the snapshot on disk: ", save_why) end
  return 202
end

--- At the start: take the last good snapshot from disk unless one is in memory already (a reload).
function M.restore()
  local held, held_version = dict:get("raw"), dict:get("version")
  if held then
    local usable, faults = M.compile(held, no_rest)
    if usable then return true end
    current_version = held_version                 -- workers begin as copies of this process: they wait for another one
    return nil, table.concat(faults, "; ")
  end
  local file = io.open(path, "r")
  if not file then return nil, "none on disk" end
  local raw = file:read("*a")
  file:close()
  local snapshot, errors = M.compile(raw, no_rest)
  if not snapshot then return nil, table.concat(errors, "; ") end
  local version, full = publish(raw, snapshot)
  return version ~= nil, full
end

return M
