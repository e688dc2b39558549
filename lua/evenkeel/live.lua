-- What an instance is like right now, as this node sees it: latency, breaker, cooldown, working limit, tokens per second.
--
-- The truth is in the shared dict, so that all workers agree and a reload forgets nothing. Each worker reads it through a *view* per
-- instance that is at most VIEW_AGE_S old: the hot path then costs a table look-up, not half a dozen shared-dict reads. In-flight
-- counts are never cached (see slots).
--
-- Latency is an EWMA of successes: it rises fast and falls slowly. Failures that were fast never feed it; failures that were slow count as
-- their full wait, and what waits already counts before it has ended (see waiting). While there are no samples it drifts to what is
-- normal here, so that a once slow instance is tried again: its base latency × the tier's pace, for whole answers of many tokens take
-- many times the base latency everywhere, and who is only unknown would look many times faster than all others.

local breaker = require "evenkeel.breaker"
local shares = require "evenkeel.shares"
local waiting = require "evenkeel.waiting"

local exp, max, min, floor, ceil = math.exp, math.max, math.min, math.floor, math.ceil

local M = {}

local VIEW_AGE_S = 0.05
local RISE, FALL = 0.3, 0.1       -- weight of a new sample above / below the average
local IDLE_S, DRIFT_S = 10, 30    -- after IDLE_S without a sample, drift to what is normal with this time constant
local PACE_STEP = 1.1             -- the pace follows the median of latency / base_latency in such steps

local dict
local views = {}

function M.use(shared)
  dict = shared
  shares.use(shared)
  views = {}
end

--- Shared-dict keys of one instance, built once per snapshot. @param tier whose pace it goes by (the first that has it)
function M.keys(name, tier)
  tier = tier or name
  return shares.keys(name, {
    stream_pace = "ps:" .. tier, json_pace = "pj:" .. tier,
    in_flight = "f:" .. name, cooldown_told = "ct:" .. name, cooldown_by = "cb:" .. name,
    cooldown = "c:" .. name, strikes = "k:" .. name, blocked = "x:" .. name, probe = "p:" .. name,
    no_usage = "nu:" .. name,
    limit = "l:" .. name, limit_low = "ll:" .. name, limit_at = "la:" .. name, limit_ok = "lo:" .. name, limit_was = "lw:" .. name,
    refused_at = "ra:" .. name, borne = "rb:" .. name, row_at = "rr:" .. name,
    stream = "ts:" .. name, stream_at = "tsa:" .. name, json = "tj:" .. name, json_at = "tja:" .. name,
    breaker = breaker.keys(name),
  })
end

--- The average after one more sample. Pure.
function M.ewma(average, sample)
  if not average then return sample end
  return average + (sample > average and RISE or FALL) * (sample - average)
end

--- What an average that is `idle_s` old is worth. Pure.
function M.drift(average, normal, idle_s)
  if not average then return normal end
  if idle_s <= IDLE_S then return average end
  return normal + (average - normal) * exp(-(idle_s - IDLE_S) / DRIFT_S)
end

--- The pace after one more sample: up or down by one step, so that it settles at the median whatever the extremes are; never below 1,
--- the operator's word. Pure.
function M.next_pace(pace, ratio)
  if ratio > pace then return pace * PACE_STEP end
  return max(1, pace / PACE_STEP)
end

local AT, PACE, NOTED = { stream = "stream_at", json = "json_at" }, { stream = "stream_pace", json = "json_pace" },
  { stream = "stream_noted", json = "json_noted" }

local function latency(inst, kind, now)
  local k = inst.keys
  local average = M.drift(dict:get(k[kind]), inst.base_latency_s * (dict:get(k[PACE[kind]]) or 1), now - (dict:get(k[AT[kind]]) or now))
  local waits_s = waiting.median_s(inst.name, kind, now)
  return waits_s and waits_s > average and waits_s or average
end

