-- The clients of a snapshot as the text they came in, each found by key or name and decoded when it calls: a hundred thousand of them cost
-- a worker their text and an index, and a new snapshot a walk over its bytes.
--
--   cut(raw, compile) -> text, list         raw: a snapshot; text: the same with no clients in it; list: nil when it has none
--                     -> nil, words         its clients cannot be told apart
--     compile(client) makes a decoded client ready; then none of its members is null
--   list.n                          how many there are
--   list:by_key(sha256) -> {client, ends (epoch seconds or nil)} | nil
--   list:by_name(name) -> client | nil
--   list:faults(breathe, checker) -> list of faults, at most 100. checker(fault) gives the check(path, client) of one, which calls
--                                    fault(path, what); breathe() is called now and then, for there may be many

local ffi = require "ffi"
local bit = require "bit"
local cjson = require "cjson.safe"
local json_array = require "evenkeel.json_array"
local json_text = require "evenkeel.json_text"

local string_end, value_of = json_array.string_end, json_array.value_of
local band, bor, bxor, lshift, tobit = bit.band, bit.bor, bit.bxor, bit.lshift, bit.tobit
local cast, copy, sizeof, ffi_string = ffi.cast, ffi.copy, ffi.sizeof, ffi.string
local hex4 = json_text.hex4
local sub, min, huge, ipairs = string.sub, math.min, math.huge, ipairs

ffi.cdef [[
  typedef struct { int32_t from, to, name_at, name_bytes; } evenkeel_client;
  typedef struct { int32_t at, client; } evenkeel_client_key;
]]
pcall(ffi.cdef, "int memcmp(const void *, const void *, size_t);")
local C = ffi.C

local bytes_t, ints = ffi.typeof "const uint8_t *", ffi.typeof "int32_t[?]"
local clients_t, keys_t = ffi.typeof "evenkeel_client[?]", ffi.typeof "evenkeel_client_key[?]"

local KEY_BYTES = 64                -- SHA-256 in hexadecimal digits
local MOST_DECODED = 10000          -- clients that a worker holds decoded
local MOST_FAULTS = 100
local AT_ONCE = 200                 -- clients that are checked before others get their turn
local QUOTE, COMMA, OPEN_BRACE, CLOSE_BRACE, OPEN, CLOSE = 34, 44, 123, 125, 91, 93

local M = {}

-- ------------------------------------------------------------------------------------------------------------------- text

-- An array of `size` cells, twice as large.
local function grown(array, kind, size, cell)
  local larger = kind(size * 2)
  copy(larger, array, size * cell)
  return larger, size * 2
end

-- Where the clients are, their names and keys. @return list, offset of the bracket that closes them; or nil, words
local function read(p, i, n)
  local clients, room, count = clients_t(16), 16, 0
  local keys, key_room, key_count = keys_t(16), 16, 0
  local depth, in_keys = 0, false
  while i < n do
    local c = p[i]
    if c == QUOTE then
      local ends = string_end(p, i, n)
      if depth == 1 then
        local value = value_of(p, i, ends, n, "name")
        if value and p[value] == QUOTE then
          ends = string_end(p, value, n)
          clients[count].name_at, clients[count].name_bytes = value + 1, ends - value - 1
        else
          value = value_of(p, i, ends, n, "keys")
          if value then in_keys = p[value] == OPEN end
        end
      elseif depth == 3 and in_keys then
        local value = value_of(p, i, ends, n, "sha256")
        if value and p[value] == QUOTE then
          ends = string_end(p, value, n)
          if ends - value - 1 == KEY_BYTES then
            if key_count == key_room then keys, key_room = grown(keys, keys_t, key_room, sizeof "evenkeel_client_key") end
            keys[key_count].at, keys[key_count].client = value + 1, count
            key_count = key_count + 1
          end
        end
      elseif depth == 0 then
        break
      end
      i = ends
    elseif c == OPEN_BRACE or c == OPEN then
      if depth == 0 then
        if c == OPEN then break end
        if count == room then clients, room = grown(clients, clients_t, room, sizeof "evenkeel_client") end
        clients[count].from, clients[count].name_bytes = i, 0
        in_keys = false
      end
      depth = depth + 1
    elseif c == CLOSE_BRACE or c == CLOSE then
      if depth == 0 then
        if c == CLOSE_BRACE then break end
        return { clients = clients, n = count, keys = keys, key_count = key_count }, i
      end
      depth = depth - 1
      if depth == 0 then
        clients[count].to = i
        count = count + 1
      elseif depth == 1 then
        in_keys = false
      end
    elseif depth == 0 and c > 32 and c ~= COMMA then
      break
    end
    i = i + 1
  end
  return nil, json_array.why_not(i, n, "clients", count)
end

-- ------------------------------------------------------------------------------------------------------------------ index

local function hash_of_key(p) return bor(lshift(hex4(p, 56), 16), band(hex4(p, 60), 0xffff)) end      -- its last digits

