-- From a provider's answer to the client's: the gate before the first content token, and the relay after it.
--
-- Before the gate opens every failure is an HTTP failure (the edge asks somebody else). Behind it the answer is committed: a cut or
-- stalled stream is continued elsewhere (see resume) or ends with an in-band error event and without [DONE], never as a success.
-- Comments and blank lines are no progress: only content moves the idle clock.

local answers = require "evenkeel.answers"
local classify = require("evenkeel.chat_chunk").classify
local cjson = require "cjson.safe"
local outcomes = require "evenkeel.outcome"
local sse = require "evenkeel.sse"
local transport = require "evenkeel.transport"
local decode_string = require("evenkeel.json_text").decode_string

local ngx = ngx
local now, print, flush = ngx.now, ngx.print, ngx.flush
local min, sub, concat = math.min, string.sub, table.concat

local M = {}

local MAX_EVENT = 1024 * 1024 + 64 * 1024
local MAX_BUFFER = 16 * 1024 * 1024
local MAX_RESUME_TEXT = 4 * 1024 * 1024
local FINISH_GRACE_S = 2            -- how long to wait for usage and [DONE] once the finish reason is there
local RATE_WINDOW_S = 10            -- over which min_tokens_per_second is judged

-- ------------------------------------------------------------------------------------------------------------------ JSON

--- Is a JSON answer whole and worth giving to a client?
--- @param kind "chat" | "completions" | "embeddings", or nil for anything else
--- @return "ok" | "error" (it holds an error) | "empty" | "broken" (not JSON)
function M.judge_json(body, kind)
  local says, info = classify(body)
  if says == "broken" or says == "error" then return says end
  if says == "content" or not kind then return "ok" end
  -- cut off by max_tokens or by a filter before a word was said: that is an answer, too
  if info.finish_s then
    local reason = decode_string(body, info.finish_s, info.finish_e)
    if reason == "length" or reason == "content_filter" then return "ok" end
  end
  return "empty"
end

-- ---------------------------------------------------------------------------------------------------------------- stream

