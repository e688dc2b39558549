-- From a provider's answer to the client's: the gate before the first content token, and the relay after it.
--
-- Before the gate opens every failure is an HTTP failure (the edge asks somebody else). Behind it the answer is committed: a cut or
-- stalled stream is continued elsewhere (see resume) or ends with an in-band error event and without [DONE], never as a success.
-- Comments and blank lines are no progress: only content moves the idle clock.

local ffi = require "ffi"
local answers = require "evenkeel.answers"
local chat_chunk = require "evenkeel.chat_chunk"
local choices = require "evenkeel.choices"
local clock = require "evenkeel.clock"
local cjson = require "cjson.safe"
local meter = require "evenkeel.meter"
local outcomes = require "evenkeel.outcome"
local sse = require "evenkeel.sse"
local transport = require "evenkeel.transport"
local json_text = require "evenkeel.json_text"

local classify, said = chat_chunk.classify, chat_chunk.said
local decode_string, encode_string = json_text.decode_string, json_text.encode_string
local ngx = ngx
local now, print, flush = clock.now, ngx.print, ngx.flush
local min, max, sub, find, gsub, format = math.min, math.max, string.sub, string.find, string.gsub, string.format
local ffi_string, buffer_of = ffi.string, require("string.buffer").new

pcall(ffi.cdef, "void *memchr(const void *, int, size_t);")
pcall(ffi.cdef, "int memcmp(const void *, const void *, size_t);")
local C = ffi.C

local M = {}

local MAX_EVENT = 1024 * 1024 + 64 * 1024
local MAX_BUFFER = 16 * 1024 * 1024
local MAX_RESUME_TEXT = 4 * 1024 * 1024
local MAX_UNOPENED = 2 * 1024 * 1024  -- what may come before the first token; more than one event of the largest size
local FINISH_GRACE_S = 2            -- how long to wait for usage and [DONE] once the finish reason is there
local RATE_WINDOW_S = 10            -- over which min_tokens_per_second is judged
local SLICE, MOST_SLICED = 127, 4096  -- bytes of the strings that an event is sent in (see sse: why no strings), and up to which size

local EARLY_S = 0.02                -- how much before its time a timer may fire

--- Has the client's own deadline come? Then that is what ended an attempt, and no budget of the instance's.
function M.clients_time_is_up(attempt, at)
  return attempt.clients_deadline and at >= attempt.deadline - EARLY_S
end

-- ------------------------------------------------------------------------------------------------------------------ JSON

--- Is a JSON answer whole and worth giving to a client?
--- @param kind "chat" | "completions" | "embeddings", or nil for anything else
--- @return "ok" | "error" (it holds an error) | "empty" | "broken" (not JSON); and its usage as JSON, if it has one
function M.judge_json(body, kind)
  local says, info = classify(body)
  if says == "broken" or says == "error" then return says end
  local usage = info.has_usage and sub(body, info.usage_s, info.usage_e) or nil
  if says == "content" or not kind then return "ok", usage end
  -- cut off by max_tokens or by a filter before a word was said: that is an answer, too
  if info.finish_s then
    local reason = decode_string(body, info.finish_s, info.finish_e)
    if reason == "length" or reason == "content_filter" then return "ok", usage end
  end
  return "empty", usage
end

-- ---------------------------------------------------------------------------------------------------------------- stream

-- Keep what was delivered, for a continuation: content and reasoning apart, each as the inside of one JSON string.
local function remember(s, data, length, info)
  s.size = s.size + length
  if info.has_other or s.size > MAX_RESUME_TEXT then
    s.resumable = false
    s.said_content:free()
    s.said_reasoning:free()
    return
  end
  if info.content_s then s.said_content:putcdata(data + info.content_s, info.content_e - info.content_s - 1) end
  if info.reasoning_s then s.said_reasoning:putcdata(data + info.reasoning_s, info.reasoning_e - info.reasoning_s - 1) end
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
  -- several data lines make one event; in JSON a line end outside of strings is mere space
  if find(data, "\n", 1, true) then data = gsub(data, "\n", " ") end
  local out, n = s.out, s.n
  out[n + 1] = "data: "
  out[n + 2] = data
  out[n + 3] = "\n\n"
  s.n = n + 3
