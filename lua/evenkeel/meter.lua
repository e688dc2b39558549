-- What a request and its attempts leave behind: counters (metrics), tokens and money (usage, cost), a line in the access log and a trace.
-- Nobody waits for any of it, and a streamed token costs nothing here.
--
-- Attempts are counted by the adapter, requests by the edge. Whatever becomes of an answer after its first byte (it was cut, and continued
-- elsewhere or not) is known to the adapter alone, which leaves a note for the edge: see `tell`.
--
-- The look-up from labels to a series goes through tables that hang on the compiled snapshot's objects; no text is built for it.

local cjson = require "cjson.safe"
local clock = require "evenkeel.clock"
local cost = require "evenkeel.cost"
local ffi = require "ffi"
local json_text = require "evenkeel.json_text"
local limits = require "evenkeel.limits"
local metrics = require "evenkeel.metrics"
local snapshots = require "evenkeel.snapshot"
local traces = require "evenkeel.traces"
local usage = require "evenkeel.usage"

local ngx = ngx
local open, observe = metrics.open, metrics.observe
local floor, max, sub, find, match, format = math.floor, math.max, string.sub, string.find, string.match, string.format
local tonumber, concat, ipairs = tonumber, table.concat, ipairs

local M = {}

local LONG, SHORT = metrics.BOUNDS.long, metrics.BOUNDS.short
local REQUEST, ATTEMPT, USAGE = metrics.FAMILIES.request, metrics.FAMILIES.attempt, metrics.FAMILIES.usage
local R, A, U = REQUEST.at, ATTEMPT.at, USAGE.at
local R_COUNT, R_RETRIED, R_DEGRADED = R.count, R.retried, R.degraded
local R_TOTAL, R_FIRST, R_OVERHEAD, R_QUEUED = R.total, R.first_token, R.overhead, R.queued
local A_COUNT, A_TOTAL, A_FIRST, A_PER_TOKEN = A.count, A.total, A.first_token, A.per_output_token
local U_ATTEMPTS, U_INPUT, U_CACHED, U_OUTPUT, U_REASONING = U.attempts, U.input, U.cached_input, U.output, U.reasoning
local U_EST_INPUT, U_EST_OUTPUT, U_COST, U_EST_COST = U.estimated_input, U.estimated_output, U.cost_nano, U.estimated_cost_nano

-- ------------------------------------------------------------------------------------------------------------------ clock

ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } evenkeel_time;
  int clock_gettime(int clock, evenkeel_time *time);
]]
local C, MONOTONIC = ffi.C, 1
local time = ffi.new("evenkeel_time[1]")

--- Seconds that only grow, to the nanosecond: nginx's own clock stands still while it handles an event.
function M.clock_s()
  C.clock_gettime(MONOTONIC, time)
  return tonumber(time[0].seconds) + tonumber(time[0].nanoseconds) * 1e-9
end

-- ----------------------------------------------------------------------------------------------------------------- series

local function child(of, key)
  local one = of[key]
  if not one then
    one = {}
    of[key] = one
  end
  return one
end

local function request_series(pool, kind, mode, tier, outcome)
  local by = child(child(child(child(pool, "metered"), kind), mode), tier)
  local series = by[outcome]
  if not series then
    series = metrics.series(REQUEST, { pool.name, kind, mode, tier, outcome, "client" })
    by[outcome] = series
  end
  return series
end

local function attempt_series(inst, pool, kind, mode, outcome, traffic)
  local by = child(child(child(child(child(inst, "metered"), traffic), pool), kind), mode)
  local series = by[outcome]
  if not series then
    series = metrics.series(ATTEMPT, { pool, inst.name, kind, mode, outcome, traffic })
    by[outcome] = series
  end
  return series
end

local MOST_MODELS = 200               -- by name, of one instance, pool and client: the names may be the clients'

local function usage_series(inst, pool, client, model, traffic, waste, currency)
  local models = child(child(child(inst, "metered_usage"), pool), client)
  local by = models[model]
  if not by then
    local n = models[1] or 0
    if n >= MOST_MODELS or #model > 128 or find(model, "[^\33-\126]") then model = "_other" end
    by = child(models, model)
    models[1] = n + 1
  end
  by = child(child(by, traffic), waste)
  local series = by[currency]
  if not series then
    series = metrics.series(USAGE, { pool, inst.name, client, model, traffic, waste, currency })
    by[currency] = series
  end
  return series
end

-- --------------------------------------------------------------------------------------------------------------- attempts

-- The model that the provider was asked for.
local function model_of(attempt)
  local model = attempt.model
  if model then return model end
  local call = attempt.call
  if not call.model_s or not attempt.body then return "" end
  return sub(attempt.body, call.model_s + 1, call.model_e - 1)
