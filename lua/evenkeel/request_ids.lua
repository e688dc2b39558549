-- Ids of requests whose clients bring none: 128 bits as 32 hex digits. nginx's own $request_id asks OpenSSL each time, which takes two
-- microseconds and a system call; an id has to be unique, not unguessable. So the kernel gives each worker one random state, and from
-- there goes xoshiro128++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators").

local bit = require "bit"

local bxor, lshift, rol, tobit, tohex = bit.bxor, bit.lshift, bit.rol, bit.tobit, bit.tohex
local byte = string.byte

local M = {}

local s0, s1, s2, s3

local function next_word()
  local word = tobit(rol(tobit(s0 + s3), 7) + s0)
  local t = lshift(s1, 9)
  s2, s3 = bxor(s2, s0), bxor(s3, s1)
  s1, s0 = bxor(s1, s2), bxor(s0, s3)
  s2, s3 = bxor(s2, t), rol(s3, 11)
  return word
end

local function word_of(seed, at)
  local a, b, c, d = byte(seed, at, at + 3)
  return tobit(a + b * 2 ^ 8 + c * 2 ^ 16 + d * 2 ^ 24)
end

--- @param seed 16 random bytes, not all zero
function M.use(seed)
  s0, s1, s2, s3 = word_of(seed, 1), word_of(seed, 5), word_of(seed, 9), word_of(seed, 13)
end

--- Begin with the kernel's random numbers. Called once in each worker: two with the same state would give the same ids.
function M.start()
  local file = assert(io.open("/dev/urandom", "rb"))
  M.use(file:read(16))
  file:close()
end

function M.new()
  return tohex(next_word()) .. tohex(next_word()) .. tohex(next_word()) .. tohex(next_word())
end

return M
