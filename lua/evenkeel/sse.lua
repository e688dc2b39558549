-- Reads a text/event-stream as it arrives, however it is cut.
--
-- Promises: the event-stream grammar of the HTML standard (line ends \n, \r\n and \r, a byte order mark, comments, several data lines), cut
-- between any two bytes; an event above max_event_bytes is an error; each byte is copied once, and no string is made of an event unless
-- it is asked for.
--
--   new(max_event_bytes = 1 MiB) -> parser
--   parser:feed(text, from = 1, to = #text) -> true | nil, message        after an error the parser says the same for ever
--   parser:next() -> data | nil | nil, message       the data of the next event; nil: feed more. parser.event is its type (nil: none
--                                                    given), parser.id the last event id, parser.retry_ms the last retry given
--   parser:finish() -> data | nil                    at the end of the stream: the event that lacks its blank line, or nil. (The standard
--                                                    drops it; providers that close early leave a whole answer there.)
--   parser:next_bytes(), parser:finish_bytes()       the same, but they give pointer, length instead of data (or nil, message); a zero
--                                                    byte follows. Valid until the next call of whatever function of the parser.
--   classify, choice, decode_string                  of chat_chunk
--
-- Why no strings: LuaJIT's hash of a string of 128 bytes and more covers its first half and its last eight bytes. The chunks of a stream
-- have all of these in common, so each would be compared with all the others that are not collected yet: 25 µs a string, measured.

local ffi = require("ffi")
local chat_chunk = require("evenkeel.chat_chunk")

local find, sub, byte, tonumber, max = string.find, string.sub, string.byte, tonumber, math.max
local cast, copy, ffi_string = ffi.cast, ffi.copy, ffi.string

pcall(ffi.cdef, "void *memchr(const void *, int, size_t);")
pcall(ffi.cdef, "void *memmove(void *, const void *, size_t);")
local C = ffi.C
local buffer_t, bytes_t = ffi.typeof("uint8_t[?]"), ffi.typeof("const uint8_t *")

local LF, CR, SPACE, COLON, D, A, T = 10, 13, 32, 58, 100, 97, 116
local DEFAULT_MAX_EVENT_BYTES = 1048576
local FIRST_BYTES, MOST_KEPT_BYTES = 1024, 65536
local SLACK_BYTES = 8                              -- room behind the text for the zero that ends it
local TOO_LARGE = "could not read the stream: an event is too large"

local M = { classify = chat_chunk.classify, choice = chat_chunk.choice, decode_string = chat_chunk.decode_string }

local Parser = {}
Parser.__index = Parser

function M.new(max_event_bytes)
  return setmetatable({
    max_event_bytes = max_event_bytes or DEFAULT_MAX_EVENT_BYTES,
    buffer = buffer_t(FIRST_BYTES), size = FIRST_BYTES,
    at = 0, n = 0,                                 -- the text that is not read yet: buffer[at .. n - 1]
    lf_at = 0, cr_at = 0,                          -- no such line end stands between `at` and here
    skip_lf = false,                               -- did the last line end in a \r that a \n may still belong to?
    begun = false,                                 -- has the first line been read?
    lines = 0, data_from = 0, data_to = 0,         -- data lines of the event so far; joined they are buffer[data_from .. data_to - 1]
    next_event = nil,                              -- type of the event so far
    event = nil, id = nil, retry_ms = nil, words = nil,
  }, Parser)
end

local function fail(self)
  self.words = TOO_LARGE
  self.buffer, self.size, self.at, self.n, self.lines = buffer_t(FIRST_BYTES), FIRST_BYTES, 0, 0, 0
  return nil, TOO_LARGE
end

-- Moves what is still needed to the front, of a larger buffer if it must be.
local function make_room(self, more)
  local from = self.lines > 0 and self.data_from or self.at
  local kept = self.n - from
  local old, size = self.buffer, self.size
  if kept + more + SLACK_BYTES > size then
    size = max(2 * size, kept + more + SLACK_BYTES)
    self.buffer, self.size = buffer_t(size), size
  end
  C.memmove(self.buffer, old + from, kept)
  self.at, self.n, self.lf_at, self.cr_at = self.at - from, kept, max(self.lf_at - from, 0), max(self.cr_at - from, 0)
  self.data_from, self.data_to = self.data_from - from, self.data_to - from
end

function Parser:feed(text, from, to)
  if self.words then return nil, self.words end
  from = from or 1
  local length = (to or #text) - from + 1
  if self.n + length + SLACK_BYTES > self.size then make_room(self, length) end
  copy(self.buffer + self.n, cast(bytes_t, text) + from - 1, length)
  self.n = self.n + length
  return true
end

-- One more data line, buffer[from .. to - 1]. Behind the lines before it there is room: their ends and the names of their fields.
local function add_data(self, from, to)
  if self.lines == 0 then
    self.data_from, self.data_to = from, to
  else
    local b, last = self.buffer, self.data_to
    b[last] = LF
    C.memmove(b + last + 1, b + from, to - from)
    self.data_to = last + 1 + to - from
  end
  self.lines = self.lines + 1
end

-- Any field but the usual data.
local function read_field(self, from, to)
  local line = ffi_string(self.buffer + from, to - from)
  local colon = find(line, ":", 1, true) or #line + 1
  local name, value_s = sub(line, 1, colon - 1), colon + 1
  if byte(line, value_s) == SPACE then value_s = value_s + 1 end
  local value = sub(line, value_s)
  if name == "data" then -- without a colon
    add_data(self, to, to)
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
  local event = self.next_event
  self.next_event = nil
  if self.lines == 0 then return nil end
  self.event, self.lines = event, 0
  local b, from, to = self.buffer, self.data_from, self.data_to
  b[to] = 0
  return b + from, to - from
end

-- Reads the line buffer[from .. to - 1]; gives the data if it ended an event.
local function read_line(self, from, to)
  local b = self.buffer
  if not self.begun then
    self.begun = true
    if to - from >= 3 and b[from] == 0xef and b[from + 1] == 0xbb and b[from + 2] == 0xbf then from = from + 3 end
  end
  if from == to then return dispatch(self) end
  if to - from >= 5 and b[from] == D and b[from + 1] == A and b[from + 2] == T and b[from + 3] == A and b[from + 4] == COLON then
    from = from + 5
    if from < to and b[from] == SPACE then from = from + 1 end
    add_data(self, from, to)
  elseif b[from] ~= COLON then
    read_field(self, from, to)
  end
end

-- The offset of `what` in the buffer, at or after `from`; `to` when it is not there.
local function seek(b, what, from, to)
  if from >= to or b[from] == what then return from end
  local hit = C.memchr(b + from, what, to - from)
  if hit == nil then return to end
  return tonumber(cast(bytes_t, hit) - cast(bytes_t, b))
end

-- Where does the line at `at` end? n: not here. Each byte is looked at once for each kind of end.
local function line_end(self)
  local b, at = self.buffer, self.at
  local lf_at = seek(b, LF, max(self.lf_at, at), self.n)
  local cr_at = max(self.cr_at, at)
  if cr_at < lf_at then cr_at = seek(b, CR, cr_at, lf_at) end
  self.lf_at, self.cr_at = lf_at, cr_at
  return cr_at < lf_at and cr_at or lf_at
end

function Parser:next_bytes()
  if self.words then return nil, self.words end
  while true do
    if self.skip_lf and self.at < self.n then
      self.skip_lf = false
      if self.buffer[self.at] == LF then self.at = self.at + 1 end
    end
    local at, last = self.at, line_end(self)
    if last >= self.n then break end
    self.at = last + 1
    if self.buffer[last] == CR then self.skip_lf = true end
    local data, length = read_line(self, at, last)
    if data then return data, length end
    if self.lines > 0 and self.data_to - self.data_from > self.max_event_bytes then return fail(self) end
  end

  local left, held = self.n - self.at, self.lines > 0 and self.data_to - self.data_from or 0
  if left + held > self.max_event_bytes then return fail(self) end
  if left == 0 and self.lines == 0 then
    self.at, self.n, self.lf_at, self.cr_at = 0, 0, 0, 0
    if self.size > MOST_KEPT_BYTES then self.buffer, self.size = buffer_t(FIRST_BYTES), FIRST_BYTES end
  end
  return nil
end

function Parser:finish_bytes()
  if self.words then return nil end
  local at, n = self.at, self.n
  self.at = n
  if at < n then read_line(self, at, n) end
  return dispatch(self)
end

function Parser:next()
  local data, length = self:next_bytes()
  if data then return ffi_string(data, length) end
  return nil, length
end

function Parser:finish()
  local data, length = self:finish_bytes()
  return data and ffi_string(data, length)
end

return M