end

-- What became of the tokens.
local function waste_of(attempt, outcome, s)
  if outcome == "client_gone" then return "gone" end
  if s and s.committed and outcome ~= "ok" then return "cut" end
  -- an answer that was passed on, an error too, is what the client got
  return (outcome == "ok" or attempt.passed_on) and "" or "failed"
end

--- Tokens of an attempt that is over, as the provider will bill them.
--- @return input, cached_input, output, reasoning, whether they are estimates; or nil when it costs nothing
local function tokens_of(attempt)
  local s = attempt.stream
  local span = s and s.usage or attempt.usage
  if span then
    local input, cached, output, reasoning = usage.parse(span)
    if input then return input, cached, output, reasoning, false end
  end
  if not attempt.answered or not attempt.body then return nil end
  if s then
    if s.error and s.content == 0 then return nil end
    return usage.estimate_input(attempt.body), 0, s.content, 0, true
  end
  return usage.estimate_input(attempt.body), 0, usage.estimate_output(attempt.bytes or 0), 0, true
end

local function charge(name, tokens, nano, currency, at)
  local snapshot = snapshots.current()
  local client = snapshot and snapshot.clients:by_name(name)
  if client and client.limited then limits.used(client, tokens, nano, currency, at) end
end

--- An attempt is over. Called once for each, by the adapter.
--- @param attempt {inst, kind, call, traffic, started, latency_s, stream | usage, answered (its head had status 200), bytes, …}
--- @param at of clock.now
function M.attempt(attempt, outcome, at)
  local inst, call, s = attempt.inst, attempt.call, attempt.stream
  local pool, traffic, stream = call.pool or "", attempt.traffic or "probe", call.stream
  local v = open(attempt_series(inst, pool, attempt.kind or "other", stream and "stream" or "json", outcome, traffic))
  local total_s = at - attempt.started
  v[A_COUNT] = v[A_COUNT] + 1
  observe(v, A_TOTAL, LONG, total_s)
  local first_s = stream and attempt.latency_s
  if first_s then observe(v, A_FIRST, LONG, first_s) end

  local input, cached, output, reasoning, estimated = tokens_of(attempt)
  if not input then return end
  if first_s and output > 1 and outcome == "ok" then observe(v, A_PER_TOKEN, SHORT, (total_s - first_s) / (output - 1)) end
  local nano, currency = 0, ""
  if inst.prices then nano, currency = cost.of(inst.prices, ngx.now(), input, cached, output) end
  v = open(usage_series(inst, pool, call.client or "", model_of(attempt), traffic, waste_of(attempt, outcome, s), currency))
  v[U_ATTEMPTS] = v[U_ATTEMPTS] + 1
  v[U_INPUT] = v[U_INPUT] + input
  v[U_CACHED] = v[U_CACHED] + cached
  v[U_OUTPUT] = v[U_OUTPUT] + output
  v[U_REASONING] = v[U_REASONING] + reasoning
  v[U_COST] = v[U_COST] + nano
  if estimated then
    v[U_EST_INPUT] = v[U_EST_INPUT] + input
    v[U_EST_OUTPUT] = v[U_EST_OUTPUT] + output
    v[U_EST_COST] = v[U_EST_COST] + nano
  end
  if call.client then charge(call.client, input + output, nano, currency, at) end
end

-- ------------------------------------------------------------------------------------------------ from adapter to edge

local NOTE_S = 60

--- Leave a note for the edge of what became of an answer after its first byte, before its last byte is sent.
--- @param ref the edge's name of the request (`PID,NUMBER`), nil: nobody asked through the edge
--- @param note {outcome (what the client gets in the end), cut (the outcome of this attempt), at, more = {{instance, tier, outcome, began,
---   ended, way}}} with times of clock.now
function M.tell(ref, note)
  if ref then ngx.shared.evenkeel_state:set("note:" .. ref, cjson.encode(note), NOTE_S) end
end

local function told(ref)
  local dict = ngx.shared.evenkeel_state
  local key = "note:" .. ref
  local text = dict:get(key)
  if not text then return nil end
  dict:delete(key)
  return cjson.decode(text)
end

-- ------------------------------------------------------------------------------------------------------------- the edge

local function ms(seconds) return max(0, floor(seconds * 1000 + 0.5)) end

--- One attempt as JSON. @param began_s,ended_s from the beginning of the request
local function attempt_text(instance, tier, outcome, began_s, ended_s, first_token_ms, of, weight, way)
  return '{"instance":"' .. instance .. '","tier":' .. (tier or "null") .. ',"outcome":"' .. outcome .. '","began_ms":' .. ms(began_s)
    .. ',"duration_ms":' .. ms(ended_s - began_s) .. ',"first_token_ms":' .. (first_token_ms or "null") .. ',"of":' .. (of or "null")
    .. ',"live_weight":' .. (weight and floor(weight * 10 + 0.5) / 10 or "null") .. (way and ',"way":"' .. way .. '"}' or "}")
