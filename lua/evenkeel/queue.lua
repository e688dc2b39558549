-- The queue in front of a tier whose instances are all at their limit: bounded, first come first served, left behind when the client
-- leaves.
--
-- Its size is counted per pool, across workers. Each worker keeps a line per tier and lets only the first in line look for a permit, and
-- only while no other worker's first in line came before it: tickets are drawn and shown in the shared dict. A permit that is freed in
-- this worker is noticed at once, one freed elsewhere within POLL_S.

local semaphore = require "ngx.semaphore"
local slots = require "evenkeel.slots"

local now, min = ngx.now, math.min

local M = {}

local POLL_S = 0.005
local SHOWN_S = 1              -- a ticket that is not shown again within this time belongs to a dead worker

local dict, place              -- the shared dict and the number of this worker in it; nil: this worker is the only one
local lines = {}               -- pool name → tier number → {first, last, [n] = waiter}

--- @param shared a shared dict  @param worker number of this worker; `w:top` in the dict is the highest there is
function M.use(shared, worker)
  dict, place, lines = shared, worker, {}
end

local function first_in(line)
  while line.first <= line.last do
    local waiter = line[line.first]
    if waiter then return waiter end
    line.first = line.first + 1
  end
  return nil
end

local function key_of_head(line, worker) return "qh:" .. line.name .. ":" .. worker end

-- Shows who is first in line here. @return true when somebody in another worker came before
local function others_first(waiter)
  if not dict then return false end
  local line = waiter.line
  dict:set(key_of_head(line, place), waiter.ticket, SHOWN_S)
  for worker = 1, dict:get("w:top") or 0 do
    if worker ~= place then
      local ticket = dict:get(key_of_head(line, worker))
      if ticket and ticket < waiter.ticket then return true end
    end
  end
  return false
end

--- Somebody waits for this pool, in whatever worker.
function M.busy(pool)
  return slots.count("q:" .. pool.name) > 0
end

--- A permit became free: those who are first in line look again. Callable from any phase.
function M.wake(pool)
  local tiers = lines[pool.name]
  if not tiers then return end
  for _, line in pairs(tiers) do
    local waiter = first_in(line)
    if waiter and waiter.sema:count() < 1 then waiter.sema:post(1) end
  end
end

--- Leave the line, whether served, out of time or gone.
function M.leave(req)
  local waiter = req.waiter
  if not waiter then return end
  req.waiter = nil
  local line = waiter.line
  line[waiter.at] = nil
  if dict and not first_in(line) then dict:delete(key_of_head(line, place)) end
  slots.release("q:" .. req.pool.name)
  M.wake(req.pool)
end

local function enter(req)
  local pool, tier = req.pool, req.tier or 1
  local tiers = lines[pool.name]
  if not tiers then
    tiers = {}
    lines[pool.name] = tiers
  end
  local line = tiers[tier]
  if not line then
    line = { first = 1, last = 0, name = pool.name .. "/" .. tier }
    tiers[tier] = line
  end
  line.last = line.last + 1
  local waiter = { sema = semaphore.new(), line = line, at = line.last, ticket = dict and dict:incr("qt:" .. line.name, 1, 0) or 0 }
  line[line.last] = waiter
  req.waiter = waiter
  return waiter
end

--- Wait until `try()` yields something, at most `timeout_s`. Only the first in line tries.
--- @return what `try` gave, or nil and "full" | "timeout"
function M.wait(req, timeout_s, try)
  local pool = req.pool
  if pool.queue.size < 1 or not slots.acquire("q:" .. pool.name, pool.queue.size) then return nil, "full" end
  local waiter = enter(req)
  local deadline = now() + timeout_s
  while true do
    local first = first_in(waiter.line) == waiter
    if first and not others_first(waiter) then
      local got = try()
      if got then
        M.leave(req)
        return got
      end
    end
    local left = deadline - now()
    if left <= 0 then break end
    waiter.sema:wait(first and min(POLL_S, left) or left)
    ngx.update_time()
  end
  M.leave(req)
  return nil, "timeout"
end

return M