end

-- The same for `length` bytes.
local function put_bytes(s, data, length)
  if length > MOST_SLICED or C.memchr(data, 10, length) ~= nil then return put(s, ffi_string(data, length)) end
  local out, n = s.out, s.n + 1
  out[n] = "data: "
  for at = 0, length - 1, SLICE do
    n = n + 1
    out[n] = ffi_string(data + at, min(SLICE, length - at))
  end
  out[n + 1] = "\n\n"
  s.n = n + 1
end

--- The in-band end of an answer that could not be completed: an error event, no [DONE].
function M.break_off(s, outcome)
  put(s, '{"error":{"message":"The answer was interrupted and could not be continued (' .. outcome
    .. '). What arrived so far is incomplete.","type":"server_error","param":null,"code":"stream_' .. outcome .. '"}}')
  send(s)
end

--- The beginning of a chunk of our own, with the identity of the answer: everything up to (not including) its choices.
function M.chunk_head(s, kind)
  local of = s.identity_of
  return '{"id":' .. (of.id or '"evenkeel"')
    .. (kind == "chat" and ',"object":"chat.completion.chunk","created":' or ',"object":"text_completion","created":')
    .. (of.created or format("%d", ngx.time())) .. ',"model":' .. (of.model or '""')
end

-- One answer has one id, created and model: those of its first chunk that has choices or an id. (Azure sends one with neither before it,
-- of what it thinks of the prompt.) Usually every chunk begins with the same bytes, up to and including all three, and one comparison
-- settles it.
local IDENTITY = { "id", "created", "model" }

local function range(data, from, to) return ffi_string(data + from - 1, to - from + 1) end

-- Does this event carry another identity than the first one?
local function differs(s, data, length, info)
  local prefix = s.identity_prefix
  if not prefix then
    if info.choices == 0 and not (info.id_s and info.id_e > info.id_s + 1) then return false end
    prefix = ffi_string(data, max(info.id_e or 0, info.created_e or 0, info.model_e or 0))
    s.identity_prefix, s.identity_bytes = prefix, #prefix
    for _, member in ipairs(IDENTITY) do
      local from = info[member .. "_s"]
      if from then s.identity_of[member] = range(data, from, info[member .. "_e"]) end
    end
    return false
  end
  return length < s.identity_bytes or C.memcmp(data, prefix, s.identity_bytes) ~= 0
end

