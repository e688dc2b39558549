-- What json_scan costs, in µs a body: luajit tests/lua/bench/json_scan.lua   (with -jv: see that it compiles)
package.path = "lua/?.lua;" .. package.path
local scan = require("evenkeel.json_scan").scan

local function body_of(bytes, fill)
  local share = math.floor((bytes - 330) / 4)
  local function message(role)
    return '{"role":"' .. role .. '","content":"' .. fill:rep(math.ceil(share / #fill)):sub(1, share - share % #fill) .. '"}'
  end
  return '{"model":"deepseek-chat","messages":[' .. table.concat({ message("system"), message("user"), message("assistant"),
    message("user") }, ",") .. '],"temperature":0.7,"max_tokens":1024,"stream":true,"stream_options":{"include_usage":true},"user":"u-1"}'
end

local function measure(name, body)
  local rounds = math.max(200, math.floor(4e7 / #body))
  assert(scan(body))
  for _ = 1, rounds / 4 do scan(body) end
  local best = math.huge
  for _ = 1, 5 do
    local from = os.clock()
    for _ = 1, rounds do scan(body) end
    best = math.min(best, (os.clock() - from) / rounds)
  end
  print(string.format("%-34s %7d bytes %8.2f µs", name, #body, best * 1e6))
end

local english = "The quick brown fox jumps over the lazy dog, and then it rests. "
local python = body_of(1024, english):gsub('","', '", "'):gsub('":', '": ')
measure("1 KB, four messages", body_of(1024, english))
measure("1 KB, spaces after ':' and ','", python)
measure("1 KB, Chinese", body_of(1024, "深度求索"))
measure("10 KB, English", body_of(10240, english))
measure("100 KB, English", body_of(102400, english))
measure("100 KB, an escape every 64 bytes", body_of(102400, english:sub(1, 62) .. "\\n"))
measure("100 KB, Chinese", body_of(102400, "深度求索"))
measure("100 KB, Chinese as \\u escapes", body_of(102400, "\\u6df1\\u5ea6"))
