-- The edge: what happens to a client's request in each nginx phase. The nginx side is one line per phase.
--
--   access    find route, client and pool; nothing is decoded, only scanned
--   balance   L1: pick an instance of the tier and take a permit there; called again after each failed attempt
--   escalate  L2: the tier is exhausted: wait if that is wiser, else the next tier
--   fallback  L3: nothing is left: a stale answer, else the predefined one
--   log       give the permit back, whatever happened
--
-- A request's record lives in ngx.ctx, which an internal redirect forgets; $ek_ref finds it again in `records`.

local balancer_api = require "ngx.balancer"
local answers = require "evenkeel.answers"
local balancer = require "evenkeel.balancer"
local breaker = require "evenkeel.breaker"
local budget = require "evenkeel.budget"
local clients = require "evenkeel.clients"
local clock = require "evenkeel.clock"
local degradation = require "evenkeel.degradation"
local errors = require "evenkeel.errors"
local events = require "evenkeel.events"
local escalation = require "evenkeel.escalation"
local handover = require "evenkeel.handover"
local json_scan = require "evenkeel.json_scan"
local limits = require "evenkeel.limits"
local live = require "evenkeel.live"
local meter = require "evenkeel.meter"
local pool_breaker = require "evenkeel.pool_breaker"
local queue = require "evenkeel.queue"
local request_body = require "evenkeel.request_body"
local request_ids = require "evenkeel.request_ids"
local samples = require "evenkeel.samples"
local shares = require "evenkeel.shares"
local slots = require "evenkeel.slots"
local snapshots = require "evenkeel.snapshot"
local telemetry = require "evenkeel.telemetry"

local ngx = ngx
local tonumber, random, ceil, floor = tonumber, math.random, math.ceil, math.floor
local find, sub, concat = string.find, string.sub, table.concat
local now = clock.now

local M = {}

local MAX_HOPS = 8            -- nginx allows about ten internal redirects of one request

local ROUTES = {
  ["/v1/chat/completions"] = "chat",
  ["/v1/completions"] = "completions",
  ["/v1/embeddings"] = "embeddings",
}

local records, last_ref = {}, 0

budget.use(ngx.shared.evenkeel_state)
pool_breaker.use(ngx.shared.evenkeel_state)
queue.use()
limits.use(ngx.shared.evenkeel_state)
answers.use(ngx.shared.evenkeel_answers)

-- ---------------------------------------------------------------------------------------------------------------- access

local function no_such_model(model)
  local message = "There is no model " .. json_scan.encode_string(model) .. " here. GET /v1/models lists them."
  return errors.send(404, "model_not_found", message, "model")
end

