-- Who is calling: client keys are known to the node as SHA-256 only; the look-up is by digest, so its time says nothing about the key.

local ffi = require "ffi"
local C = ffi.C
local errors = require "evenkeel.errors"

ffi.cdef [[ unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md); ]]

local sub, find, lower, format = string.sub, string.find, string.lower, string.format
local time = ngx.time

local M = {}

local digest = ffi.new("unsigned char[32]")
local HEX = {}
for i = 0, 255 do HEX[i] = format("%02x", i) end

--- SHA-256 of a text as lower-case hex.
function M.sha256(text)
  C.SHA256(text, #text, digest)
  local t = {}
  for i = 0, 31 do t[i + 1] = HEX[digest[i]] end
  return table.concat(t)
end

-- key → its entry in this worker's snapshot: hashes once per key, not once per request
local MOST_KNOWN = 10000
local known, known_n, known_snapshot = {}, 0, nil

--- The key in a request's headers, or nil. `Authorization` goes first; one that is not for us hides what `api-key` says.
function M.key(authorization, api_key)
  local key = api_key
  if authorization then
    if lower(sub(authorization, 1, 7)) ~= "bearer " then return nil end
    local _, s = find(authorization, "^%s+", 7)
    key = sub(authorization, s + 1)
  end
  return key ~= "" and key or nil
end

local function refuse(code, message) return errors.send(401, code, message) end

--- The client of this request. Ends the request with 401 when it has none and must have one, or one that may not call any more.
--- @return client or nil (anonymous)
function M.identify(snapshot, var)
  if known_snapshot ~= snapshot or known_n >= MOST_KNOWN then known, known_n, known_snapshot = {}, 0, snapshot end
  if snapshot.clients.n == 0 and snapshot.anonymous then return nil end
  local authorization = var.http_authorization
  local key = M.key(authorization, not authorization and var.http_api_key or nil)
  local entry = key and known[key]
  if key and entry == nil then
    entry = #key <= 4096 and snapshot.clients:by_key(M.sha256(key)) or false
    if entry then known[key], known_n = entry, known_n + 1 end
  end
  if entry then
    local client = entry.client
    if client.enabled == false then return refuse("client_disabled", "This client is switched off.") end
    if entry.ends and time() >= entry.ends then return refuse("api_key_expired", "The API key has expired.") end
    return client
  end
  if snapshot.anonymous then return nil end
  return refuse("invalid_api_key", key and "The API key is not known here."
    or "An API key is needed: send it as 'Authorization: Bearer KEY' or 'api-key: KEY'.")
end

return M
