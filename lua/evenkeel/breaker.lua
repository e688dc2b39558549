-- The circuit breaker of one instance: closed → open → half-open → closed. One truth for all workers, kept in a shared dict; time comes
-- in as an argument. FAILOVER.md's rules:
--   closed     opens on `unhealthy_threshold` consecutive failures, or on `error_rate_threshold` over `sliding_window_s` once the window
--              holds `min_requests` calls, whichever comes first
--   open       for `recovery_timeout_s`, twice as long after each failed trial (at most MAX_DOUBLINGS times); a probe that turns good may end it
--   half-open  lets `half_open_max_requests` trials in at a time; `healthy_threshold` successes close it, one failure opens it again
-- After closing, the instance is warmed up for SLOW_START_S (see `warmth`).
--
-- A healthy result on a closed breaker costs one counter increment and writes no state.
--
-- `store` is a shared dict or anything with get/set/incr/delete of its semantics; `k` holds the instance's keys (see `keys`); `cfg` is
-- the breaker block of the snapshot. The state is derived, never stored: no `until` → closed; now < until → open; else half-open.

local floor, max = math.floor, math.max

local M = {}

local BUCKETS = 12            -- parts of the sliding window
local MAX_DOUBLINGS = 3       -- 30 s → 60 → 120 → 240 s
local SLOW_START_S = 20

M.SLOW_START_S = SLOW_START_S

--- Shared-dict keys of one instance, built once.
function M.keys(name)
  local p = "b:" .. name .. ":"
  return {
    until_ = p .. "until", open_s = p .. "open_s", failures = p .. "failures", trial_ok = p .. "trial_ok", closed_at = p .. "closed_at",
    trials = p .. "trials", calls = p .. "calls:", failed = p .. "failed:",
  }
end

--- @return "closed" | "open" | "half_open", and the end of the open time
function M.state(store, k, now)
  local until_ = store:get(k.until_)
  if not until_ then return "closed" end
  if now < until_ then return "open", until_ end
  return "half_open", until_
end

--- The share of its weight that an instance gets after recovery: 0.1 … 1, linear over SLOW_START_S.
function M.warmth(closed_at, now)
  if not closed_at then return 1 end
  local age = now - closed_at
  if age >= SLOW_START_S or age < 0 then return 1 end
  return max(0.1, age / SLOW_START_S)
end

local function bucket(cfg, now)
  return floor(now / (cfg.sliding_window_s / BUCKETS))
end

local function count(store, prefix, cfg, now)
  local ttl = cfg.sliding_window_s * (1 + 1 / BUCKETS)
  store:incr(prefix .. bucket(cfg, now), 1, 0, ttl)
end

--- Calls and failures inside the window.
function M.window(store, k, cfg, now)
  local calls, failed = 0, 0
  local last = bucket(cfg, now)
  for b = last - BUCKETS + 1, last do
    calls = calls + (store:get(k.calls .. b) or 0)
    failed = failed + (store:get(k.failed .. b) or 0)
  end
  return calls, failed
end

local function open(store, k, now, open_s)
  store:set(k.open_s, open_s)
  store:set(k.until_, now + open_s)
  store:delete(k.trial_ok)
  store:delete(k.failures)
  store:delete(k.closed_at)
end

--- A call went well. @return "closed" when this closed the breaker
function M.success(store, k, cfg, now)
  local state = M.state(store, k, now)
  if state == "closed" then
    count(store, k.calls, cfg, now)
    if store:get(k.failures) then store:delete(k.failures) end
    return nil
  end
  if state == "open" then return nil end         -- an old call came home; trials decide
  local good = store:incr(k.trial_ok, 1, 0, 300)
  if good and good < cfg.healthy_threshold then return nil end
  M.close(store, k, cfg, now)
  return "closed"
end

--- A call failed. @return "opened" when this opened the breaker, and why: "consecutive" | "error_rate" | "trial"
function M.failure(store, k, cfg, now)
  local state = M.state(store, k, now)
  if state == "open" then return nil end
  if state == "half_open" then
    local limit = cfg.recovery_timeout_s * 2 ^ MAX_DOUBLINGS
    local open_s = (store:get(k.open_s) or cfg.recovery_timeout_s) * 2
    open(store, k, now, open_s > limit and limit or open_s)
    return "opened", "trial"
  end
  count(store, k.calls, cfg, now)
  count(store, k.failed, cfg, now)
  local consecutive = store:incr(k.failures, 1, 0, cfg.sliding_window_s)
  if consecutive and consecutive >= cfg.unhealthy_threshold then
    open(store, k, now, cfg.recovery_timeout_s)
    return "opened", "consecutive"
  end
  local calls, failed = M.window(store, k, cfg, now)
  if calls >= cfg.min_requests and failed >= calls * cfg.error_rate_threshold then
    open(store, k, now, cfg.recovery_timeout_s)
    return "opened", "error_rate"
  end
  return nil
end

--- Close it (trials succeeded, or an operator says so) and forget the past; the instance starts slowly.
function M.close(store, k, cfg, now)
  store:delete(k.until_)
  store:delete(k.open_s)
  store:delete(k.trial_ok)
  store:delete(k.failures)
  store:set(k.closed_at, now, SLOW_START_S)
  local last = bucket(cfg, now)
  for b = last - BUCKETS + 1, last do
    store:delete(k.calls .. b)
    store:delete(k.failed .. b)
  end
end

--- A probe turned good while the breaker is open: go to half-open now. @return true if it was open
function M.end_wait(store, k, now)
  local state = M.state(store, k, now)
  if state ~= "open" then return false end
  store:set(k.until_, now)
  return true
end

return M