local function list_models(snapshot, client, one)
  local data = {}
  for _, name in ipairs(snapshot.model_names) do
    if not (client and client.may) or client.may[name] then
      if not one or one == name then
        data[#data + 1] = '{"id":' .. json_scan.encode_string(name) .. ',"object":"model","created":0,"owned_by":"evenkeel"}'
      end
    end
  end
  ngx.header["Content-Type"] = "application/json"
  if one then
    if not data[1] then return no_such_model(one) end
    ngx.print(data[1])
  else
    ngx.print('{"object":"list","data":[', concat(data, ","), "]}")
  end
  return ngx.exit(ngx.HTTP_OK)
end

local function unusable_body(var, message, member)
  if member then return errors.send(400, "invalid_value", "The request is not usable: " .. message .. ".", member) end
  local encoding = var.http_content_encoding
  if encoding and encoding ~= "identity" then
    return errors.send(415, "unsupported_encoding", "The request body has a Content-Encoding; send it as plain JSON.")
  end
  return errors.send(400, "invalid_json", "The request body is not JSON that can be used: " .. message .. ".")
end

local function seconds(text)
  local given = tonumber(text)
  if given and given > 0 and given < 86400 then return given end
  return nil
end

-- The client's own deadline in seconds, and whether it is for the beginning of the answer only: the common SDKs send what bounds their
-- wait for the head (JavaScript) or for each next piece (Python), so a stream that has begun may take longer.
local function deadline_s(var)
  local whole = var.http_x_request_timeout
  if whole then return seconds(whole), false end
  return seconds(var.http_x_stainless_timeout), true
end

local function int(flag) return flag and 1 or 0 end

-- What the adapter needs to know of the request, so that it does not scan the body again (adapter.lua reads it). One header for all: each
-- costs both sides about a microsecond.
local function call_header(req, last, model)
  local i = req.scan
  return concat({
    i.model_s, i.model_e, int(req.stream), int(last), int(req.resume), int(req.pool.stream_buffer == "full"), i.n or 1,
    int(i.tools), int(i.stop), req.usage,
    i.stream_options_s or 0, i.stream_options_e or 0, i.body_close, i.messages_s or 0, i.messages_e or 0, int(req.keep),
    int(req.until_first), ceil((req.deadline or 0) * 1000), req.pool.name, req.tier, req.client and req.client.name or "",
    ngx.worker.pid(), req.ref, req.id, model or "",
  }, ",")
end

M._call_header = call_header

local function enter_tier(req, var, tier)
  req.tier = tier
  req.tried = {}
  req.passes = 1
  local t = req.pool.tiers[tier]
  req.tier_instances = t.instances
  var.ek_tier = t.name or tier
  if tier > 1 then var.ek_degraded = "true" end
  var.ek_call = call_header(req, tier == #req.pool.tiers, t.model)
end

function M.access()
  local var = ngx.var
  local id = var.http_x_request_id
  if not id or #id > 128 or not find(id, "^[%w%-_.:]+$") then id = request_ids.new() end
  var.ek_request_id = id

  local snapshot = snapshots.current()
  if not snapshot then
    return errors.send(503, "not_configured", "This gateway has no configuration yet; it comes with the first revision.")
  end
  local client = clients.identify(snapshot, var)
  if client then var.ek_client = client.name end

  local uri = var.uri
  local kind = ROUTES[uri]
  local method = ngx.req.get_method()
  if not kind then
    if uri == "/v1/models" or sub(uri, 1, 11) == "/v1/models/" then
      if method ~= "GET" and method ~= "HEAD" then
        ngx.header["Allow"] = "GET"
        return errors.send(405, "method_not_allowed", "Use GET for " .. uri .. ".")
      end
      return list_models(snapshot, client, uri ~= "/v1/models" and sub(uri, 12) or nil)
    end
    return M.not_found()
  end
  if method ~= "POST" then
    ngx.header["Allow"] = "POST"
    return errors.send(405, "method_not_allowed", "Use POST for " .. uri .. ".")
  end

  local body = request_body.read()
  local arrived = meter.clock_s()
  local info, message, _, member = json_scan.scan(body)
  if not info then return unusable_body(var, message, member) end
  local model = info.model
  if not model then
    return errors.send(400, "model_required", "The request must name a model.", "model")
  end
  local pool = snapshot.models[model] or snapshot.models["*"]
  if not pool or (client and client.may and not client.may[model]) then
    return no_such_model(model)
  end

  local at = now()
  local permit, refused
  if client and client.limited then
    -- Another worker's clock may be ahead of ours by as long as this turn has taken, and would have made a bucket full too late for us.
    ngx.update_time()
    at = now()
    permit, refused = limits.admit(client, info, #body, at)
    if refused then return limits.refuse(refused) end
  end
  local given, until_first = deadline_s(var)
  local stream = info.stream == true and kind ~= "embeddings"
  local req = {
    id = id, snapshot = snapshot, pool = pool, kind = kind, stream = stream, latency_kind = stream and "stream" or "json",
    client = client, permit = permit, model = model, started = at, arrived = arrived,
    deadline = given and at + given or nil,
    until_first = until_first and stream and pool.stream_buffer ~= "full",     -- of a stream that is held back the first is the last
    attempts = 0, hops = 0, scan = info,
    usage = info.include_usage and 1 or (info.stream_options_s and 2 or 0),
    resume = stream and var.http_x_evenkeel_resume ~= "off",
  }
  last_ref = last_ref + 1
  records[last_ref] = req
  req.ref = last_ref
  var.ek_ref = last_ref
  var.ek_pool = pool.name
  ngx.ctx.ek = req
  if pool.ghost_sample then samples.offer(ngx.shared.evenkeel_samples, pool, kind, body, random) end
  req.keep = answers.keepable(pool, info, body)
  budget.request(pool, at)
  enter_tier(req, var, 1)
  if pool_breaker.refuses(pool, at, random) then
    req.reason = "circuit_open"
    return ngx.exec("@fallback")
  end
  -- nobody to ask, or others wait in line already: straight to L2
  if queue.busy(pool) or M.gather(req, at) == 0 then return ngx.exec("@escalate") end
end

-- --------------------------------------------------------------------------------------------------------------- balance

-- Scratch tables of this worker: candidate i is candidates[i], its instance is chosen_from[i].
local candidates, chosen_from = {}, {}
for i = 1, 32 do candidates[i] = {} end
local gathered_for, gathered_n, gathered_part           -- whose look they hold; whether it was at a part of the tier only

-- A choice among a few of many is nearly as good as among all (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"), and
-- its price does not grow with them. One of each sixteenth, so that neighbours, which are often alike, do not come together.
local LARGE_TIER, SAMPLE = 32, 16
local sampled = {}

local function sample_of(instances)
  local part = #instances / SAMPLE
  for k = 1, SAMPLE do sampled[k] = instances[floor((k - 1 + random()) * part) + 1] or instances[#instances] end      -- 15.99… may be 16
  return sampled
end

--- The eligible instances of a tier, gathered in the scratch tables. Of a large tier a sample; all of it, when nobody of the sample is
--- eligible or all of those weigh nothing, when panic is near, by round robin, and for who wants to know how the others are.
--- @param look filled with how the others are, if given: {usable, full, open, cooling_s (least, or nil)}
--- @return n
local function gather(req, at, look)
  local tier, tried, latency_kind = req.tier_instances, req.tried, req.latency_kind
  local instances = (look or #tier <= LARGE_TIER or req.pool.algorithm == "round_robin") and tier or sample_of(tier)
  local n, usable, full, open, doubtful, cooling = 0, 0, 0, 0, 0, nil
  local panic, weighty = false, false
  ::again::
  for i = 1, #instances do
    local inst = instances[i]
    if inst.in_service then
      local v = live.view(inst, at)
      if not v.blocked then
        usable = usable + 1
        local cooldown = v.cooldown_until - at
        local state = v.breaker
        if state == "open" and not (panic and not v.probe_bad) then
          open = open + 1
          if not v.probe_bad then doubtful = doubtful + 1 end
        elseif cooldown > 0 then
          if not cooling or cooldown < cooling then cooling = cooldown end
        elseif not tried[inst.name] then
          local in_flight = slots.count(inst.keys.in_flight)
          if in_flight >= v.limit then
            full = full + 1
          elseif state == "half_open" and slots.count(inst.keys.breaker.trials) >= shares.trials(inst, v.open_until, at) then
            open = open + 1
          else
            n = n + 1
            local c = candidates[n]
            if not c then
              c = {}
              candidates[n] = c
            end
            local warmth = (state == "half_open" and 0.1 or v.warmth) * inst.weight_factor
            local weight = inst.weight * warmth
            if weight > 0 then weighty = true end
            c.weight = weight
            c.warmth = warmth
            c.in_flight = in_flight
            c.limit = v.limit
            c.latency_s = v[latency_kind]
            c.base_latency_s = inst.base_latency_s
            chosen_from[n] = inst
          end
        end
      end
    end
  end
  if instances ~= tier and (not weighty or doubtful * 2 > usable) then
    instances, n, usable, full, open, doubtful, cooling = tier, 0, 0, 0, 0, 0, nil
    goto again
  end
  -- Panic: more than half of the tier is ejected by passive signs only, so the signs are the problem; the few that are left would be
  -- flooded. With none left there is nobody to protect, and the next tier takes over.
  if doubtful * 2 > usable and n > 0 and not panic then
    panic, n, usable, full, open, doubtful, cooling = true, 0, 0, 0, 0, 0, nil
    goto again
  end
  gathered_for, gathered_n, gathered_part = req, n, instances ~= tier
  if look then
    look.usable, look.full, look.open, look.cooling_s = usable, full, open, cooling
  end
  return n
end

M.gather = gather

--- Choose an instance of the tier and take a permit there.
--- @return instance or nil, and whether further candidates remain
local function choose(req, at)
  -- between `access` and the first call here nothing else has run in this worker: its look at the tier is still good
  local n = gathered_for == req and gathered_n or gather(req, at)
  gathered_for = nil
  local pool = req.pool
  local algorithm = balancer[pool.algorithm] or balancer.weighted
  while n > 0 do
    pool.turn = pool.turn + 1
    local i = algorithm(candidates, n, random, pool.turn)
    local inst = chosen_from[i]
    local v = live.view(inst, at)
    local ok = slots.acquire(inst.keys.in_flight, v.limit)
    if ok and v.breaker == "half_open" then
      if slots.acquire(inst.keys.breaker.trials, shares.trials(inst, v.open_until, at)) then
        req.trial = true
        if breaker.first_trial(ngx.shared.evenkeel_state, inst.keys.breaker, v.open_until) then
          events.add("breaker_half_open", inst.name, { why = "trial" })
        end
      else
        slots.release(inst.keys.in_flight)
        ok = false
      end
    end
    if ok then
      req.of, req.live_weight = n, balancer.live_weight(candidates[i])
      return inst, n > 1 or gathered_part          -- beyond the sample there are nearly always others
    end
    candidates[i], candidates[n] = candidates[n], candidates[i]
    chosen_from[i], chosen_from[n] = chosen_from[n], chosen_from[i]
    n = n - 1
  end
  return nil
end

local function release(req)
  local inst = req.held
  if not inst then return end
  req.held = nil
  slots.release(inst.keys.in_flight)
  if req.trial then
    req.trial = nil
    slots.release(inst.keys.breaker.trials)
  end
  queue.wake(req.pool)
end

M._choose, M._release = choose, release

--- An attempt failed: give its permit back and remember it.
local function settle(req, what)
  local inst = req.held
  if not inst then return end
  req.last_outcome = what
  req.last_instance = inst
  req.tried[inst.name] = (req.tried[inst.name] or 0) + 1
  if req.passed then meter.attempted(req, inst.name, what, now()) end
  release(req)
  live.touch(inst)                          -- the adapter may have run in another worker, which knows more than we do
end

local function attempts_left(req)
  return req.attempts < (req.pool.retry.max_attempts or 4)
end

local function time_left(req, at)
  return not req.deadline or req.deadline - at > 0.05
end

function M.balance()
  local req = ngx.ctx.ek
  local at = now()
  local var = ngx.var
  if req.held and req.passed then settle(req, var.upstream_http_x_ek_outcome or "bad_gateway") end
  local inst, more = req.held, nil          -- reserved while waiting in the queue
  if req.attempts > 0 then
    -- the first attempt in a tier needs no permission of the attempt count: a backup is always reached
    local first_here = next(req.tried) == nil and req.passes == 1
    local refused = not (inst or first_here or attempts_left(req)) and "attempts" or not time_left(req, at) and "deadline"
      or not budget.retry(req.pool, at) and "budget"
    if refused then
      req.reason = refused
      return ngx.exit(ngx.ERROR)
    end
  end
  if not inst then
    inst, more = choose(req, at)
    if not inst then
      req.reason = "none"
      return ngx.exit(ngx.ERROR)
    end
    req.held = inst
  end
  if req.attempts == 0 then req.overhead_s = meter.clock_s() - req.arrived - (req.waited_s or 0) end
  req.passed = true
  req.attempt_at = at
  req.reason = nil
  req.attempts = req.attempts + 1
  var.ek_instance = inst.name
  var.ek_attempts = req.attempts
  if more and attempts_left(req) then balancer_api.set_more_tries(1) end
  local ok, why = balancer_api.set_current_peer(inst.door)
  if not ok then
    ngx.log(ngx.ERR, "could not set the peer ", inst.door, ": ", why)
    return ngx.exit(ngx.ERROR)
  end
end

-- -------------------------------------------------------------------------------------------------------------- escalate

local look = {}

local function to_fallback(req, reason)
  req.reason = reason
  return ngx.exec("@fallback")
end

function M.escalate()
  local var = ngx.var
  local req = records[tonumber(var.ek_ref)]
  if not req then return ngx.exec("/refused") end
  ngx.ctx.ek = req
  if req.held then
    settle(req, req.passed and (var.upstream_http_x_ek_outcome or "bad_gateway") or "saturated")
  end
  req.passed = nil
  local retry_after = tonumber(var.upstream_http_x_ek_retry_after)
  local hopeless = var.upstream_http_x_ek_again == "no"
  req.hops = req.hops + 1
  if req.hops >= MAX_HOPS then return to_fallback(req, "hops") end

  local at = now()
  while true do
    local pool = req.pool
    local n = gather(req, at, look)
    local action, wait_s = escalation.decide {
      eligible = n, line = queue.busy(pool), usable = look.usable, full = look.full, cooling_s = look.cooling_s, open = look.open,
      last_outcome = req.last_instance and req.last_outcome or nil, retry_after = req.last_instance ~= nil and retry_after ~= nil,
      hopeless = hopeless, waited = req.waited == req.tier, queued = req.queued == req.tier, passes = req.passes,
      has_next_tier = req.tier < #pool.tiers, attempts_left = attempts_left(req), stop = req.reason,
      time_left_s = req.deadline and req.deadline - at or nil,
      max_wait_s = (pool.retry.retry_after_max_wait_ms or 3000) / 1000, queue_timeout_s = pool.queue.timeout_ms / 1000,
      jitter = random(),
    }
    req.reason = nil
    if action == "retry" then
      if wait_s > 0 then
        ngx.sleep(wait_s)
        req.waited_s = (req.waited_s or 0) + now() - at
        req.waited = req.tier
      end
      req.tried = {}
      req.passes = req.passes + 1
      gathered_for = nil
      return
    elseif action == "queue" then
      local inst, why = queue.wait(req, wait_s, function() return (choose(req, now())) end)
      local waited_s = now() - at
      req.waited_s, req.queued_s = (req.waited_s or 0) + waited_s, (req.queued_s or 0) + waited_s
      if inst then
        req.held = inst
        return
      end
      req.last_outcome = "saturated"
      req.queue_said = why
      req.queued = req.tier
    elseif action == "next_tier" then
      enter_tier(req, var, req.tier + 1)
      req.waited, req.queued = nil, nil
      req.last_instance = nil
      -- an empty next tier is known at once: do not spend an internal redirect on it
      if gather(req, at, look) > 0 then return end
    else
      return to_fallback(req, req.last_outcome or "unavailable")
    end
    at = now()
  end
end

-- -------------------------------------------------------------------------------------------------------------- fallback

function M.fallback()
  local req = records[tonumber(ngx.var.ek_ref)]
  if not req then return M.refused() end
  ngx.ctx.ek = req
  settle(req, "bad_gateway")
  local var = ngx.var
  var.ek_instance = ""
  req.lost = "default"
  req.lost = answers.give(req, var)
end

-- A provider's 413, in its own words.
local function say_what_provider_said(var)
  local content_type, body = handover.take(var.pid .. "," .. var.ek_ref)
  if not body then return errors.send(413, "request_too_large", "The provider finds this request too large.") end
  local header = ngx.header
  header["Content-Type"] = content_type
  header["Content-Length"] = #body
  ngx.print(body)
  return ngx.exit(ngx.HTTP_OK)
end

--- Errors that nginx itself raised, in OpenAI's shape.
local REFUSED = {
  [400] = { "bad_request", "The request is not valid HTTP, or its headers are too large." },
  [404] = { "unknown_url", "There is nothing here." },
  [405] = { "method_not_allowed", "This method is not allowed here." },
  [408] = { "request_timeout", "The request did not arrive in time." },
  [411] = { "length_required", "A Content-Length is needed." },
  [413] = { "request_too_large", "The request body is larger than 20 MiB." },
  [414] = { "uri_too_long", "The URI is too long." },
  [494] = { "headers_too_large", "The request headers are too large." },
}

function M.refused()
  local status = ngx.status
  if status == 413 and ngx.var.upstream_http_x_ek_outcome then return say_what_provider_said(ngx.var) end
  local known = REFUSED[status]
  if status == 494 then status = 400 end
  if known then return errors.send(status, known[1], known[2]) end
  return errors.send(status >= 400 and status or 500, "internal_error", "The gateway could not handle this request.")
end

function M.not_found()
  return errors.send(404, "unknown_url", "There is nothing at " .. ngx.req.get_method() .. " " .. ngx.var.uri
    .. ". Known: POST /v1/chat/completions, POST /v1/completions, POST /v1/embeddings, GET /v1/models.")
end

function M.healthz()
  local snapshot = snapshots.current()
  ngx.status = snapshot and 200 or 503
  ngx.header["Content-Type"] = "text/plain"
  ngx.print(snapshot and "ok\n" or "no configuration yet\n")
end

-- ------------------------------------------------------------------------------------------------------------------- log

function M.log()
  local req = ngx.ctx.ek or records[tonumber(ngx.var.ek_ref)]
  if not req then return end
  queue.leave(req)
  if req.permit then limits.leave(req.permit) end
  local held = req.held
  if held then release(req) end
  local var, at = ngx.var, now()
  local attempts, outcome = meter.request(req, var, ngx.status, held and req.passed and held, at)
  var.ek_attempts_json = attempts
  degradation.note(req.pool, req, outcome, at)
  if outcome ~= "client_gone" then              -- whose patience is short proves nothing
    local refused, answered = req.reason == "circuit_open", not req.lost or req.reason == "saturated"
    pool_breaker.count(req.pool, refused and "refused" or answered and "accepted" or "failed", at)
  end
  records[req.ref] = nil
  telemetry.over()
end

return M
