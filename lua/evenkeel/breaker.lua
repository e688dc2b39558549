-- The circuit breaker of one instance: closed → open → half-open → closed. One truth for all workers, kept in a shared dict; time comes
-- in as an argument. FAILOVER.md's rules:
--   closed     opens on `unhealthy_threshold` consecutive failures, or on `error_rate_threshold` over `sliding_window_s` once the window
--              holds `min_requests` calls, whichever comes first
--   open       for `recovery_timeout_s`, twice as long after each failed trial (at most MAX_DOUBLINGS times); a probe that turns good
--              may end it
--   half-open  lets `half_open_max_requests` trials in at a time; `healthy_threshold` successes close it, one failure opens it again
-- After closing, the instance is warmed up for SLOW_START_S (see `warmth`).
--
-- Only fresh evidence counts: what began before the half-open time says how the instance was then, so it neither closes a breaker nor
-- opens it again, however late it comes home (answers may take an hour). A run of failures is forgotten after a window without one.
-- Several workers may see the reason for a transition at once; exactly one of them makes it and is told so.
--
-- A healthy result on a closed breaker costs one counter increment and writes no state.
--
-- `store` is a shared dict or anything with get/set/add/incr/expire/delete of its semantics; `k` holds the instance's keys (see `keys`);
-- `cfg` is the breaker block of the snapshot. The state is derived, never stored: no `until` → closed; now < until → open; else half-open.

local floor, max, min = math.floor, math.max, math.min

local M = {}

local BUCKETS = 12            -- parts of the sliding window
local MAX_DOUBLINGS = 3       -- 30 s → 60 → 120 → 240 s
local SLOW_START_S = 20
local LONGEST_CALL_S = 3700   -- how long an old call may still come home
local TURN_S = 10             -- long enough for all who saw the same reason

M.SLOW_START_S = SLOW_START_S

--- Shared-dict keys of one instance, built once.
function M.keys(name)
  local p = "b:" .. name .. ":"
  return {
    until_ = p .. "until", open_s = p .. "open_s", failures = p .. "failures", trial_ok = p .. "trial_ok", closed_at = p .. "closed_at",
    since = p .. "since", told = p .. "told", told_by = p .. "told_by",
    turn = p .. "turn:", trials = p .. "trials", calls = p .. "calls:", failed = p .. "failed:",
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
  if age >= SLOW_START_S then return 1 end
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

-- The one who may end the half-open time that began at `until_`.
local function my_turn(store, k, until_)
  return (store:add(k.turn .. until_, true, TURN_S))
end

local function opened(store, k, open_s)
  store:set(k.open_s, open_s)
  store:delete(k.trial_ok)
  store:delete(k.failures)
  store:delete(k.closed_at)
end

--- A call that began at `started` went well. @return "closed" when this closed the breaker
function M.success(store, k, cfg, now, started)
  local state, until_ = M.state(store, k, now)
  if state == "closed" then
    count(store, k.calls, cfg, now)
    if store:get(k.failures) then store:delete(k.failures) end
    return nil
  end
  if state == "open" or started < until_ then return nil end         -- an old call came home; trials decide
  local good = store:incr(k.trial_ok, 1, 0)
  if good and good < cfg.healthy_threshold or not my_turn(store, k, until_) then return nil end
  M.close(store, k, cfg, now)
  return "closed"
end

--- A call that began at `started` failed.
--- @return "opened" when this opened the breaker, and why: "consecutive" | "error_rate" | "trial"
function M.failure(store, k, cfg, now, started)
  local state, until_ = M.state(store, k, now)
  if state == "open" then return nil end
  if state == "half_open" then
    if started < until_ or not my_turn(store, k, until_) then return nil end
    local limit = cfg.recovery_timeout_s * 2 ^ MAX_DOUBLINGS
    local open_s = min((store:get(k.open_s) or cfg.recovery_timeout_s) * 2, limit)
    store:set(k.until_, now + open_s)
    opened(store, k, open_s)
    return "opened", "trial"
  end
  if started < (store:get(k.since) or 0) then return nil end
  count(store, k.calls, cfg, now)
  count(store, k.failed, cfg, now)
  local why
  local consecutive = store:incr(k.failures, 1, 0)
  store:expire(k.failures, cfg.sliding_window_s)
  if consecutive and consecutive >= cfg.unhealthy_threshold then
    why = "consecutive"
  else
    local calls, failed = M.window(store, k, cfg, now)
    if calls >= cfg.min_requests and failed >= calls * cfg.error_rate_threshold then why = "error_rate" end
  end
  if not why or not store:add(k.until_, now + cfg.recovery_timeout_s) then return nil end
  opened(store, k, cfg.recovery_timeout_s)
  return "opened", why
end

--- Close it (trials succeeded, or an operator says so) and forget the past; an instance that was out starts slowly.
function M.close(store, k, cfg, now)
  local until_ = store:get(k.until_)
  if until_ then
    store:set(k.since, min(until_, now), LONGEST_CALL_S)
    store:set(k.closed_at, now, SLOW_START_S)
  end
  store:delete(k.open_s)
  store:delete(k.trial_ok)
  store:delete(k.failures)
  local last = bucket(cfg, now)
  for b = last - BUCKETS + 1, last do
    store:delete(k.calls .. b)
    store:delete(k.failed .. b)
  end
  store:delete(k.until_)           -- last: until then nobody counts
end

--- Is this the first trial of the half-open time that began at `until_`? True for one worker only.
function M.first_trial(store, k, until_)
  return (store:add(k.turn .. "trial:" .. until_, true, LONGEST_CALL_S))
end

--- Another node says that it is open for `seconds` more. It opens here as well, unless it is open or half-open already: from there the
--- trials of this node decide. @return "opened" when this opened it
function M.open_as_told(store, k, cfg, now, seconds, by)
  local until_ = now + seconds
  if not store:add(k.until_, until_) then return nil end
  opened(store, k, cfg.recovery_timeout_s)
  store:set(k.told, until_, seconds + LONGEST_CALL_S)
  store:set(k.told_by, by, seconds + LONGEST_CALL_S)
  return "opened"
end

--- The node that told of the opening that ends at `until_`; nil: it is this node's own.
function M.told_by(store, k, until_)
  return until_ and store:get(k.told) == until_ and store:get(k.told_by) or nil
end

--- The node that told of this opening says that it has closed it. @return "closed" when this closed it
function M.close_as_told(store, k, cfg, now, by)
  if M.told_by(store, k, store:get(k.until_)) ~= by then return nil end
  M.close(store, k, cfg, now)
  return "closed"
end

--- A probe turned good while the breaker is open: go to half-open now. @return true if it was open
function M.end_wait(store, k, now)
  local state = M.state(store, k, now)
  if state ~= "open" then return false end
  store:set(k.until_, now)
  return true
end

return M
