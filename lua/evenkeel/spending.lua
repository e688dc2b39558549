-- What clients have spent of their budgets in the running day or month (UTC).
--
-- This node counts what it spends itself; the control plane adds up all nodes and tells each what the others have spent (`exchange`, every
-- two seconds). Nothing is counted twice: a node is never told its own. Its counters live as long as nginx; those of lives before are
-- among the others'. Without the control plane a node goes on with what it knows. Each currency is counted by itself: when a budget's is
-- changed, what was spent before comes back converted, among the others'.

local floor, min, date, time, sub = math.floor, math.min, os.date, os.time, string.sub

local M = {}

local BORN = "spent:born"
local KEPT_S = 3 * 86400        -- a period's numbers, after its end: the clock may have been wrong

local dict
function M.use(shared) dict = shared end

-- The running period of each kind: {name, end in seconds}.
local running = {}
local KINDS = { "day", "month" }

--- @param per "day" | "month"  @param at seconds  @return name of the period (UTC), seconds until it ends
function M.period(per, at)
  local period = running[per]
  if not period or at >= period.ends or at < period.begins then
    local t = date("!*t", floor(at))
    local noon = function(year, month, day) return time { year = year, month = month, day = day, hour = 12 } end
    local days = per == "day" and 1 or floor((noon(t.year, t.month + 1, 1) - noon(t.year, t.month, 1)) / 86400 + 0.5)
    local into = (per == "day" and 0 or (t.day - 1) * 86400) + t.hour * 3600 + t.min * 60 + t.sec
    local begins = floor(at) - into
    period = { name = date(per == "day" and "!%Y-%m-%d" or "!%Y-%m", floor(at)), begins = begins, ends = begins + days * 86400 }
    running[per] = period
  end
  return period.name, period.ends - at
end

-- What money is counted in: "2026-11:GBP".
local function count_of(period, currency) return period .. ":" .. currency end
local function own_key(name, count) return "spent:" .. name .. ":" .. count end
local function others_key(name, count) return "spent:others:" .. name .. ":" .. count end

-- The count, by the day or the month and in a currency, in which a client last spent: its budget may be changed from one to another.
local function last_key(name) return "spent:last:" .. name end

-- Those who have spent something in a period are numbered, from 1 on: there may be a hundred thousand who have not.
local function spenders_key(period) return "spent:names:" .. period end

local function keys_of(client, at)
  local period, ends_in_s = M.period(client.budget.per, at)
  local currency = client.budget.currency
  local keys = client.spent
  if not keys or keys.period ~= period or keys.currency ~= currency then
    local name, count = client.name, count_of(period, currency)
    keys = {
      period = period, currency = currency, count = count, own = own_key(name, count), others = others_key(name, count),
      said = "spent:said:" .. name .. ":" .. period, last = last_key(name), known = spenders_key(period) .. ":of:" .. name,
    }
    client.spent = keys
  end
  return keys, ends_in_s
end

--- @param cost_nano billionths of `currency`. What has no rate to the budget's currency counts one to one: rather too much than nothing.
function M.add(client, cost_nano, currency, at)
  local keys, ends_in_s = keys_of(client, at)
  local rate = currency ~= client.budget.currency and client.budget.rates and client.budget.rates[currency] or 1
  local kept_s = ends_in_s + KEPT_S
  if dict:get(keys.last) ~= keys.count then
    dict:set(keys.last, keys.count, kept_s)
    if dict:add(keys.known, true, kept_s) then
      local names = spenders_key(keys.period)
      local number = dict:incr(names, 1, 0, kept_s)
      if number then dict:set(names .. ":" .. number, client.name, kept_s) end
    end
  end
  dict:incr(keys.own, floor(cost_nano * rate + 0.5), 0, kept_s)
end

--- @return "ok" | "warn" | "stop", the share of the budget that is used, seconds until the period ends
function M.state(client, at)
  local keys, ends_in_s = keys_of(client, at)
  local share = ((dict:get(keys.own) or 0) + (dict:get(keys.others) or 0)) / (client.budget.amount * 1e9)
  return share >= 1 and "stop" or share >= (client.budget.warn_at or 0.8) and "warn" or "ok", share, ends_in_s
end

--- Whether a state differs from the one last said for this period; it is then taken as said.
function M.is_news(client, state, at)
  local keys, ends_in_s = keys_of(client, at)
  if (dict:get(keys.said) or "ok") == state then return false end
  if state == "ok" then dict:delete(keys.said) else dict:set(keys.said, state, ends_in_s + KEPT_S) end
  return true
end

--- Names this life of the counters: the milliseconds at which it began.
function M.born(at)
  dict:add(BORN, floor(at * 1000))
  return dict:get(BORN)
end

--- Take what the others have spent, tell what was spent here.
--- @param told {client = {period, currency, others_nano}}, for the life `born` of these counters; of another life it is not taken. Who
---   is not among them has spent nothing more elsewhere
--- @return {born, clients = {name = {period, currency, spent_nano}}}: those who have spent something here
function M.exchange(told, born, at)
  local own = {}
  local here = M.born(at)
  local ends_in_s = {}
  for _, per in ipairs(KINDS) do
    local period, left_s = M.period(per, at)
    ends_in_s[period] = left_s
    local names = spenders_key(period)
    for i = 1, dict:get(names) or 0 do
      local name = dict:get(names .. ":" .. i)
      local count = name and dict:get(last_key(name))
      local nano = count and sub(count, 1, #period + 1) == period .. ":" and dict:get(own_key(name, count))
      if nano then own[name] = { period = period, currency = sub(count, #period + 2), spent_nano = nano } end
    end
  end
  if born == here then
    for name, others in pairs(told) do
      local left_s = type(others) == "table" and ends_in_s[others.period]
      if left_s and type(others.others_nano) == "number" and type(others.currency) == "string" then
        dict:set(others_key(name, count_of(others.period, others.currency)), min(others.others_nano, 1e300), left_s + KEPT_S)
      end
    end
  end
  return { born = here, clients = own }
end

return M
