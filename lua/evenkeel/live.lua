-- What an instance is like right now, as this node sees it: latency, breaker, cooldown, working limit, tokens per second.
--
-- The truth is in the shared dict, so that all workers agree and a reload forgets nothing. Each worker reads it through a *view* per
-- instance that is at most VIEW_AGE_S old: the hot path then costs a table look-up, not half a dozen shared-dict reads. In-flight
-- counts are never cached (see slots).
--
-- Latency is an EWMA of successes: it rises fast and falls slowly, and drifts back to the base latency while there are no samples, so
-- that a once slow instance is tried again. Failures that were fast never feed it; failures that were slow count as their full wait.

local breaker = require "evenkeel.breaker"

local exp, max, min, floor = math.exp, math.max, math.min, math.floor

local M = {}

local VIEW_AGE_S = 0.05
local RISE, FALL = 0.3, 0.1       -- weight of a new sample above / below the average
local IDLE_S, DRIFT_S = 10, 30    -- after IDLE_S without a sample, drift to base with this time constant

local dict
local views = {}

function M.use(shared)
  dict = shared
  views = {}
end

--- Shared-dict keys of one instance, built once per snapshot.
function M.keys(name)
  return {
    in_flight = "f:" .. name, cooldown = "c:" .. name, strikes = "k:" .. name, limit = "l:" .. name, limit_at = "la:" .. name,
    blocked = "x:" .. name,
    stream = "ts:" .. name, stream_at = "tsa:" .. name, json = "tj:" .. name, json_at = "tja:" .. name,
    breaker = breaker.keys(name),
  }
end

--- The average after one more sample. Pure.
function M.ewma(average, sample)
  if not average then return sample end
  return average + (sample > average and RISE or FALL) * (sample - average)
end

--- What an average that is `idle_s` old is worth. Pure.
function M.drift(average, base, idle_s)
  if not average then return base end
  if idle_s <= IDLE_S then return average end
  return base + (average - base) * exp(-(idle_s - IDLE_S) / DRIFT_S)
end

local function refresh(v, inst, now)
  local k = inst.keys
  v.at = now
  v.stream = M.drift(dict:get(k.stream), inst.base_latency_s, now - (dict:get(k.stream_at) or now))
  v.json = M.drift(dict:get(k.json), inst.base_latency_s, now - (dict:get(k.json_at) or now))
  v.breaker, v.open_until = breaker.state(dict, k.breaker, now)
  v.warmth = v.breaker == "closed" and breaker.warmth(dict:get(k.breaker.closed_at), now) or 1
  v.cooldown_until = dict:get(k.cooldown) or 0
  v.blocked = dict:get(k.blocked)
  v.limit = M.working_limit(inst)
  return v
end

--- The live view of an instance: {stream, json (s), breaker, open_until, warmth, cooldown_until, blocked, limit}.
function M.view(inst, now)
  local v = views[inst.name]
  if not v then
    v = { at = -1 }
    views[inst.name] = v
  end
  local age = now - v.at
  if age > VIEW_AGE_S or age < 0 then refresh(v, inst, now) end
  return v
end

--- Make this worker read the truth at its next look.
function M.touch(inst)
  local v = views[inst.name]
  if v then v.at = -1 end
end

--- Feed a latency sample. @param kind "stream" | "json"
function M.observe(inst, kind, seconds, now)
  local k = inst.keys
  local key = k[kind]
  dict:set(key, M.ewma(dict:get(key), seconds))
  dict:set(k[kind .. "_at"], now)
end

--- Keep new attempts away until `now + seconds`; a longer cooldown that runs already stays.
function M.cool_down(inst, seconds, now)
  local key = inst.keys.cooldown
  local until_ = now + seconds
  if (dict:get(key) or 0) < until_ then
    dict:set(key, until_, seconds + 1)
    M.touch(inst)
  end
end

-- The working limit learns the ceiling that the provider really has: a 429 shrinks it, successes at the limit grow it back.
-- (Additive increase, multiplicative decrease, as in TCP; `max_connections` is the upper bound.)
local SHRINK = 0.8
local SHRINK_PAUSE_S = 0.3        -- the 429s of one burst are one sign, not fifty

--- @return attempts that may run at once at this instance
function M.working_limit(inst)
  local learned = dict:get(inst.keys.limit)
  if not learned or learned >= inst.max_connections then return inst.max_connections end
  return max(1, floor(learned))
end

--- A 429 arrived with `in_flight` attempts running (this one included).
function M.shrink_limit(inst, in_flight, now)
  local k = inst.keys
  if not dict:add(k.limit_at, now, SHRINK_PAUSE_S) then return end
  local current = min(dict:get(k.limit) or inst.max_connections, inst.max_connections)
  -- what was running besides the refused one was accepted: never shrink below a fair part of that
  dict:set(k.limit, max(1, min(current, max(in_flight - 1, 1)) * (in_flight > 1 and 0.95 or SHRINK)))
  M.touch(inst)
end

--- An answer came while the instance was nearly full: allow a little more (one permit per `limit` such answers).
function M.grow_limit(inst, in_flight)
  local k = inst.keys
  local learned = dict:get(k.limit)
  if not learned then return end
  if in_flight < learned * 0.8 then return end
  local grown = learned + 1 / max(learned, 1)
  if grown >= inst.max_connections then
    dict:delete(k.limit)
  else
    dict:set(k.limit, grown)
  end
end

--- 429s in a row without `Retry-After`: how long to stay away. Exponential with full jitter.
--- @return seconds
function M.back_off_s(inst, rng)
  local strikes = dict:incr(inst.keys.strikes, 1, 0, 30) or 1
  return (0.5 + rng() / 2) * min(0.1 * 2 ^ min(strikes, 9), 30)
end

function M.forgive(inst)
  if dict:get(inst.keys.strikes) then dict:delete(inst.keys.strikes) end
end

--- `auth` and `quota` take the instance out until a probe succeeds or an operator acts; it is looked at again after BLOCK_S anyway.
local BLOCK_S = 600
function M.block(inst, outcome)
  dict:set(inst.keys.blocked, outcome, BLOCK_S)
  M.touch(inst)
end

function M.unblock(inst)
  if dict:get(inst.keys.blocked) then
    dict:delete(inst.keys.blocked)
    M.touch(inst)
  end
end

return M
