-- The byte-level JSON machinery that json_scan (requests) and chat_chunk (answers) walk with.
--
-- Promises: validates as it goes (RFC 8259 grammar, UTF-8), never recurses, never allocates per value, and compiles under
-- the JIT. Text inside strings is tested eight bytes at a time.
--
-- Positions here are 0-based offsets into `p`, a `const uint8_t *` of a Lua string of length `n` (so p[n] is readable and 0).
-- Every skip_* returns the offset after what it skipped, or nil, words, offset. Ranges given to decode_string are
-- 1-based and include the quotes, as in string.sub.

local ffi = require("ffi")
local bit = require("bit")

local band, bor, bxor, rshift, lshift = bit.band, bit.bor, bit.bxor, bit.rshift, bit.lshift
local cast, ffi_string = ffi.cast, ffi.string
local sub, byte, find, gsub, format = string.sub, string.byte, string.find, string.gsub, string.format
local tonumber = tonumber

assert(ffi.abi("le"), "evenkeel.json_text needs a little-endian machine")
pcall(ffi.cdef, "void *memchr(const void *, int, size_t);")
pcall(ffi.cdef, "int memcmp(const void *, const void *, size_t);")
local C = ffi.C

local bytes_t = ffi.typeof("const uint8_t *")
local word_t = ffi.typeof("const uint64_t *")

local MAX_DEPTH = 1024
local M = {}

-- The offset of the last \u escape that is half a surrogate pair, or -1. Grammatical, hence no fault here; the caller resets and judges.
local lone_surrogate = ffi.new("int32_t[1]", -1)
M.lone_surrogate = lone_surrogate

local is_object = ffi.new("uint8_t[?]", MAX_DEPTH + 1) -- the containers open inside skip_value, 1 = object

local hex = ffi.new("int16_t[256]")
local escaped = ffi.new("uint8_t[256]") -- what \x stands for; 0 = no such escape
for i = 0, 255 do hex[i] = -1 end
for i = 0, 9 do hex[48 + i] = i end
for i = 10, 15 do hex[87 + i], hex[55 + i] = i, i end
for from, to in pairs({ ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }) do
  escaped[byte(from)] = byte(to)
end

function M.pointer(text)
  return cast(bytes_t, text)
end

local function skip_space(p, i)
  local c = p[i]
  while c == 32 or c == 10 or c == 13 or c == 9 do
    i = i + 1
    c = p[i]
  end
  return i
end
M.skip_space = skip_space

local ONES, HIGHS = 0x0101010101010101ULL, 0x8080808080808080ULL
local SPACES, QUOTES, BACKSLASHES = 0x2020202020202020ULL, 0x2222222222222222ULL, 0x5c5c5c5c5c5c5c5cULL
local BYTE_OF_BIT = 0x0020406080a0c0e0ULL

-- The offset of the first byte that is a quote, a backslash, a control or not ASCII. In each byte of `hits` the high bit says so;
-- borrows can only spoil bytes after the first hit, and the multiplication turns the lowest hit's bit into its byte number.
local function skip_plain(p, i, n)
  for at = i, n - 8, 8 do
    local w = cast(word_t, p + at)[0]
    local hits = band(bor(w, w - SPACES, bxor(w, QUOTES) - ONES, bxor(w, BACKSLASHES) - ONES), HIGHS)
    if hits ~= 0ULL then
      return at + tonumber(rshift(rshift(band(hits, -hits), 7) * BYTE_OF_BIT, 61))
    end
    i = at + 8
  end
  local c = p[i]
  while c >= 32 and c < 128 and c ~= 34 and c ~= 92 do
    i = i + 1
    c = p[i]
  end
  return i
end

local function hex4(p, i)
  return bor(lshift(hex[p[i]], 12), lshift(hex[p[i + 1]], 8), lshift(hex[p[i + 2]], 4), hex[p[i + 3]]) -- < 0: not hex
end

local function skip_escape(p, i, n)
  local c = p[i + 1]
  if c ~= 117 then
    if escaped[c] == 0 or i + 1 >= n then return nil, "not an escape", i end
    return i + 2
  end
  if i + 6 > n then return nil, "the text ends inside a string", n end
  local unit = hex4(p, i + 2)
  if unit < 0 then return nil, "\\u needs four hex digits", i end
  if unit >= 0xd800 and unit <= 0xdfff then
    if unit <= 0xdbff and i + 12 <= n and p[i + 6] == 92 and p[i + 7] == 117 then
      local low = hex4(p, i + 8)
      if low >= 0xdc00 and low <= 0xdfff then return i + 12 end
    end
    lone_surrogate[0] = i
  end
  return i + 6
