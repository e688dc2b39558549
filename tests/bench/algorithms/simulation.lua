-- Which rule of choosing an instance serves an LLM-like workload best? A discrete-event simulation around the node's own code: edge
-- (who may be asked, the choice, permits), live (latency, learned limits, cooldown), breaker, escalation and the adapter's report run as
-- in nginx, on a simulated clock. Only provider, client and the line of those that wait are played here.
--
--   luajit tests/bench/algorithms/simulation.lua SECONDS ROUNDS     from the top of the checkout; prints JSON
--
-- The same seed gives every rule the same arrivals and answers of the same length.

package.path = "lua/?.lua;tests/lua/?.lua;tests/bench/algorithms/?.lua;" .. package.path

local cjson = require "cjson"
local stand_in = require("support.fake_ngx").install()
package.loaded["ngx.balancer"], package.loaded["ngx.semaphore"] = {}, {}
require("evenkeel.meter").attempt = function() end        -- counting and telling are not what is measured
require("evenkeel.events").add = function() end

local simulation = require "support.simulation"
local fake_dict = require "support.fake_dict"
local balancer = require "evenkeel.balancer"
local escalation = require "evenkeel.escalation"
local live = require "evenkeel.live"
local slots = require "evenkeel.slots"
local waiting = require "evenkeel.waiting"
local rules = require "rules"

local SECONDS, ROUNDS = tonumber(arg[1]) or 300, tonumber(arg[2]) or 3
local START_S = 1700000000
local FIRST_TOKEN_S, QUEUE_S, QUEUE_SIZE, MAX_WAIT_S, MAX_ATTEMPTS = 10, 2, 100, 3, 4
local BREAKER = { unhealthy_threshold = 3, healthy_threshold = 2, error_rate_threshold = 0.5, sliding_window_s = 60,
  half_open_max_requests = 5, recovery_timeout_s = 30, min_requests = 20 }

local ALGORITHMS = { "round_robin", "weighted", "least_load", "least_connections", "peak_ewma_p2c", "prequal", "least_load_absolute" }
for i = 4, #ALGORITHMS do balancer[ALGORITHMS[i]] = rules[ALGORITHMS[i]] end
local our_ewma = live.ewma

-- Random numbers of the workload, apart from those of the choice: Park and Miller's generator.
local function numbers(seed)
  local state = seed * 7919 + 1
  for _ = 1, 10 do state = state * 48271 % 2147483647 end
  return function()
    state = state * 48271 % 2147483647
    return state / 2147483647
  end
end

local function lognormal(rng, sigma)
  return math.exp(sigma * math.sqrt(-2 * math.log(1 - rng())) * math.cos(2 * math.pi * rng()))
end

-- ---------------------------------------------------------------------------------------------------------------- workload

-- A call takes its first token's time and then a time per token, more of both the fuller the instance is, as batching has it.
-- Answers are log-normal in length.
local FIRST_S, TOKEN_S, TOKENS, SIGMA, STREAMS = 0.25, 0.0045, 100, 0.7, 0.7
local MEAN_S = FIRST_S + TOKEN_S * TOKENS * math.exp(SIGMA ^ 2 / 2)

--- What the operator says of it (limit, says_s) and what is true (bears, pace: how many times slower than others).
local function provider(name, limit, pace, fields)
  local p = { name = name, limit = limit, says_s = 0.8 * (pace or 1), bears = limit, pace = pace or 1, running = 0 }
  for key, value in pairs(fields or {}) do p[key] = value end
  return p
end

local function three(fields)
  return function() return { provider("A", 50), provider("B", 50, 1, fields), provider("C", 20) } end
end

local function within(from, to, what)            -- shares of the whole time
  return function(t) if t >= from * SECONDS and t < to * SECONDS then return what end end
end

local function many()
  local list = {}
  for i, limit in ipairs { 100, 80, 60, 50, 40, 40, 30, 20, 20, 10 } do
    list[i] = provider("i" .. i, limit, ({ 1, 0.6, 1.5, 1, 2, 0.8, 1, 3, 1, 0.5 })[i])
  end
  return list
end

