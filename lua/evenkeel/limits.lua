-- What a client may do: requests and tokens per minute, calls at once, money per day or month. All workers together; a node has its share.
--
-- Requests and tokens are token buckets that hold one minute's worth and refill steadily. A bucket is one whole number in the shared
-- dict: the microsecond at which it will be full again (GCRA's theoretical arrival time); taking is one atomic `incr`, giving back
-- another, so no worker's taking is ever lost. Tokens are taken by estimate when a request begins and given back when it ends, while
-- what was really used is taken by whoever learned it (`used`): a bucket may so go into debt, and the next requests wait for it.
--
-- Money is counted in `spending`. Calls at once are permits (`slots`), so a killed worker's are given back.

local clock = require "evenkeel.clock"
local errors = require "evenkeel.errors"
local events = require "evenkeel.events"
local slots = require "evenkeel.slots"
local spending = require "evenkeel.spending"

local ceil, floor, max, min, format = math.ceil, math.floor, math.max, math.min, string.format

local M = {}

local MINUTE_US = 60e6
local BYTES_PER_TOKEN = 4
local SHARE = "limits:share"
local CLAIM_S = 1               -- a worker that was killed while it lifted a bucket holds it no longer

local dict

function M.use(shared)
  dict = shared
  spending.use(shared)
end

-- ---------------------------------------------------------------------------------------------------------------- buckets

-- The bucket was full for a while: the stored time lies in the past by `idle_us` and is lifted to the present, by one of the workers that
-- see it, and not twice: `lifts` is how many there had been when this one looked.
local function lift(shared, bucket, idle_us, lifts)
  if not shared:add(bucket.claim, true, CLAIM_S) then return end
  if (shared:get(bucket.lifts) or 0) == lifts then
    shared:incr(bucket.full_at, idle_us)
    shared:incr(bucket.lifts, 1, 0)
  end
  shared:delete(bucket.claim)
end

--- The keys of a bucket in the shared dict.
function M.bucket(name) return { full_at = name, lifts = name .. ":n", claim = name .. ":c" } end

--- Take `cost` microseconds' worth out of a bucket, unless it would then hold less than nothing.
--- @param shared a shared dict  @param now_us whole microseconds
--- @return whether there was enough, and after how many microseconds it is full again
function M.take(shared, bucket, cost, now_us)
  -- Looked at first: what is taken and given back again would for that moment be missing to all others.
  local held = shared:get(bucket.full_at)
  if held and held + cost - now_us > MINUTE_US then return false, held - now_us end
  local lifts = shared:get(bucket.lifts) or 0
  local full_at = shared:incr(bucket.full_at, cost, now_us)
  if not full_at then return true, cost end                       -- the dict is full: rather serve uncounted than not at all
  local before = full_at - cost
  if before < now_us then
    lift(shared, bucket, now_us - before, lifts)
    return true, cost
  end
  if full_at - now_us > MINUTE_US then
    shared:incr(bucket.full_at, -cost)
    return false, before - now_us
  end
  return true, full_at - now_us
end

--- Give back, or take without asking (`cost` below 0 gives, above 0 takes).
function M.settle(shared, bucket, cost, now_us)
  if cost ~= 0 then shared:incr(bucket.full_at, cost, now_us) end
end

-- Rounded down: a full bucket then gives as many as it says.
local function cost_us(n, per_minute) return max(1, min(MINUTE_US, floor(n * MINUTE_US / per_minute))) end
M.cost_us = cost_us

-- ------------------------------------------------------------------------------------------------------------------ shares

--- This node's share of every limit, above 0 and at most 1; told by the control plane.
function M.share() return dict:get(SHARE) or 1 end
function M.set_share(share) dict:set(SHARE, share) end

--- A client of a new snapshot is made ready: the keys of its state, and whether there is anything to look at.
function M.compile(client)
  local name = client.name
  client.counts = { requests = M.bucket("lr:" .. name), tokens = M.bucket("lt:" .. name), in_flight = "lf:" .. name }
  client.limited = client.requests_per_minute ~= nil or client.tokens_per_minute ~= nil or client.max_concurrent ~= nil
    or client.budget ~= nil
end

-- ------------------------------------------------------------------------------------------------------------------ headers

local function tell(what, limit, full_after_us)
  local header = ngx.header
  header["x-ratelimit-limit-" .. what] = floor(limit)
  header["x-ratelimit-remaining-" .. what] = max(0, floor((MINUTE_US - full_after_us) * limit / MINUTE_US))
  header["x-ratelimit-reset-" .. what] = format("%.3fs", max(0, full_after_us) / 1e6)
end

local function refusal(code, message, retry_after_s)
  return { code = code, message = message, retry_after_s = max(1, ceil(retry_after_s)) }
end

--- Answer a refusal and end the request.
function M.refuse(refused)
  ngx.header["Retry-After"] = refused.retry_after_s
  return errors.send(429, refused.code, refused.message)
end

-- ------------------------------------------------------------------------------------------------------------------- admit

-- @return refusal, or nil
local function look_at_budget(client)
  local at = ngx.now()
  local state, share, ends_in_s = spending.state(client, at)
  if state ~= "ok" then ngx.header["x-evenkeel-budget-warning"] = format("%d%%", min(floor(share * 100), 9999)) end
  if spending.is_news(client, state, at) then
    local kind = state == "ok" and "budget_free" or state == "warn" and "budget_warning" or "budget_exceeded"
    events.add(kind, client.name, { outcome = kind, seconds = ends_in_s, used_share = share, per = client.budget.per })
  end
  if state ~= "stop" then return nil end
  return refusal("budget_exceeded", "The budget of this " .. client.budget.per .. " is used up.", ends_in_s)
end

--- May this request begin? Sets the x-ratelimit headers of the answer.
--- @param scan json_scan's info  @param bytes length of the body  @param at of clock.now
--- @return permit for `leave`, or nil and a refusal {code, message, retry_after_s}
function M.admit(client, scan, bytes, at)
  if client.budget then
    local refused = look_at_budget(client)
    if refused then return nil, refused end
  end
  local keys, share = client.counts, M.share()
  local permit = { client = client }
  local most = client.max_concurrent
  if most then
    most = max(1, floor(most * share))
    if not slots.acquire(keys.in_flight, most) then
      return nil, refusal("too_many_concurrent_requests", "This key has " .. most .. " calls under way; it may have no more at once.", 1)
    end
    permit.counted = true
  end
  local now_us = floor(at * 1e6)
  local requests = client.requests_per_minute
  if requests then
    requests = requests * share
    local cost = cost_us(1, requests)
    local ok, full_after_us = M.take(dict, keys.requests, cost, now_us)
    tell("requests", requests, full_after_us)
    if not ok then
      M.leave(permit)
      return nil, refusal("rate_limit_exceeded", "This key may make " .. floor(requests) .. " requests a minute here.",
        (full_after_us + cost - MINUTE_US) / 1e6)
    end
  end
  local tokens = client.tokens_per_minute
  if tokens then
    tokens = tokens * share
    local estimate = ceil(bytes / BYTES_PER_TOKEN) + max(0, scan.max_tokens or 0) * max(1, scan.n or 1)
    local cost = cost_us(estimate, tokens)
    local ok, full_after_us = M.take(dict, keys.tokens, cost, now_us)
    tell("tokens", tokens, full_after_us)
    if not ok then
      if requests then M.settle(dict, keys.requests, -cost_us(1, requests), now_us) end
      M.leave(permit)
      return nil, refusal("rate_limit_exceeded", "This key may use " .. floor(tokens) .. " tokens a minute here, and this request may need "
        .. format("%.0f", min(estimate, 1e15)) .. ".", (full_after_us + cost - MINUTE_US) / 1e6)
    end
    permit.tokens_us = cost
  end
  return permit
end

--- The request is over, whatever became of it.
function M.leave(permit)
  local keys = permit.client.counts
  if permit.counted then slots.release(keys.in_flight) end
  if permit.tokens_us then M.settle(dict, keys.tokens, -permit.tokens_us, floor(clock.now() * 1e6)) end
  permit.counted, permit.tokens_us = nil, nil
end

--- What an attempt really used for a client. Callable from any phase and any worker, before or after the request's `leave`.
--- @param client of the snapshot (`snapshot.clients:by_name(name)`)  @param tokens input and output
--- @param cost_nano billionths of `currency`
--- @param at of clock.now
function M.used(client, tokens, cost_nano, currency, at)
  if client.tokens_per_minute and tokens > 0 then
    M.settle(dict, client.counts.tokens, ceil(tokens * MINUTE_US / (client.tokens_per_minute * M.share())), floor(at * 1e6))
  end
  if client.budget and cost_nano > 0 then spending.add(client, cost_nano, currency, ngx.now()) end
end

return M
