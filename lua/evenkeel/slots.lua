-- Counted permits that several workers share: in-flight requests of an instance, half-open trials, queue places.
--
-- A permit lives in two counters of the shared dict: the total under its key, and the share of the worker that holds it. A worker
-- that is killed cannot give its permits back, so `reap` does it for the dead: it takes every share of the dead worker off the totals.
-- Each worker keeps a list of the keys that it has ever used there, so that nothing is forgotten, whatever the configuration names now.
-- The counts outlive reloads and configuration changes on purpose: requests in flight do, too.

local M = {}

local dict            -- set by `use`
local worker          -- identity of this worker

-- The share's key of each key that this worker has used.
local share_keys, known = {}, 0
local MAX_KNOWN = 50000

local function share_of(who, key) return "s:" .. who .. ":" .. key end
local function list_of(who) return "sk:" .. who end

--- @param shared a shared dict (or anything with get/incr/delete/rpush/lpop of its semantics)
--- @param who identity of this worker, unique among the living ones
function M.use(shared, who)
  dict, worker = shared, who
  share_keys, known = {}, 0
end

local function share_key(key)
  local k = share_keys[key]
  if not k then
    if known >= MAX_KNOWN then share_keys, known = {}, 0 end
    k = share_of(worker, key)
    share_keys[key] = k
    known = known + 1
    if dict:get(k) == nil then dict:rpush(list_of(worker), key) end       -- else it was listed before it was forgotten here
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

--- Give back what a dead worker held. Several may do so at once. @return number of permits reclaimed
function M.reap(who)
  local reclaimed = 0
  while true do
    local key = dict:lpop(list_of(who))
    if not key then return reclaimed end
    local share = share_of(who, key)
    local held = dict:get(share)
    dict:delete(share)
    if held and held > 0 then
      local n = dict:incr(key, -held)
      if n and n < 0 then dict:incr(key, -n) end
      reclaimed = reclaimed + held
    end
  end
end

return M
