-- The global breaker of a pool: when most of its requests fail whatever is tried, stop trying and answer from L3 at once.
--
-- Proportional rather than a cliff: a request is refused with probability max(0, (requests − K × accepts) / (requests + 1)), where
-- K = 1 / (1 − error_rate_threshold), so refusing begins when the error rate passes the threshold and grows with it ("client-side
-- throttling" in Site Reliability Engineering, chapter Handling Overload). At least TRIALS_PER_S requests go through all the same: they
-- are the half-open trials by which the pool comes back.

local floor, max, random = math.floor, math.max, math.random

local M = {}

local TRIALS_PER_S = 1

local dict
function M.use(shared) dict = shared end

-- The window is the running half and what is left of the one before.
local function keys_of(pool, now)
  local half_s = pool.breaker.sliding_window_s / 2
  local half = floor(now / half_s)
  local k = pool.breaker_keys
  if not k or k.half ~= half then
    local p = "g:" .. pool.name .. ":"
    k = {
      half = half, requests = p .. "q" .. half, accepts = p .. "a" .. half, requests_before = p .. "q" .. (half - 1),
      accepts_before = p .. "a" .. (half - 1), trial = p .. "trial", ttl = half_s * 3,
    }
    pool.breaker_keys = k
  end
  return k, now / half_s - half
end

--- The probability of refusal. Pure.
function M.refusal(requests, accepts, threshold)
  local k = 1 / (1 - math.min(threshold, 0.99))
  return max(0, (requests - k * accepts) / (requests + 1))
end

--- Should this request be refused without trying?
function M.refuses(pool, now)
  local cfg = pool.breaker
  if not cfg then return false end
  local k, into = keys_of(pool, now)
  local requests = (dict:get(k.requests) or 0) + (dict:get(k.requests_before) or 0) * (1 - into)
  if requests < cfg.min_requests then return false end
  local accepts = (dict:get(k.accepts) or 0) + (dict:get(k.accepts_before) or 0) * (1 - into)
  local p = M.refusal(requests, accepts, cfg.error_rate_threshold)
  if p <= 0 or random() >= p then return false end
  return not dict:add(k.trial, 1, 1 / TRIALS_PER_S)
end

--- Count a request that is over. @param accepted it was answered by an instance (whatever it said to the client's own faults)
function M.count(pool, accepted, now)
  if not pool.breaker then return end
  local k = keys_of(pool, now)
  dict:incr(k.requests, 1, 0, k.ttl)
  if accepted then dict:incr(k.accepts, 1, 0, k.ttl) end
end

return M
