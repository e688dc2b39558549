-- Continuation of a cut or stalled stream, so that the client reads one whole answer and never notices. In this order, per candidate:
--   (a) prefix   an instance with the capability `prefix_completion` gets the delivered text as the last, assistant message and goes on
--                (DeepSeek: `"prefix": true` and base URL …/beta; others: plain assistant-last)
--   (b) restart  the request is made again, and what was delivered already is skipped as long as the new text agrees byte for byte
--   (c) nobody   an in-band error event and the end of the stream, without [DONE]
-- Answers that hold anything but text (tool or function calls, a refusal, audio), n > 1, and clients that said `x-evenkeel-resume: off`
-- never come here.
--
-- The answer keeps one identity (id, created, model of the first attempt), one finish reason, one [DONE], and the sum of the usages.
-- Every attempt goes through the door of its instance and holds a permit there.

local budget = require "evenkeel.budget"
local cjson = require "cjson.safe"
local classify = require("evenkeel.chat_chunk").classify
local clock = require "evenkeel.clock"
local events = require "evenkeel.events"
local json_scan = require "evenkeel.json_scan"
local live = require "evenkeel.live"
local meter = require "evenkeel.meter"
local slots = require "evenkeel.slots"
local snapshots = require "evenkeel.snapshot"
local sse = require "evenkeel.sse"
local transport = require "evenkeel.transport"

local ngx = ngx
local now = clock.now
local sub, find, min, max = string.sub, string.find, math.min, math.max
local encode, decode_string = json_scan.encode_string, json_scan.decode_string

local M = {}

local MAX_ATTEMPTS = 4
local MAX_EVENT = 1024 * 1024 + 64 * 1024

-- -------------------------------------------------------------------------------------------------------------- pure parts

