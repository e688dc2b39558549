-- L3: the answer when nothing else is left: a stale one if the same request was answered before, else the predefined one.
--
-- Kept are whole, successful answers to requests that one may expect to be answered alike (no tools, n = 1, temperature at most 1), for
-- the pool's `cache_ttl`, keyed by client, pool and normalised request: nobody reads what somebody else was told. They are used only
-- when nobody can answer, marked `x-evenkeel-cache: stale` with their `Age`; JSON for JSON requests, SSE for streams. Their place is a
-- shared dict of fixed size that forgets the least recently used.
--
-- The predefined answer is a clear error with `Retry-After` in OpenAI's shape, or, if the pool says so, a normal completion that carries
-- the text. It is never kept and never billed.

local cjson = require "cjson.safe"
local clock = require "evenkeel.clock"
local errors = require "evenkeel.errors"
local json_scan = require "evenkeel.json_scan"
local live = require "evenkeel.live"
local ffi = require "ffi"

local now, ceil, floor, max, min = clock.now, math.ceil, math.floor, math.max, math.min
local find, sub, gsub, match, tonumber, format = string.find, string.sub, string.gsub, string.match, tonumber, string.format
local encode = json_scan.encode_string

ffi.cdef [[ uint32_t ngx_murmur_hash2(unsigned char *data, size_t len); ]]
local C = ffi.C
local bytes = ffi.typeof "unsigned char *"

local M = {}

local MAX_REQUEST, MAX_ANSWER = 64 * 1024, 64 * 1024

local dict
function M.use(shared) dict = shared end

-- ----------------------------------------------------------------------------------------------------------- stale answers

-- 64 bits of two runs over body[from .. to], the second one byte further: enough inside one client's and one pool's answers.
local function hash(body, from, to)
  local p, n = ffi.cast(bytes, body) + (from - 1), to - from + 1
  if n == 0 then return "0" end
  return format("%x.%x.%x", tonumber(C.ngx_murmur_hash2(p, n)), tonumber(C.ngx_murmur_hash2(p + 1, n - 1)), n)
end

--- May an answer to this request be kept?
function M.keepable(pool, scan, body)
  local ttl = pool.fallback.cache_ttl_s or 0
  if ttl <= 0 or #body > MAX_REQUEST or scan.tools or (scan.n or 1) ~= 1 then return false end
  local at = find(body, '"temperature"', 1, true)
  if not at then return true end
  local t = tonumber(match(body, '^"temperature"%s*:%s*(%-?[%d.eE+-]+)', at) or "")
  return t ~= nil and t <= 1
end

-- What stands around the messages is the same in most requests of a program: its hash is remembered.
local MOST_RESTS, LONGEST_REST = 512, 2048
local rests, known_rests = {}, 0

