-- The admin listener of a node: what the control plane pushes and reads. Every call needs the node's token; GET /metrics takes the token
-- for that alone, where there is one, as well.
--
--   PUT  /snapshot           202 new · 204 known · 409 older · 422 {"errors": […]} · 507 no room
--   GET  /status             revision, state, digest, workers; ?format=text for scripts
--   GET  /stats              live numbers of instances and pools; ?of=shares: only what shares and hints are made of
--   GET  /events?after=N     state changes, at most 1000 at a time
--   POST /samples/_take      sampled requests of clients, which are forgotten here with that
--   PUT  /shares             this node's part of what all nodes have: 204 · 409 made for another version · 422
--   POST /hints              what other nodes have found out: 204 · 422
--   PUT  /spending           this node's share of the clients' limits, what others have spent of their budgets → what was spent here
--   GET  /metrics            for Prometheus                       (docs/telemetry.md tells of this and the next two)
--   GET  /telemetry?after=N  the counters that changed after N, at most 2000 at a time
--   GET  /traces?after=N     requests, at most 1000 at a time
--   POST /instances/{name}/_reset   close the breaker, end cooldown and block (an operator acts)
--   ANY  /instances/{name}/… the door of that instance

local cjson = require "cjson.safe"
local breaker = require "evenkeel.breaker"
local clock = require "evenkeel.clock"
local events = require "evenkeel.events"
local hints = require "evenkeel.hints"
local limits = require "evenkeel.limits"
local live = require "evenkeel.live"
local balancer = require "evenkeel.balancer"
local request_body = require "evenkeel.request_body"
local samples = require "evenkeel.samples"
local shares = require "evenkeel.shares"
local slots = require "evenkeel.slots"
local spending = require "evenkeel.spending"
local snapshots = require "evenkeel.snapshot"
local node = require "evenkeel.node"
local telemetry = require "evenkeel.telemetry"
local traces = require "evenkeel.traces"

local M = {}

local function answer(status, body)
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  if body then ngx.print(cjson.encode(body)) end
  return ngx.exit(status == 204 and 204 or ngx.HTTP_OK)
end

-- Compare without telling by the time taken how much of it was right.
local function same(a, b)
  if #a ~= #b then return false end
  local difference = 0
  for i = 1, #a do difference = bit.bor(difference, bit.bxor(a:byte(i), b:byte(i))) end
  return difference == 0
end

local function authorized()
  local given = ngx.var.http_authorization
  if given and same(given, "Bearer " .. node.token) then return true end
  if given and node.metrics_token and ngx.var.uri == "/metrics" and same(given, "Bearer " .. node.metrics_token) then return true end
  ngx.header["WWW-Authenticate"] = "Bearer"
  answer(401, { error = "the node's token is needed" })
  return false
end

local function put_snapshot()
  local status, faults = snapshots.accept(request_body.read())
  return answer(status, faults and { errors = faults } or nil)
end

local function status()
  local workers = node.workers()
  if ngx.var.arg_format == "text" then
    ngx.header["Content-Type"] = "text/plain"
    ngx.print("master ", node.master_pid(), "\nworkers ", ngx.worker.count(), "\n")
    for _, w in ipairs(workers) do ngx.print("worker ", w.pid, " ", w.revision, " ", w.text_digest ~= "" and w.text_digest or "-", "\n") end
    return
  end
  local dict = ngx.shared.evenkeel_snapshot
  local snapshot, in_flight = snapshots.current(), 0
  for _, inst in pairs(snapshot and snapshot.instances or {}) do in_flight = in_flight + slots.count(inst.keys.in_flight) end
  return answer(200, {
    node = node.name, revision = dict:get("revision") or 0, state = dict:get("state") or 0, digest = dict:get("digest") or "",
    text_digest = node.text_digest, master_pid = node.master_pid(), workers = workers, now = ngx.now(), in_flight = in_flight,
  })
end

-- What this node holds of an instance, and what it has found out about it.
local function instance_shares(inst, at)
  local dict, k = ngx.shared.evenkeel_state, inst.keys
  local opening, cooldown = hints.findings(dict, inst, at)
  return {
    in_flight = slots.count(k.in_flight), permits = dict:get(k.permits), dealt_trials = dict:get(k.dealt_trials),
    breaker = (breaker.state(dict, k.breaker, at)), opening = opening, cooldown = cooldown, cooldown_s = cooldown and cooldown.for_s or 0,
  }
end

--- The live numbers of one instance.
local function instance_stats(inst, at)
  local dict = ngx.shared.evenkeel_state
  local v = live.view(inst, at)
  local k = inst.keys
  local all = instance_shares(inst, at)
  local in_flight = all.in_flight
  local calls, failed = breaker.window(dict, k.breaker, inst.breaker, at)
  local function weight(latency_s)
    return balancer.live_weight {
      weight = inst.weight * v.warmth * inst.weight_factor, in_flight = v.limit > 0 and in_flight or 1, limit = math.max(v.limit, 1),
      base_latency_s = inst.base_latency_s, latency_s = latency_s,
    }
  end
  all.limit, all.max_connections, all.weight = v.limit, inst.max_connections, inst.weight
  all.enabled, all.drain, all.healthy, all.blocked = inst.enabled ~= false, inst.drain == true, inst.healthy ~= false, v.blocked
  all.live_weight = { stream = weight(v.stream), json = weight(v.json) }
  all.latency_ms = { stream = math.floor(v.stream * 1000 + 0.5), json = math.floor(v.json * 1000 + 0.5) }
  all.open_until, all.warmth = v.open_until and clock.of_day(v.open_until), v.warmth
  all.weight_factor = inst.weight_factor
  all.trials, all.window = slots.count(k.breaker.trials), { calls = calls, failed = failed }
  return all
