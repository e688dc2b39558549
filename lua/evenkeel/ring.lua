-- A bounded list in a shared dict, oldest dropped first, drops counted, written by all workers and read with a cursor, at least once. Each
-- entry has a number that only grows, so that the reader drops what it knows already.
--
-- The list dies with nginx; the numbers go on above those of the life before, as they begin with the milliseconds of the clock.

local clock = require "evenkeel.clock"

local floor, max = math.floor, math.max

local SETTLED_S = 1            -- a number that is taken has its entry by then

local Ring = {}
Ring.__index = Ring

--- @param name of a shared dict  @param prefix of its keys there  @param keep how many entries it holds
local function new(name, prefix, keep)
  return setmetatable({ name = name, prefix = prefix, begin_key = prefix .. "begin", last_key = prefix .. "last", keep = keep }, Ring)
end

local function dict_of(self) return ngx.shared[self.name] end

--- Take a number for an entry that is put there at once. @return nil when there is no room
function Ring:take()
  local d = dict_of(self)
  local number = d:incr(self.last_key, 1)
  if number then return number end
  d:add(self.begin_key, floor(ngx.now() * 1000))
  return (d:incr(self.last_key, 1, d:get(self.begin_key) or 0))
end

--- @param text JSON of the entry; its number is in it as `id`
function Ring:put(number, text)
  local d = dict_of(self)
  d:set(self.prefix .. number, text, 0, floor(clock.now()))
  d:delete(self.prefix .. (number - self.keep))
end

--- The number that this life of the list began above; 0 before its first entry. Another one: what was live in the node began anew.
function Ring:begin() return dict_of(self):get(self.begin_key) or 0 end

--- Entries after `cursor`, at most `limit`. The reader's next cursor is the number of the last one it got.
--- @return list of texts, number of the last entry there is, how many were dropped before and among them
function Ring:after(cursor, limit)
  local d = dict_of(self)
  local begin = d:get(self.begin_key) or 0
  local last = d:get(self.last_key) or begin
  if cursor > last then cursor = begin end           -- the clock was set back: a number of another life
  cursor = max(cursor, begin)
  local first = max(cursor, last - self.keep) + 1
  local list, dropped, missing = {}, first - 1 - cursor, 0
  local settled = clock.now() - SETTLED_S
  for number = first, last do
    local text, written_at = d:get(self.prefix .. number)
    if not text then
      missing = missing + 1
    else
      -- another worker may be about to write what is missing: do not pass it by
      if missing > 0 and (written_at or 0) > settled then break end
      dropped, missing = dropped + missing, 0
      list[#list + 1] = text
      if #list >= limit then break end
    end
  end
  return list, last, dropped
end

return { new = new }
