-- State changes on their way to the control plane: a bounded list in a shared dict, oldest dropped first, drops counted. Each event has
-- a number that only grows, so that the reader can drain with a cursor, at least once, and drop what it knows already.
--
-- The list dies with nginx; the numbers go on above those of the life before, as they begin with the milliseconds of the clock.

local cjson = require "cjson.safe"

local floor, max = math.floor, math.max

local M = {}

local KEEP = 10000
local KEEP_S = 86400
local SETTLED_S = 1            -- a number that is taken has its event by then

local BEGIN, LAST, EVENT = "ev:begin", "ev:last", "ev:"

local function dict() return ngx.shared.evenkeel_stats end

--- @param kind e.g. "breaker_opened"  @param subject name of the instance or pool  @param detail small table, no secrets
function M.add(kind, subject, detail)
  local d = dict()
  local at = ngx.now()
  local number = d:incr(LAST, 1)
  if not number then
    d:add(BEGIN, floor(at * 1000))
    number = d:incr(LAST, 1, d:get(BEGIN) or 0)
    if not number then return end
  end
  d:set(EVENT .. number, cjson.encode { id = number, at = at, kind = kind, subject = subject, detail = detail }, KEEP_S)
  d:delete(EVENT .. (number - KEEP))
end

--- The number that this life of the list began above; 0 before its first event. Another one: what was live in the node began anew.
function M.begin() return dict():get(BEGIN) or 0 end

--- Events after `cursor`, at most `limit`. The reader's next cursor is the number of the last one it got.
--- @return list of decoded events, number of the last event there is, how many were dropped before and among them
function M.after(cursor, limit)
  local d = dict()
  local begin = d:get(BEGIN) or 0
  local last = d:get(LAST) or begin
  if cursor > last then cursor = begin end           -- the clock was set back: a number of another life
  cursor = max(cursor, begin)
  local first = max(cursor, last - KEEP) + 1
  local list, dropped, missing = {}, first - 1 - cursor, 0
  local settled = ngx.now() - SETTLED_S
  for number = first, last do
    local text = d:get(EVENT .. number)
    if not text then
      missing = missing + 1
    else
      local event = cjson.decode(text)
      -- another worker may be about to write what is missing: do not pass it by
      if missing > 0 and event.at > settled then break end
      dropped, missing = dropped + missing, 0
      list[#list + 1] = event
      if #list >= limit then break end
    end
  end
  return list, last, dropped
end

return M
