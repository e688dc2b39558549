-- Keeps the access log small: when it has grown beyond MOST_BYTES, it becomes access.log.1, what was that access.log.2, and so on up to
-- KEPT; nginx opens a new one.

local clock = require "evenkeel.clock"
local ffi = require "ffi"
local C = ffi.C

local M = {}

local LOOK_S = 10
local MOST_BYTES, KEPT = 64 * 1024 * 1024, 5
local SIGUSR1 = 10                 -- nginx opens its logs again

--- Rotate if it is time. @param size_of path → bytes, or nil  @return true if it was
function M.rotate(path, size_of, rename)
  local size = size_of(path)
  if not size or size <= MOST_BYTES then return false end
  for i = KEPT - 1, 1, -1 do rename(path .. "." .. i, path .. "." .. i + 1) end
  return rename(path, path .. ".1") and true or false
end

-- Of a pipe or a device (a container's log) there is none.
local function size_of(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local size = file:seek("end")
  file:close()
  return size
end

--- @param master_pid gives the pid of nginx's master
function M.start(path, master_pid)
  assert(ngx.timer.every(LOOK_S, function(premature)
    if premature or not clock.lease(ngx.shared.evenkeel_state, "lease:log", LOOK_S * 0.9) then return end
    if M.rotate(path, size_of, os.rename) then C.kill(master_pid(), SIGUSR1) end
  end))
end

return M