-- in_flight: what the calls make on average if all is well. trouble(t): what ails B then.
local SCENARIOS = {
  { name = "all well", providers = three(), in_flight = 60 },
  { name = "nearly full", providers = three(), in_flight = 92 },
  { name = "bursts: 3 x for 5 s of 30", providers = three(), in_flight = 36, burst = function(t) return t % 30 < 5 and 3 or 0.6 end },
  { name = "B six times slower", providers = three { trouble = within(1 / 3, 2 / 3, { slower = 6 }) }, in_flight = 45 },
  { name = "B answers nothing", providers = three { trouble = within(1 / 3, 2 / 3, { hangs = 1 }) }, in_flight = 45 },
  { name = "B forgets every tenth call", providers = three { trouble = within(1 / 3, 2 / 3, { hangs = 0.1 }) }, in_flight = 45 },
  { name = "B fails at once", providers = three { trouble = within(1 / 3, 2 / 3, { fails = 1 }) }, in_flight = 45 },
  { name = "B fails three in ten at once", providers = three { trouble = within(1 / 3, 2 / 3, { fails = 0.3 }) }, in_flight = 45 },
  { name = "B bears 15, says 50", providers = three { bears = 15 }, in_flight = 60 },
  { name = "B three times slower than it says", providers = three { pace = 3 }, in_flight = 45 },
  { name = "ten of many sizes and paces", providers = many, in_flight = 280 },
}

-- ------------------------------------------------------------------------------------------------------------------- one run

local Run = {}
Run.__index = Run

local function new_run(scenario, algorithm, seed)
  local clock = stand_in.clock
  clock.now_s = START_S
  local dict = fake_dict.new(clock)
  rawset(stand_in.shared, "evenkeel_state", dict)
  live.use(dict)
  slots.use(dict, 1)
  package.loaded["evenkeel.edge"], package.loaded["evenkeel.adapter"] = nil, nil
  live.ewma = algorithm == "peak_ewma_p2c" and rules.peak_ewma or our_ewma
  rules.forget()
  waiting.forget()
  local run = setmetatable({
    scenario = scenario, algorithm = algorithm, seed = seed, sim = simulation.new(seed), clock = clock, rng = numbers(seed),
    edge = require "evenkeel.edge",
    adapter = require "evenkeel.adapter", pool = { name = "chat", algorithm = algorithm, turn = 0 }, instances = {}, providers = {},
    line = {}, look = {}, took = {}, first = {}, errors = 0, attempts = 0,
  }, Run)
  for i, p in ipairs(scenario.providers()) do
    run.providers[p.name] = p
    run.instances[i] = { name = p.name, keys = live.keys(p.name), weight = p.limit, max_connections = p.limit, breaker = BREAKER,
      in_service = true, enabled = true, weight_factor = 1, base_latency_s = p.says_s, idle_s = FIRST_TOKEN_S }
  end
  return run
end

function Run:after(delay_s, what)
  self.sim:after(delay_s, function(at)
    self.clock.now_s = START_S + at
    what(START_S + at)
  end)
end

