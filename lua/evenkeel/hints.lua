-- What another node has found out about an instance: its breaker is open or has closed, it cools down. The control plane passes it on
-- within a second (POST /hints).
--
-- A hint is never the only copy, and never the last word: an opening that was told is like one of this node's own, its own trials may
-- close it. Only what this node found itself is passed on from here. Each finding has an id and is heeded once, however often it is told.

local cjson = require "cjson.safe"
local breaker = require "evenkeel.breaker"
local events = require "evenkeel.events"
local live = require "evenkeel.live"

local type, format, max = type, string.format, math.max

local M = {}

local MOST_HINTS = 1000
local LONGEST_S = 3600
local KNOWN_S = 2 * LONGEST_S

--- What this node tells of an instance: {opening, cooldown}, each {id, for_s, by}; `by` is the node that it was told of, nil: its own.
function M.findings(dict, inst, now)
  local opening, cooldown
  local k = inst.keys
  local state, until_ = breaker.state(dict, k.breaker, now)
  if state ~= "closed" then
    opening = { id = format("%.3f", until_), for_s = max(0, until_ - now), by = breaker.told_by(dict, k.breaker, until_) }
  end
  local ends = dict:get(k.cooldown) or 0
  if ends > now then
    cooldown = { id = format("%.3f", ends), for_s = ends - now, by = dict:get(k.cooldown_told) == ends and dict:get(k.cooldown_by) or nil }
  end
  return opening, cooldown
end

local HEED = {}

function HEED.open(dict, inst, hint, now)
  if not breaker.open_as_told(dict, inst.keys.breaker, inst.breaker, now, hint.for_s, hint.by) then return end
  events.add("breaker_opened", inst.name, { why = "told", by = hint.by })
end

function HEED.closed(dict, inst, hint, now)
  if not breaker.close_as_told(dict, inst.keys.breaker, inst.breaker, now, hint.by) then return end
  events.add("breaker_closed", inst.name, { why = "told", by = hint.by })
end

function HEED.cooldown(dict, inst, hint, now)
  local k = inst.keys
  if (dict:get(k.cooldown) or 0) >= now + hint.for_s then return end
  live.cool_down(inst, hint.for_s, now)
  dict:set(k.cooldown_told, dict:get(k.cooldown), hint.for_s + 1)
  dict:set(k.cooldown_by, hint.by, hint.for_s + 1)
  events.add("cooldown", inst.name, { why = "told", by = hint.by, seconds = hint.for_s })
end

local function is_hint(h)
  return type(h) == "table" and type(h.instance) == "string" and HEED[h.kind] ~= nil and type(h.by) == "string" and #h.by <= 48
    and type(h.id) == "string" and #h.id <= 64 and type(h.for_s) == "number" and h.for_s >= 0 and h.for_s <= LONGEST_S
end

--- Heed {"hints": [{"instance": "official-1", "kind": "open" | "closed" | "cooldown", "by": "node-2", "id": "…", "for_s": 28.4}]}.
--- @return HTTP status, and a fault (422)
function M.accept(dict, raw, snapshot, now)
  local told = cjson.decode(raw)
  local list = type(told) == "table" and told.hints
  if type(list) ~= "table" or #list > MOST_HINTS then return 422, "hints: a list of at most " .. MOST_HINTS .. " is needed" end
  for i = 1, #list do
    if not is_hint(list[i]) then return 422, "hints[" .. i - 1 .. "]: instance, kind, by, id and for_s are needed" end
  end
  for i = 1, #list do
    local hint = list[i]
    local inst = snapshot and snapshot.instances[hint.instance]
    local known = "h:" .. hint.kind .. ":" .. hint.instance .. ":" .. hint.by
    if inst and dict:get(known) ~= hint.id then
      dict:set(known, hint.id, KNOWN_S)
      hint.for_s = max(hint.for_s, 0.001)
      HEED[hint.kind](dict, inst, hint, now)
      live.touch(inst)
    end
  end
  return 204
end

return M
