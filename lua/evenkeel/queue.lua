-- The queue in front of a pool whose instances are all at their limit: bounded, first come first served, left behind when the client
-- leaves. Its size is counted across workers; the order is kept per worker, and a permit freed elsewhere is noticed within POLL_S.

local semaphore = require "ngx.semaphore"
local slots = require "evenkeel.slots"

local now, min = ngx.now, math.min

local M = {}

local POLL_S = 0.02

local lines = {}         -- pool name → {first, last, [n] = waiter}

function M.use() lines = {} end

local function head(line)
  while line.first <= line.last do
    local waiter = line[line.first]
    if waiter then return waiter end
    line.first = line.first + 1
  end
  return nil
end

--- Somebody waits for this pool in this worker.
function M.busy(pool)
  local line = lines[pool.name]
  return line ~= nil and head(line) ~= nil
end

--- A permit became free: the first in line looks again. Callable from any phase.
function M.wake(pool)
  local line = lines[pool.name]
  local waiter = line and head(line)
  if waiter and waiter.sema:count() < 1 then waiter.sema:post(1) end
end

--- Leave the line, whether served, out of time or gone.
function M.leave(req)
  local waiter = req.waiter
  if not waiter then return end
  req.waiter = nil
  waiter.line[waiter.place] = nil
  slots.release("q:" .. req.pool.name)
  M.wake(req.pool)
end

--- Wait until `try()` yields something, at most `timeout_s`. Only the first in line tries.
--- @return what `try` gave, or nil and "full" | "timeout"
function M.wait(req, timeout_s, try)
  local pool = req.pool
  if pool.queue.size < 1 or not slots.acquire("q:" .. pool.name, pool.queue.size) then return nil, "full" end
  local line = lines[pool.name]
  if not line then
    line = { first = 1, last = 0 }
    lines[pool.name] = line
  end
  local place = line.last + 1
  local waiter = { sema = semaphore.new(), line = line, place = place }
  line[place] = waiter
  line.last = place
  req.waiter = waiter
  local deadline = now() + timeout_s
  while true do
    local first = head(line) == waiter
    if first then
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
