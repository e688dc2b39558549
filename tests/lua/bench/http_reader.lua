-- What reading an answer costs, in µs: luajit tests/lua/bench/http_reader.lua
package.path = "lua/?.lua;tests/lua/?.lua;" .. package.path
local http_reader = require("evenkeel.http_reader")

local head = table.concat({ "HTTP/1.1 200 OK", "Date: Wed, 01 Jan 2025 00:00:00 GMT", "Content-Type: text/event-stream; charset=utf-8",
  "Transfer-Encoding: chunked", "Connection: keep-alive", "Vary: origin, access-control-request-method, access-control-request-headers",
  "Access-Control-Allow-Credentials: true", "X-Ds-Trace-Id: 1f3f6c1c8b0a4a3a9d7d3f3f8f5a6b7c",
  "Strict-Transport-Security: max-age=31536000",
  "X-Content-Type-Options: nosniff", "Cache-Control: no-cache", "Server: elb", "\r\n" }, "\r\n")
local event = "data: " .. ("x"):rep(250) .. "\n\n"
local chunk = ("%x\r\n%s\r\n"):format(#event, event)
local gathered = chunk:rep(16)

local sock = {}
function sock:receiveany()
  self.next = self.next + 1
  return self.pieces[self.next]
end

local function best_of(rounds, run)
  local best = math.huge
  for _ = 1, 5 do
    local from = os.clock()
    for _ = 1, rounds do run() end
    best = math.min(best, (os.clock() - from) / rounds)
  end
  return best * 1e6
end

local function read(pieces, reads)
  sock.pieces, sock.next = pieces, 0
  local reader = http_reader.new(sock)
  assert(reader:read_head())
  for _ = 1, reads do assert(reader:read()) end
end

local one_each, many_each = { head }, { head }
for i = 1, 160 do one_each[i + 1] = chunk end
for i = 1, 10 do many_each[i + 1] = gathered end
local only_head = best_of(20000, function() read({ head }, 0) end)
print(string.format("a head of 12 lines, %d bytes      %6.2f µs", #head, only_head))
print(string.format("a chunk, one a receive            %6.2f µs", (best_of(500, function() read(one_each, 160) end) - only_head) / 160))
print(string.format("a chunk, sixteen a receive        %6.2f µs", (best_of(500, function() read(many_each, 160) end) - only_head) / 160))
