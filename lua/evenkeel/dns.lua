-- Names to addresses by the machine's name servers. nginx resolves by itself and does not tell what it found; a provider's address has
-- to be judged before it is connected to, so it is asked for here.
--
-- An answer is kept by each worker for as long as it says (1 s to 30 s). A name that is in use is asked for again in the background; one
-- that nobody has used for a while, by whoever uses it next. Where no name server answers, what was known is used for an hour, and nobody
-- waits but the first one, who finds that out.
--
-- `query` and `parse` are pure; what a name server says is hostile input.

local bit = require "bit"
local clock = require "evenkeel.clock"

local M = {}

local A, AAAA, CNAME = 1, 28, 5
local IN = 1
local LEAST_S, MOST_S, STALE_S, FAILED_S = 1, 30, 3600, 1
local IN_USE_S = 10                    -- whose answer is over for no longer is in use
local TRIES, TRY_S, ALL_S = 2, 2, 5    -- of each name server, for each, for all
local MOST_NAMES = 10000
local MOST_ADDRESSES = 32

--- "10.0.0.2 [fd00::53] 127.0.0.1:5353" → {{host, port}, …}. Pure.
function M.servers(text)
  local list = {}
  for word in text:gmatch("%S+") do
    local host, port = word:match("^(%[[^%]]+%]):?(%d*)$")
    if not host then host, port = word:match("^([^:]+):?(%d*)$") end
    if host then list[#list + 1] = { host = host, port = tonumber(port) or 53 } end
  end
  return list
end

local function u16(n) return string.char(bit.rshift(n, 8), bit.band(n, 255)) end

--- One question. @return bytes | nil: this is no name
function M.query(id, name, kind)
  local labels = {}
  for label in (name:gsub("%.$", "") .. "."):gmatch("([^.]*)%.") do
    if #label == 0 or #label > 63 then return nil end
    labels[#labels + 1] = string.char(#label) .. label
  end
  local text = table.concat(labels) .. "\0"
  if #text > 255 or #labels == 0 then return nil end
  return u16(id) .. "\1\0\0\1\0\0\0\0\0\0" .. text .. u16(kind) .. u16(IN)      -- recursion desired, one question
end

local function number(text, at) return text:byte(at) * 256 + text:byte(at + 1) end

-- The place after a name; nil: it does not end inside the text.
local function skip_name(text, at)
  while true do
    local length = text:byte(at)
    if not length then return nil end
    if length == 0 then return at + 1 end
    if length >= 192 then return at + 2 end
    if length > 63 then return nil end
    at = at + 1 + length
  end
end

local function address(text, at, kind)
  if kind == A then return ("%d.%d.%d.%d"):format(text:byte(at, at + 3)) end
  local parts = {}
  for i = 0, 7 do parts[i + 1] = ("%x"):format(number(text, at + 2 * i)) end
  return "[" .. table.concat(parts, ":") .. "]"
end

--- The answer to a query. @return {addresses}, ttl_s (no address is an answer, too) | nil, why; why "truncated": ask by TCP
function M.parse(text, question, kind)
  if #text < 12 or text:sub(1, 2) ~= question:sub(1, 2) then return nil, "not an answer to this" end
  local flags = number(text, 3)
  if flags < 32768 or number(text, 5) ~= 1 or text:sub(13, #question):lower() ~= question:sub(13):lower() then
    return nil, "not an answer to this"
  end
  if bit.band(flags, 512) ~= 0 then return nil, "truncated" end
  local code = bit.band(flags, 15)
  if code == 3 then return {}, FAILED_S end
  if code ~= 0 then return nil, "the name server answers with code " .. code end
  local at, list, ttl_s = #question + 1, {}, MOST_S
  for _ = 1, number(text, 7) do
    at = skip_name(text, at)
    if not at or at + 9 > #text then return nil, "a broken answer" end
    local of, class, length = number(text, at), number(text, at + 2), number(text, at + 8)
    local age_s = number(text, at + 4) * 65536 + number(text, at + 6)
    at = at + 10
    if at + length - 1 > #text then return nil, "a broken answer" end
    if class == IN and (of == kind or of == CNAME) then
      ttl_s = math.min(ttl_s, age_s)
      if of == kind and #list < MOST_ADDRESSES then
        if length ~= (kind == A and 4 or 16) then return nil, "a broken answer" end
        list[#list + 1] = address(text, at, kind)
      end
    end
    at = at + length
  end
  return list, math.max(LEAST_S, ttl_s)
end

local servers, has_v6 = {}, false
local known, known_names = {}, 0       -- name → {list, fresh_until, stale_until, asked_until, is_failing, why}

--- @param text the name servers, as for `servers`
--- @param v6 whether this machine has IPv6 at all
function M.use(text, v6)
  servers, has_v6 = M.servers(text), v6
  known, known_names = {}, 0
end

local function random_id()
  local file = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(2)
  if file then file:close() end
  return bytes and number(bytes, 1) or math.random(0, 65535)
end

local function by_udp(server, question)
  local sock = ngx.socket.udp()
  sock:settimeout(TRY_S * 1000)
  local ok, why = sock:setpeername(server.host, server.port)
  if ok then ok, why = sock:send(question) end
  local text
  if ok then text, why = sock:receive(4096) end
  sock:close()
  return text, why
end

local function by_tcp(server, question)
  local sock = ngx.socket.tcp()
  sock:settimeout(TRY_S * 1000)
  local ok, why = sock:connect(server.host, server.port, { pool = "dns|fresh" })
  if ok then ok, why = sock:send(u16(#question) .. question) end
  local head, text
  if ok then head, why = sock:receive(2) end
  if head then text, why = sock:receive(number(head, 1)) end
  sock:close()
  return text, why
end

local function ask(name, kind)
  local why = "there is no name server"
  local give_up_at = clock.now() + ALL_S
  for _ = 1, TRIES do
    for _, server in ipairs(servers) do
      if clock.now() > give_up_at then return nil, why end
      local question = M.query(random_id(), name, kind)
      if not question then return nil, "this is no name" end
      local text, list, ttl_s
      text, why = by_udp(server, question)
      if text then list, ttl_s = M.parse(text, question, kind) end
      if text and ttl_s == "truncated" then
        text, why = by_tcp(server, question)
        if text then list, ttl_s = M.parse(text, question, kind) end
      end
      if list then return list, ttl_s end
      why = text and ttl_s or why
    end
  end
  return nil, why
end

-- IPv4 if there is any: a machine with a way to IPv6 in name only is more common than one without IPv4.
local function look_up(name)
  local list, ttl_s = ask(name, A)
  if list and #list == 0 and has_v6 then list, ttl_s = ask(name, AAAA) end
  return list, ttl_s
end

local function learn(name, entry)
  local list, ttl_s = look_up(name)
  local at = clock.now()
  entry.asked_until, entry.is_failing = 0, not list
  if list and #list > 0 then
    entry.list, entry.why, entry.fresh_until, entry.stale_until = list, nil, at + ttl_s, at + ttl_s + STALE_S
  elseif list then
    entry.list, entry.why, entry.fresh_until = nil, "the name has no address", at + FAILED_S
  else
    entry.why, entry.fresh_until = ttl_s, at + FAILED_S
  end
end

--- All addresses of a name, IPv6 in brackets. Waits for the name servers where it is not known (content and timer phases).
--- @return {addresses} | nil, why
function M.resolve(name)
  local at = clock.now()
  local entry = known[name]
  if not entry then
    if known_names >= MOST_NAMES then known, known_names = {}, 0 end
    entry = { fresh_until = 0, stale_until = 0, asked_until = 0 }
    known[name], known_names = entry, known_names + 1
  end
  if at >= entry.fresh_until then
    if at >= entry.stale_until then entry.list = nil end
    if not entry.list then
      learn(name, entry)
    elseif at >= entry.asked_until then
      entry.asked_until = at + ALL_S + TRY_S        -- whoever asks may be ended before the answer comes
      if not entry.is_failing and at >= entry.fresh_until + IN_USE_S then
        learn(name, entry)
      else
        ngx.timer.at(0, function(premature)
          if not premature then learn(name, entry) end
        end)
      end
    end
  end
  if not entry.list then return nil, entry.why end
  return entry.list
end

return M
