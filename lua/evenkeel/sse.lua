-- Reads a text/event-stream as it arrives, however it is cut.
--
-- Promises: the event-stream grammar of the HTML standard (line ends \n, \r\n and \r, a byte order mark, comments, several data lines), cut
-- between any two bytes; an event above max_event_bytes is an error; one that arrives whole costs one string, its data.
--
--   new(max_event_bytes = 1 MiB) -> parser
--   parser:feed(chunk) -> true | nil, message        after an error the parser says the same for ever
--   parser:next() -> data | nil | nil, message       the data of the next event; nil: feed more. parser.event is its type (nil: none
--                                                    given), parser.id the last event id, parser.retry_ms the last retry given
--   parser:finish() -> data | nil                    at the end of the stream: the event that lacks its blank line, or nil. (The standard
--                                                    drops it; providers that close early leave a whole answer there.)
--   classify, choice, decode_string                  of chat_chunk

local chat_chunk = require("evenkeel.chat_chunk")

local find, sub, byte, concat, tonumber = string.find, string.sub, string.byte, table.concat, tonumber

local LF, CR, SPACE, COLON, D = 10, 13, 32, 58, 100
local NEVER = math.huge
local DEFAULT_MAX_EVENT_BYTES = 1048576
local BYTE_ORDER_MARK = "\239\187\191"
local TOO_LARGE = "could not read the stream: an event is too large"

local M = { classify = chat_chunk.classify, choice = chat_chunk.choice, decode_string = chat_chunk.decode_string }

local Parser = {}
Parser.__index = Parser

function M.new(max_event_bytes)
  return setmetatable({
    max_event_bytes = max_event_bytes or DEFAULT_MAX_EVENT_BYTES,
    chunk = "", at = 1,                            -- what is being read, from where
    lf_at = 0, cr_at = 0,                          -- where the next line ends are in it, once looked for
    skip_lf = false,                               -- did the last line end in a \r that a \n may still belong to?
    begun = false,                                 -- has the first line been read?
    torn = {}, torn_count = 0, torn_bytes = 0,     -- pieces of a line, from earlier chunks
    lines = {}, line_count = 0, line_bytes = 0,    -- data lines of the event so far
    next_event = nil,                              -- type of the event so far
    event = nil, id = nil, retry_ms = nil, words = nil,
  }, Parser)
end

local function fail(self)
  self.words = TOO_LARGE
  self.chunk, self.torn, self.lines = "", {}, {}
  return nil, TOO_LARGE
end

function Parser:feed(chunk)
  if self.words then return nil, self.words end
  if self.at <= #self.chunk then -- not drained by next()
    chunk = sub(self.chunk, self.at) .. chunk
  end
  self.chunk, self.at, self.lf_at, self.cr_at = chunk, 1, 0, 0
  return true
end

local function add_data(self, line)
  local count = self.line_count + 1
  self.lines[count] = line
  self.line_count, self.line_bytes = count, self.line_bytes + #line + 1
end

-- The field in text[s..e], a line without its end.
local function read_field(self, text, s, e)
  if byte(text, s) == D and sub(text, s, s + 4) == "data:" and e >= s + 4 then
    s = s + 5
    if byte(text, s) == SPACE and s <= e then s = s + 1 end
    return add_data(self, sub(text, s, e))
  end
  local colon = find(text, ":", s, true)
  if not colon or colon > e then colon = e + 1 end
  local name, value_s = sub(text, s, colon - 1), colon + 1
  if byte(text, value_s) == SPACE then value_s = value_s + 1 end
  local value = sub(text, value_s, e)
  if name == "data" then -- without a colon
    add_data(self, "")
  elseif name == "event" then
    self.next_event = value ~= "" and value or nil
  elseif name == "id" then
    if not find(value, "\0", 1, true) then self.id = value end
  elseif name == "retry" then
    if find(value, "^%d+$") then self.retry_ms = tonumber(value) end
  end
end

-- The event so far, if it has data.
local function dispatch(self)
  local count, lines, event = self.line_count, self.lines, self.next_event
  self.next_event = nil
  if count == 0 then return nil end
  self.event = event
  local data = lines[1]
  if count > 1 then data = concat(lines, "\n", 1, count) end
  for i = 1, count do lines[i] = nil end
  self.line_count, self.line_bytes = 0, 0
  return data
end

-- Reads one line; data if it ended an event. The line is text[s..e].
local function read_line(self, text, s, e)
  if not self.begun then
    self.begun = true
    if sub(text, s, s + 2) == BYTE_ORDER_MARK and s + 2 <= e then s = s + 3 end
  end
  if s > e then return dispatch(self) end
  if byte(text, s) ~= COLON then read_field(self, text, s, e) end
end

-- The line whose last piece is text[s..e].
local function mend(self, text, s, e)
  local count, torn = self.torn_count + 1, self.torn
  torn[count] = sub(text, s, e)
  local line = concat(torn, "", 1, count)
  for i = 1, count do torn[i] = nil end
  self.torn_count, self.torn_bytes = 0, 0
  return line
end

-- Where does the line at `at` end? NEVER: not in this chunk. Each byte is looked at once for each kind of end.
local function line_end(self, chunk, at)
  local lf_at, cr_at = self.lf_at, self.cr_at
  if lf_at < at then
    lf_at = find(chunk, "\n", at, true) or NEVER
    self.lf_at = lf_at
  end
  if cr_at < at then
    cr_at = find(chunk, "\r", at, true) or NEVER
    self.cr_at = cr_at
  end
  return lf_at < cr_at and lf_at or cr_at
end

function Parser:next()
  if self.words then return nil, self.words end
  local chunk, at = self.chunk, self.at
  while true do
    if self.skip_lf and at <= #chunk then
      self.skip_lf = false
      if byte(chunk, at) == LF then at = at + 1 end
    end
    local last = line_end(self, chunk, at)
    if last == NEVER then break end

    -- What nearly every event is: one line `data: …`, then an empty one, here.
    if self.cr_at == NEVER and byte(chunk, last + 1) == LF and self.line_count == 0 and self.torn_count == 0 and self.begun
      and byte(chunk, at) == D and sub(chunk, at, at + 5) == "data: " and last - at <= self.max_event_bytes then
      self.at = last + 2
      self.event, self.next_event = self.next_event, nil
      return sub(chunk, at + 6, last - 1)
    end

    local data
    if self.torn_count == 0 then
      data = read_line(self, chunk, at, last - 1)
    else
      local line = mend(self, chunk, at, last - 1)
      data = read_line(self, line, 1, #line)
    end
    if self.line_bytes > self.max_event_bytes then return fail(self) end
    if byte(chunk, last) == CR then self.skip_lf = true end
    at = last + 1
    if data then
      self.at = at
      return data
    end
  end

  local left = #chunk - at + 1
  self.chunk, self.at = "", 1
  if left > 0 then
    self.torn_count, self.torn_bytes = self.torn_count + 1, self.torn_bytes + left
    self.torn[self.torn_count] = sub(chunk, at)
    if self.torn_bytes + self.line_bytes > self.max_event_bytes then return fail(self) end
  end
  return nil
end

function Parser:finish()
  if self.words then return nil end
  if self.torn_count > 0 then
    local line = mend(self, "", 1, 0)
    read_line(self, line, 1, #line)
  end
  return dispatch(self)
end

return M
