-- What clients have spent of their budgets in the running day or month (UTC).
--
-- This node counts what it spends itself; the control plane adds up all nodes and tells each what the others have spent (`exchange`, every
-- two seconds). Nothing is counted twice: a node is never told its own. Its counters live as long as nginx; those of lives before are
-- among the others'. Without the control plane a node goes on with what it knows.

local floor, min, date, time = math.floor, math.min, os.date, os.time

local M = {}

local BORN = "spent:born"
local KEPT_S = 3 * 86400        -- a period's numbers, after its end: the clock may have been wrong

local dict
function M.use(shared) dict = shared end

-- The running period of each kind: {name, end in seconds}.
local running = {}

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

local function keys_of(client, at)
  local name, ends_in_s = M.period(client.budget.per, at)
  local keys = client.spent
  if not keys or keys.period ~= name then
    local rest = client.name .. ":" .. name
    keys = { period = name, own = "spent:" .. rest, others = "spent:others:" .. rest, said = "spent:said:" .. rest }
    client.spent = keys
  end
  return keys, ends_in_s
end

--- @param cost_nano billionths of `currency`. What has no rate to the budget's currency counts one to one: rather too much than nothing.
function M.add(client, cost_nano, currency, at)
  local keys, ends_in_s = keys_of(client, at)
  local rate = currency ~= client.budget.currency and client.budget.rates and client.budget.rates[currency] or 1
  dict:incr(keys.own, floor(cost_nano * rate + 0.5), 0, ends_in_s + KEPT_S)
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
--- @param clients the snapshot's clients by name
--- @param told {client = {period, others_nano}}, for the life `born` of these counters; of another life it is not taken
--- @return {born, clients = {name = {period, spent_nano}}}
function M.exchange(clients, told, born, at)
  local own = {}
  local here = M.born(at)
  for name, client in pairs(clients) do
    if client.budget then
      local keys, ends_in_s = keys_of(client, at)
      local others = told[name]
      if born == here and type(others) == "table" and others.period == keys.period and type(others.others_nano) == "number" then
        dict:set(keys.others, min(others.others_nano, 1e300), ends_in_s + KEPT_S)
      end
      own[name] = { period = keys.period, spent_nano = dict:get(keys.own) or 0 }
    end
  end
  return { born = here, clients = own }
end

return M
