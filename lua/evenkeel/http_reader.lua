-- Reads one HTTP/1.x answer from a socket: its head, then its body as it arrives.
--
-- Promises: bytes are given on when they are there, never held back to fill a buffer; a body that ends early is never taken for a whole
-- one; what is ambiguous (two lengths, a length and chunks, folded lines) is refused; heads, chunk extensions and trailers are bounded;
-- gzip and deflate are undone.
--
--   new(sock, method, before) -> reader  sock: receiveany(max) as a cosocket's; method (GET when nil): a HEAD answer has no body;
--                                        before(reader), if given, is called before each wait for bytes, e.g. to set its timeout
--   reader:read_head() -> head | nil, message
--     head.status (never 1xx), head.version (1.0 | 1.1), head.headers {lower-case name = value; repeated ones joined by ", "},
--     head.framing "chunked" | "length" | "close" | "none", head.length (nil but for "length"), head.keepalive.
--     Of an encoding that is undone, content-encoding and content-length are no longer in the headers.
--     The message is "timeout", the socket's own ("closed", …) when not one byte has come, "truncated" when some have, or what is
--     wrong with the head.
--   reader:read() -> bytes | nil | nil, message       nil: the body is whole. "timeout" (read may be called again), "truncated"
--                                                     (closed too early), the socket's own words, or what is wrong with it
--   reader.in_slices = true                           for bodies that come in small pieces, much the same each (see sse: why no strings):
--                                                    they are read by SLICE_BYTES. One that brings more at once is read at once.
--   reader:reusable() -> may the connection be kept for another request?
--   reader:close()                                    frees what undoes the encoding, when a body is not read to its end

local inflate = require("evenkeel.inflate")

local find, sub, byte, match, lower, tonumber = string.find, string.sub, string.byte, string.match, string.lower, tonumber
local min = math.min

local READ_BYTES = 65536
local SLICE_BYTES, MOST_SLICES = 127, 4
local MAX_HEAD_BYTES, MAX_LINE_BYTES, MAX_HEADERS = 65536, 16384, 100
local MAX_CHUNK_LINE_BYTES, MAX_CHUNK_EXTRA_BYTES = 4096, 65536
local MAX_LENGTH_DIGITS = 15 -- below 2^53

local Reader = {}
Reader.__index = Reader

local M = {}

function M.new(sock, method, before)
  return setmetatable({
    sock = sock, method = method, before = before,
    buffer = "", at = 1,         -- what has come and is not given on yet, from where
    seen_bytes = 0,              -- of the head
    state = "head",              -- then size, data, data_end, trailer (chunked) | length | close | done
    left = 0,                    -- bytes of the body or chunk to come
    extra_bytes = 0, extra_lines = 0, -- chunk extensions and trailers so far
    keepalive = false, inflate = nil, words = nil,
    in_slices = false, slices = 0, -- full ones in a row
  }, Reader)
end

-- The reader is of no more use.
local function fail(self, words)
  self.words, self.keepalive, self.buffer, self.at = words, false, "", 1
  if self.inflate then self.inflate:close() end
  return nil, words
end

local function bad(self, what)
  return fail(self, "could not read the answer: " .. what)
end

local function receive_some(self)
  if not self.in_slices then return self.sock:receiveany(READ_BYTES) end
  local slices = self.slices
  local bytes, words = self.sock:receiveany(slices < MOST_SLICES and SLICE_BYTES or READ_BYTES)
  self.slices = bytes and #bytes == SLICE_BYTES and slices < MOST_SLICES and slices + 1 or 0
  return bytes, words
end

-- Waits for more bytes and puts them behind those that are there.
local function receive(self)
  if self.before then self.before(self) end
  local bytes, words = receive_some(self)
  if not bytes then return nil, words end
  local buffer, at = self.buffer, self.at
  self.buffer = at > #buffer and bytes or sub(buffer, at) .. bytes
  self.at = 1
  return true
end

-- The offset of the \n of the line that begins at self.at.
local function line_end(self, max_bytes, what)
  local from = self.at
  while true do
    local last = find(self.buffer, "\n", from, true)
    if last then
      if last - self.at > max_bytes then return bad(self, what .. " is too long") end
      return last
    end
    local waiting = #self.buffer - self.at + 1
    if waiting > max_bytes then return bad(self, what .. " is too long") end
    local ok, words = receive(self)
    if not ok then return nil, words end
    from = waiting + 1
  end
end

-- Goes on to the offset `to`, past a line of the head.
local function pass_line(self, to)
  self.seen_bytes, self.at = self.seen_bytes + to - self.at, to
  if self.seen_bytes > MAX_HEAD_BYTES then return bad(self, "the head is too large") end
  return true
end

