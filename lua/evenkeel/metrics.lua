-- Counters that all workers share: each counts in its own memory and adds what is new to the shared dict once a second.
--
-- A series is one label set of a family: a row of numbers, some of them histograms (a sum and the counts per bucket). Counting is an
-- addition in a Lua table; the look-up from labels to series is the caller's, who caches it (see meter). Merging is done under a lock that
-- nobody waits for: who does not get it merges a moment later. A worker that is killed takes at most its last second along.
--
-- Promises: numbers only grow within one life of a series (`born`); a change has a higher `seq` than all that was told before it; a series
-- that has not changed for FORGET_S is forgotten; at most MOST_SERIES live, and a new one that finds no room counts under its family's
-- `overflow` labels, or nowhere, and either is counted as dropped.
--
-- In the dict (K is LAYOUT, so that other code never reads these numbers wrongly): "seq", "born", "top", "live", "dropped", "lock",
-- K"s"id a packed row {seq, born, changed_at, numbers…}, K"l"id its labels, K"k"labels its id; the list "free" of ids to be used again.

local ffi = require "ffi"

local floor, concat = math.floor, table.concat
local ffi_string, ffi_copy = ffi.string, ffi.copy
local setmetatable, tonumber = setmetatable, tonumber

local M = {}

local LAYOUT = "1"
local MOST_SERIES, MOST_OVERFLOW, FORGET_S = 20000, 1000, 3600
local LOCK_S = 5                     -- the lock of a worker that died in the middle
local SWEPT_AT_ONCE = 100            -- series looked at for their age with each merge
local HEAD = 3                       -- seq, born, changed_at stand before the numbers

-- Seconds. `long` is for answers, `short` for tokens and for what the gateway itself takes.
M.BOUNDS = {
  long = { 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600 },
  short = { 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2 },
}

-- -------------------------------------------------------------------------------------------------------------- families

local function family(spec)
  local n = 0
  spec.at = {}
  for _, name in ipairs(spec.counts) do
    n = n + 1
    spec.at[name] = n
  end
  for _, histogram in ipairs(spec.histograms) do
    spec.at[histogram.name] = n + 1          -- its sum; its buckets follow
    histogram.at, histogram.bounds = n + 1, M.BOUNDS[histogram.scale]
    n = n + 2 + #histogram.bounds
  end
  spec.n = n
  spec.bytes = (HEAD + n) * 8
  return spec
end

local function long(name) return { name = name, scale = "long" } end
local function short(name) return { name = name, scale = "short" } end

M.FAMILIES = {
  request = family {
    name = "request", labels = { "pool", "kind", "mode", "tier", "outcome", "traffic" }, counts = { "count", "retried", "degraded" },
    histograms = { long "total", long "first_token", short "overhead", long "queued" },
  },
  attempt = family {
    name = "attempt", labels = { "pool", "instance", "kind", "mode", "outcome", "traffic" }, counts = { "count" },
    histograms = { long "total", long "first_token", short "per_output_token" },
  },
  usage = family {
    name = "usage", labels = { "pool", "instance", "client", "model", "traffic", "waste", "currency" },
    overflow = { client = "_other", model = "_other" },
    counts = { "attempts", "input", "cached_input", "output", "reasoning", "estimated_input", "estimated_output", "cost_nano",
      "estimated_cost_nano" },
    histograms = {},
  },
}

-- -------------------------------------------------------------------------------------------------------------- counting

local dict, place
local registry = setmetatable({}, { __mode = "v" })      -- labels → series of this worker, as long as somebody holds it
local dirty, dirty_n = {}, 0         -- those with something to merge
local swept = 0                      -- where the sweep stands
local buffer = ffi.new("double[?]", 256)

--- @param shared its shared dict  @param who identity of this worker
function M.use(shared, who)
  dict, place = shared, who
end

--- The series of a label set; to be kept by the caller. @param values in the order of the family's labels, without control characters
function M.series(spec, values)
  local key = spec.name .. "\0" .. concat(values, "\0")
  local series = registry[key]
  if not series then
    local v = {}
    for i = 1, spec.n do v[i] = 0 end
    series = { spec = spec, key = key, v = v, dirty = false, born = 0, slot = nil }
    registry[key] = series
  end
  return series
end

--- Say that something of a series is about to change. @return its numbers
function M.open(series)
  if not series.dirty then
    series.dirty = true
    dirty_n = dirty_n + 1
    dirty[dirty_n] = series
  end
  return series.v
end

--- Observe a value in a histogram of opened numbers. @param at where the histogram begins (spec.at.NAME)
function M.observe(v, at, bounds, value)
  v[at] = v[at] + value
  local low, high = 1, #bounds + 1           -- the first bound that is not below the value
  while low < high do
    local middle = floor((low + high) / 2)
    if bounds[middle] < value then low = middle + 1 else high = middle end
  end
  v[at + low] = v[at + low] + 1
end

-- --------------------------------------------------------------------------------------------------------------- merging

local function slot_key(id) return LAYOUT .. "s" .. id end
local function labels_key(id) return LAYOUT .. "l" .. id end
local function id_key(labels) return LAYOUT .. "k" .. labels end

local function lock()
  return (dict:add("lock", place, LOCK_S))
end

local function unlock()
  if dict:get("lock") == place then dict:delete("lock") end
end

local function born_of(packed)
  ffi_copy(buffer, packed, HEAD * 8)
  return buffer[1]
end

