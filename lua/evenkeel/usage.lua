-- How many tokens an attempt took: what the provider says, or an estimate. Pure.
--
-- Read are OpenAI's members, and DeepSeek's prompt_cache_hit_tokens. The span is walked once and nothing is allocated but numbers.

local cjson = require "cjson.safe"
local json_walk = require "evenkeel.json_walk"

local walk, sub, tonumber, type, ipairs, floor = json_walk.walk, string.sub, tonumber, type, ipairs, math.floor
local ceil, min = math.ceil, math.min

local M = {}

local PROMPT, COMPLETION, CACHE_HIT, CACHED, REASONING = 2, 3, 4, 5, 6
local MAX_DEPTH = 16
local MOST_TOKENS = 1e9                  -- more than that is a provider's mistake, and would spoil every sum

local shape = json_walk.shape({
  prompt_tokens = { PROMPT },
  completion_tokens = { COMPLETION },
  prompt_cache_hit_tokens = { CACHE_HIT },
  prompt_tokens_details = { 7, object = { cached_tokens = { CACHED } } },
  completion_tokens_details = { 8, object = { reasoning_tokens = { REASONING } } },
})
local from, to = shape.from, shape.to

-- A whole number of tokens, or nil.
local function count(text, slot)
  if from[slot] == 0 then return nil end
  local n = tonumber(sub(text, from[slot], to[slot]))
  if not n or n < 0 or n > MOST_TOKENS then return nil end
  return floor(n)
end

--- @param span the JSON object of a `usage` member
--- @return input (cached included), cached_input, output (reasoning included), reasoning; or nil when it says nothing usable
function M.parse(span)
  if not walk(shape, span, MAX_DEPTH) then return nil end
  local input = count(span, PROMPT)
  if not input then return nil end
  local output = count(span, COMPLETION) or 0            -- embeddings have none
  local cached = count(span, CACHED) or count(span, CACHE_HIT) or 0
  local reasoning = count(span, REASONING) or 0
  return input, min(cached, input), output, min(reasoning, output)
end

local BYTES_PER_TOKEN, TOKENS_PER_MESSAGE = 4, 4
local LONGEST_DECODED = 64 * 1024

local function of_text(value)
  if type(value) == "string" then return ceil(#value / BYTES_PER_TOKEN) end
  if type(value) ~= "table" then return value == nil and 0 or value == cjson.null and 0 or 1 end
  if value.text ~= nil then return of_text(value.text) end
  if value[1] == nil then return next(value) and 1 or 0 end
  local n = 0
  for _, part in ipairs(value) do n = n + of_text(part) end
  return n
end

--- Tokens of a request, estimated: 4 a message and one for each 4 bytes of its text.
--- @param body the request's JSON
function M.estimate_input(body)
  local call = #body <= LONGEST_DECODED and cjson.decode(body)
  if type(call) ~= "table" then return ceil(#body / BYTES_PER_TOKEN) end
  local n = of_text(call.prompt) + of_text(call.input)
  if type(call.messages) == "table" then
    for _, message in ipairs(call.messages) do
      n = n + TOKENS_PER_MESSAGE + (type(message) == "table" and of_text(message.content) or 0)
    end
  end
  return n
end

--- Tokens of an answer that was not read whole, estimated. @param bytes of it that came
function M.estimate_output(bytes)
  return ceil(bytes / BYTES_PER_TOKEN)
end

return M
