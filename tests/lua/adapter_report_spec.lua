-- What an outcome does: to the breaker, the cooldown, the latency, the block, and what the control plane is told.
local fake_ngx = require "support.fake_ngx"

describe("an attempt that is reported", function()
  local stand_in, clock, report, live, breaker, events, dict, inst

  before_each(function()
    stand_in = fake_ngx.install()
    clock = stand_in.clock
    for _, name in ipairs { "adapter", "live", "breaker", "slots", "events", "outcome", "answers", "snapshot", "errors" } do
      package.loaded["evenkeel." .. name] = nil
    end
    package.loaded["evenkeel.transport"], package.loaded["evenkeel.relay"] = {}, {}       -- nothing is sent here
    live, breaker, events = require "evenkeel.live", require "evenkeel.breaker", require "evenkeel.events"
    dict = stand_in.shared.evenkeel_state
    live.use(dict)
    require("evenkeel.slots").use(dict, 1)
    report = require("evenkeel.adapter").report
    inst = { name = "a", keys = live.keys("a"), max_connections = 50, base_latency_s = 1, idle_s = 10, breaker = {
      unhealthy_threshold = 3, healthy_threshold = 2, error_rate_threshold = 0.5, sliding_window_s = 60, half_open_max_requests = 5,
      recovery_timeout_s = 30, min_requests = 20 } }
  end)

  local function attempt(fields)
    local one = { inst = inst, kind = "chat", call = { stream = true }, started = clock.now_s, request_id = "r1" }
    for k, v in pairs(fields or {}) do one[k] = v end
    return one
  end

  local function reported(outcome, fields)
    report(attempt(fields), outcome, clock.now_s)
  end

  local function view()
    live.touch(inst)
    return live.view(inst, clock.now_s)
  end

  local function failures() return select(2, breaker.window(dict, inst.keys.breaker, inst.breaker, clock.now_s)) end

  local function told()
    local kinds = {}
    for i, event in ipairs((events.after(0, 100))) do kinds[i] = event.kind end
    return table.concat(kinds, " ")
  end

  for _, outcome in ipairs { "bad_gateway", "server_error", "timeout_first_token", "stalled", "truncated", "empty" } do
    it("as " .. outcome .. " counts against the breaker, and the third in a row opens it", function()
      for i = 1, 3 do
        assert.equal("closed", view().breaker)
        reported(outcome)
        if i < 3 then assert.equal(i, failures()) end
      end
      assert.equal("open", view().breaker)
      assert.equal("breaker_opened", told())
    end)
  end

  for _, outcome in ipairs { "client_gone", "client_error", "content_filter", "context_length" } do
    it("as " .. outcome .. " says nothing about the instance: not a byte is written", function()
      reported("server_error")
      local before = dict:keys()
      for _ = 1, 50 do reported(outcome) end
      assert.same(before, dict:keys())
      assert.equal(1, failures())
      assert.equal("", told())
    end)
  end

  it("as rate_limited cools the instance down for as long as it asks, and is no failure", function()
    reported("rate_limited", { retry_after_s = 7 })
    assert.is_near(clock.now_s + 7, view().cooldown_until, 1e-6)
    assert.equal(0, failures())
    assert.equal("cooldown", told())
  end)

  it("as rate_limited fifty times at once makes one cooldown and one event", function()
    for _ = 1, 50 do reported("rate_limited") end
    assert(view().cooldown_until <= clock.now_s + 0.2)
    assert.equal("cooldown", told())
  end)

  for _, outcome in ipairs { "auth", "quota" } do
    it("as " .. outcome .. " takes the instance out, tells it once, and is no failure", function()
      reported(outcome)
      reported(outcome)
      assert.equal(outcome, view().blocked)
      assert.equal("blocked", told())
      assert.equal(0, failures())
    end)
  end

  it("as ok brings the instance back in, and ends a run of failures", function()
    reported("quota")
    reported("server_error")
    reported("server_error")
    reported("ok")
    reported("server_error")
    assert.is_nil(view().blocked)
    assert.equal("closed", view().breaker)
  end)

  it("as ok, twice while half-open, closes the breaker and tells it", function()
    for _ = 1, 3 do reported("server_error") end
    clock:pass(30)
    reported("ok")
    reported("ok")
    assert.equal("closed", view().breaker)
    assert.equal("breaker_opened breaker_closed", told())
  end)

  it("as ok counts once for the breaker, although its first token has told of it already", function()
    local first_token = require("evenkeel.adapter")._first_token
    for _ = 1, 3 do reported("server_error") end
    clock:pass(30)
    for i = 1, 2 do
      assert.equal("half_open", view().breaker)
      local one = attempt()
      first_token(one)
      if i == 1 then assert.equal("half_open", view().breaker) end
      report(one, "ok", clock.now_s)
    end
    assert.equal("closed", view().breaker)
  end)

  it("as empty says nothing about the instance when the client's own stop words may be why", function()
    for _ = 1, 5 do reported("empty", { answered = true, call = { stream = true, stop = true } }) end
    assert.same({}, dict:keys())
    reported("empty", { answered = true, call = { stream = true, stop = false } })
    assert.equal(1, failures())
  end)

  it("does not close the breaker if it began before the trials", function()
    local old = attempt()
    local older = attempt()
    for _ = 1, 3 do reported("server_error") end
    clock:pass(30)
    report(old, "ok", clock.now_s)
    report(older, "ok", clock.now_s)
    assert.equal("half_open", view().breaker)
  end)

  it("is counted once, however it ends after that", function()
    local one = attempt()
    report(one, "server_error", clock.now_s)
    report(one, "client_gone", clock.now_s)
    report(one, "server_error", clock.now_s)
    assert.equal(1, failures())
    assert.equal("server_error", one.outcome)
  end)

  describe("feeds the latency:", function()
    it("an answer with its own, streams and whole answers apart", function()
      reported("ok", { latency_s = 3 })
      reported("ok", { latency_s = 5, call = {} })
      assert.same({ 3, 5 }, { view().stream, view().json })
    end)

    it("an answer that was never timed does not", function()
      reported("ok")
      assert.equal(1, view().stream)
    end)

    it("a failure that was fast does not: it would make the broken one the fastest", function()
      for _, outcome in ipairs { "bad_gateway", "server_error", "rate_limited", "empty", "truncated", "auth" } do
        reported(outcome, { latency_s = 0.01 })
      end
      assert.equal(1, view().stream)
    end)

    it("a silent one with the whole wait", function()
      reported("timeout_first_token", { started = clock.now_s - 10 })
      assert.equal(10, view().stream)
    end)

    it("a stream that stalled after five minutes with its silence, not with the minutes", function()
      reported("stalled", { started = clock.now_s - 310 })
      assert.equal(10, view().stream)
    end)
  end)

  describe("and is a look at the models, no request,", function()
    it("ends the block of a wrong key when it is answered", function()
      reported("auth")
      report(attempt { kind = false }, "ok", clock.now_s)
      assert.is_nil(view().blocked)
    end)

    it("does not end the block of an empty account: it costs nothing to look", function()
      reported("quota")
      report(attempt { kind = false }, "ok", clock.now_s)
      assert.equal("quota", view().blocked)
    end)

    it("counts for nothing else", function()
      for _, outcome in ipairs { "server_error", "bad_gateway", "rate_limited", "auth", "ok" } do
        report(attempt { kind = false }, outcome, clock.now_s)
      end
      assert.same({}, dict:keys())
    end)
  end)

  it("never quotes our key: a provider may repeat it, whole, often, at either end", function()
    local without = require("evenkeel.adapter")._without_key
    local one = { api_key = "sk-%d+.*(x)" }                     -- as it stands: no pattern
    assert.equal('{"error":"no key *** here, nor ***"}', without(one, '{"error":"no key sk-%d+.*(x) here, nor sk-%d+.*(x)"}'))
    assert.equal("***", without(one, one.api_key))
    assert.equal("******", without(one, one.api_key .. one.api_key))
    assert.equal("sk-other", without(one, "sk-other"))
    assert.equal("EMPTY is no content", without({ api_key = "EMPTY" }, "EMPTY is no content"))
    assert.equal("words", without({}, "words"))
  end)

  it("never quotes our key, however JSON spells it", function()
    local without = require("evenkeel.adapter")._without_key
    local one = { api_key = "sk-a/b+c-99" }
    for _, spelling in ipairs {
      "sk-a/b+c-99", [[sk-a\/b+c-99]], [[sk\u002da\u002Fb\u002bc\u002d99]], [[sk\\u002da\\/b+c-99]], [[\u0073k-a\\\/b+c-9\u0039]],
    } do
      assert.equal('{"error":"no key ***, \\u00e4 \\/"}', without(one, '{"error":"no key ' .. spelling .. ', \\u00e4 \\/"}'))
    end
    for _, other in ipairs { [[sk\u002ea/b+c-99]], [[sk-a\/b+c-9]], [[sk\u00]], [[sk\]], ("\\"):rep(50000) } do
      assert.equal(other, without(one, other))
    end
  end)
end)
