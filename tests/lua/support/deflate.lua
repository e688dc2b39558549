-- Compresses, for tests: deflate(text, "gzip" | "zlib" | "raw").
local ffi = require("ffi")
require("evenkeel.inflate") -- declares the stream

ffi.cdef([[
int evenkeel_deflate_init(evenkeel_zlib_stream *, int level, int method, int window_bits, int memory, int strategy, const char *version,
  int size) __asm__("deflateInit2_");
int evenkeel_deflate(evenkeel_zlib_stream *, int flush) __asm__("deflate");
int evenkeel_deflate_end(evenkeel_zlib_stream *) __asm__("deflateEnd");
]])
local ok, zlib = pcall(ffi.load, "z")
if not ok then zlib = ffi.load("libz.so.1") end
local window_bits = { gzip = 31, zlib = 15, raw = -15 }

return function(text, kind)
  local z = ffi.new("evenkeel_zlib_stream")
  assert(zlib.evenkeel_deflate_init(z, 6, 8, window_bits[kind], 8, 0, zlib.evenkeel_zlib_version(), ffi.sizeof(z)) == 0)
  local room = #text + 1024
  local out = ffi.new("uint8_t[?]", room)
  z.next_in, z.avail_in, z.next_out, z.avail_out = ffi.cast("const uint8_t *", text), #text, out, room
  assert(zlib.evenkeel_deflate(z, 4) == 1)
  local packed = ffi.string(out, room - z.avail_out)
  zlib.evenkeel_deflate_end(z)
  return packed
end
