-- What counting costs: microseconds of CPU per request, its attempt, tokens, money, log line and (50 times a second) trace included.
-- luajit tests/lua/bench/meter.lua, from the top of the checkout

package.path = "lua/?.lua;tests/lua/?.lua;" .. package.path

local stand_in = require("support.fake_ngx").install()
local metrics = require "evenkeel.metrics"
local meter = require "evenkeel.meter"

metrics.use(stand_in.shared.evenkeel_metrics, 1)
require("evenkeel.snapshot").use(stand_in.shared.evenkeel_snapshot, "none")

local inst = { name = "official-1", prices = { { input_per_million = 0.27, output_per_million = 1.1, currency = "USD" } } }
local pool = { name = "chat" }
local USAGE = '{"prompt_tokens":120,"completion_tokens":50,"total_tokens":170,"prompt_tokens_details":{"cached_tokens":30}}'
local var = { pid = 7, request_completion = "OK", upstream_header_time = "0.250" }

local function attempt(at)
  meter.attempt({ inst = inst, kind = "chat", traffic = "client", started = at - 0.8, latency_s = 0.25, answered = true, usage = USAGE,
    call = { pool = "chat" }, body = "{}", model = "deepseek-chat" }, "ok", at)
end

local function request(at)
  meter.request({ id = "39d2e9025afdcceb569c9261fafae07c", pool = pool, kind = "chat", tier = 1, attempts = 1,
    started = at - 0.81, attempt_at = at - 0.81, overhead_s = 0.0002,
    of = 3, live_weight = 41.2, ref = 1, model = "deepseek-chat", snapshot = { revision = 12 } }, var, 200, inst, at)
end

local function measure(name, work, n)
  local at = stand_in.clock.now_s
  for i = 1, n do work(at + i / 5000) end
  local began = os.clock()
  for i = 1, n do work(at + 1000 + i / 5000) end
  print(("%-28s %6.2f us"):format(name, (os.clock() - began) / n * 1e6))
end

measure("an attempt", attempt, 300000)
measure("a request", request, 300000)
measure("the clock", function() return meter.clock_s() end, 3000000)

-- and a merge, once a second: 40 series that changed
local series = {}
for i = 1, 40 do series[i] = metrics.series(metrics.FAMILIES.attempt, { "chat", "i" .. i, "chat", "json", "ok", "client" }) end
local n, began = 2000, os.clock()
for _ = 1, n do
  for i = 1, 40 do
    local v = metrics.open(series[i])
    v[1] = v[1] + 1
  end
  metrics.flush(stand_in.clock:steady_s(), stand_in.clock.now_s)
end
print(("%-28s %6.2f us"):format("a merge of 40 series", (os.clock() - began) / n * 1e6))