local function hash_of_rest(rest)
  local known = rests[rest]
  if known then return known end
  local essence = gsub(rest, '"stream_options"%s*:%s*%b{}', "")
  essence = gsub(essence, '"stream"%s*:%s*%a+', "")
  essence = gsub(essence, '"user"%s*:%s*"[^"\\]*"', "")
  essence = gsub(essence, "[%s,]+", "")
  known = hash(essence, 1, #essence)
  if #rest <= LONGEST_REST then
    if known_rests >= MOST_RESTS then rests, known_rests = {}, 0 end
    rests[rest] = known
    known_rests = known_rests + 1
  end
  return known
end

--- The key of a request: what does not change the answer (stream, stream_options, user, the space between members) is left out.
--- @param messages_s,messages_e range of the messages, or nil/0
function M.key(client, pool_name, kind, body, messages_s, messages_e)
  local essence
  if messages_s and messages_s > 0 then
    essence = hash(body, messages_s, messages_e) .. "/" .. hash_of_rest(sub(body, 1, messages_s - 1) .. sub(body, messages_e + 1))
  else
    essence = hash(body, 1, #body)
  end
  return (client or "") .. "\0" .. pool_name .. "\0" .. kind .. "\0" .. essence
end

--- Keep a whole JSON answer. A stream is kept as the JSON answer it would have been (see `from_stream`).
function M.keep(key, body, ttl_s)
  if #body > MAX_ANSWER then return end
  dict:set(key, floor(now()) .. "\n" .. body, ttl_s)
end

--- The JSON answer that a stream would have been. @param head decoded first chunk
--- @param content,reasoning the inside of a JSON string each
function M.from_stream(head, content, reasoning, finish_reason)
  return "{\"id\":" .. encode(type(head.id) == "string" and head.id or "evenkeel") .. ',"object":"chat.completion","created":'
    .. format("%d", tonumber(head.created) or 0) .. ',"model":' .. encode(type(head.model) == "string" and head.model or "")
    .. ',"choices":[{"index":0,"message":{"role":"assistant","content":"' .. content
    .. (reasoning ~= "" and '","reasoning_content":"' .. reasoning or "") .. '"},"finish_reason":' .. encode(finish_reason) .. "}]}"
end

-- ------------------------------------------------------------------------------------------------------------ what is said

-- A chat or text completion that says `text`, as JSON or as SSE.
local function say(req, id, created, model, text, finish_reason)
  local chat = req.kind == "chat"
  local content, finish = encode(text), encode(finish_reason)
  local head = '{"id":' .. encode(id) .. ',"created":' .. format("%d", created) .. ',"model":' .. encode(model)
  if req.stream then
    ngx.header["Content-Type"] = "text/event-stream; charset=utf-8"
    head = "data: " .. head .. ',"object":"' .. (chat and "chat.completion.chunk" or "text_completion") .. '","choices":['
    ngx.print(
      head, chat and '{"index":0,"delta":{"role":"assistant","content":' .. content .. '},"finish_reason":null}'
        or '{"index":0,"text":' .. content .. ',"finish_reason":null}', "]}\n\n",
      head, chat and '{"index":0,"delta":{},"finish_reason":' .. finish .. "}" or '{"index":0,"text":"","finish_reason":' .. finish .. "}",
      "]}\n\n", req.usage == 1 and head .. '],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}\n\n' or "",
      "data: [DONE]\n\n")
    return
  end
  ngx.header["Content-Type"] = "application/json"
  ngx.print(head, ',"object":"', chat and "chat.completion" or "text_completion", '","choices":[',
    chat and '{"index":0,"message":{"role":"assistant","content":' .. content .. '},"finish_reason":' .. finish .. "}"
      or '{"index":0,"text":' .. content .. ',"finish_reason":' .. finish .. "}",
    '],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}')
end

local function give_stale(req)
  local body = ngx.req.get_body_data()
  if not body or not M.keepable(req.pool, req.scan, body) then return false end
  local kept = dict:get(M.key(req.client and req.client.name, req.pool.name, req.kind, body, req.scan.messages_s, req.scan.messages_e))
  if not kept then return false end
  local at, answer = match(kept, "^(%d+)\n(.*)$")
  local text, decoded
  if req.stream then
    decoded = cjson.decode(answer)
    local choice = decoded and decoded.choices and decoded.choices[1]
    text = choice and (choice.text or choice.message and choice.message.content)
    if type(text) ~= "string" then return false end
  end
  local header = ngx.header
  header["x-evenkeel-cache"] = "stale"
  header["Age"] = max(0, floor(now()) - tonumber(at))
  if req.stream then
    say(req, decoded.id or "evenkeel", tonumber(decoded.created) or 0, decoded.model or req.model, text,
      decoded.choices[1].finish_reason or "stop")
  else
    header["Content-Type"] = "application/json"
    ngx.print(answer)
  end
  return true
end

--- Seconds until somebody of the pool may be back: the least cooldown or open time, 1 … 60.
local function retry_after_s(req, at)
  local least
  for _, tier in ipairs(req.pool.tiers) do
    for _, inst in ipairs(tier.instances) do
      local v = live.view(inst, at)
      local until_ = max(v.cooldown_until or 0, v.open_until or 0)
      local s = until_ > at and until_ - at or 1
      if not least or s < least then least = s end
    end
  end
  return max(1, min(60, ceil(least or 1)))
end

--- Answer a request that nobody could serve. @return "stale" | "default"
function M.give(req, var)
  ngx.header["Cache-Control"] = "no-store"
  var.ek_degraded = "true"
  if give_stale(req) then return "stale" end
  local fallback = req.pool.fallback
  local text = fallback.default_response or "System busy, please retry shortly"
  if fallback.default_response_mode == "completion" and req.kind ~= "embeddings" then
    say(req, "evenkeel-" .. req.id, ngx.time(), req.model, text, "stop")
    return "default"
  end
  local reason = req.reason or "unavailable"
  local busy = reason == "saturated" or reason == "rate_limited"
  ngx.header["Retry-After"] = retry_after_s(req, now())
  errors.send(busy and 429 or 503, busy and reason or "all_instances_failed", text)
  return "default"
end

return M
