-- Requests, one record each, on their way to the control plane (see ring). Those that went as they should are sampled above ORDINARY_PER_S,
-- the others above NOTABLE_PER_S, both per worker.

local floor = math.floor
local ring = require("evenkeel.ring").new("evenkeel_traces", "t:", 20000)

local M = {}

local ORDINARY_PER_S, NOTABLE_PER_S = 50, 500

local second, ordinary, notable = 0, 0, 0
local left_out = 0                     -- by this worker, since it told last

--- Should a request that ends now be kept?
function M.wanted(at, is_ordinary)
  local this = floor(at)
  if this ~= second then second, ordinary, notable = this, 0, 0 end
  if is_ordinary then
    ordinary = ordinary + 1
    if ordinary <= ORDINARY_PER_S then return true end
  else
    notable = notable + 1
    if notable <= NOTABLE_PER_S then return true end
  end
  left_out = left_out + 1
  return false
end

--- @param members its JSON members, without the braces and the `id`
function M.add(members)
  local number = ring:take()
  if number then ring:put(number, '{"id":' .. ("%.0f"):format(number) .. "," .. members .. "}") end
end

--- Add what this worker has left out to what all have.
function M.flush()
  if left_out == 0 then return end
  ngx.shared.evenkeel_traces:incr("left_out", left_out, 0)
  left_out = 0
end

function M.begin() return ring:begin() end

--- Requests after `cursor`, at most `limit`.
--- @return list of JSON texts, number of the last one there is, how many were dropped before and among them, how many were left out
function M.after(cursor, limit)
  local list, last, dropped = ring:after(cursor, limit)
  return list, last, dropped, ngx.shared.evenkeel_traces:get("left_out") or 0
end

return M