function Run:finished(req, ok, at)
  if req.warms_up then return end
  if not ok then
    self.errors = self.errors + 1
    return
  end
  self.took[#self.took + 1] = at - req.started
  self.first[#self.first + 1] = at - req.started - req.rest_s
end

-- What the provider makes of a call: outcome, seconds to it.
local function answer(req, p, attempt, at)
  local ill = p.trouble and p.trouble(at - START_S) or {}
  local load = p.running / p.bears
  if load > 1 then return "rate_limited", 0.05 end
  if req.luck < (ill.fails or 0) then return "server_error", 0.02 end
  if req.luck < (ill.hangs or 0) then return "timeout_first_token", FIRST_TOKEN_S end
  local slow = p.pace * (ill.slower or 1)
  local first_s = FIRST_S * (0.7 + 0.6 * load) * slow * req.jitter
  req.rest_s = TOKEN_S * req.tokens * (0.8 + 0.4 * load) * slow
  if req.stream and first_s > FIRST_TOKEN_S then return "timeout_first_token", FIRST_TOKEN_S end
  attempt.latency_s = req.stream and first_s or first_s + req.rest_s
  return "ok", first_s + req.rest_s
end

function Run:start(req, inst, at)
  local p = self.providers[inst.name]
  local attempt = { inst = inst, kind = "chat", traffic = "client", started = at, call = { stream = req.stream } }
  self.attempts = self.attempts + 1
  req.attempts, req.held = req.attempts + 1, inst
  p.running = p.running + 1
  waiting.begin(inst.name, req.stream and "stream" or "json", attempt)
  local outcome, after_s = answer(req, p, attempt, at)
  if req.stream and outcome == "ok" then self:after(attempt.latency_s, function() waiting.over(attempt) end) end
  self:after(after_s, function(ended)
    self.adapter.report(attempt, outcome, ended)
    p.running = p.running - 1
    self.edge._release(req)
    live.touch(inst)
    if outcome == "ok" then
      self:finished(req, true, ended)
    else
      req.tried[inst.name], req.last = 1, outcome
      req.luck = (req.luck + 0.618034) % 1
      self:go_on(req, ended)
    end
    self:wake(ended)
  end)
end

-- The first in line gets what has come free.
function Run:wake(at)
  local line = self.line
  while line[1] do
    local inst = self.edge._choose(line[1], at)
    if not inst then return end
    local req = table.remove(line, 1)
    req.queued = "served"
    self:start(req, inst, at)
  end
end

function Run:leave_line(req, at)
  if req.queued ~= "waits" then return end
  for i, other in ipairs(self.line) do
    if other == req then table.remove(self.line, i) end
  end
  req.queued = "left"
  self:go_on(req, at)
end

-- The edge's order: the next of those that are left, else what escalation says.
function Run:go_on(req, at)
  local attempts_left = req.attempts < MAX_ATTEMPTS
  if attempts_left and not (req.attempts == 0 and self.line[1] and not req.queued) then
    local inst = self.edge._choose(req, at)
    if inst then return self:start(req, inst, at) end
  end
  local look = self.look
  local n = self.edge.gather(req, at, look)
  local action, wait_s = escalation.decide {
    eligible = n, line = self.line[1] ~= nil, usable = look.usable, full = look.full, open = look.open, cooling_s = look.cooling_s,
    last_outcome = req.last, queued = req.queued ~= nil, waited = req.waited, passes = req.passes, attempts_left = attempts_left,
    has_next_tier = false, max_wait_s = MAX_WAIT_S, queue_timeout_s = QUEUE_S, jitter = math.random(),
  }
  if action == "queue" and #self.line < QUEUE_SIZE then
    req.queued = "waits"
    self.line[#self.line + 1] = req
    self:after(wait_s, function(later) self:leave_line(req, later) end)
  elseif action == "retry" and req.passes < MAX_ATTEMPTS then
    req.passes, req.tried, req.waited = req.passes + 1, {}, wait_s > 0 or nil
    self:after(wait_s, function(later) self:go_on(req, later) end)
  else
    self:finished(req, false, at)
  end
end

function Run:arrive(at)
  local t = at - START_S
  if t > SECONDS then return end
  local scenario, rng = self.scenario, self.rng
  local rate = scenario.in_flight / MEAN_S * (scenario.burst and scenario.burst(t) or 1)
  self:after(-math.log(1 - rng()) / rate, function(later) self:arrive(later) end)
  local stream = rng() < STREAMS
  self:go_on({ pool = self.pool, tier_instances = self.instances, latency_kind = stream and "stream" or "json", stream = stream,
    tried = {}, attempts = 0, passes = 1, started = at, warms_up = t < SECONDS / 10, luck = rng(), jitter = lognormal(rng, 0.25),
    tokens = math.min(4000, 1 + TOKENS * lognormal(rng, SIGMA)) }, at)
end

function Run:result()
  self.sim:after(0, function() self:arrive(START_S) end)
  self.sim:run(SECONDS + 120)
  table.sort(self.took)
  table.sort(self.first)
  local function percentile(sorted, share) return sorted[math.max(1, math.ceil(share * #sorted))] or 0 end
  return {
    scenario = self.scenario.name, algorithm = self.algorithm, seed = self.seed, requests = #self.took + self.errors, errors = self.errors,
    attempts = self.attempts, p50_s = percentile(self.took, 0.5), p99_s = percentile(self.took, 0.99),
    first_p50_s = percentile(self.first, 0.5), first_p99_s = percentile(self.first, 0.99),
  }
end

local runs = {}
for seed = 1, ROUNDS do
  for _, scenario in ipairs(SCENARIOS) do
    for _, algorithm in ipairs(ALGORITHMS) do runs[#runs + 1] = new_run(scenario, algorithm, seed):result() end
  end
end
print(cjson.encode(runs))
