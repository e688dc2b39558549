-- Tells when a pool begins to be answered by a later tier, or by nobody, and when its first tier has taken over again. One event for each,
-- however many requests there were in between; their number goes with the second one.

local clock = require "evenkeel.clock"
local events = require "evenkeel.events"

local M = {}

local QUIET_S = 10                 -- without a degraded answer, and the first tier answers: it is over

local function keys_of(pool)
  local keys = pool.degradation
  if not keys then
    local prefix = "dg:" .. pool.name .. ":"
    keys = { since = prefix .. "since", last = prefix .. "last", primary = prefix .. "primary", degraded = prefix .. "degraded",
      lost = prefix .. "lost" }
    pool.degradation = keys
  end
  return keys
end

local function over(dict, keys, pool, since)
  dict:delete(keys.since)
  events.add("tier_restored", pool.name, { degraded = dict:get(keys.degraded) or 0, lost = dict:get(keys.lost) or 0,
    since = clock.of_day(since) })
  dict:delete(keys.degraded)
  dict:delete(keys.lost)
end

--- A request of this pool is over: `req` has its tier, and `lost` if no instance answered.
function M.note(pool, req, outcome, at)
  local lost = req.lost and req.lost ~= "stale"
  if req.tier == 1 and not req.lost then
    if pool.is_degraded and outcome == "ok" then ngx.shared.evenkeel_state:set(pool.degradation.primary, at) end
    return
  end
  if outcome == "client_gone" or outcome == "client_error" then return end
  local dict, keys = ngx.shared.evenkeel_state, keys_of(pool)
  dict:set(keys.last, at)
  dict:incr(lost and keys.lost or keys.degraded, 1, 0)
  if not pool.is_degraded and dict:add(keys.since, at) then
    local inst = req.last_instance
    events.add("tier_degraded", pool.name, { outcome = req.last_outcome or outcome, tier = not req.lost and req.tier or nil,
      instance = inst and inst.name or nil })
  end
  pool.is_degraded = true
end

--- Called once a second by every worker. @param one whether this worker is the one to tell
function M.settle(pool, at, one)
  local dict, keys = ngx.shared.evenkeel_state, keys_of(pool)
  local since = dict:get(keys.since)
  pool.is_degraded = since ~= nil
  if not since or not one then return end
  local last = dict:get(keys.last) or since
  if at - last < QUIET_S or (dict:get(keys.primary) or 0) <= last then return end
  over(dict, keys, pool, since)
end

--- This pool is no more.
function M.forget(pool)
  local dict, keys = ngx.shared.evenkeel_state, keys_of(pool)
  local since = dict:get(keys.since)
  if since then over(dict, keys, pool, since) end
end

return M
