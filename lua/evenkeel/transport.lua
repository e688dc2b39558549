-- Connections to providers: connect, TLS with verification, keep-alive, one request, its answer head. Nothing here retries what a provider
-- may have begun to work on; the one exception is a kept connection that turns out to be closed before a single byte came back.

local clock = require "evenkeel.clock"
local hosts = require "evenkeel.hosts"
local http_reader = require "evenkeel.http_reader"

local ngx = ngx
local now, max = clock.now, math.max
local concat = table.concat
local find = string.find

local M = {}

local KEEP_S, KEEP_CONNECTIONS = 55, 512
local SEND_S = 30

--- The door of an instance as something to connect to: how resumes and recovery probes reach it.
function M.door(inst)
  return { door_only = true, door = inst.door, connect_s = 2, request_headers = " HTTP/1.1\r\nHost: adapter\r\n" }
end

local function connect(inst, fresh)
  local sock, why = ngx.socket.tcp()
  if not sock then return nil, why end
  sock:settimeouts(inst.connect_s * 1000, SEND_S * 1000, inst.connect_s * 1000)
  local ok
  if inst.door_only then
    ok, why = sock:connect(inst.door, { pool = inst.door, pool_size = KEEP_CONNECTIONS })
  else
    -- a pool that nothing is ever given back to (see keep) makes sure that a fresh connection is one
    local pool = fresh and inst.pool_key .. "|fresh" or inst.pool_key
    local address
    address, why = hosts.resolve(inst.host, inst.any_target)
    if address then ok, why = sock:connect(address, inst.port, { pool = pool, pool_size = KEEP_CONNECTIONS }) end
  end
  if not ok then return nil, "connect: " .. why end
  local reused = sock:getreusedtimes() > 0
  if inst.secure and not reused then
    if inst.tls_verify and not inst.tls_name then
      sock:close()
      return nil, "TLS: no name to verify the certificate by (set tls.server_name)"
    end
    -- a certificate that fails in a handshake that ends without a wait makes resty.core raise (`assert(rc == FFI_OK)`); with `false` for
    -- the session it would not even look at it
    local whole
    whole, ok, why = pcall(sock.sslhandshake, sock, nil, inst.tls_name, inst.tls_verify)
    if not whole then ok, why = nil, "the certificate does not hold" end
    if not ok then
      sock:close()
      return nil, "TLS: " .. tostring(why)
    end
  end
  return sock, reused
end

local function remaining_ms(deadline)
  return max(1, (deadline - now()) * 1000)
end

-- A provider that drips its answer byte by byte gets no more time than one that sends it whole.
local function until_deadline(reader)
  reader.sock:settimeout(remaining_ms(reader.deadline))
end

local function head_of(inst, method, path, length, attempt)
  local id = attempt.request_id
  local lines = { method, " ", path, inst.request_headers }
  if length then lines[#lines + 1] = "Content-Type: application/json\r\nContent-Length: " .. length .. "\r\n" end
  if id and not find(id, "[^%w%-_.:]") then lines[#lines + 1] = "X-Request-Id: " .. id .. "\r\n" end
  if attempt.headers then lines[#lines + 1] = attempt.headers end
  lines[#lines + 1] = "\r\n"
  return concat(lines)
end

--- Send one request and read the head of its answer.
--- @param pieces the body as a list of strings, `length` its total (nil: no body)
--- @param attempt `first_deadline` bounds the wait for the head; `request_id`, `headers` (ready text) go along
--- @return conn {sock, body}, head; or nil, nil, outcome, words
function M.request(inst, method, path, pieces, length, attempt)
  local request_head = head_of(inst, method, path, length, attempt)
  for try = 1, 2 do
    local sock, reused = connect(inst, try == 2)
    if not sock then return nil, nil, "bad_gateway", reused end
    local ok, why
    if pieces then
      ok, why = sock:send { request_head, pieces }
    else
      ok, why = sock:send(request_head)
    end
    local head, head_why
    if ok or why == "closed" or why == "broken pipe" then      -- an early answer may be there although the body was refused
      local conn = { sock = sock, reader = http_reader.new(sock, method, until_deadline), once = try == 2 }
      conn.reader.deadline = attempt.first_deadline
      head, head_why = conn.reader:read_head()
      if head then return conn, head end
    end
    sock:close()
    why = head_why or why
    local dead = reused and try == 1 and (why == "closed" or why == "broken pipe" or why == "connection reset by peer")
    if not dead then
      if why == "timeout" then return nil, nil, "timeout_first_token", "no answer within the first-token budget" end
      return nil, nil, "bad_gateway", tostring(why)
    end
  end
end

--- The next piece of the body, as it arrives. @return bytes | nil at the end | nil, why ("timeout", "truncated", …)
function M.read(conn, deadline)
  conn.reader.deadline = deadline
  return conn.reader:read()
end

--- The same without making a string of it. @return text, from, to | nil at the end | nil, why
function M.read_range(conn, deadline)
  conn.reader.deadline = deadline
  return conn.reader:read_range()
end

--- The whole body. @return text | nil, why ("timeout" | "too large" | "truncated" | …), how many bytes came
function M.read_all(conn, limit, deadline)
  local first, why = M.read(conn, deadline)
  if not first then
    if why then
      M.close(conn)
      return nil, why, 0
    end
    M.keep(conn)
    return ""
  end
  local parts, n, size = { first }, 1, #first
  while true do
    if size > limit then
      M.close(conn)
      return nil, "too large", size
    end
    if now() > deadline then          -- there may always be more that needs no waiting for
      M.close(conn)
      return nil, "timeout", size
    end
    local piece
    piece, why = M.read(conn, deadline)
    if not piece then break end
    n = n + 1
    parts[n] = piece
    size = size + #piece
  end
  if why then
    M.close(conn)
    return nil, why, size
  end
  M.keep(conn)
  return n == 1 and first or concat(parts)
end

--- Give the connection back for the next request if it may be used again.
function M.keep(conn)
  if conn.gone then return end
  conn.gone = true
  if not conn.once and conn.reader:reusable() then
    conn.sock:setkeepalive(KEEP_S * 1000)
  else
    conn.sock:close()
  end
end

function M.close(conn)
  if conn.gone then return end
  conn.gone = true
  conn.reader:close()
  conn.sock:close()
end

return M