local function read_status_line(self)
  local last, words = line_end(self, MAX_LINE_BYTES, "the status line")
  if not last then return nil, words end
  local version, status, rest = match(self.buffer, "^HTTP/1%.([01]) ([1-9]%d%d)([^%z\r\n]*)\r?\n", self.at)
  if not version or (rest ~= "" and byte(rest) ~= 32) then return bad(self, "bad status line") end
  local ok, too_large = pass_line(self, last + 1)
  if not ok then return nil, too_large end
  return version == "1" and 1.1 or 1.0, tonumber(status)
end

-- Nearly every header, and every header there may be.
local USUAL_HEADER = "^([%w-]+): ?(%C*)\r\n()"
local ANY_HEADER = "^([%w!#$%%&'*+%-.^_`|~]+):[ \t]*([^%z\1-\8\10-\31\127]*)\r?\n()"

-- One header, or true, true at the empty line that ends them.
local function read_header(self)
  local name, value, after = match(self.buffer, USUAL_HEADER, self.at)
  if not name then
    local last, words = line_end(self, MAX_LINE_BYTES, "a header")
    if not last then return nil, words end
    local first = byte(self.buffer, self.at)
    if first == 10 or (first == 13 and last == self.at + 1) then
      local ok, too_large = pass_line(self, last + 1)
      return ok, too_large or true
    end
    if first == 32 or first == 9 then return bad(self, "a folded header") end
    name, value, after = match(self.buffer, ANY_HEADER, self.at)
    if not name then return bad(self, "bad header") end
  end
  if after - self.at > MAX_LINE_BYTES then return bad(self, "a header is too long") end
  local ok, too_large = pass_line(self, after)
  if not ok then return nil, too_large end
  local first, last = byte(value), byte(value, -1)
  if first == 32 or first == 9 or last == 32 or last == 9 then value = match(value, "^[ \t]*(.-)[ \t]*$") end
  return lower(name), value
end

local function read_headers(self)
  local headers, count = {}, 0
  while true do
    local name, value = read_header(self)
    if not name then return nil, value end
    if name == true then return headers end
    count = count + 1
    if count > MAX_HEADERS then return bad(self, "too many headers") end
    local before = headers[name]
    if not before then
      headers[name] = value
    elseif name ~= "content-length" then
      headers[name] = before .. ", " .. value
    elseif value ~= before then
      return bad(self, "two content-lengths")
    end
  end
end

local function has_token(list, token)
  return list and find("," .. lower(list):gsub("[ \t]", "") .. ",", "," .. token .. ",", 1, true) ~= nil
end

-- How does the body end (RFC 9112, 6.3)?
local function find_framing(self, head)
  local headers, status = head.headers, head.status
  local coding, length = headers["transfer-encoding"], headers["content-length"]
  if coding and length then return bad(self, "both content-length and transfer-encoding") end
  if length then
    if not find(length, "^%d+$") or #length > MAX_LENGTH_DIGITS then return bad(self, "bad content-length") end
    length = tonumber(length)
  end
  if coding and (lower(coding) ~= "chunked" or head.version < 1.1) then return bad(self, "transfer-encoding " .. coding) end
  if self.method == "HEAD" or status == 204 or status == 304 then
    head.framing = "none"
  elseif coding then
    head.framing = "chunked"
  elseif length then
    head.framing, head.length = "length", length
  else
    head.framing = "close"
  end
  return true
end

local states = { none = "done", chunked = "size", length = "length", close = "close" }

function Reader:read_head()
  if self.words then return nil, self.words end
  local head
  repeat -- until it is not an interim answer
    local version, status = read_status_line(self)
    local headers, words
    if version then
      headers, words = read_headers(self)
    else
      words = status
    end
    if not headers then
      if self.words then return nil, words end
      local some_came = self.seen_bytes > 0 or self.at <= #self.buffer
      return fail(self, words ~= "timeout" and some_came and "truncated" or words)
    end
    if status == 101 then return bad(self, "it switches protocols") end
    head = { status = status, version = version, headers = headers, framing = nil, length = nil, keepalive = false }
  until status >= 200

  local ok, words = find_framing(self, head)
  if not ok then return nil, words end
  local headers, connection = head.headers, head.headers["connection"]
  if head.framing ~= "close" then
    if head.version >= 1.1 then
      head.keepalive = not connection or not has_token(connection, "close")
    else
      head.keepalive = has_token(connection, "keep-alive") == true
    end
  end
  self.keepalive, self.state, self.left = head.keepalive, states[head.framing], head.length or 0
  if self.state == "length" and self.left == 0 then self.state = "done" end

  local encoding = headers["content-encoding"]
  if encoding and self.state ~= "done" then
    encoding = lower(encoding)
    if encoding ~= "identity" and encoding ~= "" then
      self.inflate, words = inflate.new(encoding)
      if not self.inflate then return fail(self, words) end
      headers["content-encoding"], headers["content-length"] = nil, nil
    end
  end
  return head
end

