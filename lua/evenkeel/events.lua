-- State changes on their way to the control plane: a bounded list in a shared dict, oldest dropped first, drops counted. Each event has
-- a number that only grows, so that the reader can drain with a cursor, at least once, and drop what it knows already.

local cjson = require "cjson.safe"

local M = {}

local KEEP = 10000

local function dict() return ngx.shared.evenkeel_stats end

--- @param kind e.g. "breaker_opened"  @param subject name of the instance or pool  @param detail small table, no secrets
function M.add(kind, subject, detail)
  local d = dict()
  local number = d:incr("ev:last", 1, 0)
  if not number then return end
  local text = cjson.encode { id = number, at = ngx.now(), kind = kind, subject = subject, detail = detail }
  d:set("ev:" .. number, text, 86400)
  if number > KEEP then d:delete("ev:" .. (number - KEEP)) end
end

--- Events after `cursor`, at most `limit`. @return list of decoded events, number of the last event there is, dropped before the first
function M.after(cursor, limit)
  local d = dict()
  local last = d:get("ev:last") or 0
  local first = math.max(cursor + 1, last - KEEP + 1)
  local list = {}
  for number = first, last do
    local text = d:get("ev:" .. number)
    if text then list[#list + 1] = cjson.decode(text) end
    if #list >= limit then break end
  end
  return list, last, first - cursor - 1
end

return M
