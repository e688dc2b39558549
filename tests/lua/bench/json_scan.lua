-- What json_scan costs, in µs a body: luajit tests/lua/bench/json_scan.lua   (with -jv: see that it compiles)
package.path = "lua/?.lua;" .. package.path
local scan = require("evenkeel.json_scan").scan

local function body_of(bytes, fill)
  local share = math.floor((bytes - 330) / 4)
  local function message(role)
    return '{"role":"' .. role .. '","content":"' .. fill:rep(math.floor(share / #fill)) .. ("."):rep(share % #fill) .. '"}'
  end
  return '{"model":"deepseek-chat","messages":[' .. table.concat({ message("system"), message("user"), message("assistant"),
    message("user") }, ",") .. '],"temperature":0.7,"max_tokens":1024,"stream":true,"stream_options":{"include_usage":true},"user":"u-1"}'
end

local english = "The quick brown fox jumps over the lazy dog, and then it rests. "
local cases = {
  { "1 KB, four messages", body_of(1024, english) },
  { "1 KB, spaces after ':' and ','", (body_of(1024, english):gsub('","', '", "'):gsub('":', '": ')) },
  { "1 KB, Chinese", body_of(1024, "深度求索") },
  { "10 KB, English", body_of(10240, english) },
  { "100 KB, English", body_of(102400, english) },
  { "100 KB, an escape every 64 bytes", body_of(102400, english:sub(1, 62) .. "\\n") },
  { "100 KB, Chinese", body_of(102400, "深度求索") },
  { "100 KB, Chinese as \\u escapes", body_of(102400, "\\u6df1\\u5ea6") },
}

-- A worker sees all of them mixed, so they all shape the traces before anything is measured.
for round = 1, 2000 do
  for _, case in ipairs(cases) do
    if #case[2] < 2000 or round % 20 == 0 then assert(scan(case[2])) end
  end
end
for _, case in ipairs(cases) do
  local name, body = case[1], case[2]
  local rounds = math.max(200, math.floor(4e7 / #body))
  local best = math.huge
  for _ = 1, 5 do
    local from = os.clock()
    for _ = 1, rounds do scan(body) end
    best = math.min(best, (os.clock() - from) / rounds)
  end
  print(string.format("%-34s %7d bytes %8.2f µs", name, #body, best * 1e6))
end