local function hash_of_name(p, n) -- FNV-1a, as far as it matters here
  local h = tobit(0x811c9dc5)
  for i = 0, n - 1 do h = tobit(bxor(h, p[i]) * 403 + lshift(h, 24)) end
  return h
end

-- Open addressing: slot → number + 1 of a client or key. Of two that are equal the later one counts.
local function new_slots(n)
  local size = 16
  while size < 2 * n do size = size * 2 end
  return ints(size), size - 1
end

local List = {}
List.__index = List

local function index(list)
  local p, clients, keys = list.p, list.clients, list.keys
  local by_name, name_mask = new_slots(list.n)
  for k = 0, list.n - 1 do
    local name, bytes = p + clients[k].name_at, clients[k].name_bytes
    local at = band(hash_of_name(name, bytes), name_mask)
    while by_name[at] ~= 0 do
      local other = clients[by_name[at] - 1]
      if other.name_bytes == bytes and C.memcmp(p + other.name_at, name, bytes) == 0 then break end
      at = band(at + 1, name_mask)
    end
    by_name[at] = k + 1
  end
  local by_key, key_mask = new_slots(list.key_count)
  for k = 0, list.key_count - 1 do
    local at = band(hash_of_key(p + keys[k].at), key_mask)
    while by_key[at] ~= 0 and C.memcmp(p + keys[by_key[at] - 1].at, p + keys[k].at, KEY_BYTES) ~= 0 do at = band(at + 1, key_mask) end
    by_key[at] = k + 1
  end
  list.names, list.name_mask, list.key_slots, list.key_mask = by_name, name_mask, by_key, key_mask
end

function M.cut(raw, compile)
  local p, n = cast(bytes_t, raw), #raw
  local from = json_array.find(p, n, "clients")
  if not from then return raw end
  local list, to = read(p, from, n)
  if not list then return nil, to end
  list.raw, list.p, list.compile = raw, p, compile
  list.decoded, list.decoded_n = {}, 0
  index(list)
  return sub(raw, 1, from) .. sub(raw, to + 1), setmetatable(list, List)
end

-- The text of a client, numbers from 0.
local function text_of(list, k)
  return sub(list.raw, list.clients[k].from + 1, list.clients[k].to + 1)
end

local function client_of(list, k)
  local client = list.decoded[k]
  if client then return client end
  client = cjson.decode(text_of(list, k))
  if not client then return nil end                -- it was checked when it came
  if list.decoded_n >= MOST_DECODED then list.decoded, list.decoded_n = {}, 0 end
  list.compile(client)
  list.decoded[k], list.decoded_n = client, list.decoded_n + 1
  return client
end

function List:by_name(name)
  local clients, p, mask = self.clients, self.p, self.name_mask
  local wanted = cast(bytes_t, name)
  local at = band(hash_of_name(wanted, #name), mask)
  while self.names[at] ~= 0 do
    local k = self.names[at] - 1
    if clients[k].name_bytes == #name and C.memcmp(p + clients[k].name_at, wanted, #name) == 0 then return client_of(self, k) end
    at = band(at + 1, mask)
  end
end

function List:by_key(sha256)
  local keys, p, mask = self.keys, self.p, self.key_mask
  if #sha256 ~= KEY_BYTES then return nil end
  local wanted = cast(bytes_t, sha256)
  local at = band(hash_of_key(wanted), mask)
  while self.key_slots[at] ~= 0 do
    local k = self.key_slots[at] - 1
    if C.memcmp(p + keys[k].at, wanted, KEY_BYTES) == 0 then
      local client = client_of(self, keys[k].client)
      for _, key in ipairs(client and client.keys or {}) do
        if key.sha256 == sha256 then
          local ends = min(key["until"] or huge, client.expires or huge)
          return { client = client, ends = ends < huge and ends or nil }
        end
      end
    end
    at = band(at + 1, mask)
  end
end

-- ------------------------------------------------------------------------------------------------------------------ check

function List:faults(breathe, checker)
  local faults, key = {}, 0
  local function fault(where, what)
    if #faults < MOST_FAULTS then faults[#faults + 1] = where .. ": " .. what end
  end
  local check = checker(fault)
  for k = 0, self.n - 1 do
    local where = "clients[" .. k .. "]"
    local client, why = cjson.decode(text_of(self, k))
    if client then
      local first, good = key, #faults
      check(where, client)
      while key < self.key_count and self.keys[key].client == k do key = key + 1 end
      local c = self.clients[k]
      -- what was found in the text is what it says: no member twice, none with escapes
      if #faults == good and client.name ~= ffi_string(self.p + c.name_at, c.name_bytes) then
        fault(where .. ".name", "it must stand there once, as it is")
      end
      if #faults == good and #client.keys ~= key - first then
        fault(where .. ".keys", "they must stand there once, as they are")
      end
    else
      fault(where, "not JSON: " .. why)
    end
    if k % AT_ONCE == AT_ONCE - 1 then breathe() end
  end
  return faults
end

return M