--- Skips a text that was delivered already. @return piece to deliver ("" for none), or nil when the new text disagrees
function M.new_skipper(delivered)
  local at = 0
  return {
    feed = function(piece)
      local left = #delivered - at
      if left <= 0 then return piece end
      local n = min(left, #piece)
      if sub(delivered, at + 1, at + n) ~= sub(piece, 1, n) then return nil end
      at = at + n
      return sub(piece, n + 1)
    end,
    caught_up = function() return at >= #delivered end,
  }
end

--- The request body of way (a): the delivered text as the last message. @return body or nil when the request has no messages
function M.prefix_body(body, delivered, with_prefix_flag)
  local info = json_scan.scan(body)
  if not info or not info.messages_e then return nil end
  local message = '{"role":"assistant","content":' .. encode(delivered) .. (with_prefix_flag and ',"prefix":true}' or "}")
  return sub(body, 1, info.messages_e - 1) .. (info.last_message_e and "," or "") .. message .. sub(body, info.messages_e)
end

--- Usage over the attempts that produced delivered text. Where the cut attempt told nothing, its tokens are counted by its events, and
--- its prompt is what the second attempt's prompt was without the delivered text.
--- @param first usage table or nil  @param first_tokens content events of the first attempt  @param second usage table or nil
function M.sum_usage(first, first_tokens, second, prefixed)
  second = type(second) == "table" and second or { prompt_tokens = 0, completion_tokens = 0 }
  local p2, c2 = tonumber(second.prompt_tokens) or 0, tonumber(second.completion_tokens) or 0
  local p1 = first and tonumber(first.prompt_tokens) or max(0, prefixed and p2 - first_tokens or p2)
  local c1 = first and tonumber(first.completion_tokens) or first_tokens
  return { prompt_tokens = p1 + p2, completion_tokens = c1 + c2, total_tokens = p1 + p2 + c1 + c2 }
end

-- Who may continue: the rest of this tier, then later tiers, then the same instance again.
local function candidates(pool, tier_number, failed)
  local list, seen = {}, { [failed.name] = true }
  local own
  for t = tier_number, #pool.tiers do
    local tier = pool.tiers[t]
    for _, inst in ipairs(tier.instances) do
      if inst == failed and t == tier_number then own = { inst = inst, model = tier.model, tier = t } end
      if not seen[inst.name] then
        seen[inst.name] = true
        list[#list + 1] = { inst = inst, model = tier.model, tier = t }
      end
    end
  end
  list[#list + 1] = own
  return list
end

-- --------------------------------------------------------------------------------------------------------------- the work

-- The relay keeps what was delivered as the inside of a JSON string.
local function text_of(buffer)
  local text = '"' .. buffer:tostring() .. '"'
  return decode_string(text, 1, #text)
end

-- The text of a string in an event; nil: half of a surrogate pair, which cannot be joined to anything.
local function string_at(data, s, e)
  if not s then return "" end
  return (cjson.decode(sub(data, s, e)))
end

local function inside(text) return sub(encode(text), 2, -2) end

local function usable(inst, at)
  if not inst.in_service then return false end
  local v = live.view(inst, at)
  return not v.blocked and v.cooldown_until <= at and v.breaker == "closed", v.limit
end

local function put_delta(s, relay, member, text)
  relay._put(s, s.identity .. ',"choices":[{"index":0,"delta":{"' .. member .. '":' .. encode(text) .. '},"finish_reason":null}]}')
end

-- What is new in a text goes to the client, and is kept. @return whether anything is; nil: it is not the text that was delivered
local function deliver(s, relay, member, kept, skip, text)
  if skip then text = skip.feed(text) end
  if not text then return nil end
  if text == "" then return false end
  put_delta(s, relay, member, text)
  kept:put(inside(text))
  s.content = s.content + 1
  return true
end

local function finish(s, relay, call, reason, usage)
  relay._put(s, s.identity .. ',"choices":[{"index":0,"delta":{},"finish_reason":' .. encode(reason) .. "}]}")
  if call.usage == 1 then
    relay._put(s, s.identity .. string.format(',"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}',
      usage.prompt_tokens, usage.completion_tokens, usage.total_tokens))
  end
  relay._put(s, "[DONE]")
  relay._send(s)
  ngx.eof()
end

-- One attempt at one candidate; `before_end` is called before the last byte goes to the client.
-- @return "done" | "gone" (the client) | "cut" (more text came, then it ended) | "refused" | "diverged"; what the door said of a refusal
local function try(attempt, s, relay, candidate, prefixed, before_end)
  local inst, call = candidate.inst, attempt.call
  local content = text_of(s.said_content)
  local body = attempt.body
  local extra = "X-Ek-Usage: 1\r\nX-Ek-Continues: " .. call.pool .. "," .. (call.client or "") .. "\r\n"
  if prefixed then
    local flag = inst.provider == "deepseek"
    body = M.prefix_body(body, content, flag)
    if not body then return "refused" end
    if flag then extra = extra .. "X-Ek-Prefix: beta\r\n" end
  end
  local model = candidate.model
  if model then extra = extra .. "X-Ek-Model: " .. model .. "\r\n" end
  local at = now()
  local conn, head = transport.request(transport.door(inst), "POST", "/v1/chat/completions", { body }, #body, {
    request_id = attempt.request_id, headers = extra, first_deadline = min(attempt.deadline, at + inst.first_token_s + 2),
  })
  if not conn then return "refused" end
  if head.status ~= 200 or not find(head.headers["content-type"] or "", "event-stream", 1, true) then
    transport.close(conn)
    return "refused", head.headers["x-ek-outcome"]
  end

  local skip_content = not prefixed and M.new_skipper(content) or nil
  local skip_reasoning = not prefixed and content == "" and M.new_skipper(text_of(s.said_reasoning)) or nil
  local drop_reasoning = content ~= ""         -- it was all delivered before the first content
  local parser = sse.new(MAX_EVENT)
  local before_tokens = s.content
  local usage, reason
  local produced = false
  while true do
    local chunk = transport.read(conn, min(attempt.deadline, now() + inst.idle_s + 2))
    if not chunk then break end
    if not parser:feed(chunk) then break end
    local stop
    while true do
      local data = parser:next()
      if not data then break end
      local kind, info = classify(data)
      if kind == "done" then
        stop = "done"
        break
      end
      local thought, said = string_at(data, info.reasoning_s, info.reasoning_e), string_at(data, info.content_s, info.content_e)
      if kind == "broken" or kind == "error" or not thought or not said then
        stop = "cut"
        break
      end
      if info.has_usage then usage = cjson.decode(sub(data, info.usage_s, info.usage_e)) end
      local diverged = info.has_other
      if not diverged and thought ~= "" and not drop_reasoning then
        local delivered = deliver(s, relay, "reasoning_content", s.said_reasoning, skip_reasoning, thought)
        diverged, produced = delivered == nil, produced or delivered
      end
      if not diverged and said ~= "" then
        diverged = skip_reasoning and not skip_reasoning.caught_up()
        if not diverged then
          local delivered = deliver(s, relay, "content", s.said_content, skip_content, said)
          diverged, produced = delivered == nil, produced or delivered
        end
      end
      if diverged then
        transport.close(conn)
        return "diverged"
      end
      if info.finish_s then reason = decode_string(data, info.finish_s, info.finish_e) end
      if info.choices > 0 and s.max_tokens and s.content >= s.max_tokens and not reason then
        reason, stop = "length", "done"
        break
      end
    end
    if s.n > 0 and not relay._send(s) then
      transport.close(conn)
      return "gone"
    end
    if stop == "cut" then break end
    if stop == "done" then
      if skip_content and not skip_content.caught_up() then
        transport.close(conn)
        return "diverged"
      end
      if not reason then break end
      before_end()
      finish(s, relay, call, reason, M.sum_usage(s.first_usage, before_tokens, usage, prefixed))
      transport.close(conn)
      return "done"
    end
  end
  transport.close(conn)
  return produced and "cut" or "refused"
end

local OUTCOME_OF = { refused = "bad_gateway", cut = "truncated", diverged = "truncated", gone = "client_gone" }

--- Continue the stream of `attempt` that ended early. @param s the relay's record: head, said_content, said_reasoning, content, …
function M.continue(attempt, s, outcome, relay)
  local snapshot = snapshots.current()
  local pool_name, tier = attempt.call.pool, attempt.call.tier
  local pool = snapshot and snapshot.pools[pool_name or ""]
  if not pool then return relay.break_off(s, outcome) end
  s.identity = relay.chunk_head(s, "chat")
  s.first_usage = s.usage and cjson.decode(s.usage) or nil
  local info = json_scan.scan(attempt.body)
  s.max_tokens = info and info.max_tokens
  local attempts, failed_at = 0, attempt.inst.name
  local function ended(result, by, way)
    events.add("stream_resumed", failed_at, { outcome = outcome, result = result, by = by, way = way, request_id = attempt.request_id })
  end
  local note = { cut = outcome, at = now(), more = {} }
  local function tell(result)
    note.outcome = result
    meter.tell(attempt.call.ref, note)
  end
  for _, candidate in ipairs(candidates(pool, tonumber(tier), attempt.inst)) do
    local inst = candidate.inst
    local ways = inst.can.prefix_completion and #s.said_content > 0 and { true, false } or { false }
    for _, prefixed in ipairs(ways) do
      local at = now()
      if attempts >= MAX_ATTEMPTS or at >= attempt.deadline then
        ended("given_up")
        tell(outcome)
        return relay.break_off(s, outcome)
      end
      local ok, limit = usable(inst, at)
      if ok and budget.retry(pool, at) and slots.acquire(inst.keys.in_flight, limit) then
        attempts = attempts + 1
        attempt.continued_at = inst.keys.in_flight     -- given back by the adapter's log phase if the client leaves in the middle
        local one = { instance = inst.name, tier = candidate.tier, began = at, way = prefixed and "prefix" or "restart" }
        note.more[attempts] = one
        local result, said = try(attempt, s, relay, candidate, prefixed, function()
          one.outcome, one.ended = "ok", now()
          tell("ok")
        end)
        one.outcome = one.outcome or said or OUTCOME_OF[result]
        one.ended = one.ended or now()
        attempt.continued_at = nil
        slots.release(inst.keys.in_flight)
        if result == "done" or result == "gone" then return ended(result, inst.name, prefixed and "prefix" or "restart") end
      end
    end
  end
  ended("given_up")
  tell(outcome)
  return relay.break_off(s, outcome)
end

return M
