-- What a node tells of itself: the counters as JSON for the control plane and as text for Prometheus, and the clock that brings together
-- what the workers have counted. docs/telemetry.md is the contract of both.

local ffi = require "ffi"

local clock = require "evenkeel.clock"
local degradation = require "evenkeel.degradation"
local json_text = require "evenkeel.json_text"
local metrics = require "evenkeel.metrics"
local pool_breaker = require "evenkeel.pool_breaker"
local slots = require "evenkeel.slots"
local snapshots = require "evenkeel.snapshot"
local traces = require "evenkeel.traces"

local C, ngx = ffi.C, ngx
local concat, format, gsub, ipairs, pairs, sort = table.concat, string.format, string.gsub, ipairs, pairs, table.sort

ffi.cdef [[ int usleep(unsigned int); ]]

local M = {}

local MERGE_S, AGAIN_S = 1, 0.03
local LAST_MS = 6000                 -- longer than a dead worker's lock lasts
local MOST_AT_ONCE = 2000            -- series in one answer
local BREATH = 200                   -- series after which other requests get their turn

-- ------------------------------------------------------------------------------------------------------------------ clock

local function merge()
  local merged = metrics.flush(clock.now(), ngx.now())
  traces.flush()
  return merged
end

local known_pools = {}                 -- of the snapshot that was settled last

local function settle()
  local snapshot = snapshots.current()
  if not snapshot then return end
  local at, one = clock.now(), clock.lease(ngx.shared.evenkeel_state, "lease:settle", MERGE_S * 0.9)
  for name, pool in pairs(known_pools) do
    if not snapshot.pools[name] then
      degradation.forget(pool)
      pool_breaker.forget(pool)
    end
  end
  known_pools = snapshot.pools
  for _, pool in pairs(snapshot.pools) do
    degradation.settle(pool, at, one)
    if one then pool_breaker.settle(pool, at) end
  end
end

-- Merge, waiting for the lock if need be. Nothing else is done in this worker meanwhile.
local function insist(most_ms)
  for _ = 1, most_ms do
    if merge() then return true end
    C.usleep(1000)
    ngx.update_time()                             -- or a dead worker's lock would never be over
  end
  return false
end

local function tick(premature)
  if premature then                               -- all workers are told to end at the same time, and want to merge at the same time
    insist(20)
  elseif not merge() then
    ngx.timer.at(AGAIN_S, tick)
  end
end

--- @param shared the dict of the counters  @param worker identity of this worker
function M.start(shared, worker)
  metrics.use(shared, worker)
  assert(ngx.timer.every(MERGE_S, function(premature)
    tick(premature)
    if not premature then settle() end
  end))
end

local will_merge = false

local function merge_now()
  will_merge = false
  if not merge() then M.over() end
end

--- Called when a request is over: a worker that shuts down has no timers any more but those that are due at once, and its last answers may
--- take an hour. Not on the spot: the client's connection is closed after this, and the sooner it sees that the less it sends in vain.
function M.over()
  if not will_merge and ngx.worker.exiting() then will_merge = ngx.timer.at(0, merge_now) end
end

--- Called when a worker ends and serves nobody any more: what it has counted since it last merged is not lost, whoever merges just then.
function M.stop()
  if insist(LAST_MS) then return end
  ngx.log(ngx.WARN, "this worker's last counts are lost: the lock of the counters was not free for ", LAST_MS, " ms")
end

-- ------------------------------------------------------------------------------------------------------------------- JSON

-- Sums of seconds to the microsecond, whole numbers whole.
local function number(v)
  if v == math.floor(v) then return format("%.0f", v) end
  return (gsub(format("%.6f", v), "%.?0+$", ""))
end

