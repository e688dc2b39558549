-- The address of a provider: by /etc/hosts ("localhost" and a compose file's extra_hosts stand there only), else by the name servers; and
-- addresses that are never a provider, by whatever name they are reached: link-local, metadata, multicast, none.

local dns = require "evenkeel.dns"

local M = {}

local table_of = {}

--- "address name [name …]" lines → {name → address}; the first entry of a name wins, IPv4 before IPv6. Pure.
function M.parse(text)
  local v4, v6 = {}, {}
  for line in text:gmatch("[^\r\n]+") do
    local address, names = line:gsub("#.*", ""):match("^%s*(%S+)%s+(.-)%s*$")
    if address then
      for name in names:gmatch("%S+") do
        name = name:lower()
        if address:find(":", 1, true) then
          if not address:find("%", 1, true) then v6[name] = v6[name] or "[" .. address .. "]" end
        else
          v4[name] = v4[name] or address
        end
      end
    end
  end
  for name, address in pairs(v6) do v4[name] = v4[name] or address end
  return v4
end

local function read(path)
  local file = io.open(path, "r")
  local text = file and file:read("*a") or ""
  if file then file:close() end
  return text
end

--- @param name_servers the file that names them (see dns.servers), and "ipv6" as a word where this machine has that
function M.load(name_servers)
  table_of = M.parse(read("/etc/hosts"))
  local text, v6 = read(name_servers):gsub("ipv6", "")
  dns.use(text, v6 > 0)
end

local METADATA = { ["100.100.100.200"] = true, ["168.63.129.16"] = true, ["192.0.0.192"] = true }

local function refused_v4(address)
  local a, b = address:match("^(%d+)%.(%d+)%.%d+%.%d+$")
  a, b = tonumber(a), tonumber(b)
  return a ~= nil and (a == 0 or a >= 224 or (a == 169 and b == 254) or METADATA[address] == true)
end

-- "a9fe:a9fe" → "169.254.169.254"; a dotted quad as it is.
local function embedded(text)
  if text:find(".", 1, true) then return text end
  local high, low = text:match("^(%x+):(%x+)$")
  if not high then return "" end
  high, low = tonumber(high, 16), tonumber(low, 16)
  return ("%d.%d.%d.%d"):format(math.floor(high / 256), high % 256, math.floor(low / 256), low % 256)
end

--- Whether an address is never a provider; false for names. IPv6 with or without brackets. tests/contract/targets.txt is the list. Pure.
function M.is_refused(address)
  if not address:find(":", 1, true) then return refused_v4(address) end
  local v6 = address:gsub("[%[%]]", ""):lower()
  if v6 == "::" or v6:find("^fe[89ab]%x:") or v6:find("^ff%x%x:") or v6:find("^fd00:0?ec2:") or v6 == "fd20:ce::254" then return true end
  local inner = v6:match("^::ffff:(.+)$") or v6:match("^64:ff9b::(.+)$") or v6:match("^2002:(%x+:%x+):")
  return inner ~= nil and refused_v4(embedded(inner))
end

local REFUSED = "the address is link-local or otherwise never a provider"

local function lookup(host)
  local bare_v6 = host:find(":", 1, true) and host:sub(1, 1) ~= "["
  local address = bare_v6 and "[" .. host .. "]" or table_of[host] or table_of[host:lower()] or host
  return { address = address, is_refused = M.is_refused(address), is_name = not address:find("^[%d.]+$") and address:sub(1, 1) ~= "[" }
end

local known, known_hosts = {}, 0      -- host → what lookup said: every request asks, and the table is read once

-- Every request asks for the same few addresses.
local verdicts, judged = {}, 0

local function is_refused(address)
  local verdict = verdicts[address]
  if verdict == nil then
    if judged >= 10000 then verdicts, judged = {}, 0 end
    verdict = M.is_refused(address)
    verdicts[address], judged = verdict, judged + 1
  end
  return verdict
end

-- One of them, from a random place on: what is refused is passed over.
local function choose(addresses, any_target)
  local n = #addresses
  local from = n == 1 and 1 or math.random(n)
  for i = 0, n - 1 do
    local address = addresses[(from + i - 1) % n + 1]
    if any_target or not is_refused(address) then return address end
  end
  return nil, REFUSED
end

--- The address to connect to, IPv6 in brackets. A name that no table has may wait for a name server (content and timer phases).
--- @return address | nil, why
function M.resolve(host, any_target)
  local found = known[host]
  if not found then
    if known_hosts >= 10000 then known, known_hosts = {}, 0 end
    found = lookup(host)
    known[host], known_hosts = found, known_hosts + 1
  end
  if found.is_refused and not any_target then return nil, REFUSED end
  if not found.is_name then return found.address end
  local addresses, why = dns.resolve(host)
  if not addresses then return nil, host .. " could not be resolved: " .. tostring(why) end
  return choose(addresses, any_target)
end

return M
