-- Is a pushed document a snapshot that this node can run? Every fault is found, each with its path. Pure.
--
-- The control plane has checked the configuration; this check stands for the node's own safety: whatever it lets through compiles, and
-- the code that serves requests need not look again. It asks no more than that, so it never refuses what the control plane lets through.

local null = require("cjson").null

local type, pairs, ipairs, next, find, floor, huge = type, pairs, ipairs, next, string.find, math.floor, math.huge

local M = {}

-- ------------------------------------------------------------------------------------------------------------------ kinds

-- A kind is { what is needed, check }.
local function text(what, pattern, least, most)
  return { what, function(v) return type(v) == "string" and #v >= least and #v <= most and find(v, pattern) ~= nil end }
end

local function number(what, least, most, whole)
  return { what, function(v) return type(v) == "number" and v >= least and v <= most and (not whole or v == floor(v)) end }
end

local function one_of(what, words)
  return { what, function(v) return words[v] == true end }
end

local STRING = text("a string is needed", "", 0, huge)
local NAME = text("a name is needed (a-z 0-9 . _ -, at most 48)", "^[a-z0-9][a-z0-9._-]*$", 1, 48)
local MODEL = text("a model name is needed (no space, no control character)", "^[\33-\126]+$", 1, 512)
local ALGORITHM = one_of("weighted, least_load or round_robin is needed", { weighted = true, least_load = true, round_robin = true })
local BOOLEAN = { "true or false is needed", function(v) return type(v) == "boolean" end }
local OBJECT = { "an object is needed", function(v) return type(v) == "table" and v[1] == nil end }
local ARRAY = { "an array is needed", function(v) return type(v) == "table" and (v[1] ~= nil or next(v) == nil) end }
local POSITIVE = number("a number above 0 is needed", 1e-9, 1e12)
local NOT_NEGATIVE = number("a number of 0 or more is needed", 0, 1e12)
local COUNT = number("a number of 1 or more is needed", 1, 1e12)
local SHARE = number("a number from 0 to 1 is needed", 0, 1)

-- ---------------------------------------------------------------------------------------------------------------- members

-- { key, kind, may it be absent }
local HEAD = {
  { "format", { "this node understands format 1", function(v) return v == 1 end } },
  { "revision", number("a whole number is needed", 0, 2 ^ 53, true) },
  { "state", number("a whole number is needed", 0, 2 ^ 53, true), true },
  { "digest", STRING },
  { "gateway", OBJECT, true }, { "instances", ARRAY }, { "pools", ARRAY }, { "clients", ARRAY, true },
}
local GATEWAY = { { "anonymous", BOOLEAN, true }, { "link_local_targets", BOOLEAN, true } }
local INSTANCE = {
  { "name", NAME }, { "provider", STRING, true },
  { "scheme", one_of("http or https is needed", { http = true, https = true }) },
  { "host", text("a host is needed", "^[%w%.:_%-]+$", 1, 253) },
  { "port", number("a port is needed", 1, 65535, true) },
  { "path", { "a path is needed", function(v)
    return type(v) == "string" and (v == "" or #v <= 2048 and find(v, "^/[%w%-._~/%%!&()*+,=:@]*$") ~= nil)
  end } },
  { "api_key", text("a key without space and control characters is needed", "^[\33-\126]*$", 0, 8192), true },
  { "model", MODEL, true },
  { "weight", NOT_NEGATIVE }, { "max_connections", COUNT }, { "base_latency_ms", NOT_NEGATIVE },
  { "enabled", BOOLEAN, true }, { "drain", BOOLEAN, true }, { "healthy", BOOLEAN, true }, { "weight_factor", SHARE, true },
  { "capabilities", ARRAY, true }, { "tls", OBJECT, true }, { "timeouts_ms", OBJECT }, { "min_tokens_per_second", NOT_NEGATIVE, true },
  { "breaker", OBJECT }, { "prices", ARRAY, true },
}
local RATES = {
  { "input_per_million", NOT_NEGATIVE }, { "cached_input_per_million", NOT_NEGATIVE, true }, { "output_per_million", NOT_NEGATIVE },
}
local PRICE = {
  { "from", number("a time in epoch seconds is needed", -1e12, 1e12), true },
  { "currency", text("a currency is needed", "^[A-Z][A-Z][A-Z]$", 3, 3) }, { "off_peak", ARRAY, true },
}
local SECOND_OF_DAY = number("a second of the day is needed", 0, 86399, true)
local OFF_PEAK = { { "from_s", SECOND_OF_DAY }, { "to_s", SECOND_OF_DAY } }
local TLS = { { "verify", BOOLEAN, true }, { "server_name", text("a host name is needed", "^[%w%.:_%-]+$", 1, 253), true } }
local TIMEOUTS = { { "connect", POSITIVE }, { "first_token", POSITIVE }, { "idle", POSITIVE }, { "total", POSITIVE } }
local BREAKER = {
  { "unhealthy_threshold", COUNT }, { "healthy_threshold", COUNT }, { "error_rate_threshold", SHARE }, { "sliding_window_s", POSITIVE },
  { "half_open_max_requests", COUNT }, { "recovery_timeout_s", POSITIVE }, { "min_requests", COUNT },
}
local POOL = {
  { "name", NAME }, { "models", ARRAY }, { "algorithm", ALGORITHM, true }, { "tiers", ARRAY }, { "stream_buffer", STRING, true },
  { "ghost_sample", SHARE, true },
  { "queue", OBJECT, true }, { "retry", OBJECT, true }, { "fallback", OBJECT, true }, { "breaker", OBJECT, true },
}
local QUEUE = { { "size", NOT_NEGATIVE }, { "timeout_ms", NOT_NEGATIVE } }
local RETRY = {
  { "max_attempts", COUNT, true }, { "budget_ratio", NOT_NEGATIVE, true }, { "budget_min_per_second", NOT_NEGATIVE, true },
  { "retry_after_max_wait_ms", NOT_NEGATIVE, true },
}
local FALLBACK = {
  { "cache_ttl_s", NOT_NEGATIVE, true }, { "default_response", STRING, true }, { "default_response_mode", STRING, true },
}
local TIER = { { "name", NAME, true }, { "model", MODEL, true }, { "instances", ARRAY } }
local CLIENT = {
  { "name", NAME }, { "keys", ARRAY }, { "enabled", BOOLEAN, true }, { "expires", NOT_NEGATIVE, true }, { "models", ARRAY, true },
  { "requests_per_minute", POSITIVE, true }, { "tokens_per_minute", POSITIVE, true }, { "max_concurrent", COUNT, true },
  { "budget", OBJECT, true },
}
local CLIENT_KEY = { { "sha256", text("64 hexadecimal digits are needed", "^[0-9a-f]+$", 64, 64) }, { "until", NOT_NEGATIVE, true } }
local CLIENT_BUDGET = {
  { "amount", POSITIVE }, { "currency", STRING }, { "per", one_of("day or month is needed", { day = true, month = true }) },
  { "warn_at", SHARE, true }, { "rates", OBJECT, true },
}

-- -------------------------------------------------------------------------------------------------------------- the check

-- What looks at objects and arrays, and calls fault(path, what is needed).
local function walker(fault)
  local function members(where, object, list)
    for _, member in ipairs(list) do
      local key, kind, optional = member[1], member[2], member[3]
      local value = object[key]
      if value == null then value = nil end
      if not (optional and value == nil) and not kind[2](value) then
        fault(where == "" and key or where .. "." .. key, kind[1])
        object[key] = nil                       -- what follows must not trip over it
      end
    end
  end

  local function inner(where, object, key, list)
    local value = object[key]
    if type(value) == "table" then members(where .. "." .. key, value, list) end
  end

  -- Calls look(path, element) for the elements of an array that are of the kind.
  local function elements(where, object, key, kind, look)
    local array = object[key]
    if type(array) ~= "table" then return end
    where = where == "" and key or where .. "." .. key
    for k in pairs(array) do
      if type(k) ~= "number" then return fault(where, ARRAY[1]) end
    end
    for i, value in ipairs(array) do
      local path = where .. "[" .. (i - 1) .. "]"
      if kind[2](value) then look(path, value) else fault(path, kind[1]) end
    end
  end

  return members, inner, elements
end

local function ignore() end

--- Absent and null are one: takes what is null out of a decoded value, which has been checked, for then no array holds a null.
local function without_null(value)
  if type(value) == "table" then
    for k, v in pairs(value) do
      if v == null then value[k] = nil else without_null(v) end
    end
  end
  return value
end
M.without_null = without_null

--- The faults of a decoded document without its clients: list of "path: what is needed", empty when there are none.
--- @param known instances that need not be looked at again (as keys)
function M.faults(doc, known)
  local faults = {}
  local function fault(where, what) faults[#faults + 1] = where .. ": " .. what end
  local members, inner, elements = walker(fault)

  local function once(seen, what)
    return function(path, value)
      if seen[value] then fault(path, what) end
      seen[value] = true
    end
  end

  if type(doc) ~= "table" or doc[1] ~= nil then return { "the snapshot is not a JSON object" } end
  members("", doc, HEAD)
  inner("", doc, "gateway", GATEWAY)

  local instances = {}
  local new_instance = once(instances, "there are two instances of this name")
  elements("", doc, "instances", OBJECT, function(where, inst)
    if known[inst] then return new_instance(where .. ".name", inst.name) end
    members(where, inst, INSTANCE)
    inner(where, inst, "tls", TLS)
    inner(where, inst, "timeouts_ms", TIMEOUTS)
    inner(where, inst, "breaker", BREAKER)
    elements(where, inst, "capabilities", STRING, ignore)
    elements(where, inst, "prices", OBJECT, function(at, price)
      members(at, price, RATES)
      members(at, price, PRICE)
      elements(at, price, "off_peak", OBJECT, function(window_at, window)
        members(window_at, window, RATES)
        members(window_at, window, OFF_PEAK)
      end)
    end)
    if inst.name then new_instance(where .. ".name", inst.name) end
  end)

  local new_pool = once({}, "there are two pools of this name")
  local new_model = once({}, "two pools take this model")
  elements("", doc, "pools", OBJECT, function(where, pool)
    members(where, pool, POOL)
    inner(where, pool, "queue", QUEUE)
    inner(where, pool, "retry", RETRY)
    inner(where, pool, "fallback", FALLBACK)
    inner(where, pool, "breaker", BREAKER)
    if pool.name then new_pool(where .. ".name", pool.name) end
    elements(where, pool, "models", MODEL, new_model)
    if pool.tiers and #pool.tiers == 0 then fault(where .. ".tiers", "one tier at least is needed") end
    elements(where, pool, "tiers", OBJECT, function(at, tier)
      members(at, tier, TIER)
      local new_member = once({}, "the tier has it already")
      elements(at, tier, "instances", STRING, function(path, name)
        if not instances[name] then fault(path, "there is no such instance") end
        new_member(path, name)
      end)
    end)
  end)

  return faults
end

--- The same for clients, one at a time. @param fault(path, what) is called for each  @return check(path, client)
function M.of_clients(fault)
  local members, inner, elements = walker(fault)
  local function check_key(where, key) members(where, key, CLIENT_KEY) end
  return function(where, client)
    members(where, client, CLIENT)
    inner(where, client, "budget", CLIENT_BUDGET)
    elements(where, client, "keys", OBJECT, check_key)
    elements(where, client, "models", STRING, ignore)
  end
end

return M
