-- This node's part of what all nodes have together: permits and half-open trials of each instance, the fraction of the clients' limits.
--
-- The control plane deals the parts so that the nodes together never have more than there is, and tells this node its own by PUT /shares.
-- They stay as they are while the control plane is away, and are on disk (0600) for the next start. A node that was never told has all.
--
-- Each order names the version that it was made for, and makes the next one: of two that deal at a time, one is refused and looks again.

local cjson = require "cjson.safe"
local limits = require "evenkeel.limits"

local floor, max, min, type, pairs = math.floor, math.max, math.min, type, pairs

local M = {}

local VERSION, TOLD = "shares:version", "shares:told"
local MOST = 1e6               -- permits of one instance
local LATE_S = 5               -- so long after the others a node makes trials of its own, when none was dealt to it

local dict, path

function M.use(shared)
  dict = shared
  limits.use(shared)
end

--- Shared-dict keys of one instance.
function M.keys(name, keys)
  keys.permits, keys.dealt_trials = "sp:" .. name, "st:" .. name
  return keys
end

--- @return attempts that this node may have under way at an instance; 0: it has no part of it for now
function M.permits(inst)
  local most = inst.max_connections
  local dealt = dict:get(inst.keys.permits)
  if dealt then return min(dealt, most) end
  local fraction = limits.share()              -- not dealt yet: the instance is new
  return fraction < 1 and max(1, floor(most * fraction)) or most
end

--- @param half_open_at when the half-open time began
--- @return trials that this node may have under way at a half-open instance
function M.trials(inst, half_open_at, now)
  local most = inst.breaker.half_open_max_requests
  local dealt = dict:get(inst.keys.dealt_trials)
  if not dealt then return most end
  if dealt < 1 and now - half_open_at >= LATE_S then return 1 end      -- those who had them have told nothing: they are away
  return min(dealt, most)
end

--- Whether this node was ever told its shares.
function M.told() return dict:get(VERSION) ~= nil end

--- For GET /stats. @return version (0: never told), fraction of the clients' limits
function M.state() return dict:get(VERSION) or 0, limits.share() end

local function is_count(n) return type(n) == "number" and n >= 0 and n <= MOST and n == floor(n) end

local function fault_of(order)
  if type(order) ~= "table" or type(order.instances) ~= "table" then return "an object with based_on, share and instances is needed" end
  if not (type(order.based_on) == "number" and order.based_on >= 0) then return "based_on: a version is needed" end
  if not (type(order.share) == "number" and order.share > 0 and order.share <= 1) then return "share: above 0 and at most 1" end
  for name, part in pairs(order.instances) do
    if type(name) ~= "string" or #name > 48 or type(part) ~= "table" or not is_count(part.permits) or not is_count(part.trials) then
      return "instances: permits and trials are needed, whole numbers of 0 or more"
    end
  end
end

local function put(order, version)
  local before = cjson.decode(dict:get(TOLD) or "{}") or {}
  for name in pairs(before.instances or {}) do
    if not order.instances[name] then
      local k = M.keys(name, {})
      dict:delete(k.permits)
      dict:delete(k.dealt_trials)
    end
  end
  limits.set_share(order.share)
  for name, part in pairs(order.instances) do
    local k = M.keys(name, {})
    dict:set(k.permits, part.permits)
    dict:set(k.dealt_trials, part.trials)
  end
  local text = cjson.encode { version = version, share = order.share, instances = order.instances }
  dict:set(TOLD, text)
  dict:set(VERSION, version)
  return text
end

local function save(text)
  if not path then return end
  local file, why = io.open(path .. ".new", "w")
  local written = file and file:write(text)
  local closed = file and file:close()
  if not (written and closed and os.rename(path .. ".new", path)) then
    ngx.log(ngx.ERR, "could not keep the shares on disk: ", why or "no room")
  end
end

--- Take an order: {"based_on": 3, "share": 0.25, "instances": {"official-1": {"permits": 12, "trials": 1}}}
--- @return HTTP status, and a fault (409, 422)
function M.accept(raw)
  local order = cjson.decode(raw)
  local fault = fault_of(order)
  if fault then return 422, fault end
  local version = dict:get(VERSION) or 0
  if order.based_on ~= version then return 409, "these are shares of version " .. version end
  save(put(order, version + 1))
  return 204
end

--- At the start: the shares from disk, unless they are in memory already (a reload).
function M.restore(file)
  path = file
  if M.told() then return end
  local stored = io.open(path, "r")
  if not stored then return end
  local order = cjson.decode(stored:read("*a"))
  stored:close()
  if type(order) ~= "table" then return end
  order.based_on = 0
  if not fault_of(order) and is_count(order.version) then put(order, order.version) end
end

return M
