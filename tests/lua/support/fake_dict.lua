-- A shared dict that runs on a clock of the test: what ngx.shared.DICT does for the calls that our modules make, observed on
-- lua-nginx-module 0.10.23. Several "workers" of a test share one. Not played: running out of memory (see `full`) and eviction.
--
-- What is easily got wrong, and so is exact here: a key lives through the millisecond in which its time ends; `incr` sets a TTL only
-- when it makes the key; `set` without TTL takes an old one away; TTLs are cut to whole milliseconds.

local floor = math.floor

local FakeDict = {}
FakeDict.__index = FakeDict

--- @param clock table whose `now_s` is the time in seconds
local function new(clock)
  return setmetatable({ clock = clock, entries = {}, full = false }, FakeDict)
end

local function key_of(key)
  if key == nil then return nil, "nil key" end
  key = tostring(key)
  if key == "" then return nil, "empty key" end
  return key
end

local function now_ms(self)
  return floor(self.clock.now_s * 1000 + 0.5)
end

local function expiry(self, ttl_s)
  if ttl_s == nil or ttl_s == 0 then return nil end
  if ttl_s < 0 then error('bad "exptime" argument', 3) end
  local ttl_ms = floor(ttl_s * 1000 + 1e-6)
  return ttl_ms > 0 and now_ms(self) + ttl_ms or nil
end

local function entry_of(self, key)
  local entry = self.entries[key]
  if entry and entry.expires_ms and now_ms(self) > entry.expires_ms then
    self.entries[key] = nil
    return nil
  end
  return entry
end

function FakeDict:get(key)
  local why
  key, why = key_of(key)
  if not key then return nil, why end
  local entry = entry_of(self, key)
  if not entry then return nil end
  if entry.list then return nil, "value is a list" end
  return entry.value, entry.flags
end

local function store(self, key, value, ttl_s, flags)
  if type(value) ~= "number" and type(value) ~= "string" and type(value) ~= "boolean" then return nil, "bad value type" end
  local expires_ms = expiry(self, ttl_s)
  if self.full then return false, "no memory", false end
  self.entries[key] = { value = value, expires_ms = expires_ms, flags = flags and flags ~= 0 and flags or nil }
  return true, nil, false
end

function FakeDict:set(key, value, ttl_s, flags)
  local why
  key, why = key_of(key)
  if not key then return nil, why end
  if value == nil then
    self.entries[key] = nil
    return true, nil, false
  end
  return store(self, key, value, ttl_s, flags)
end

FakeDict.safe_set = FakeDict.set

function FakeDict:add(key, value, ttl_s, flags)
  local why
  key, why = key_of(key)
  if not key then return nil, why end
  if value == nil then return false, "attempt to add or replace nil values", false end
  if entry_of(self, key) then return false, "exists", false end
  return store(self, key, value, ttl_s, flags)
end

function FakeDict:incr(key, by, init, init_ttl_s)
  if init_ttl_s ~= nil and init == nil then error('must provide "init" when providing "init_ttl"', 2) end
  local why
  key, why = key_of(key)
  if not key then return nil, why end
  local entry = entry_of(self, key)
  if entry then
    if type(entry.value) ~= "number" then return nil, "not a number" end
    entry.value = entry.value + by
    return entry.value, nil, init and false
  end
  if not init then return nil, "not found" end
  local ok
  ok, why = store(self, key, init + by, init_ttl_s)
  if not ok then return nil, why, false end
  return init + by, nil, false
end

function FakeDict:delete(key)
  return self:set(key, nil)
end

function FakeDict:expire(key, ttl_s)
  local entry = entry_of(self, key_of(key))
  if not entry then return nil, "not found" end
  entry.expires_ms = expiry(self, ttl_s)
  return true
end

--- Seconds left, 0 for ever, nil for a key that is not there.
function FakeDict:ttl(key)
  local entry = entry_of(self, key_of(key))
  if not entry then return nil, "not found" end
  return entry.expires_ms and (entry.expires_ms - now_ms(self)) / 1000 or 0
end

function FakeDict:rpush(key, value)
  key = key_of(key)
  local entry = entry_of(self, key)
  if entry and not entry.list then return nil, "value not a list" end
  if self.full then return nil, "no memory" end
  if not entry then
    entry = { list = {} }
    self.entries[key] = entry
  end
  entry.list[#entry.list + 1] = value
  return #entry.list
end

function FakeDict:llen(key)
  local entry = entry_of(self, key_of(key))
  if not entry then return 0 end
  if not entry.list then return nil, "value not a list" end
  return #entry.list
end

function FakeDict:lpop(key)
  key = key_of(key)
  local entry = entry_of(self, key)
  if not entry then return nil end
  if not entry.list then return nil, "value not a list" end
  local value = table.remove(entry.list, 1)
  if #entry.list == 0 then self.entries[key] = nil end
  return value
end

--- The keys that live now, sorted (for assertions; the real one has get_keys).
function FakeDict:keys()
  local list = {}
  for key in pairs(self.entries) do
    if entry_of(self, key) then list[#list + 1] = key end
  end
  table.sort(list)
  return list
end

return { new = new }