end

--- An attempt of a request was made and is over. Its beginning, choice and place stand in `req`: attempt_at, of, live_weight, tier.
function M.attempted(req, instance, outcome, at, first_token_ms)
  local started = req.started
  local text = attempt_text(instance, req.tier, outcome, (req.attempt_at or at) - started, at - started, first_token_ms, req.of,
    req.live_weight)
  local log = req.log
  req.log = log and log .. "," .. text or text
end

-- A cut stream: what the adapter says of it.
local function unfold(req, note)
  local started, texts = req.started, {}
  for i, one in ipairs(note.more or {}) do
    texts[i] = attempt_text(one.instance, one.tier, one.outcome, one.began - started, one.ended - started, nil, nil, nil, one.way)
  end
  if texts[1] then req.log = req.log .. "," .. concat(texts, ",") end
end

-- Why nobody was asked any more, as an outcome.
local OUTCOME_OF_REASON = { circuit_open = "circuit_open", saturated = "saturated", deadline = "client_gone" }

--- A request is over. @param req the edge's record  @param held the instance whose answer the client got, nil: none
--- @return the attempts as JSON, for the access log
function M.request(req, var, status, held, at)
  local pool, started, tier, lost = req.pool, req.started, req.tier, req.lost
  local outcome, first_token_ms, note
  local attempts = req.attempts
  if held then
    -- a client that leaves before the first byte makes nginx say 499; later it shows only by what was not sent
    outcome = var.request_completion ~= "OK" and "client_gone" or var.upstream_http_x_ek_outcome or "ok"
    local cut, ended = outcome, at
    if req.stream then
      if outcome == "ok" or outcome == "client_gone" then
        local header_s = var.upstream_header_time
        header_s = header_s and (tonumber(header_s) or tonumber(match(header_s, "([%d.]+)$")))   -- one for each try; "-": never came
        first_token_ms = header_s and ms(header_s)
      end
      if outcome == "ok" then
        note = told(var.pid .. "," .. req.ref)
        if note then outcome, cut, ended = note.outcome, note.cut, note.at end
      end
    end
    M.attempted(req, held.name, cut, ended, first_token_ms)
    if note then
      unfold(req, note)
      attempts = attempts + #(note.more or {})
    end
    if first_token_ms then first_token_ms = first_token_ms + ms((req.attempt_at or started) - started) end
  elseif lost == "stale" then
    outcome, tier = "ok", 0
  elseif lost then
    outcome = OUTCOME_OF_REASON[req.reason] or req.last_outcome or "circuit_open"
  else
    outcome = status == 499 and "client_gone" or req.last_outcome or status >= 500 and "server_error" or "client_error"
  end
  local degraded = tier > 1 or lost ~= nil

  local mode = req.stream and "stream" or "json"
  local v = open(request_series(pool, req.kind, mode, tier, outcome))
  v[R_COUNT] = v[R_COUNT] + 1
  observe(v, R_TOTAL, LONG, at - started)
  if attempts > 1 then v[R_RETRIED] = v[R_RETRIED] + 1 end
  if degraded then v[R_DEGRADED] = v[R_DEGRADED] + 1 end
  if first_token_ms then observe(v, R_FIRST, LONG, first_token_ms / 1000) end
  if req.overhead_s then observe(v, R_OVERHEAD, SHORT, req.overhead_s) end
  if req.queued_s then observe(v, R_QUEUED, LONG, req.queued_s) end

  local log = "[" .. (req.log or "") .. "]"
  if traces.wanted(at, outcome == "ok" and attempts == 1 and not degraded) then
    local shown_tier = (not lost or lost == "stale") and tier or "null"
    traces.add(concat {
      '"at":', format("%.3f", clock.of_day(started)), ',"request_id":"', req.id,
      '","client":"', req.client and req.client.name or "",
      '","pool":"', pool.name, '","model":', json_text.encode_string(req.model), ',"kind":"', req.kind, '","mode":"', mode,
      '","status":', status, ',"outcome":"', outcome, '","tier":', shown_tier, ',"degraded":', degraded and "true" or "false",
      ',"duration_ms":', ms(at - started), ',"queued_ms":', ms(req.queued_s or 0), ',"first_token_ms":', first_token_ms or "null",
      ',"reason":', lost and req.reason and '"' .. req.reason .. '"' or "null", ',"revision":', format("%.0f", req.snapshot.revision),
      ',"attempts":', log,
    })
  end
  return log, outcome, tier, degraded
end

return M
