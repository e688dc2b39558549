-- /etc/hosts for cosockets: nginx's resolver asks name servers only, and "localhost" or a compose file's extra_hosts is not there.

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

function M.load()
  local file = io.open("/etc/hosts", "r")
  if not file then return end
  table_of = M.parse(file:read("*a"))
  file:close()
end

--- The address to connect to: from the table, else the name itself (the resolver's business); IPv6 in brackets.
function M.resolve(host)
  if host:find(":", 1, true) and host:sub(1, 1) ~= "[" then return "[" .. host .. "]" end
  return table_of[host] or table_of[host:lower()] or host
end

return M
