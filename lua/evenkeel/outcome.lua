-- The outcome taxonomy: one word for what became of an attempt. Pure.
--
-- The adapter turns a provider's answer into an outcome, and the outcome into the HTTP status that the edge understands:
--   retryable (429, 502, 503, 504)  nginx's proxy_next_upstream moves on to the next instance of the tier
--   590                             not worth another try in this tier, but the next tier may do better (context_length)
--   anything else                   the client's answer

local cjson = require "cjson.safe"

local find, lower, tonumber = string.find, string.lower, tonumber

local M = {}

--- Outcomes that count against the breaker.
M.FAILURES = {
  bad_gateway = true, server_error = true, timeout_first_token = true, stalled = true, truncated = true, empty = true,
}

--- Outcomes after which another instance is asked.
M.RETRYABLE = {
  bad_gateway = true, server_error = true, timeout_first_token = true, stalled = true, truncated = true, empty = true,
  rate_limited = true, quota = true, auth = true,
}

--- The status by which the adapter tells the edge of a retryable outcome.
M.STATUS = {
  bad_gateway = 502, server_error = 503, timeout_first_token = 504, stalled = 504, truncated = 502, empty = 502,
  rate_limited = 429, quota = 503, auth = 503, context_length = 590, saturated = 503, circuit_open = 503,
}

local function contains(text, ...)
  for i = 1, select("#", ...) do
    if find(text, (select(i, ...)), 1, true) then return true end
  end
  return false
end

-- What the words of an error say, whatever its status. `words` is code and type, `text` the message; lower case.
local function says_too_long(words, text)
  return contains(words, "context_length") or contains(text, "context length", "context window", "model token limit")
end
local function says_filtered(words)
  return contains(words, "content_policy", "content_filter", "data_inspection", "moderation")
end
local function says_no_money(words)
  return contains(words, "insufficient_quota", "insufficient_balance", "billing")
end

--- What a provider's error answer means.
--- @param status HTTP status, >= 400 (or 200 with an error body)
--- @param body its body or the part of it that was read
--- @param clients_model whether the provider was asked for a model that only the client has named
--- @return outcome
function M.of_error(status, body, clients_model)
  local decoded = type(body) == "string" and cjson.decode(body)
  local err = type(decoded) == "table" and decoded.error or nil
  if type(err) == "string" then err = { message = err } end
  if type(err) ~= "table" then err = type(decoded) == "table" and decoded or {} end
  local words = (type(err.code) == "string" and lower(err.code) or "") .. " " .. (type(err.type) == "string" and lower(err.type) or "")
  local text = type(err.message) == "string" and lower(err.message) or ""
  if status == 200 then                          -- an error dressed as a success: let its own words say what it is
    local inner = tonumber(err.code) or tonumber(err.status)
    if inner and inner >= 400 and inner < 600 then
      status = inner
    elseif contains(words, "rate_limit", "too_many_requests") then
      status = 429
    elseif says_no_money(words) then
      status = 402
    elseif says_too_long(words, text) or says_filtered(words) then
      status = 400
    else
      return "empty"
    end
  end
  -- an empty account answers 429 at some vendors; waiting does not fill it
  if status == 429 then return says_no_money(words) and "quota" or "rate_limited" end
  if status == 529 then return "rate_limited" end
  -- some vendors refuse what a client says with 403; it says nothing about the key
  if status == 403 and (says_filtered(words) or contains(text, "moderation", "flagged")) then return "content_filter" end
  if status == 401 or status == 403 then return "auth" end
  if status == 402 then return "quota" end
  -- a model that the pool knows is there: it is this instance that is set up wrong
  if status == 404 then return clients_model and "client_error" or "server_error" end
  if status == 408 then return "server_error" end
  if status >= 500 then return "server_error" end
  if says_too_long(words, text) then return "context_length" end
  if says_filtered(words) then return "content_filter" end
  return "client_error"
end

local RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 600

--- Seconds to wait by a `Retry-After` value: seconds or an HTTP date, clamped to 1 s … 10 min; nil for absent, negative or garbage.
--- @param parse_http_time date text → epoch seconds or nil
function M.retry_after_s(value, now, parse_http_time)
  if not value or #value > 64 then return nil end
  local s
  if find(value, "^%s*%d+%.?%d*%s*$") then
    s = tonumber(value)
  else
    local at = find(value, "^%a%a%a") and parse_http_time(value)
    if not at then return nil end
    s = at - now
  end
  if s < RETRY_AFTER_MIN_S then return RETRY_AFTER_MIN_S end
  if s > RETRY_AFTER_MAX_S then return RETRY_AFTER_MAX_S end
  return s
end

--- Seconds until a rate-limit window resets: "1s", "6m0s", "250ms", or plain seconds; nil if it says nothing usable.
function M.reset_s(value)
  if not value or value == "" or #value > 32 then return nil end
  local plain = tonumber(value)
  if plain then return plain >= 0 and plain < 86400 and plain or nil end
  local sum, rest = 0, value
  for number, unit in value:gmatch("(%d+%.?%d*)(%a+)") do
    local factor = ({ ms = 0.001, s = 1, m = 60, h = 3600 })[unit]
    if not factor then return nil end
    sum = sum + tonumber(number) * factor
    rest = rest:gsub(number .. unit, "", 1)
  end
  return rest == "" and sum or nil
end

return M