local function refresh(v, inst, now)
  local k = inst.keys
  v.at = now
  v.stream = latency(inst, "stream", now)
  v.json = latency(inst, "json", now)
  v.breaker, v.open_until = breaker.state(dict, k.breaker, now)
  v.warmth = v.breaker == "closed" and breaker.warmth(dict:get(k.breaker.closed_at), now) or 1
  v.probe_bad = v.breaker == "open" and dict:get(k.probe) == "bad"
  v.cooldown_until = dict:get(k.cooldown) or 0
  v.blocked = M.blocked(inst, now)
  v.limit = M.working_limit(inst, now)
  v.refused = dict:get(k.limit) ~= nil or dict:get(k.strikes) ~= nil
  return v
end

--- The live view of an instance:
--- {stream, json (s), breaker, open_until, probe_bad (open, and a probe agrees), warmth, cooldown_until, blocked, limit,
--- refused (429s are not forgotten yet, or a limit was learned)}.
function M.view(inst, now)
  local v = views[inst.name]
  if not v then
    v = { at = -1 }
    views[inst.name] = v
  end
  if now - v.at > VIEW_AGE_S then refresh(v, inst, now) end
  return v
end

--- Make this worker read the truth at its next look.
function M.touch(inst)
  local v = views[inst.name]
  if v then v.at = -1 end
end

local STILL_FRESH_S = 1                   -- how old the time of the last sample may be: IDLE_S is told to the second only

--- Feed a latency sample. @param kind "stream" | "json"
function M.observe(inst, kind, seconds, now)
  local k = inst.keys
  local key, at_key = k[kind], AT[kind]
  local average = dict:get(key)
  local noted = k[NOTED[kind]]            -- by this worker: within STILL_FRESH_S nothing can have drifted
  if not noted or now - noted > STILL_FRESH_S then
    local pace = dict:get(k[PACE[kind]]) or 1
    if average then average = M.drift(average, inst.base_latency_s * pace, now - (dict:get(k[at_key]) or now)) end
    dict:set(k[PACE[kind]], M.next_pace(pace, seconds / inst.base_latency_s))
    dict:set(k[at_key], now)
    k[NOTED[kind]] = now
  end
  dict:set(key, M.ewma(average, seconds))
end

--- Keep new attempts away until `now + seconds`; a longer cooldown that runs already stays.
function M.cool_down(inst, seconds, now)
  local key = inst.keys.cooldown
  local until_ = now + seconds
  if (dict:get(key) or 0) < until_ then
    dict:set(key, until_)
    M.touch(inst)
  end
end