end

local function stats()
  local snapshot = snapshots.current()
  local at = clock.now()
  local version, share = shares.state()
  local body = {
    node = node.name, revision = snapshot and snapshot.revision or 0, now = ngx.now(), shares_version = version, share = share,
    instances = {}, pools = {},
  }
  local lean = ngx.var.arg_of == "shares"
  if snapshot then
    local of = lean and instance_shares or instance_stats
    for name, inst in pairs(snapshot.instances) do body.instances[name] = of(inst, at) end
  end
  if snapshot and not lean then
    for name in pairs(snapshot.pools) do body.pools[name] = { queued = slots.count("q:" .. name) } end
  end
  return answer(200, body)
end

local function list_events()
  local after = tonumber(ngx.var.arg_after) or 0
  local list, last, dropped = events.after(after, 1000)
  local begin = events.begin()
  if #list == 0 then
    ngx.header["Content-Type"] = "application/json"
    ngx.print('{"events":[],"begin":', begin, ',"last":', last, ',"dropped":', dropped, "}")
    return
  end
  return answer(200, { events = list, begin = begin, last = last, dropped = dropped })
end

-- {"share": 0.5, "born": 1764106899123, "clients": {"web-app": {"period": "2026-11", "currency": "USD", "others_nano": 1200}}}
local function put_spending()
  local told = cjson.decode(request_body.read())
  local share = type(told) == "table" and told.share
  if type(share) ~= "number" or share <= 0 or share > 1 or type(told.clients) ~= "table" then
    return answer(422, { errors = { "a share above 0 and at most 1, and clients, are needed" } })
  end
  if not shares.told() then limits.set_share(share) end          -- a control plane that deals no shares
  return answer(200, spending.exchange(told.clients, told.born, ngx.now()))
end

local function put_shares()
  local result, fault = shares.accept(request_body.read())
  return answer(result, fault and { error = fault } or nil)
end

local function post_hints()
  local result, fault = hints.accept(ngx.shared.evenkeel_state, request_body.read(), snapshots.current(), clock.now())
  return answer(result, fault and { error = fault } or nil)
end

local function take_samples()
  ngx.header["Content-Type"] = "application/json"
  ngx.print(samples.take(ngx.shared.evenkeel_samples))
end

local function list_traces()
  local list, last, dropped, left_out = traces.after(tonumber(ngx.var.arg_after) or 0, 1000)
  ngx.header["Content-Type"] = "application/json"
  ngx.print('{"traces":[', table.concat(list, ","), '],"begin":', traces.begin(), ',"last":', last, ',"dropped":', dropped,
    ',"sampled_out":', left_out, "}")
end

local function tell_counters()
  ngx.header["Content-Type"] = "application/json"
  telemetry.json(tonumber(ngx.var.arg_after) or 0, tonumber(ngx.var.arg_from) or 1, ngx.print, ngx.now())
end

local function metrics()
  ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
  local snapshot = snapshots.current()
  local live_numbers, at = {}, clock.now()
  for name, inst in pairs(snapshot and snapshot.instances or {}) do live_numbers[name] = instance_stats(inst, at) end
  telemetry.text(snapshot, live_numbers, ngx.print)
end

local ROUTES = {
  ["POST /samples/_take"] = take_samples,
  ["PUT /shares"] = put_shares, ["POST /hints"] = post_hints, ["PUT /spending"] = put_spending,
  ["PUT /snapshot"] = put_snapshot, ["GET /status"] = status, ["GET /stats"] = stats, ["GET /events"] = list_events,
  ["GET /traces"] = list_traces, ["GET /telemetry"] = tell_counters, ["GET /metrics"] = metrics,
}

function M.serve()
  if not authorized() then return end
  local route = ROUTES[ngx.req.get_method() .. " " .. ngx.var.uri]
  if not route then return answer(404, { error = "there is nothing at " .. ngx.var.uri }) end
  return route()
end

--- /instances/{name}/rest → the instance's unix socket and /rest.
function M.open_door()
  if not authorized() then return end
  local name, rest = ngx.var.uri:match("^/instances/([a-z0-9][a-z0-9._-]*)(/.*)$")
  local snapshot = snapshots.current()
  local inst = name and snapshot and snapshot.instances[name]
  if not inst then return answer(404, { error = "there is no such instance on this node" }) end
  if rest == "/_reset" then
    if ngx.req.get_method() ~= "POST" then return answer(405, { error = "use POST" }) end
    local dict = ngx.shared.evenkeel_state
    breaker.close(dict, inst.keys.breaker, inst.breaker, clock.now())
    for _, key in ipairs { "cooldown", "strikes", "limit", "limit_low", "blocked" } do dict:delete(inst.keys[key]) end
    live.touch(inst)
    events.add("reset", name, {})
    return answer(204)
  end
  ngx.req.set_uri(rest)
  for _, header in ipairs { "x-ek-call", "x-ek-model", "x-ek-prefix", "x-ek-continues" } do ngx.req.clear_header(header) end
  ngx.var.ek_door = inst.door
end

return M