-- Keep what was delivered, for a continuation: content and reasoning apart.
local function remember(s, data, info)
  s.size = s.size + #data
  if info.has_tool_calls or s.size > MAX_RESUME_TEXT then
    s.resumable, s.text_content, s.text_reasoning = false, nil, nil
    return
  end
  if info.content_s then s.text_content[#s.text_content + 1] = decode_string(data, info.content_s, info.content_e) end
  if info.reasoning_s then s.text_reasoning[#s.text_reasoning + 1] = decode_string(data, info.reasoning_s, info.reasoning_e) end
end

local function open_gate(s)
  if s.committed then return end
  s.committed = true
  local header = ngx.header
  header["Content-Type"] = "text/event-stream; charset=utf-8"
  header["Cache-Control"] = "no-cache"
end

-- Send what has gathered. @return false when the client has left
local function send(s)
  if s.n == 0 then return true end
  local out = s.out
  for i = s.n + 1, s.sent do out[i] = nil end
  s.sent = s.n
  s.n = 0
  local ok = print(out)
  if ok then ok = flush(true) end
  return ok
end

local function put(s, data)
  local out, n = s.out, s.n
  out[n + 1] = "data: "
  out[n + 2] = data
  out[n + 3] = "\n\n"
  s.n = n + 3
end

--- The in-band end of an answer that could not be completed: an error event, no [DONE].
function M.break_off(s, outcome)
  put(s, '{"error":{"message":"The answer was interrupted and could not be continued (' .. outcome
    .. '). What arrived so far is incomplete.","type":"server_error","param":null,"code":"stream_' .. outcome .. '"}}')
  send(s)
end

--- Relay an SSE answer. @param door {fail, pass_on, report, keep} of the adapter
function M.stream(attempt, conn, door)
  local inst, call = attempt.inst, attempt.call
  local hide_usage, buffer = call.usage ~= 1 and not call.show_usage, call.buffer
  local resumable = call.resume and attempt.kind == "chat" and call.n == 1 and not buffer
  local parser = sse.new(MAX_EVENT)
  local s = {
    out = {}, n = 0, sent = 0, committed = false, resumable = resumable,
    text_content = {}, text_reasoning = {}, size = 0, content = 0,
  }
  attempt.stream = s
  local progress_at = now()
  local window_at, window_content = progress_at, 0
  local opened = false                    -- the first content token has come (the gate is open unless everything is buffered)
  local ended, why, mid_error

  while not ended do
    local until_ = not opened and attempt.first_deadline
      or s.finish_at and min(s.finish_at + FINISH_GRACE_S, attempt.deadline)
      or min(progress_at + inst.idle_s, attempt.deadline)
    local chunk
    chunk, why = transport.read(conn, until_)
    if not chunk then break end
    local ok, fault = parser:feed(chunk)
    while ok do
      local data = parser:next()
      if not data then break end
      local kind, info = classify(data)
      if kind == "done" then
        s.done, ended = true, true
        break
      elseif kind == "broken" then
        s.broken = (s.broken or 0) + 1
      elseif kind == "error" then
        mid_error, ended = data, true
        break
      else
        if info.has_usage then s.usage = sub(data, info.usage_s, info.usage_e) end
        if info.has_content then
          s.content = s.content + 1
          progress_at = now()
          if not opened then
            opened = true
            attempt.latency_s = progress_at - attempt.started
            s.head = data
          end
          if s.resumable then remember(s, data, info) end
        end
        if info.has_finish then
          s.finish_at = s.finish_at or now()
          s.finish_reason = info.finish_s and decode_string(data, info.finish_s, info.finish_e) or s.finish_reason
          -- cut off by max_tokens or by a filter before a word was said: that is an answer, too
          if not opened and s.finish_reason ~= "stop" then
            opened = true
            s.head = data
          end
        end
        if not (hide_usage and info.has_usage and info.choices == 0) then put(s, data) end
      end
    end
    if not ok then
      why = fault
      break
    end
    if opened and not buffer then
      open_gate(s)
      if not send(s) then
        transport.close(conn)
        return door.report(attempt, "client_gone", now())
      end
    elseif s.n > 3 * 4096 and buffer and parser.total and parser.total > MAX_BUFFER then
      buffer = nil                        -- too much to hold back: from here on it is an ordinary stream
    end
    if inst.min_tokens_per_second and inst.min_tokens_per_second > 0 and opened and not s.finish_at then
      local at = now()
      if at - window_at >= RATE_WINDOW_S then
        if (s.content - window_content) / (at - window_at) < inst.min_tokens_per_second then
          why = "drip"
          break
        end
        window_at, window_content = at, s.content
      end
    end
    ended = ended or (s.finish_at and now() - s.finish_at > FINISH_GRACE_S)
  end

  local at = now()
  -- ---- whole?
  if not mid_error and (s.done or s.finish_at) and opened then
    open_gate(s)
    put(s, "[DONE]")
    door.report(attempt, "ok", at)
    local sent = send(s)
    ngx.eof()
    if not sent then return transport.close(conn) end
    if call.keep and s.resumable then
      door.keep(attempt, answers.from_stream(cjson.decode(s.head) or {}, concat(s.text_content), concat(s.text_reasoning), s.finish_reason or "stop"))
    end
    -- let the connection live: its last chunk is on the way
    if s.done then
      local rest, end_why = transport.read(conn, now() + 0.5)
      if not rest and not end_why then return transport.keep(conn) end
    end
    return transport.close(conn)
  end

  -- ---- not whole: name it
  transport.close(conn)
  local outcome
  if mid_error then
    outcome = outcomes.of_error(200, mid_error)
    if outcome == "empty" then outcome = "server_error" end
  elseif attempt.clients_deadline and at >= attempt.deadline then
    outcome = "client_gone"
  elseif why == "timeout" then
    outcome = opened and "stalled" or "timeout_first_token"
  elseif why == "drip" then
    outcome = "stalled"
  elseif why == nil and (s.done or s.finish_at or s.content == 0) and not opened then
    outcome = "empty"
  else
    outcome = opened and "truncated" or "bad_gateway"
  end
  if not s.committed then
    attempt.latency_s = nil
    if mid_error and not outcomes.RETRYABLE[outcome] and (outcome ~= "context_length" or call.last) then
      return door.pass_on(attempt, outcome, 400, nil, mid_error)
    end
    return door.fail(attempt, outcome, why and tostring(why) or mid_error)
  end
  door.report(attempt, outcome, at)
  if s.resumable and outcome ~= "client_gone" then
    return require("evenkeel.resume").continue(attempt, s, outcome, M)
  end
  M.break_off(s, outcome)
end

M._send, M._put = send, put

return M
