-- Counted permits that several workers share: in-flight requests of an instance, half-open trials, queue places.
--
-- A permit lives in two counters of the shared dict: the total under its key, and the share of the worker that holds it. A worker
-- that is killed cannot give its permits back, so `reap` does it for the dead: it takes every share of the dead worker off the totals.
-- The counts outlive reloads and configuration changes on purpose: requests in flight do, too.

local M = {}

local dict            -- set by `use`
local share_prefix    -- "s:<worker>:" of this worker

--- @param shared a shared dict (or anything with get/incr/delete of its semantics)
--- @param worker identity of this worker, unique among the living ones
function M.use(shared, worker)
  dict = shared
  share_prefix = "s:" .. worker .. ":"
end

local share_key_cache, cached = {}, 0

local function share_key(key)
  local k = share_key_cache[key]
  if not k then
    if cached > 50000 then share_key_cache, cached = {}, 0 end
    k = share_prefix .. key
    share_key_cache[key] = k
    cached = cached + 1
  end
  return k
end

--- Take one permit unless `limit` are out. @return true, or false when none is left
function M.acquire(key, limit)
  local n = dict:incr(key, 1, 0)
  if not n then return true end        -- the dict is full: rather serve uncounted than not at all
  if n > limit then
    dict:incr(key, -1)
    return false
  end
  dict:incr(share_key(key), 1, 0)
  return true
end

function M.release(key)
  local n = dict:incr(key, -1)
  if n and n < 0 then dict:incr(key, 1) end
  dict:incr(share_key(key), -1, 1)
end

function M.count(key)
  local n = dict:get(key)
  return n and n > 0 and n or 0
end

--- Give back what a dead worker held. @return number of permits reclaimed
function M.reap(worker, keys)
  local reclaimed = 0
  for i = 1, #keys do
    local key = keys[i]
    local share = "s:" .. worker .. ":" .. key
    local held = dict:get(share)
    if held then
      dict:delete(share)
      if held > 0 then
        local n = dict:incr(key, -held)
        if n and n < 0 then dict:incr(key, -n) end
        reclaimed = reclaimed + held
      end
    end
  end
  return reclaimed
end


return M
