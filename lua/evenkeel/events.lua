-- State changes on their way to the control plane (see ring).

local cjson = require "cjson.safe"
local ring = require("evenkeel.ring").new("evenkeel_stats", "ev:", 10000)

local M = {}

--- @param kind e.g. "breaker_opened"  @param subject name of the instance or pool  @param detail small table, no secrets
function M.add(kind, subject, detail)
  local number = ring:take()
  if number then ring:put(number, cjson.encode { id = number, at = ngx.now(), kind = kind, subject = subject, detail = detail }) end
end

--- The number that this life of the list began above; 0 before its first event. Another one: what was live in the node began anew.
function M.begin() return ring:begin() end

--- Events after `cursor`, at most `limit`. The reader's next cursor is the number of the last one it got.
--- @return list of decoded events, number of the last event there is, how many were dropped before and among them
function M.after(cursor, limit)
  local list, last, dropped = ring:after(cursor, limit)
  for i = 1, #list do list[i] = cjson.decode(list[i]) end
  return list, last, dropped
end

return M
