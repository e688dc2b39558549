-- The queue in front of a tier whose instances are all at their limit: bounded, fair between clients, left behind when the client leaves.
--
-- Clients take turns, whoever waits in greater number; of one client the first comes first. A waiter's ticket is the round in which it is
-- served: one after its client's last waiter, and not before the round that is being served now (start-time fair queueing). Where there
-- are several clients, none holds more than half of the places.
--
-- Size and rounds are counted per pool, across workers. Each worker keeps a line per tier and lets only the first in line look for a
-- permit, and only while no other worker's first in line has an earlier ticket: those are shown in the shared dict. A permit that is
-- freed in this worker is noticed at once, one freed elsewhere within POLL_S.

local clock = require "evenkeel.clock"
local semaphore = require "ngx.semaphore"
local slots = require "evenkeel.slots"

local now, min, ceil, floor = clock.now, math.min, math.ceil, math.floor

local M = {}

local POLL_S = 0.005
local FORGET_S = 600           -- a client's last ticket; longer than anybody waits
local SHOWN_S = 1              -- a ticket that is not shown again within this time belongs to a dead worker

local dict, place              -- the shared dict and the number of this worker in it; nil: this worker is the only one
local lines = {}               -- pool name → tier number → {head, tail}: waiters by ticket, linked by `after` and `before`

--- @param shared a shared dict  @param worker number of this worker; `w:top` in the dict is the highest there is
function M.use(shared, worker)
  dict, place, lines = shared, worker, {}
end

local function put(line, waiter)
  local before = line.tail
  while before and before.ticket > waiter.ticket do before = before.before end
  local after
  if before then after = before.after else after = line.head end
  waiter.before, waiter.after = before, after
  if before then before.after = waiter else line.head = waiter end
  if after then after.before = waiter else line.tail = waiter end
end

local function take_out(line, waiter)
  local before, after = waiter.before, waiter.after
  if before then before.after = after else line.head = after end
  if after then after.before = before else line.tail = before end
end

-- ------------------------------------------------------------------------------------------------------------------ rounds

local function round_of(line)
  return dict and dict:get(line.round_key) or line.round
end

local function go_on_to(line, ticket)
  if ticket <= round_of(line) then return end
  line.round = ticket
  if dict then dict:set(line.round_key, ticket) end
end

local function draw(line, client)
  local round, key = round_of(line), line.client_key .. client
  local ticket
  if dict then
    ticket = dict:incr(key, 1, round)
    if ticket and ticket > round then
      dict:expire(key, FORGET_S)
      return ticket
    end
    dict:set(key, round + 1, FORGET_S)
  else
    if not line.head then line.last = {} end
    ticket = (line.last[client] or 0) + 1
    if ticket > round then
      line.last[client] = ticket
      return ticket
    end
    line.last[client] = round + 1
  end
  return round + 1
end

-- ------------------------------------------------------------------------------------------------------------------- lines

local function key_of_head(line, worker) return "qh:" .. line.name .. ":" .. worker end

-- Shows who is first in line here. @return true when somebody in another worker came before
local function others_first(waiter)
  if not dict then return false end
  local line = waiter.line
  local at = floor(now() * 10)
  dict:set(key_of_head(line, place), waiter.ticket, 0, at)
  for worker = 1, dict:get("w:top") or 0 do
    if worker ~= place then
      local ticket, shown_at = dict:get(key_of_head(line, worker))
      if ticket and ticket < waiter.ticket and at - (shown_at or 0) <= SHOWN_S * 10 then return true end
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
    local waiter = line.head
    if waiter and waiter.sema:count() < 1 then waiter.sema:post(1) end
  end
end

--- Leave the line, whether served, out of time or gone.
function M.leave(req)
  local waiter = req.waiter
  if not waiter then return end
  req.waiter = nil
  local line = waiter.line
  if line.head == waiter then go_on_to(line, waiter.ticket) end
  take_out(line, waiter)
  if dict and not line.head then dict:delete(key_of_head(line, place)) end
  slots.release("q:" .. req.pool.name)
  if waiter.share_key then slots.release(waiter.share_key) end
  M.wake(req.pool)
end

local function enter(req, client)
  local pool, tier = req.pool, req.tier or 1
  local tiers = lines[pool.name]
  if not tiers then
    tiers = {}
    lines[pool.name] = tiers
  end
  local line = tiers[tier]
  if not line then
    local name = pool.name .. "/" .. tier
    line = { name = name, round = 0, last = {}, round_key = "qr:" .. name, client_key = "qc:" .. name .. ":" }
    tiers[tier] = line
  end
  local waiter = { sema = semaphore.new(), line = line, ticket = draw(line, client) }
  put(line, waiter)
  req.waiter = waiter
  return waiter
end

-- A place in the queue. @return true and the key of the client's share if it was counted, or false
local function take_place(req, client)
  local pool = req.pool
  local size = pool.queue.size
  if size < 1 or not slots.acquire("q:" .. pool.name, size) then return false end
  if not (req.snapshot and req.snapshot.several_clients) then return true end
  local share_key = "qn:" .. pool.name .. ":" .. client
  if slots.acquire(share_key, ceil(size / 2)) then return true, share_key end
  slots.release("q:" .. pool.name)
  return false
end

--- Wait until `try()` yields something, at most `timeout_s`. Only the first in line tries.
--- @return what `try` gave, or nil and "full" | "timeout"
function M.wait(req, timeout_s, try)
  local client = req.client and req.client.name or ""
  local placed, share_key = take_place(req, client)
  if not placed then return nil, "full" end
  local waiter = enter(req, client)
  waiter.share_key = share_key
  local deadline = now() + timeout_s
  while true do
    local first = waiter.line.head == waiter
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
