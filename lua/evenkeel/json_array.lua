-- An array of objects in a JSON text, element by element, none decoded.
--
--   cut(text, name) -> rest, list       list: the texts of the elements of the array that is the member `name` of the object `text`;
--                                       rest: the same object with that array empty. list is nil when there is no such array
--                   -> nil, words       its elements cannot be told apart
--   find(p, n, name) -> offset behind the bracket that opens that array in the n bytes at p; nil: there is none
--   string_end(p, i, n), value_of(p, i, ends, n, name), why_not(i, n, name, count)      for those who walk such an array themselves

local ffi = require "ffi"
local bit = require "bit"

local band = bit.band
local cast = ffi.cast
local sub, tonumber = string.sub, tonumber

pcall(ffi.cdef, "void *memchr(const void *, int, size_t);")
pcall(ffi.cdef, "int memcmp(const void *, const void *, size_t);")
local C = ffi.C
local bytes_t = ffi.typeof "const uint8_t *"

local QUOTE, BACKSLASH, COLON, COMMA, OPEN_BRACE, CLOSE_BRACE, OPEN, CLOSE = 34, 92, 58, 44, 123, 125, 91, 93

local M = {}

-- Offset of the quote that ends the string whose first quote is at i; n: it does not end.
local function string_end(p, i, n)
  while true do
    local hit = C.memchr(p + i + 1, QUOTE, n - i - 1)
    if hit == nil then return n end
    i = tonumber(cast(bytes_t, hit) - p)
    local k = i - 1
    while p[k] == BACKSLASH do k = k - 1 end
    if band(i - k, 1) == 1 then return i end
  end
end
M.string_end = string_end

local function past_space(p, i, n)
  while i < n and (p[i] == 32 or (p[i] <= 13 and p[i] >= 9)) do i = i + 1 end
  return i
end

-- The value of a member whose key is p[i .. ends] with its quotes, if the key is `name`: its offset. nil: another key, or no key at all.
local function value_of(p, i, ends, n, name)
  if ends - i - 1 ~= #name or C.memcmp(p + i + 1, name, #name) ~= 0 then return nil end
  local at = past_space(p, ends + 1, n)
  if p[at] ~= COLON then return nil end
  return past_space(p, at + 1, n)
end
M.value_of = value_of

function M.find(p, n, name)
  local i, depth = 0, 0
  while i < n do
    local c = p[i]
    if c == QUOTE then
      local ends = string_end(p, i, n)
      local value = depth == 1 and value_of(p, i, ends, n, name)
      if value and p[value] == OPEN then return value + 1 end
      i = ends
    elseif c == OPEN_BRACE or c == OPEN then
      depth = depth + 1
    elseif c == CLOSE_BRACE or c == CLOSE then
      depth = depth - 1
    end
    i = i + 1
  end
end

-- What is wrong with an array whose walk stopped at i, behind `count` whole elements.
local function why_not(i, n, name, count)
  if i >= n then return "not JSON: the text ends among its " .. name end
  return name .. "[" .. count .. "]: an object is needed"
end
M.why_not = why_not

function M.cut(text, name)
  local p, n = cast(bytes_t, text), #text
  local from = M.find(p, n, name)
  if not from then return text end
  local list, depth, begins, i = {}, 0, 0, from
  while i < n do
    local c = p[i]
    if c == QUOTE then
      if depth == 0 then break end
      i = string_end(p, i, n)
    elseif c == OPEN_BRACE or c == OPEN then
      if depth == 0 then
        if c == OPEN then break end
        begins = i
      end
      depth = depth + 1
    elseif c == CLOSE_BRACE or c == CLOSE then
      if depth == 0 then
        if c == CLOSE_BRACE then break end
        return sub(text, 1, from) .. sub(text, i + 1), list
      end
      depth = depth - 1
      if depth == 0 then list[#list + 1] = sub(text, begins + 1, i + 1) end
    elseif depth == 0 and c > 32 and c ~= COMMA then
      break
    end
    i = i + 1
  end
  return nil, why_not(i, n, name, #list)
end

return M