-- The working limit learns the ceiling that the provider really has (this node's share of `max_connections` is the upper bound).
-- Refusals say what it bore at that moment; from there the limit grows again, slowly at first and faster the longer nothing is refused:
-- a ceiling that stays is probed with less than one request in a hundred, one that has risen is found within a minute or two.
local GROW_ANSWERS, GROW_S = 200, 30     -- the first permit more comes after so many answers near the limit, or so much time

--- A limit that was learned `age_s` ago and has borne `answers` near it since. Pure.
function M.regrown(learned, answers, age_s)
  local by_answers, by_age = answers / GROW_ANSWERS, max(age_s, 0) / GROW_S
  return learned + max(by_answers * by_answers, by_age * by_age)
end

--- @return attempts that may run at once at this instance
function M.working_limit(inst, now)
  local k = inst.keys
  local learned = dict:get(k.limit)
  local most = shares.permits(inst)
  if not learned then return most end
  local limit = floor(M.regrown(learned, dict:get(k.limit_ok) or 0, now - (dict:get(k.limit_at) or now)))
  return limit < most and max(1, limit) or most
end

local LOW, HIGH = 0.5, 0.8               -- of the share: where a learned limit counts as collapsed, and as recovered

--- Has the working limit collapsed or recovered since this was asked last? Told to one worker only.
--- @return "collapsed" | "recovered" | nil, and the limit
function M.limit_news(inst, now)
  local k = inst.keys
  local limit, most = M.working_limit(inst, now), shares.permits(inst)
  local was_low = dict:get(k.limit_low)
  if not was_low and limit < most * LOW then
    if dict:add(k.limit_low, true) then return "collapsed", limit end
  elseif was_low and limit >= most * HIGH then
    dict:delete(k.limit_low)
    return "recovered", limit
  end
end

--- An answer came with `in_flight` attempts running (its own included): it counts if that was near the limit.
function M.bore(inst, in_flight, now)
  local k = inst.keys
  if not dict:get(k.limit) then return end
  local limit = M.working_limit(inst, now)
  if limit >= shares.permits(inst) then
    dict:delete(k.limit)
  elseif in_flight >= limit * 0.8 then
    dict:incr(k.limit_ok, 1, 0)
  end
end

-- 429s in a row without `Retry-After`: how long to stay away. Exponential with jitter.
local BACK_OFF_S, LONGEST_BACK_OFF_S, FORGET_STRIKES_S = 0.1, 30, 120
local SEEN_S = 2 * VIEW_AGE_S            -- until every worker has seen what one has written

--- A 429 arrived with `in_flight` attempts running (its own included) for an attempt that began at `started`.
--- All 429s of attempts that began before all workers knew of the first are one sign, not fifty: it makes one cooldown and one back-off.
--- @param retry_after_s what the provider asked for, nil if nothing
--- @return seconds of the cooldown that this began, or nil if it is part of a sign that is known
function M.rate_limited(inst, retry_after_s, in_flight, started, now, rng)
  local k = inst.keys
  local known = started <= (dict:get(k.refused_at) or -1) + SEEN_S
  local borne, limit_was, strikes            -- what was running besides the refused ones was accepted
  if known then
    borne, limit_was = dict:incr(k.borne, -1, in_flight), dict:get(k.limit_was)
  else
    borne, limit_was = in_flight - 1, M.working_limit(inst, now)
    strikes = dict:incr(k.strikes, 1, 0) or 1
    M.touch(inst)
    dict:expire(k.strikes, FORGET_STRIKES_S)
    if strikes == 1 then dict:set(k.row_at, now) end
    -- again refused, and with much less to bear: this is about a rate, not about a ceiling
    if strikes > 1 and borne < limit_was / 2 then limit_was = nil end
    dict:set(k.refused_at, now)
    dict:set(k.borne, borne)
    dict:set(k.limit_was, limit_was)
  end
  local limit = limit_was and max(1, limit_was / 2, min(limit_was, borne))
  if limit and limit < shares.permits(inst) then     -- else the share says it already, and may grow
    dict:set(k.limit, limit)
    dict:set(k.limit_at, now)
    dict:set(k.limit_ok, 0)
    M.touch(inst)
  end
  if known then
    if retry_after_s then M.cool_down(inst, retry_after_s, now) end
    return nil
  end
  local wait_s = retry_after_s or (0.5 + rng() / 2) * min(BACK_OFF_S * 2 ^ min(strikes, 9), LONGEST_BACK_OFF_S)
  M.cool_down(inst, wait_s, now)
  return wait_s
end

--- An attempt that began at `started` was answered: if that was after a row of 429s had begun, the row is over.
function M.forgive(inst, started)
  local k = inst.keys
  if dict:get(k.strikes) and started > (dict:get(k.row_at) or 0) then dict:delete(k.strikes) end
end

local BLOCK_S = 600

--- @return the outcome for which it is out, or nil
function M.blocked(inst, now)
  local outcome, ends = dict:get(inst.keys.blocked)
  return outcome and now < (ends or 0) and outcome or nil
end

--- `auth` and `quota` take the instance out until it answers or an operator acts; it is looked at again after BLOCK_S anyway.
--- @return true if it was in until now, or out for another reason; seconds of the block
function M.block(inst, outcome, now)
  local was = M.blocked(inst, now)
  dict:set(inst.keys.blocked, outcome, 0, ceil(now + BLOCK_S))
  M.touch(inst)
  return was ~= outcome, BLOCK_S
end

--- @param only end the block only if it is for this outcome; nil: whatever it is for
--- @return true if there was one to end
function M.unblock(inst, now, only)
  local key = inst.keys.blocked
  local outcome = dict:get(key)
  if outcome and (not only or outcome == only) then
    local was = M.blocked(inst, now)
    dict:delete(key)
    M.touch(inst)
    return was ~= nil
  end
  return false
end

return M
