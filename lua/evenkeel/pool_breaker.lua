-- The global breaker of a pool: when most of its requests fail whatever is tried, stop trying and answer from L3 at once.
--
-- Proportional rather than a cliff: a request is refused with probability max(0, (requests − K × accepts) / (requests + 1)), where
-- K = 1 / (1 − error_rate_threshold), so refusing begins when the error rate passes the threshold and grows with it ("client-side
-- throttling" in Site Reliability Engineering, chapter Handling Overload). At least TRIALS_PER_S requests go through all the same: they
-- are the half-open trials. When `min_requests` of those that go through have succeeded in a row, the past is forgotten: it would take
-- the window minutes to slide over an outage that has ended.

local clock = require "evenkeel.clock"
local window = require "evenkeel.window"

local events = require "evenkeel.events"

local floor, max, min = math.floor, math.max, math.min

local M = {}

local TRIALS_PER_S = 1

local dict
function M.use(shared) dict = shared end

local function counts_of(pool)
  local counts = pool.breaker_counts
  if not counts then
    local prefix, window_s = "g:" .. pool.name .. ":", pool.breaker.sliding_window_s
    counts = { requests = window.new(prefix .. "q", window_s), accepts = window.new(prefix .. "a", window_s),
      trial = prefix .. "trial", good = prefix .. "good", open = prefix .. "open" }
    pool.breaker_counts = counts
  end
  return counts
end

--- The probability of refusal. Pure.
function M.refusal(requests, accepts, threshold)
  local k = 1 / (1 - min(threshold, 0.99))
  return max(0, (requests - k * accepts) / (requests + 1))
end

local QUIET_S = 10

--- Called once a second, by one worker: tells when a pool that was refused has not been for QUIET_S.
function M.settle(pool, now)
  local counts = pool.breaker and counts_of(pool)
  local refused_at = counts and dict:get(counts.open)
  if refused_at and now - refused_at >= QUIET_S then M.forget(pool) end
end

--- This pool is no more, or refuses no more.
function M.forget(pool)
  local counts = pool.breaker and counts_of(pool)
  if not counts or not dict:get(counts.open) then return end
  dict:delete(counts.open)
  events.add("pool_closed", pool.name, {})
end

--- Should this request be refused without trying? @param rng random numbers in [0, 1)
function M.refuses(pool, now, rng)
  local cfg = pool.breaker
  if not cfg then return false end
  local counts = counts_of(pool)
  if not dict:get(counts.good) then return false end       -- nothing has failed while the window remembers (see count)
  local requests = counts.requests:count(dict, now)
  if requests < cfg.min_requests then return false end
  local p = M.refusal(requests, counts.accepts:count(dict, now), cfg.error_rate_threshold)
  if p <= 0 or rng() >= p or clock.lease(dict, counts.trial, 1 / TRIALS_PER_S) then return false end
  if dict:add(counts.open, now) then
    events.add("pool_opened", pool.name, { outcome = "circuit_open", share = floor(p * 1000) / 1000 })
  else
    dict:set(counts.open, now)
  end
  return true
end

--- Count a request that is over.
--- @param what "accepted": answered by an instance (whatever it said to the client's own faults) | "failed" | "refused" (by `refuses`)
function M.count(pool, what, now)
  local cfg = pool.breaker
  if not cfg then return end
  local counts = counts_of(pool)
  counts.requests:add(dict, now)
  if what == "failed" then
    dict:set(counts.good, 0, cfg.sliding_window_s * 2)     -- from here on the good ones are counted
  elseif what == "accepted" then
    counts.accepts:add(dict, now)
    local good = dict:get(counts.good) and dict:incr(counts.good, 1)
    if good and good >= cfg.min_requests then
      dict:delete(counts.good)
      counts.requests:forget(dict, now)
      counts.accepts:forget(dict, now)
    end
  end
end

return M