end

-- Skips a run of non-ASCII characters (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
local function skip_utf8(p, i)
  local c = p[i]
  repeat
    if c >= 0xe1 and c <= 0xec and band(p[i + 1], 0xc0) == 0x80 and band(p[i + 2], 0xc0) == 0x80 then -- most of Asia
      i = i + 3
    else
      local d = p[i + 1]
      if c < 0xc2 or c > 0xf4 or band(d, 0xc0) ~= 0x80 then return nil, "not UTF-8", i end
      if c < 0xe0 then
        i = i + 2
      else
        if band(p[i + 2], 0xc0) ~= 0x80 then return nil, "not UTF-8", i end
        if c < 0xf0 then
          if (c == 0xe0 and d < 0xa0) or (c == 0xed and d > 0x9f) then return nil, "not UTF-8", i end
          i = i + 3
        else
          if band(p[i + 3], 0xc0) ~= 0x80 or (c == 0xf0 and d < 0x90) or (c == 0xf4 and d > 0x8f) then
            return nil, "not UTF-8", i
          end
          i = i + 4
        end
      end
    end
    c = p[i]
  until c < 128
  return i
end

-- `i` is the offset after the opening quote.
local function skip_string(p, i, n)
  while true do
    i = skip_plain(p, i, n)
    local c = p[i]
    if c == 34 then return i + 1 end
    local words, at
    if c == 92 then
      i, words, at = skip_escape(p, i, n)
    elseif c >= 128 then
      i, words, at = skip_utf8(p, i)
    elseif i >= n then
      return nil, "the text ends inside a string", n
    else
      return nil, "a control character inside a string", i
    end
    if not i then return nil, words, at end
  end
end
M.skip_string = skip_string

local function skip_digits(p, i)
  local c = p[i]
  while c >= 48 and c <= 57 do
    i = i + 1
    c = p[i]
  end
  return i
end

local function skip_number(p, i)
  local start = i
  if p[i] == 45 then i = i + 1 end
  local c = p[i]
  if c == 48 then
    i = i + 1
  elseif c >= 49 and c <= 57 then
    i = skip_digits(p, i + 1)
  else
    return nil, "not a JSON value", start
  end
  if p[i] == 46 then
    c = p[i + 1]
    if c < 48 or c > 57 then return nil, "not a number", start end
    i = skip_digits(p, i + 2)
  end
  c = p[i]
  if c == 101 or c == 69 then
    i = i + 1
    c = p[i]
    if c == 43 or c == 45 then
      i = i + 1
      c = p[i]
    end
    if c < 48 or c > 57 then return nil, "not a number", start end
    i = skip_digits(p, i + 1)
  end
  return i
end

local function skip_scalar(p, i, n)
  local c = p[i]
  if c == 34 then return skip_string(p, i + 1, n) end
  if c == 110 then
    if p[i + 1] == 117 and p[i + 2] == 108 and p[i + 3] == 108 then return i + 4 end
  elseif c == 116 then
    if p[i + 1] == 114 and p[i + 2] == 117 and p[i + 3] == 101 then return i + 4 end
  elseif c == 102 then
    if p[i + 1] == 97 and p[i + 2] == 108 and p[i + 3] == 115 and p[i + 4] == 101 then return i + 5 end
  elseif i < n then
    return skip_number(p, i)
  else
    return nil, "the text ends early", n
  end
  return nil, "not a JSON value", i
end

local function expected(what, i, n)
  if i >= n then return nil, "the text ends early", n end
  return nil, what .. " expected", i
end
M.expected = expected

-- From the offset of a member's opening quote to: the offset after the key, the offset of its value.
local function skip_key(p, i, n)
  if p[i] ~= 34 then return expected("a key", i, n) end
  local key_end, words, at = skip_string(p, i + 1, n)
  if not key_end then return nil, words, at end
  i = key_end
  if p[i] <= 32 then i = skip_space(p, i) end
  if p[i] ~= 58 then return expected("':'", i, n) end
  i = i + 1
  if p[i] <= 32 then i = skip_space(p, i) end
  return key_end, i
end
M.skip_key = skip_key

-- Any value; `depth` containers (1024 at most) may be open in it at once.
local function skip_value(p, i, n, depth)
  local open = 0
  local words, at
  while true do
    -- Here a value begins.
    local c = p[i]
    local closed = true -- is the value complete?
    if c == 123 or c == 91 then
      open = open + 1
      if open > depth or open > MAX_DEPTH then return nil, "nested too deep", i end
      is_object[open] = rshift(c, 5) - 2 -- '[' is 0x5b, '{' is 0x7b
      i = i + 1
      if p[i] <= 32 then i = skip_space(p, i) end
      if p[i] == c + 2 then
        open = open - 1
        i = i + 1
      else
        closed = false
      end
    else
      i, words, at = skip_scalar(p, i, n)
      if not i then return nil, words, at end
    end
    if closed then
      while true do
        if open == 0 then return i end
        if p[i] <= 32 then i = skip_space(p, i) end
        c = p[i]
        if c == 44 then
          i = i + 1
          if p[i] <= 32 then i = skip_space(p, i) end
          break
        end
        if c ~= 93 + 32 * is_object[open] then
          return expected(is_object[open] == 1 and "',' or '}'" or "',' or ']'", i, n)
        end
        open = open - 1
        i = i + 1
      end
    end
    if is_object[open] == 1 then
      i, words, at = skip_key(p, i, n)
      if not i then return nil, words, at end
      i = words
    end
  end
end
M.skip_value = skip_value

-- Is the text of p[from, to) exactly `word`?
function M.equals(p, from, to, word)
  return to - from == #word and C.memcmp(p + from, word, #word) == 0
end

-- Is there a backslash in p[from, to)?
local function has_escape(p, from, to)
  return C.memchr(p + from, 92, to - from) ~= nil
end
M.has_escape = has_escape

local buffer, buffer_size = ffi.new("uint8_t[?]", 4096), 4096

local function put_utf8(out, o, code)
  if code < 0x80 then
    out[o] = code
    return o + 1
  elseif code < 0x800 then
    out[o] = bor(0xc0, rshift(code, 6))
    out[o + 1] = bor(0x80, band(code, 0x3f))
    return o + 2
  elseif code < 0x10000 then
    out[o] = bor(0xe0, rshift(code, 12))
    out[o + 1] = bor(0x80, band(rshift(code, 6), 0x3f))
    out[o + 2] = bor(0x80, band(code, 0x3f))
    return o + 3
  end
  out[o] = bor(0xf0, rshift(code, 18))
  out[o + 1] = bor(0x80, band(rshift(code, 12), 0x3f))
  out[o + 2] = bor(0x80, band(rshift(code, 6), 0x3f))
  out[o + 3] = bor(0x80, band(code, 0x3f))
  return o + 4
end

local function unescape(p, i, n)
  if n - i > buffer_size then
    buffer_size = (n - i) * 2
    buffer = ffi.new("uint8_t[?]", buffer_size)
  end
  local out, o = buffer, 0
  while i < n do
    local c = p[i]
    if c ~= 92 then
      out[o] = c
      o, i = o + 1, i + 1
    elseif p[i + 1] ~= 117 then
      out[o] = escaped[p[i + 1]]
      o, i = o + 1, i + 2
    else
      local code = hex4(p, i + 2)
      i = i + 6
      if code >= 0xd800 and code <= 0xdfff then
        local low = code <= 0xdbff and i + 6 <= n and p[i] == 92 and p[i + 1] == 117 and hex4(p, i + 2) or 0
        if low >= 0xdc00 and low <= 0xdfff then
          code = 0x10000 + lshift(code - 0xd800, 10) + (low - 0xdc00)
          i = i + 6
        else
          code = 0xfffd -- half a pair has no UTF-8
        end
      end
      o = put_utf8(out, o, code)
    end
  end
  local text = ffi_string(out, o)
  if buffer_size > 1048576 then
    buffer, buffer_size = ffi.new("uint8_t[?]", 4096), 4096
  end
  return text
end

-- The text of the string at text[s..e], quotes included, which a skip_* has accepted. Half a surrogate pair becomes U+FFFD.
function M.decode_string(text, s, e)
  local p = cast(bytes_t, text)
  if has_escape(p, s, e - 1) then return unescape(p, s, e - 1) end
  return sub(text, s + 1, e - 1)
end

local short = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f" }
for i = 0, 31 do
  local c = string.char(i)
  short[c] = short[c] or format("\\u%04x", i)
end

-- A Lua string (UTF-8) as a JSON string, quotes included.
function M.encode_string(text)
  if find(text, '[%z\1-\31"\\]') then text = gsub(text, '[%z\1-\31"\\]', short) end
  return '"' .. text .. '"'
end

return M
