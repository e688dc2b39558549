-- JSON strings, both ways.
--
--   decode_string(text, s, e) -> the text of the JSON string text[s..e], quotes included, which json_walk has accepted;
--                                half of a surrogate pair becomes U+FFFD. text: a string, or a pointer to its first byte
--   encode_string(text) -> `text` (UTF-8) as a JSON string, quotes included
--   has_escape(p, from, to) -> is there a backslash in these bytes? (p: const uint8_t *, offsets from 0)
--   hex4(p, i) -> the number that four hex digits make, or one below 0
--   escapes[byte]                what a backslash and this byte stand for, or 0

local ffi = require("ffi")
local bit = require("bit")

local band, bor, rshift, lshift = bit.band, bit.bor, bit.rshift, bit.lshift
local cast, ffi_string = ffi.cast, ffi.string
local byte, find, gsub, char, format = string.byte, string.find, string.gsub, string.char, string.format

pcall(ffi.cdef, "void *memchr(const void *, int, size_t);")
local C = ffi.C

local bytes_t = ffi.typeof("const uint8_t *")
local SCRATCH_BYTES, MOST_KEPT_BYTES = 4096, 1048576

local hex = ffi.new("int16_t[256]")
local escapes = ffi.new("uint8_t[256]")
for i = 0, 255 do hex[i] = tonumber(char(i), 16) or -1 end
for from, to in pairs({ ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }) do
  escapes[byte(from)] = byte(to)
end

local M = { escapes = escapes }

local function has_escape(p, from, to)
  return C.memchr(p + from, 92, to - from) ~= nil
end
M.has_escape = has_escape

local function hex4(p, i)
  return bor(lshift(hex[p[i]], 12), lshift(hex[p[i + 1]], 8), lshift(hex[p[i + 2]], 4), hex[p[i + 3]])
end
M.hex4 = hex4

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

local scratch, scratch_bytes = ffi.new("uint8_t[?]", SCRATCH_BYTES), SCRATCH_BYTES

local function unescape(p, i, to)
  if to - i > scratch_bytes then
    scratch_bytes = (to - i) * 2
    scratch = ffi.new("uint8_t[?]", scratch_bytes)
  end
  local out, o = scratch, 0
  while i < to do
    local c = p[i]
    if c ~= 92 then
      out[o] = c
      o, i = o + 1, i + 1
    elseif p[i + 1] ~= 117 then
      out[o] = escapes[p[i + 1]]
      o, i = o + 1, i + 2
    else
      local code = hex4(p, i + 2)
      i = i + 6
      if code >= 0xd800 and code <= 0xdfff then
        local low = code <= 0xdbff and i + 6 <= to and p[i] == 92 and p[i + 1] == 117 and hex4(p, i + 2) or 0
        if low >= 0xdc00 and low <= 0xdfff then
          code = 0x10000 + lshift(code - 0xd800, 10) + (low - 0xdc00)
          i = i + 6
        else
          code = 0xfffd
        end
      end
      o = put_utf8(out, o, code)
    end
  end
  local text = ffi_string(out, o)
  if scratch_bytes > MOST_KEPT_BYTES then
    scratch, scratch_bytes = ffi.new("uint8_t[?]", SCRATCH_BYTES), SCRATCH_BYTES
  end
  return text
end

function M.decode_string(text, s, e)
  local p = cast(bytes_t, text)
  if has_escape(p, s, e - 1) then return unescape(p, s, e - 1) end
  return ffi_string(p + s, e - s - 1)
end

local encoded = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f" }
for i = 0, 31 do encoded[char(i)] = encoded[char(i)] or format("\\u%04x", i) end

function M.encode_string(text)
  if find(text, '[%z\1-\31"\\]') then text = gsub(text, '[%z\1-\31"\\]', encoded) end
  return '"' .. text .. '"'
end

return M