local function array(v, from, to)
  local texts = {}
  for i = from, to do texts[#texts + 1] = number(v[i]) end
  return "[" .. concat(texts, ", ") .. "]"
end

local encode = json_text.encode_string

-- One series as the contract has it.
local function series_json(spec, values, born, v)
  local labels, currency = {}, nil
  for i, label in ipairs(spec.labels) do
    if label == "currency" then
      currency = ', "currency": ' .. encode(values[i])
    else
      labels[#labels + 1] = '"' .. label .. '": ' .. (label == "tier" and values[i] or encode(values[i]))
    end
  end
  local out = { '{"family": "', spec.name, '", "born": ', number(born), ', "labels": {', concat(labels, ", "), "}" }
  for _, name in ipairs(spec.counts) do out[#out + 1] = ', "' .. name .. '": ' .. number(v[spec.at[name]]) end
  for _, h in ipairs(spec.histograms) do
    local buckets, n = 1 + #h.bounds, 0
    for i = h.at + 1, h.at + buckets do n = n + v[i] end
    if n > 0 then
      out[#out + 1] = ', "' .. h.name .. '": {"sum": ' .. number(v[h.at]) .. ', "buckets": ' .. array(v, h.at + 1, h.at + buckets) .. "}"
    end
  end
  out[#out + 1] = (currency or "") .. "}"
  return concat(out)
end

--- The answer to GET /telemetry. @param after a seq  @param from the first row to look at  @param print where it goes
function M.json(after, from, print, at)
  local seq = metrics.seq()                       -- before the rows: what changes meanwhile is told again
  local v, n, first = {}, 0, true
  print('{"seq": ', number(seq), ', "at": ', number(at), ', "bounds_s": {"long": ', array(metrics.BOUNDS.long, 1, #metrics.BOUNDS.long),
    ', "short": ', array(metrics.BOUNDS.short, 1, #metrics.BOUNDS.short), '}, "dropped_series": ', number(metrics.dropped()),
    ', "series": [')
  local id, top = from, metrics.top()
  while id <= top and n < MOST_AT_ONCE do
    local spec, values, born = metrics.row(id, after, v)
    if spec then
      n = n + 1
      print(first and "\n  " or ",\n  ", series_json(spec, values, born, v))
      first = false
      if n % BREATH == 0 then clock.breathe() end
    end
    id = id + 1
  end
  print("\n]", id <= top and ', "next": ' .. id or "", "}\n")
end

-- ------------------------------------------------------------------------------------------------------------- Prometheus

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

-- name, value, name, value, … → {name="value",…}; empty values are left out, as Prometheus takes them for absent.
local function labels_of(list)
  local out = {}
  for i = 1, #list, 2 do
    if list[i + 1] ~= "" then out[#out + 1] = list[i] .. '="' .. gsub(list[i + 1], '[\\"\n]', ESCAPES) .. '"' end
  end
  return concat(out, ",")
end

local Page = {}
Page.__index = Page

-- The lines of one metric stand together, so they are gathered first: in pieces, never as whole lines, for LuaJIT hashes only parts of a
-- long string, and thousands that differ by little would all collide.
function Page:metric(name, kind, help)
  self.order[#self.order + 1] = name
  self.heads[name] = "# HELP " .. name .. " " .. help .. "\n# TYPE " .. name .. " " .. kind .. "\n"
  self.lines[name] = {}
end

-- @param of the metric that the line belongs to, if it has another name  @param le one more label, ready text
function Page:add(name, labels, value, of, le)
  local lines = self.lines[of or name]
  local n = #lines
  lines[n + 1], lines[n + 2], lines[n + 3] = name, (labels ~= "" or le) and "{" or "", labels
  lines[n + 4] = le and (labels ~= "" and "," .. le or le) or ""
  lines[n + 5], lines[n + 6], lines[n + 7] = (labels ~= "" or le) and "} " or " ", value, "\n"
end

local LE, LE_ALL = {}, 'le="+Inf"'
for _, bounds in pairs(metrics.BOUNDS) do
  for _, bound in ipairs(bounds) do LE[bound] = 'le="' .. number(bound) .. '"' end
end

function Page:histogram(name, labels, v, h)
  local count, bucket = 0, name .. "_bucket"
  for i = 1, #h.bounds + 1 do count = count + v[h.at + i] end
  if count == 0 then return end
  local sum = 0
  for i, bound in ipairs(h.bounds) do
    sum = sum + v[h.at + i]
    self:add(bucket, labels, number(sum), name, LE[bound])
  end
  self:add(bucket, labels, number(count), name, LE_ALL)
  self:add(name .. "_sum", labels, number(v[h.at]), name)
  self:add(name .. "_count", labels, number(count), name)
end

local function new_page()
  local page = setmetatable({ order = {}, heads = {}, lines = {} }, Page)
  page:metric("gen_ai_server_request_duration_seconds", "histogram", "Attempts at instances: time to the last byte.")
  page:metric("gen_ai_server_time_to_first_token_seconds", "histogram", "Attempts at instances: time to a stream's first content token.")
  page:metric("gen_ai_server_time_per_output_token_seconds", "histogram", "Whole streams: time for each output token after the first.")
  page:metric("gen_ai_client_token_usage", "histogram", "Tokens of attempts, as the provider bills them; sum and count only.")
  page:metric("evenkeel_requests_total", "counter", "Requests by what the client got.")
  page:metric("evenkeel_requests_retried_total", "counter", "Requests that took more than one attempt.")
  page:metric("evenkeel_requests_degraded_total", "counter", "Requests that were not answered by the first tier.")
  page:metric("evenkeel_request_duration_seconds", "histogram", "Requests: time to the last byte.")
  page:metric("evenkeel_request_time_to_first_token_seconds", "histogram", "Streams: time to the first content token.")
  page:metric("evenkeel_request_overhead_seconds", "histogram", "Time from a request's arrival to its first attempt, without queueing.")
  page:metric("evenkeel_request_queue_seconds", "histogram", "Time in the queue of the requests that were queued.")
  page:metric("evenkeel_attempts_total", "counter", "Attempts at instances by outcome.")
  page:metric("evenkeel_tokens_total", "counter", "Tokens as the provider bills them; cached is part of input, reasoning of output.")
  page:metric("evenkeel_tokens_estimated_total", "counter", "The part of evenkeel_tokens_total that is estimated.")
  page:metric("evenkeel_cost_total", "counter", "Money in the currency's unit, as the provider bills it.")
  page:metric("evenkeel_cost_estimated_total", "counter", "The part of evenkeel_cost_total that rests on estimates.")
  page:metric("evenkeel_in_flight", "gauge", "Attempts running now.")
  page:metric("evenkeel_working_limit", "gauge", "Attempts that may run at once.")
  page:metric("evenkeel_max_connections", "gauge", "The configured ceiling of the working limit.")
  page:metric("evenkeel_live_weight", "gauge", "What an instance is picked by.")
  page:metric("evenkeel_latency_seconds", "gauge", "Live latency: first token of streams, whole JSON answers.")
  page:metric("evenkeel_breaker_state", "gauge", "1 for the state that the breaker is in.")
  page:metric("evenkeel_cooldown_seconds", "gauge", "What is left of a cooldown.")
  page:metric("evenkeel_instance_up", "gauge", "1 if the instance may be picked: enabled, not drained, healthy, not blocked.")
  page:metric("evenkeel_queue_length", "gauge", "Requests that wait for a permit.")
  page:metric("evenkeel_revision", "gauge", "The revision that this node serves.")
  page:metric("evenkeel_dropped_series_total", "counter", "How often a label set found no room.")
  return page
end

local function by_name(spec)
  local found = {}
  for _, h in ipairs(spec.histograms) do found[h.name] = h end
  return found
end
local OF_REQUEST, OF_ATTEMPT = by_name(metrics.FAMILIES.request), by_name(metrics.FAMILIES.attempt)

local function request_lines(page, at, values, v)
  local labels = labels_of { "pool", values[1], "gen_ai_operation_name", values[2], "mode", values[3], "tier", values[4],
    "outcome", values[5] }
  page:add("evenkeel_requests_total", labels, number(v[at.count]))
  if v[at.retried] > 0 then page:add("evenkeel_requests_retried_total", labels, number(v[at.retried])) end
  if v[at.degraded] > 0 then page:add("evenkeel_requests_degraded_total", labels, number(v[at.degraded])) end
  page:histogram("evenkeel_request_duration_seconds", labels, v, OF_REQUEST.total)
  page:histogram("evenkeel_request_time_to_first_token_seconds", labels, v, OF_REQUEST.first_token)
  page:histogram("evenkeel_request_overhead_seconds", labels, v, OF_REQUEST.overhead)
  page:histogram("evenkeel_request_queue_seconds", labels, v, OF_REQUEST.queued)
end

local function attempt_lines(page, at, values, v, provider)
  local outcome = values[5]
  page:add("evenkeel_attempts_total", labels_of { "pool", values[1], "instance", values[2], "gen_ai_operation_name", values[3],
    "mode", values[4], "outcome", outcome, "traffic", values[6] }, number(v[at.count]))
  local labels = labels_of { "pool", values[1], "instance", values[2], "gen_ai_provider_name", provider,
    "gen_ai_operation_name", values[3], "mode", values[4], "error_type", outcome ~= "ok" and outcome or "", "traffic", values[6] }
  page:histogram("gen_ai_server_request_duration_seconds", labels, v, OF_ATTEMPT.total)
  page:histogram("gen_ai_server_time_to_first_token_seconds", labels, v, OF_ATTEMPT.first_token)
  page:histogram("gen_ai_server_time_per_output_token_seconds", labels, v, OF_ATTEMPT.per_output_token)
end

local TOKENS = { "input", "cached_input", "output", "reasoning" }

local function usage_lines(page, at, values, v, provider)
  local own = { "pool", values[1], "instance", values[2], "client", values[3], "model", values[4], "traffic", values[5],
    "waste", values[6] }
  local n = #own
  for _, kind in ipairs(TOKENS) do
    own[n + 1], own[n + 2] = "type", kind
    page:add("evenkeel_tokens_total", labels_of(own), number(v[at[kind]]))
    local estimated = at["estimated_" .. kind]
    if estimated and v[estimated] > 0 then page:add("evenkeel_tokens_estimated_total", labels_of(own), number(v[estimated])) end
  end
  own[n + 1], own[n + 2] = "currency", values[7]
  if values[7] ~= "" then
    page:add("evenkeel_cost_total", labels_of(own), format("%.9f", v[at.cost_nano] / 1e9))
    if v[at.estimated_cost_nano] > 0 then
      page:add("evenkeel_cost_estimated_total", labels_of(own), format("%.9f", v[at.estimated_cost_nano] / 1e9))
    end
  end
  local otel = { "pool", values[1], "instance", values[2], "gen_ai_provider_name", provider, "gen_ai_request_model", values[4],
    "client", values[3], "traffic", values[5], "waste", values[6], "currency", values[7] }
  n = #otel
  for _, kind in ipairs { "input", "output" } do
    otel[n + 1], otel[n + 2] = "gen_ai_token_type", kind
    local labels = labels_of(otel)
    page:add("gen_ai_client_token_usage_bucket", labels, number(v[at.attempts]), "gen_ai_client_token_usage", LE_ALL)
    page:add("gen_ai_client_token_usage_sum", labels, number(v[at[kind]]), "gen_ai_client_token_usage")
    page:add("gen_ai_client_token_usage_count", labels, number(v[at.attempts]), "gen_ai_client_token_usage")
  end
end

local LINES = { request = request_lines, attempt = attempt_lines, usage = usage_lines }
local STATES = { "closed", "open", "half_open" }

local function live_lines(page, name, inst, live)
  local labels = labels_of { "instance", name }
  page:add("evenkeel_in_flight", labels, number(live.in_flight))
  page:add("evenkeel_working_limit", labels, number(live.limit))
  page:add("evenkeel_max_connections", labels, number(live.max_connections))
  for _, mode in ipairs { "stream", "json" } do
    local of_mode = labels_of { "instance", name, "mode", mode }
    page:add("evenkeel_live_weight", of_mode, number(live.live_weight[mode]))
    page:add("evenkeel_latency_seconds", of_mode, number(live.latency_ms[mode] / 1000))
  end
  for _, state in ipairs(STATES) do
    page:add("evenkeel_breaker_state", labels_of { "instance", name, "state", state }, live.breaker == state and 1 or 0)
  end
  page:add("evenkeel_cooldown_seconds", labels, number(live.cooldown_s))
  page:add("evenkeel_instance_up", labels, inst.in_service and not live.blocked and 1 or 0)
end

local function sorted(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  sort(names)
  return names
end

--- The answer to GET /metrics. @param snapshot or nil  @param live instance name → its live numbers  @param print where it goes
function M.text(snapshot, live, print)
  local page, v = new_page(), {}
  local instances = snapshot and snapshot.instances or {}
  for id = 1, metrics.top() do
    local spec, values = metrics.row(id, 0, v)
    if spec then
      local inst = instances[values[2]]
      LINES[spec.name](page, spec.at, values, v, inst and inst.provider or "")
    end
    if id % BREATH == 0 then clock.breathe() end
  end
  for _, name in ipairs(sorted(instances)) do live_lines(page, name, instances[name], live[name]) end
  for _, name in ipairs(sorted(snapshot and snapshot.pools or {})) do
    page:add("evenkeel_queue_length", labels_of { "pool", name }, number(slots.count("q:" .. name)))
  end
  page:add("evenkeel_revision", "", number(snapshot and snapshot.revision or 0))
  page:add("evenkeel_dropped_series_total", "", number(metrics.dropped()))
  for _, name in ipairs(page.order) do
    if page.lines[name][1] then print(page.heads[name], page.lines[name]) end
  end
end

return M