-- A new row. @return its text and id, or nil when there is no room
local function create(spec, key, wall, most)
  if (dict:get("live") or 0) >= most then return nil end
  local id = dict:lpop("free") or dict:incr("top", 1, 0)
  if not id then return nil end
  local born = dict:incr("born", 1, floor(wall * 1000) * 1000)
  for i = 0, HEAD + spec.n - 1 do buffer[i] = 0 end
  buffer[1] = born or 0
  local packed = ffi_string(buffer, spec.bytes)
  local ok = born and dict:safe_set(slot_key(id), packed) and dict:safe_set(labels_key(id), key) and dict:safe_set(id_key(key), id)
  if not ok then
    dict:delete(slot_key(id))
    dict:delete(labels_key(id))
    dict:rpush("free", id)
    return nil
  end
  dict:incr("live", 1, 0)
  return packed, id
end

-- The row of a label set, made if there is none.
local function find(spec, key, wall, most)
  local id = dict:get(id_key(key))
  local packed = id and dict:get(slot_key(id))
  if packed and #packed == spec.bytes then return packed, id end
  return create(spec, key, wall, most)
end

local function overflow_key(series)
  local spec = series.spec
  if not spec.overflow then return nil end
  local values, i = { spec.name }, 0
  for value in (series.key:sub(#spec.name + 2) .. "\0"):gmatch("(%Z*)%z") do
    i = i + 1
    values[i + 1] = spec.overflow[spec.labels[i]] or value
  end
  return concat(values, "\0")
end

-- Add what this worker has counted to the row.
local function merge(series, seq, now, wall)
  local spec, v = series.spec, series.v
  local packed = series.slot and dict:get(series.slot)
  if not packed or #packed ~= spec.bytes or born_of(packed) ~= series.born then
    local id
    packed, id = find(spec, series.key, wall, MOST_SERIES)
    if not packed then
      dict:incr("dropped", 1, 0)
      local other = overflow_key(series)
      if other then packed, id = find(spec, other, wall, MOST_SERIES + MOST_OVERFLOW) end
    end
    series.slot = id and slot_key(id) or nil
    series.born = packed and born_of(packed) or 0
  end
  if not packed then
    for i = 1, spec.n do v[i] = 0 end
    return
  end
  ffi_copy(buffer, packed, spec.bytes)
  buffer[0], buffer[2] = seq, now
  for i = 1, spec.n do
    local new = v[i]
    if new ~= 0 then
      buffer[HEAD - 1 + i] = buffer[HEAD - 1 + i] + new
      v[i] = 0
    end
  end
  dict:set(series.slot, ffi_string(buffer, spec.bytes))       -- of the same length: in place, it cannot fail
end

-- Forget what has not changed for long, a few at a time.
local function sweep(now)
  local top = dict:get("top") or 0
  for _ = 1, top < SWEPT_AT_ONCE and top or SWEPT_AT_ONCE do
    swept = swept % top + 1
    local packed = dict:get(slot_key(swept))
    if packed then
      ffi_copy(buffer, packed, HEAD * 8)
      if now - buffer[2] > FORGET_S then
        local labels = dict:get(labels_key(swept))
        if labels and dict:get(id_key(labels)) == swept then dict:delete(id_key(labels)) end
        dict:delete(slot_key(swept))
        dict:delete(labels_key(swept))
        dict:rpush("free", swept)
        dict:incr("live", -1, 1)
      end
    end
  end
end

--- Add what this worker has counted to what all have.
--- @param now of clock.now, for ages  @param wall the time of day, where the numbers of this life of nginx begin
--- @return true, or false when another worker is at it: try again in a moment
function M.flush(now, wall)
  if not lock() then return false end
  if dirty_n > 0 then
    -- told only when all is written: who reads meanwhile sees these rows once more after the new number
    local seq = (dict:get("seq") or floor(wall * 1000)) + 1
    for i = 1, dirty_n do
      local series = dirty[i]
      merge(series, seq, now, wall)
      series.dirty, dirty[i] = false, nil
    end
    dirty_n = 0
    dict:set("seq", seq)
  end
  sweep(now)
  unlock()
  return true
end

-- --------------------------------------------------------------------------------------------------------------- reading

--- The number of the newest change; all changes up to it are there to be read.
function M.seq() return dict:get("seq") or 0 end

--- How often a series found no room.
function M.dropped() return dict:get("dropped") or 0 end

--- Where reading ends: rows have the numbers 1 … top.
function M.top() return dict:get("top") or 0 end

--- One row if it changed after `after`.
--- @param v a table that is filled with its numbers
--- @return spec, values of its labels, born; or nil
function M.row(id, after, v)
  local packed = dict:get(slot_key(id))
  if not packed then return nil end
  ffi_copy(buffer, packed, HEAD * 8)
  local seq, born = tonumber(buffer[0]), tonumber(buffer[1])
  if seq <= after then return nil end
  local labels = dict:get(labels_key(id))
  if not labels then return nil end
  local name, rest = labels:match("^(%Z+)%z(.*)$")
  local spec = M.FAMILIES[name]
  if not spec or #packed ~= spec.bytes then return nil end
  ffi_copy(buffer, packed, spec.bytes)
  for i = 1, spec.n do v[i] = buffer[HEAD - 1 + i] end
  local values, i = {}, 0
  for value in (rest .. "\0"):gmatch("(%Z*)%z") do
    i = i + 1
    values[i] = value
  end
  return spec, values, born
end

return M
