-- Undoes gzip and deflate as the bytes come, for providers that compress uninvited.
--
-- Promises: output comes in pieces of at most 64 KiB, and a bomb ends in an error: at most max_bytes in all, and beyond the first MiB
-- at most 200 times what came in. zlib is what nginx links; it is looked up when first needed.
--
--   new(encoding, max_bytes = 256 MiB) -> stream | nil, message      encoding: gzip, x-gzip, deflate (with or without zlib's header)
--   stream:feed(bytes)                                                once all before is drained
--   stream:next() -> text | nil | nil, message                       nil: feed more
--   stream.ended                                                      is it whole? (What follows the end is ignored.)
--   stream:close()                                                    frees zlib's memory now rather than at the next collection

local ffi = require("ffi")

local byte = string.byte

local PIECE_BYTES = 65536
local DEFAULT_MAX_BYTES = 268435456
local MAX_RATIO, RATIO_FREE_BYTES = 200, 1048576
local Z_SYNC_FLUSH, Z_OK, Z_STREAM_END, Z_BUF_ERROR = 2, 0, 1, -5
local GZIP_OR_ZLIB, RAW = 15 + 32, -15 -- window bits

local M = {}

-- Names of our own, so that another module's declarations of zlib do no harm.
ffi.cdef([[
typedef struct {
  const uint8_t *next_in;
  unsigned int avail_in;
  unsigned long total_in;
  uint8_t *next_out;
  unsigned int avail_out;
  unsigned long total_out;
  const char *msg;
  void *state, *zalloc, *zfree, *opaque;
  int data_type;
  unsigned long adler, reserved;
} evenkeel_zlib_stream;
int evenkeel_inflate_init(evenkeel_zlib_stream *, int window_bits, const char *version, int size) __asm__("inflateInit2_");
int evenkeel_inflate(evenkeel_zlib_stream *, int flush) __asm__("inflate");
int evenkeel_inflate_reset(evenkeel_zlib_stream *) __asm__("inflateReset");
int evenkeel_inflate_end(evenkeel_zlib_stream *) __asm__("inflateEnd");
const char *evenkeel_zlib_version(void) __asm__("zlibVersion");
]])

local zlib -- false: there is none
local out -- one for all: it is copied before anything else runs

local function find_zlib()
  local function works(library)
    return pcall(function() return library.evenkeel_zlib_version() end)
  end
  if works(ffi.C) then return ffi.C end
  for _, name in ipairs({ "z", "libz.so.1" }) do
    local ok, library = pcall(ffi.load, name)
    if ok and works(library) then return library end
  end
  return false
end

local Stream = {}
Stream.__index = Stream

function M.new(encoding, max_bytes)
  if encoding ~= "gzip" and encoding ~= "x-gzip" and encoding ~= "deflate" then
    return nil, "could not undo content-encoding " .. encoding
  end
  if zlib == nil then zlib = find_zlib() end
  if not zlib then return nil, "could not undo content-encoding " .. encoding .. ": there is no zlib" end
  return setmetatable({
    gzip = encoding ~= "deflate", max_bytes = max_bytes or DEFAULT_MAX_BYTES,
    input = "", at = 0, bytes_in = 0, bytes_out = 0, full = false, ended = false, z = nil, words = nil,
  }, Stream)
end

local function open(self)
  -- "deflate" should have zlib's header, but some send none.
  local first, second = byte(self.input, 1, 2)
  local bits = GZIP_OR_ZLIB
  if not self.gzip and not (first % 16 == 8 and second and (first * 256 + second) % 31 == 0) then bits = RAW end
  local z = ffi.new("evenkeel_zlib_stream")
  if zlib.evenkeel_inflate_init(z, bits, zlib.evenkeel_zlib_version(), ffi.sizeof(z)) ~= Z_OK then return nil end
  self.z = ffi.gc(z, zlib.evenkeel_inflate_end)
  out = out or ffi.new("uint8_t[?]", PIECE_BYTES)
  return z
end

function Stream:close()
  if self.z then zlib.evenkeel_inflate_end(ffi.gc(self.z, nil)) end
  self.z, self.input, self.at, self.full = nil, "", 0, false
end

local function fail(self, words)
  self.words = "could not inflate: " .. words
  self:close()
  return nil, self.words
end

function Stream:feed(bytes)
  -- a lone first byte does not tell which deflate it is
  if not self.z and self.input ~= "" then bytes = self.input .. bytes end
  self.bytes_in = self.bytes_in + #bytes
  self.input, self.at = bytes, 0
end

function Stream:next()
  if self.words then return nil, self.words end
  local input = self.input
  if self.at >= #input and not self.full then return nil end
  if self.ended then
    if not (self.gzip and self.z and byte(input, self.at + 1) == 0x1f) then return nil end
    self.ended = false -- gzip may be several members
    zlib.evenkeel_inflate_reset(self.z)
  end
  if not self.z and not self.gzip and #input < 2 then return nil end
  local z = self.z or open(self)
  if not z then return fail(self, "no memory") end

  z.next_in = ffi.cast("const uint8_t *", input) + self.at
  z.avail_in = #input - self.at
  z.next_out, z.avail_out = out, PIECE_BYTES
  local result = zlib.evenkeel_inflate(z, Z_SYNC_FLUSH)
  self.at, self.full = #input - z.avail_in, z.avail_out == 0
  local produced = PIECE_BYTES - z.avail_out
  self.bytes_out = self.bytes_out + produced
  if result == Z_STREAM_END then
    self.ended = true
  elseif result ~= Z_OK and result ~= Z_BUF_ERROR then
    return fail(self, "broken data")
  end
  if self.bytes_out > self.max_bytes
    or (self.bytes_out > RATIO_FREE_BYTES and self.bytes_out > MAX_RATIO * self.bytes_in) then
    return fail(self, "too large")
  end
  if produced == 0 then return self:next() end -- a member that is empty, or all was a header
  return ffi.string(out, produced)
end

return M
