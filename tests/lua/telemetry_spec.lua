-- What a node tells, word for word as in tests/contract/telemetry, from the hooks of adapter and edge on.
local fake_ngx = require "support.fake_ngx"

local function contract(name)
  local file = assert(io.open("tests/contract/telemetry/" .. name .. ".json"))
  local text = file:read("*a")
  file:close()
  return text
end

describe("a node", function()
  local stand_in, clock, metrics, meter, telemetry, traces, instances, pool

  local function load()
    for name in pairs(package.loaded) do
      if name:find "^evenkeel%." then package.loaded[name] = nil end
    end
    metrics, meter = require "evenkeel.metrics", require "evenkeel.meter"
    telemetry, traces = require "evenkeel.telemetry", require "evenkeel.traces"
    metrics.use(stand_in.shared.evenkeel_metrics, 1)
    require("evenkeel.snapshot").use(stand_in.shared.evenkeel_snapshot, "none")
    local usd = { { input_per_million = 0.27, cached_input_per_million = 0.07, output_per_million = 1.10, currency = "USD" } }
    instances = { ["official-1"] = { name = "official-1", provider = "deepseek", prices = usd }, lite = { name = "lite" } }
    pool = { name = "chat" }
  end

  before_each(function()
    stand_in = fake_ngx.install(fake_ngx.clock(1764106847.123))
    stand_in.sleep = function() end
    clock = stand_in.clock
    load()
  end)

  local function served(mode, tier, total, first_ms, overhead, fields)
    local req = { id = "r", pool = pool, kind = "chat", stream = mode == "stream", tier = tier, attempts = 1, started = clock.now_s - total,
      attempt_at = clock.now_s - total, overhead_s = overhead, ref = 1, model = "deepseek-chat", snapshot = { revision = 12 } }
    for k, v in pairs(fields or {}) do req[k] = v end
    local var = { pid = 7, request_completion = "OK",
      upstream_header_time = first_ms and ("%.3f"):format(first_ms / 1000) }
    meter.request(req, var, 200, instances["official-1"], clock.now_s)
  end

  local function tried(name, outcome, total, fields)
    local attempt = { inst = instances[name], kind = "chat", traffic = "client", started = clock.now_s - total,
      call = { pool = "chat", client = "web-app" }, body = '{"model":"deepseek-chat"}' }
    for k, v in pairs(fields or {}) do attempt[k] = v end
    meter.attempt(attempt, outcome, clock.now_s)
  end

  local function usage(input, cached, output, reasoning)
    return ('{"prompt_tokens":%d,"completion_tokens":%d,"prompt_cache_hit_tokens":%d,"completion_tokens_details":{"reasoning_tokens":%d}}')
      :format(input, output, cached, reasoning or 0)
  end

  local function streamed(total, first)
    tried("official-1", "ok", total, { latency_s = first, call = { pool = "chat", stream = true } })
  end

  describe("that is about to end", function()
    local due, ticks, has_timers, slept_ms

    before_each(function()
      due, has_timers, slept_ms = {}, true, 0
      stand_in.worker.exiting = function() return true end
      stand_in.timer = {
        every = function(_, what) ticks = what return true end,
        at = function(delay_s, what)
          assert.equal(0, delay_s)
          if not has_timers then return nil, "process exiting" end
          due[#due + 1] = what
          return true
        end,
      }
      stand_in.update_time = function() slept_ms = slept_ms + 1 end
      telemetry.start(stand_in.shared.evenkeel_metrics, 1)
      tried("official-1", "ok", 1)
    end)

    local function held_for(ms)                     -- by another worker, or one that has died
      local update = stand_in.update_time
      stand_in.shared.evenkeel_metrics:set("lock", 2)
      stand_in.update_time = function()
        update()
        if slept_ms == ms then stand_in.shared.evenkeel_metrics:delete("lock") end
      end
    end

    it("adds what it has counted when a request is over, though it has no clock any more", function()
      for _ = 1, 2 do
        telemetry.over()
        telemetry.over()
        assert.equal(1, #due)
        table.remove(due)()
        assert.equal(1, metrics.top())
        tried("official-1", "ok", 1)
      end
    end)

    it("tries again until the others are done with the counters", function()
      stand_in.shared.evenkeel_metrics:set("lock", 2)
      telemetry.over()
      for _ = 1, 5 do table.remove(due)() end
      assert.equal(0, metrics.top())
      stand_in.shared.evenkeel_metrics:delete("lock")
      table.remove(due)()
      assert.equal(1, metrics.top())
      assert.equal(0, #due)
    end)

    it("waits for the others when all are told to end at once", function()
      held_for(3)
      ticks(true)
      assert.equal(1, metrics.top())
      assert.equal(3, slept_ms)
    end)

    it("waits for them with the last of its counts, longer than a dead worker's lock lasts", function()
      has_timers = false
      telemetry.over()
      assert.equal(0, metrics.top())
      held_for(60)
      telemetry.stop()
      assert.equal(1, metrics.top())
      assert.equal(60, slept_ms)
    end)
  end)

  -- Merges so often that the numbers get to where the contract's are.
  local function merge(times)
    for _ = 1, times do
      metrics.flush(clock:steady_s(), clock.now_s)
      metrics.open(metrics.series(metrics.FAMILIES.request, { "chat", "chat", "stream", "1", "ok", "client" }))
    end
  end

  local function told(after, from)
    local out = {}
    telemetry.json(after or 0, from or 1, function(...)
      for i = 1, select("#", ...) do out[#out + 1] = (select(i, ...)) end
    end, clock.now_s)
    return table.concat(out)
  end

  -- seconds for each output token after the first: with 21 tokens, a twentieth of what is left
  local function stream(total, first) return { total, first } end

  local function first_ten_seconds()
    served("stream", 1, 0.9, 250, 0.00012)
    served("stream", 1, 0.95, 260, 0.0003)
    served("stream", 1, 1, 300, 0.0004)
    served("stream", 1, 3.5, 2500, 0.0021)
    served("json", 2, 0.81, nil, 0.0002, { attempts = 2, queued_s = 0.4 })
    for _, s in ipairs { stream(0.89, 0.24), stream(0.94, 0.25), stream(0.99, 0.29), stream(3.4, 2.4) } do streamed(s[1], s[2]) end
    tried("official-1", "server_error", 0.002)
    tried("lite", "ok", 0.8)
    tried("official-1", "ok", 0.003, { kind = false, traffic = "probe", call = {} })
  end

  it("tells counts and times as the contract has them", function()
    first_ten_seconds()
    merge(8)
    clock.now_s = 1764106855.25
    local cjson = require "cjson"
    local got, wanted = cjson.decode(told()), cjson.decode(contract "first")
    assert.same(wanted.bounds_s, got.bounds_s)
    assert.equal(wanted.seq, got.seq)
    assert.equal(wanted.at, got.at)
    for i = 1, 6 do                          -- the streams here have no usage, so no time per token
      wanted.series[i].per_output_token = nil
      assert.same(wanted.series[i].labels, got.series[i].labels)
      assert.equal(wanted.series[i].born, got.series[i].born)
      assert.same(wanted.series[i], got.series[i])
    end
  end)

  it("writes a sum that is nearly whole as JSON has it, and not as '1.'", function()
    tried("lite", "ok", 1 - 2 ^ -22)
    merge(1)
    local text = told()
    assert.truthy(text:find('"sum": 1,', 1, true), text)
    assert.is_nil(text:find("%d%.%D"), text)
  end)

  it("tells tokens and money as the contract has them", function()
    for _ = 1, 3 do
      tried("official-1", "ok", 0.1, { usage = usage(20, 4, 20), call = { pool = "chat", client = "web-app" }, model = "deepseek-chat" })
    end
    tried("official-1", "truncated", 0.1, { stream = { committed = true, content = 8 }, answered = true, model = "deepseek-chat",
      call = { pool = "chat", stream = true },
      body = '{"messages":[{"role":"user","content":"' .. ("x"):rep(40) .. '"}]}' })
    tried("lite", "ok", 0.1, { traffic = "resumed", usage = usage(22, 0, 12, 4), model = "deepseek-v2-lite" })
    merge(1)
    local cjson = require "cjson"
    local got, wanted = cjson.decode(told()).series, cjson.decode(contract "first").series
    local by_place = {}
    for _, series in ipairs(got) do
      if series.family == "usage" then by_place[#by_place + 1] = series end
    end
    for i = 1, 3 do
      by_place[i].born = wanted[6 + i].born
      assert.same(wanted[6 + i], by_place[i])
    end
  end)

  it("tells the time for each token of whole streams that told their usage", function()
    for _, s in ipairs { stream(0.89, 0.24), stream(0.94, 0.25), stream(0.99, 0.29), stream(3.3999, 2.4) } do
      tried("official-1", "ok", s[1], { latency_s = s[2], call = { pool = "chat", stream = true },
        stream = { usage = usage(6, 0, 21), content = 21 } })
    end
    merge(1)
    local cjson = require "cjson"
    local wanted, got = cjson.decode(contract "first").series[3].per_output_token, cjson.decode(told()).series[1].per_output_token
    assert.same(wanted.buckets, got.buckets)
    assert.is_near(wanted.sum, got.sum, 1e-4)
  end)

  it("tells in pages, of which each says where the next begins", function()
    local cjson = require "cjson"
    local spec, held = metrics.FAMILIES.attempt, {}
    for i = 1, 4500 do
      held[i] = metrics.series(spec, { "chat", "i" .. i, "chat", "json", "ok", "client" })
      local v = metrics.open(held[i])
      v[spec.at.count] = i
    end
    metrics.flush(clock:steady_s(), clock.now_s)
    local sum, pages, next_row = 0, 0, 1
    repeat
      local page = cjson.decode(told(0, next_row))
      for _, series in ipairs(page.series) do sum = sum + series.count end
      pages, next_row = pages + 1, page.next
    until not next_row
    assert.equal(3, pages)
    assert.equal(4500 * 4501 / 2, sum)
  end)

  describe("tells a request", function()
    local function trace(fields, status, held, header_time)
      local req = { id = "req-1", pool = pool, kind = "chat", stream = true, tier = 1, attempts = 1, started = 1764106850.1,
        attempt_at = 1764106850.1,
        of = 3, live_weight = 41.23, ref = 42, model = "deepseek-chat", snapshot = { revision = 12 } }
      for k, v in pairs(fields or {}) do req[k] = v end
      if req.client == false then req.client = nil end
      local var = { pid = 7, request_completion = status ~= 499 and "OK" or "",
        upstream_header_time = header_time }
      local log = meter.request(req, var, status or 200, held, clock.now_s)
      local list = traces.after(0, 10)
      return list[#list], log
    end

    local function told_as(n, fields)
      local one = require("cjson").decode(contract "traces").traces[n]
      for k, v in pairs(fields) do one[k] = v end
      return one
    end

    it("that went well, word for word", function()
      clock.now_s = 1764106850.1 + 0.912
      local got = trace({ client = { name = "web-app" } }, 200, instances["official-1"], "0.250")
      local wanted = told_as(1, {})
      wanted.attempts[1].duration_ms, wanted.attempts[1].first_token_ms = 912, 250
      local decoded = require("cjson").decode(got)
      decoded.id = wanted.id
      assert.same(wanted, decoded)
    end)

    it("whose stream was cut and continued: with what the adapter left for it", function()
      clock.now_s = 1764106850.1 + 1.4
      meter.tell("7,42", { outcome = "ok", cut = "truncated", at = 1764106850.7, more = {
        { instance = "hosted-b", tier = 1, outcome = "ok", began = 1764106850.701, ended = 1764106851.5, way = "prefix" } } })
      local got = require("cjson").decode((trace({}, 200, instances["official-1"], "0.240")))
      local wanted = told_as(3, { id = got.id, at = got.at, request_id = "req-1" })
      assert.same(wanted, got)
    end)

    it("that was cut and could not be continued: it did not end well, though its status is 200", function()
      meter.tell("7,42", { outcome = "stalled", cut = "stalled", at = clock.now_s })
      assert.equal("stalled", require("cjson").decode((trace({}, 200, instances["official-1"], "0.240"))).outcome)
    end)

    it("that was retried in a line: only the last time counts", function()
      clock.now_s = 1764106851
      meter.attempted({ started = 1764106850.1, tier = 1 }, "lite", "server_error", clock.now_s)
      local req = { log = nil, started = 1764106850.1, tier = 1 }
      meter.attempted(req, "lite", "server_error", clock.now_s)
      local got = require("cjson").decode((trace({ log = req.log, attempts = 2, attempt_at = 1764106850.5 }, 200, instances["official-1"],
        "-, 0.100")))
      assert.equal(2, #got.attempts)
      assert.equal("server_error", got.attempts[1].outcome)
      assert.equal(100, got.attempts[2].first_token_ms)
      assert.equal(500, got.first_token_ms)
    end)

    for _, case in ipairs {
      { "default", "circuit_open", nil, "circuit_open" }, { "default", "saturated", nil, "saturated" },
      { "default", "server_error", "server_error", "server_error" }, { "default", "deadline", "timeout_first_token", "client_gone" },
      { "default", "budget", "stalled", "stalled" }, { "stale", "server_error", "server_error", "ok" },
    } do
      it("that nobody could serve for " .. case[2] .. ": " .. case[4] .. " (" .. case[1] .. ")", function()
        local got = require("cjson").decode((trace({ lost = case[1], reason = case[2], last_outcome = case[3], attempts = 0 }, 503, nil)))
        assert.equal(case[4], got.outcome)
        assert.is_true(got.degraded)
        assert.equal(case[1] == "stale" and 0 or require("cjson").null, got.tier)
        assert.equal(case[2], got.reason)
      end)
    end

    it("whose client left", function()
      local got = require("cjson").decode((trace({}, 499, instances["official-1"], "-")))
      assert.equal("client_gone", got.outcome)
      assert.same({}, require("cjson").decode((trace({ attempts = 0 }, 499, nil))).attempts)
    end)

    it("with its attempts as JSON for the access log", function()
      local _, log = trace({}, 200, instances["official-1"], "0.250")
      assert.equal("official-1", require("cjson").decode(log)[1].instance)
    end)

    it("a few times a second only, when all goes well; the others are counted", function()
      for _ = 1, 120 do trace({}, 200, instances["official-1"], "0.250") end
      for _ = 1, 30 do trace({ attempts = 2 }, 200, instances["official-1"], "0.250") end
      traces.flush()
      local list, _, _, left_out = traces.after(0, 1000)
      assert.equal(50 + 30, #list)
      assert.equal(70, left_out)
    end)
  end)

  describe("counts the tokens of an attempt", function()
    local function waste_and_tokens()
      merge(1)
      for _, series in ipairs(require("cjson").decode(told()).series) do
        if series.family == "usage" then
          return series.labels.waste, series.input, series.output, series.estimated_input, series.estimated_output
        end
      end
      return nil
    end
    local body = '{"messages":[{"role":"user","content":"Hello!"}]}'

    for _, case in ipairs {
      { "that failed before it began: none", "server_error", { body = body } },
      { "whose provider never answered: none", "timeout_first_token", { body = body } },
      { "that was refused in its first event: none", "server_error", { body = body, answered = true,
        stream = { error = "{}", content = 0 } } },
      { "that was silent after its head: its input", "timeout_first_token", { body = body, answered = true, stream = { content = 0 } },
        { "failed", 6, 0, 6, 0 } },
      { "that was cut after its first tokens: what came", "truncated", { body = body, answered = true,
        stream = { content = 8, committed = true } }, { "cut", 6, 8, 6, 8 } },
      { "that was cut while it was held back: for nothing", "truncated", { body = body, answered = true, stream = { content = 8 } },
        { "failed", 6, 8, 6, 8 } },
      { "that told its usage and was cut then: that", "truncated", { body = body, answered = true,
        stream = { content = 8, committed = true, usage = '{"prompt_tokens":7,"completion_tokens":9}' } }, { "cut", 7, 9, 0, 0 } },
      { "whose client left: what came by then", "client_gone", { body = body, answered = true,
        stream = { content = 3, committed = true } }, { "gone", 6, 3, 6, 3 } },
      { "whose JSON answer was cut: what came of it", "truncated", { body = body, answered = true, bytes = 41 },
        { "failed", 6, 11, 6, 11 } },
      { "that was empty, but billed", "empty", { body = body, answered = true, usage = '{"prompt_tokens":6,"completion_tokens":0}' },
        { "failed", 6, 0, 0, 0 } },
      { "whose usage is nonsense: an estimate", "ok", { body = body, answered = true, bytes = 400, usage = '{"prompt_tokens":"many"}' },
        { "", 6, 100, 6, 100 } },
    } do
      it(case[1], function()
        tried("official-1", case[2], 0.1, case[3])
        assert.same(case[4] or {}, { waste_and_tokens() })
      end)
    end

    it("under a model's name as long as there are not too many", function()
      for i = 1, 300 do tried("official-1", "ok", 0.1, { usage = usage(1, 0, 1), model = "model-" .. i }) end
      tried("official-1", "ok", 0.1, { usage = usage(1, 0, 1), model = "bad\nname" })
      merge(1)
      local n, others = 0, nil
      for _, series in ipairs(require("cjson").decode(told()).series) do
        if series.family == "usage" then
          n = n + 1
          if series.labels.model == "_other" then others = series.attempts end
        end
      end
      assert.equal(201, n)
      assert.equal(101, others)
    end)
  end)

  it("speaks Prometheus' language, whatever is in its names", function()
    first_ten_seconds()
    tried("official-1", "ok", 0.1, { usage = usage(20, 4, 20), model = 'quoted"back\\slash' })
    merge(1)
    local out = {}
    telemetry.text(nil, {}, function(...)
      for i = 1, select("#", ...) do
        local piece = select(i, ...)
        out[#out + 1] = type(piece) == "table" and table.concat(piece) or piece
      end
    end)
    local text = table.concat(out)
    local seen, name = {}, nil
    for line in text:gmatch("[^\n]+") do
      name = line:match("^# HELP (%S+)") or name
      if line:find("^# HELP") then
        assert.is_nil(seen[name], name .. " stands together")
        seen[name] = true
      elseif not line:find("^#") then
        assert(line:match("^" .. name), line .. " under " .. name)
        assert(line:match('^[a-z_]+%{.*%} [%d.]+$') or line:match("^[a-z_]+ [%d.]+$"), line)
      end
    end
    assert(text:find('model="quoted\\"back\\\\slash"', 1, true))
    assert(text:find('gen_ai_server_request_duration_seconds_bucket{pool="chat",instance="official-1",gen_ai_operation_name="chat",'
      .. 'mode="stream",traffic="client",le="1"} 3', 1, true))
    assert(text:find('error_type="server_error"', 1, true))
  end)
end)
