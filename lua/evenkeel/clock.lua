-- Two clocks, and which is for what.
--
--   clock.now()  only grows, whatever is done to the machine's time: all that waits, measures or remembers for a while goes by it
--   ngx.now()    the time of day: for what is told to people and systems, and for what is theirs (ends of keys, prices, days of budgets)
--
-- Both stand still while nginx handles one event, and `ngx.update_time` moves both. The first is the same in all workers.
--
-- A shared dict takes the age of its keys by the time of day. When that is set back by an hour, a key lives an hour longer; when it is set
-- forward, keys are gone at once. So a TTL only tidies up: what must end or last has its end in its value.

local ffi = require "ffi"
local C, tonumber, floor, type = ffi.C, tonumber, math.floor, type

ffi.cdef [[ extern volatile uintptr_t ngx_current_msec; ]]

local M = {}

--- Seconds since some moment before nginx began, to the millisecond.
function M.now() return tonumber(C.ngx_current_msec) / 1000 end

--- The time of day at which something was or will be. @param at of `now`  @return seconds since 1970
function M.of_day(at) return ngx.now() - M.now() + at end

--- Let whatever else waits in this worker have its turn, in the middle of long work. A millisecond, for nginx without OpenResty's patches
--- does not leave the request for `ngx.sleep(0)`, and complains of it in error.log each time.
function M.breathe() ngx.sleep(0.001) end

--- Take a lease: of all who ask within `seconds`, in whatever worker, one gets it. A killed one's ends like any other.
--- @param dict a shared dict  @param key not used otherwise  @return true for the one
function M.lease(dict, key, seconds)
  local at = floor(M.now() * 1000 + 0.5)
  local mine = at + floor(seconds * 1000)
  local ends = dict:get(key)
  if type(ends) ~= "number" then return (dict:add(key, mine)) end
  if at < ends then return false end
  if dict:incr(key, mine - ends) == mine then return true end
  dict:incr(key, ends - mine)                    -- somebody else was faster
  return false
end

return M
