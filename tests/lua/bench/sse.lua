-- What classifying and parsing cost, in µs: luajit tests/lua/bench/sse.lua   (with -jv: see that it compiles)
package.path = "lua/?.lua;" .. package.path
local sse = require("evenkeel.sse")

local head = '{"id":"d3c1a7e0-4b0b-4f3e-9d1a-0a1b2c3d4e5f","object":"chat.completion.chunk","created":1735689600,"model":"deepseek-chat",'
  .. '"system_fingerprint":"fp_3a5770e1b4",'
local tool = '{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\\"a\\""}}]}'
local usage = '"usage":{"prompt_tokens":17,"completion_tokens":9,"total_tokens":26,"prompt_tokens_details":{"cached_tokens":0}}'
local cases = {
  { "a token", head .. '"choices":[{"index":0,"delta":{"content":" lazy"},"logprobs":null,"finish_reason":null}]}' },
  { "a Chinese token", head .. '"choices":[{"index":0,"delta":{"content":"深度"},"logprobs":null,"finish_reason":null}]}' },
  { "a token of reasoning", head .. '"choices":[{"index":0,"delta":{"content":null,"reasoning_content":" so"},"finish_reason":null}]}' },
  { "a role", head .. '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}' },
  { "a tool call", head .. '"choices":[{"index":0,"delta":' .. tool .. ',"finish_reason":null}]}' },
  { "the finish", head .. '"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],' .. usage .. "}" },
  { "the usage", head .. '"choices":[],' .. usage .. "}" },
}

local function best_of(rounds, run)
  local best = math.huge
  for _ = 1, 5 do
    local from = os.clock()
    for _ = 1, rounds do run() end
    best = math.min(best, (os.clock() - from) / rounds)
  end
  return best * 1e6
end

for _ = 1, 20000 do
  for _, case in ipairs(cases) do assert(sse.classify(case[2]) ~= "broken") end
end
print("classify")
for _, case in ipairs(cases) do
  local data = case[2]
  print(string.format("  %-26s %5d bytes %7.2f µs", case[1], #data, best_of(100000, function() sse.classify(data) end)))
end

local function stream(line_end)
  local events = {}
  for i = 1, 50 do events[i] = "data: " .. cases[i % 3 + 1][2]:gsub("lazy", "lazy" .. i) .. line_end .. line_end end
  return events
end

print("feed and next, an event")
for _, kind in ipairs({ { "\\n", "\n" }, { "\\r\\n", "\r\n" } }) do
  local events = stream(kind[2])
  local whole = table.concat(events)
  local in_fives, torn = {}, {}
  for i = 1, 50, 5 do in_fives[#in_fives + 1] = table.concat(events, "", i, i + 4) end
  for i = 1, #whole, 100 do torn[#torn + 1] = whole:sub(i, i + 99) end
  for _, shape in ipairs({ { "one a chunk", events }, { "five a chunk", in_fives }, { "torn every 100 bytes", torn } }) do
    local count = 0
    local microseconds = best_of(400, function()
      local parser = sse.new()
      for _, chunk in ipairs(shape[2]) do
        parser:feed(chunk)
        while parser:next_bytes() do count = count + 1 end
      end
    end) / 50
    assert(count == 400 * 5 * 50)
    print(string.format("  %-5s %-26s %7.2f µs", kind[1], shape[1], microseconds))
  end
end
