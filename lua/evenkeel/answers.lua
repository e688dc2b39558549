-- L3: the answer when nothing else is left. The predefined answer is a clear error with `Retry-After` in OpenAI's shape, or, if the pool
-- says so, a normal completion that carries the text; JSON for JSON requests, SSE for streams; never cached, never billed.

local errors = require "evenkeel.errors"
local json_scan = require "evenkeel.json_scan"
local live = require "evenkeel.live"

local now, ceil, max, min = ngx.now, math.ceil, math.max, math.min

local M = {}

local dict
function M.use(shared) dict = shared end

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

local function completion(req, text)
  local id = "evenkeel-" .. ngx.var.ek_request_id
  local created = ngx.time()
  local head = '"id":' .. json_scan.encode_string(id) .. ',"created":' .. created .. ',"model":' .. json_scan.encode_string(req.model)
  local content = json_scan.encode_string(text)
  local chat = req.kind == "chat"
  if req.stream then
    ngx.header["Content-Type"] = "text/event-stream"
    local object = chat and "chat.completion.chunk" or "text_completion"
    local part = chat and '{"index":0,"delta":{"role":"assistant","content":' .. content .. '},"finish_reason":null}'
      or '{"index":0,"text":' .. content .. ',"finish_reason":null}'
    local last = chat and '{"index":0,"delta":{},"finish_reason":"stop"}' or '{"index":0,"text":"","finish_reason":"stop"}'
    ngx.print("data: {", head, ',"object":"', object, '","choices":[', part, "]}\n\n",
      "data: {", head, ',"object":"', object, '","choices":[', last, "]}\n\ndata: [DONE]\n\n")
    return
  end
  ngx.header["Content-Type"] = "application/json"
  local choice = chat and '{"index":0,"message":{"role":"assistant","content":' .. content .. '},"finish_reason":"stop"}'
    or '{"index":0,"text":' .. content .. ',"finish_reason":"stop"}'
  ngx.print("{", head, ',"object":"', chat and "chat.completion" or "text_completion", '","choices":[', choice,
    '],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}')
end

--- Answer a request that nobody could serve.
function M.give(req, var)
  local fallback = req.pool.fallback
  local text = fallback.default_response or "System busy, please retry shortly"
  local at = now()
  ngx.header["Cache-Control"] = "no-store"
  var.ek_degraded = "true"
  if fallback.default_response_mode == "completion" and req.kind ~= "embeddings" then
    return completion(req, text)
  end
  local reason = req.reason or "unavailable"
  local busy = reason == "saturated" or reason == "rate_limited"
  ngx.header["Retry-After"] = retry_after_s(req, at)
  return errors.send(busy and 429 or 503, busy and reason or "all_instances_failed", text)
end

M._dict = function() return dict end

return M
