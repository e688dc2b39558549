-- A count over a sliding window, all workers together: the running part and what is left of the part before it, each as long as the
-- window. That takes two counters whatever the traffic, and is exact as long as the traffic of the part before was even.

local floor = math.floor

local Window = {}
Window.__index = Window

--- @param prefix of its keys in the shared dict, unique
local function new(prefix, window_s)
  return setmetatable({ prefix = prefix, window_s = window_s, ttl_s = window_s * 3, part = nil, key = nil, key_before = nil }, Window)
end

local function turn_to(self, part)
  self.part, self.key, self.key_before = part, self.prefix .. part, self.prefix .. (part - 1)
end

--- Count one.
function Window:add(dict, now)
  local part = floor(now / self.window_s)
  if part ~= self.part then turn_to(self, part) end
  dict:incr(self.key, 1, 0, self.ttl_s)
end

--- How many there were in the last `window_s`.
function Window:count(dict, now)
  local parts = now / self.window_s
  local part = floor(parts)
  if part ~= self.part then turn_to(self, part) end
  return (dict:get(self.key) or 0) + (dict:get(self.key_before) or 0) * (1 - (parts - part))
end

--- Begin at nothing.
function Window:forget(dict, now)
  turn_to(self, floor(now / self.window_s))
  dict:delete(self.key)
  dict:delete(self.key_before)
end

return { new = new }