local function with_same_identity(s, data, info)
  local ranges = {}
  for _, member in ipairs(IDENTITY) do
    local from, to = info[member .. "_s"], info[member .. "_e"]
    local was = s.identity_of[member]
    if from and was and sub(data, from, to) ~= was then ranges[#ranges + 1] = { from, to, was } end
  end
  if #ranges == 0 then return data end
  table.sort(ranges, function(x, y) return x[1] > y[1] end)
  for _, r in ipairs(ranges) do data = sub(data, 1, r[1] - 1) .. r[3] .. sub(data, r[2] + 1) end
  return data
end

-- Send to a client that may read slowly: the time that it takes is none of the provider's. @return false when the client has left
local function send_in_its_time(s)
  local began = now()
  local ok = send(s)
  local waited_s = now() - began
  if waited_s > 0 then
    s.progress_at, s.window_at, s.held_up_s = s.progress_at + waited_s, s.window_at + waited_s, s.held_up_s + waited_s
    if s.finish_at then s.finish_at = s.finish_at + waited_s end
  end
  return ok
end

-- Is an attempt's whole time up, and would not be had its client read faster?
local function spent_on_client(s, attempt, at)
  local due = attempt.deadline - EARLY_S
  return at >= due and at - s.held_up_s < due
end

-- How many choices must come at least? A batch of prompts has n for each; one prompt may be a list of tokens.
local function least_choices(attempt)
  local n = max(1, attempt.call.n)
  if attempt.kind ~= "completions" then return n end
  local request = cjson.decode(attempt.body)
  local prompt = type(request) == "table" and request.prompt
  if type(prompt) ~= "table" or type(prompt[1]) == "number" then return n end
  return n * max(1, #prompt)
end

-- What an event says of the choices that it has. @return does it only finish again what had its finish?
local function note_choices(s, info)
  if info.choices == 1 then return choices.note(s.choices, info.index or 0, info.has_content, info.has_finish) and not info.has_content end
  local again = info.has_finish and not info.has_content
  for k = 1, info.choices do
    local index, speaks, finishes = said(k)
    if not choices.note(s.choices, index or 0, speaks, finishes) and finishes then again = false end
  end
  return again
end

-- Take one event of the stream, `length` bytes at `data`, into the record `s`. What the client may see of it goes to s.out.
local function take(s, attempt, data, length)
  local kind, info = classify(data, length)
  if kind == "done" then
    s.done, s.ended = true, true
    return
  elseif kind == "broken" then
    s.broken = s.broken + 1
    return
  elseif kind == "error" then
    s.error, s.ended = ffi_string(data, length), true
    return
  end
  if info.has_usage then s.usage = range(data, info.usage_s, info.usage_e) end
  if info.has_content then
    s.content = s.content + 1
    s.progress_at = now()
    if not s.opened then
      s.opened, s.head = true, ffi_string(data, length)
      attempt.latency_s = s.progress_at - attempt.started
    end
    if info.has_tool_calls then s.tool_calls = true end
    if s.resumable then remember(s, data, length, info) end
  end
  local again = info.choices > 0 and note_choices(s, info)
  if info.has_finish or s.finish_at then
    if not choices.finished(s.choices) then
      s.finish_at = nil
    elseif info.has_content or not s.finish_at then
      s.finish_at = now()
    end
  end
  if info.has_finish then
    if again then return end                    -- one finish per choice
    s.finish_reason = info.finish_s and decode_string(data, info.finish_s, info.finish_e) or s.finish_reason
    -- cut off by max_tokens or by a filter before a word was said: that is an answer, too
    if not s.opened and s.finish_reason ~= "stop" then s.opened, s.head = true, ffi_string(data, length) end
  end
  if s.hide_usage and info.has_usage and info.choices == 0 then return end
  if differs(s, data, length, info) then return put(s, with_same_identity(s, ffi_string(data, length), info)) end
  put_bytes(s, data, length)
end

-- A stream that keeps coming, but at a crawl.
local function drips(s, inst, at)
  local floor = inst.min_tokens_per_second
  if not floor or floor <= 0 or not s.opened or s.finish_at or at - s.window_at < RATE_WINDOW_S then return false end
  if (s.content - s.window_content) / (at - s.window_at) < floor then return true end
  s.window_at, s.window_content = at, s.content
  return false
end

--- Relay an SSE answer. @param door {fail, pass_on, report, keep, first_token, without_key, is_clients_model} of the adapter
function M.stream(attempt, conn, door)
  local inst, call = attempt.inst, attempt.call
  local parser = sse.new(MAX_EVENT)
  conn.reader.in_slices = true
  local buffer = call.buffer
  local s = {
    out = {}, n = 0, sent = 0, committed = false, ended = false, done = false,
    opened = false,                         -- the first content token has come (the gate is open unless everything is buffered)
    hide_usage = call.usage ~= 1 and not call.show_usage,
    resumable = call.resume and attempt.kind == "chat" and call.n == 1 and not buffer,
    said_content = buffer_of(), said_reasoning = buffer_of(), size = 0, bytes = 0, content = 0, broken = 0,
    choices = choices.new(least_choices(attempt)),
    finish_at = nil,                        -- when all of them had finished
    identity_of = {},
    progress_at = now(), window_at = now(), window_content = 0,
    held_up_s = 0,                          -- by the client
  }
  attempt.stream = s
  local why

  while not s.ended do
    local until_ = not s.opened and attempt.first_deadline
      or s.finish_at and min(s.finish_at + FINISH_GRACE_S, attempt.deadline)
      or min(s.progress_at + inst.idle_s, attempt.deadline)
    if now() > until_ then                  -- what comes without being progress buys no time
      why = "timeout"
      break
    end
    local text, from, to = transport.read_range(conn, until_)
    if not text then
      why = from
      break
    end
    s.bytes = s.bytes + to - from + 1
    local ok, fault = parser:feed(text, from, to)
    while ok and not s.ended do
      local data, length = parser:next_bytes()
      if not data then
        fault = length
        break
      end
      take(s, attempt, data, length)
    end
    if fault then
      why = fault
      break
    end
    if buffer and s.bytes > MAX_BUFFER then buffer = nil end          -- too much to hold back: an ordinary stream from here on
    if not (s.opened or s.ended or buffer) and s.bytes > MAX_UNOPENED then
      why = "too much before the first token"
      break
    end
    if s.opened and not s.told then
      s.told = true
      door.first_token(attempt)
    end
    if s.opened and not buffer then
      open_gate(s)
      if not conn.reader:ready() and not send_in_its_time(s) then
        transport.close(conn)
        return door.report(attempt, "client_gone", now())
      end
    end
    local at = now()
    if drips(s, inst, at) then
      why = "drip"
      break
    end
  end
  -- a last event without its blank line is an event all the same, if it is whole
  if not s.ended and why == nil then
    local rest, length = parser:finish_bytes()
    if rest then take(s, attempt, rest, length) end
  end

  local at = now()
  -- ---- whole?
  if not s.error and (s.done or s.finish_at) and s.opened then
    open_gate(s)
    if not s.finish_at and (attempt.kind == "chat" or attempt.kind == "completions") then
      local rest = (attempt.kind == "chat" and ',"delta":{}' or ',"text":""')
        .. ',"finish_reason":' .. encode_string(s.tool_calls and "tool_calls" or "stop") .. "}]}"
      for _, index in ipairs(choices.never_finished(s.choices)) do
        put(s, M.chunk_head(s, attempt.kind) .. format(',"choices":[{"index":%d', index) .. rest)
      end
    end
    put(s, "[DONE]")
    door.report(attempt, "ok", at)
    local sent = send(s)
    ngx.eof()
    if not sent then return transport.close(conn) end
    if call.keep and s.resumable then
      door.keep(attempt, answers.from_stream(cjson.decode(s.head) or {}, s.said_content:get(), s.said_reasoning:get(),
        s.finish_reason or "stop"))
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
  if s.error then
    s.error = door.without_key(inst, s.error)
    outcome = outcomes.of_error(200, s.error, door.is_clients_model(attempt))
    if outcome == "empty" then outcome = "server_error" end
  elseif M.clients_time_is_up(attempt, at) or (why == "timeout" and spent_on_client(s, attempt, at)) then
    outcome = "client_gone"
  elseif why == "timeout" then
    outcome = s.opened and "stalled" or "timeout_first_token"
  elseif why == "drip" then
    outcome = "stalled"
  elseif why == nil and (s.done or s.finish_at or s.content == 0) and not s.opened then
    outcome = "empty"
  else
    outcome = s.opened and "truncated" or "bad_gateway"
  end
  if not s.committed then
    attempt.latency_s = nil
    if s.error and not outcomes.RETRYABLE[outcome] and (outcome ~= "context_length" or call.last) then
      return door.pass_on(attempt, outcome, 400, nil, s.error)
    end
    return door.fail(attempt, outcome, why and tostring(why) or s.error)
  end
  door.report(attempt, outcome, at)
  if s.resumable and outcome ~= "client_gone" then
    return require("evenkeel.resume").continue(attempt, s, outcome, M)
  end
  meter.tell(call.ref, { outcome = outcome, cut = outcome, at = at })
  M.break_off(s, outcome)
end

M._send, M._put = send, put

return M