-- Up to `most` bytes that are there, or have just come: buffer[from .. to].
local function take(self, most)
  if self.at > #self.buffer then
    if self.before then self.before(self) end
    local bytes, words = receive_some(self)
    if not bytes then return nil, words end
    self.buffer, self.at = bytes, 1
  end
  local from = self.at
  local to = min(#self.buffer, from + most - 1)
  self.at = to + 1
  return from, to
end

-- The line of a chunk's size: the size.
local function read_size(self)
  local last, words = line_end(self, MAX_CHUNK_LINE_BYTES, "the line of a chunk's size")
  if not last then return nil, words end
  local digits, extension = match(self.buffer, "^(%x+)[ \t]*([^%z\r\n]*)\r?\n", self.at)
  if not digits or (extension ~= "" and byte(extension) ~= 59) then return bad(self, "bad chunk size") end
  if #digits > 12 and tonumber(sub(digits, 1, -13), 16) ~= 0 then return bad(self, "bad chunk size") end
  self.extra_bytes = self.extra_bytes + #extension
  if self.extra_bytes > MAX_CHUNK_EXTRA_BYTES then return bad(self, "the chunk extensions are too large") end
  self.at = last + 1
  return tonumber(digits, 16)
end

local function read_chunked(self)
  while true do
    local state = self.state
    if state == "data" then
      local from, to = take(self, self.left)
      if not from then return nil, to end
      self.left = self.left - (to - from + 1)
      if self.left == 0 then
        self.state = "data_end"
        if byte(self.buffer, to + 1) == 13 and byte(self.buffer, to + 2) == 10 then self.at, self.state = to + 3, "size" end
      end
      return from, to
    elseif state == "data_end" then
      local last, words = line_end(self, 2, "the end of a chunk")
      if not last then return nil, words end
      if last > self.at and not (last == self.at + 1 and byte(self.buffer, self.at) == 13) then return bad(self, "a chunk is too long") end
      self.at, self.state = last + 1, "size"
    elseif state == "size" then
      local size, words = read_size(self)
      if not size then return nil, words end
      self.left, self.state = size, size > 0 and "data" or "trailer"
    else -- trailer: read and forgotten
      local last, words = line_end(self, MAX_LINE_BYTES, "a trailer")
      if not last then return nil, words end
      local line_bytes = last - self.at + 1
      self.extra_bytes, self.extra_lines = self.extra_bytes + line_bytes, self.extra_lines + 1
      if self.extra_bytes > MAX_CHUNK_EXTRA_BYTES or self.extra_lines > MAX_HEADERS then return bad(self, "the trailers are too large") end
      local empty = line_bytes == 1 or (line_bytes == 2 and byte(self.buffer, self.at) == 13)
      self.at = last + 1
      if empty then
        self.state = "done"
        return nil
      end
    end
  end
end

local function read_raw(self)
  local state = self.state
  if state == "done" then return nil end
  if state == "length" then
    local from, to = take(self, self.left)
    if not from then return nil, to end
    self.left = self.left - (to - from + 1)
    if self.left == 0 then self.state = "done" end
    return from, to
  end
  if state ~= "close" then return read_chunked(self) end
  local from, to = take(self, READ_BYTES)
  if from then return from, to end
  if to ~= "closed" then return nil, to end
  self.state = "done"
  return nil
end

local function whole_or_sub(text, from, to)
  if from == 1 and to == #text then return text end
  return sub(text, from, to)
end

-- What an encoded body says next.
local function read_encoded(self)
  local encoded = self.inflate
  while true do
    local text, words = encoded:next()
    if text then return text, 1, #text end
    if words then return fail(self, "could not read the answer: " .. words) end
    local from, to = read_raw(self)
    if from then
      encoded:feed(whole_or_sub(self.buffer, from, to))
    elseif to then
      return nil, to
    else
      if not encoded.ended and encoded.bytes_in > 0 then return nil, "closed" end
      encoded:close()
      return nil
    end
  end
end

function Reader:read_range()
  if self.words then return nil, self.words end
  local text, from, to
  if self.inflate then
    text, from, to = read_encoded(self)
    if text then return text, from, to end
  else
    from, to = read_raw(self)
    if from then return self.buffer, from, to end
    from = to
  end
  local words = from
  if words == "timeout" or not words or self.words then return nil, words end
  return fail(self, words == "closed" and "truncated" or words)
end

function Reader:read()
  local text, from, to = self:read_range()
  if not text then return nil, from end
  return whole_or_sub(text, from, to)
end

function Reader:ready()
  local at, last, state = self.at, #self.buffer, self.state
  if at > last or self.words then return false end
  if state == "data" or state == "length" or state == "close" then return true end
  if state ~= "size" or byte(self.buffer, at) == 48 then return false end     -- 0: the last one, and the end behind it may be cut
  local line_last = find(self.buffer, "\n", at, true)
  return line_last ~= nil and line_last < last
end

function Reader:reusable()
  return self.state == "done" and self.keepalive and self.at > #self.buffer and not self.words
end

function Reader:close()
  if self.inflate then self.inflate:close() end
end

return M
