local breaker = require "evenkeel.breaker"
local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

local CFG = {
  unhealthy_threshold = 3, healthy_threshold = 2, error_rate_threshold = 0.5, sliding_window_s = 60, half_open_max_requests = 5,
  recovery_timeout_s = 30, min_requests = 20,
}

-- One instance's breaker under a fake clock, as several workers would see it.
local function new_bench(overrides)
  local bench = { clock = fake_ngx.clock(), cfg = setmetatable(overrides or {}, { __index = CFG }), keys = breaker.keys("a") }
  bench.dict = fake_dict.new(bench.clock)
  local function now() return bench.clock.now_s end

  function bench.fail(started)
    local opened, why = breaker.failure(bench.dict, bench.keys, bench.cfg, now(), started or now())
    return opened and opened .. " " .. why
  end
  function bench.ok(started) return breaker.success(bench.dict, bench.keys, bench.cfg, now(), started or now()) end
  function bench.state() return (breaker.state(bench.dict, bench.keys, now())) end
  function bench.window() return { breaker.window(bench.dict, bench.keys, bench.cfg, now()) } end
  function bench.end_wait() return breaker.end_wait(bench.dict, bench.keys, now()) end
  function bench.close() breaker.close(bench.dict, bench.keys, bench.cfg, now()) end
  function bench.warmth() return breaker.warmth(bench.dict:get(bench.keys.closed_at), now()) end
  return bench
end

-- A script is a list of words and numbers: a number lets so many seconds pass, "fail" and "ok" are results of calls that began just
-- now, "old fail" and "old ok" of calls that began `old_s` seconds ago, "probe" is a probe that turned good, "reset" an operator's wish;
-- a list in it is a part of it. "= state" checks the state, "> told" what the result before it must tell, and every result without one
-- must tell nothing.
local function flat(steps, out)
  out = out or {}
  for _, step in ipairs(steps) do
    if type(step) == "table" then flat(step, out) else out[#out + 1] = step end
  end
  return out
end

local function play(bench, script, old_s)
  local steps = flat(script)
  local told, at
  local function settled()
    assert(not told, ("step %s told '%s' unasked"):format(at, told))
  end
  for i, step in ipairs(steps) do
    if type(step) == "string" and step:sub(1, 2) == "> " then
      assert.equal(step:sub(3), told or "nothing", "step " .. i)
      told = nil
    else
      settled()
      at = i
      if type(step) == "number" then
        bench.clock:pass(step)
      elseif step:sub(1, 2) == "= " then
        assert.equal(step:sub(3), bench.state(), "step " .. i)
      else
        local began = bench.clock.now_s - (old_s or 0)
        if step == "fail" then told = bench.fail()
        elseif step == "ok" then told = bench.ok()
        elseif step == "old fail" then told = bench.fail(began)
        elseif step == "old ok" then told = bench.ok(began)
        elseif step == "probe" then told = bench.end_wait() and "ended the wait" or nil
        elseif step == "reset" then bench.close()
        else error("what is " .. step .. "?") end
      end
    end
  end
  settled()
end

local function times(n, ...)
  local out = {}
  for i = 1, n do out[i] = { ... } end
  return out
end

local function script(...)
  return { ... }
end

describe("the breaker", function()
  local function opened_then(...)
    return { "fail", "fail", "fail", "> opened consecutive", { ... } }
  end

  for _, case in ipairs {
    { "is closed at first", script("= closed") },
    { "opens on consecutive failures", script("fail", "fail", "= closed", "fail", "> opened consecutive", "= open") },
    { "counts consecutive failures from the last success on",
      script("fail", "fail", "ok", "fail", "fail", "= closed", "fail", "> opened consecutive") },
    { "sees a run of failures however slow it comes", script("fail", 50, "fail", 50, "fail", "> opened consecutive") },
    { "forgets a run of failures after a window without one", script("fail", "fail", 61, "fail", "= closed", "fail", "= closed") },

    { "opens on the error rate, as soon as the window holds enough calls", { unhealthy_threshold = 1000 },
      script(times(9, "ok", "fail"), "ok", "= closed", "fail", "> opened error_rate", "= open") },
    { "does not judge a rate by too few calls", { unhealthy_threshold = 1000 },
      script(times(19, "fail"), "= closed", "fail", "> opened error_rate") },
    { "bears a rate below the threshold for ever", { unhealthy_threshold = 1000 },
      script(times(400, "ok", "ok", "fail", 1), "= closed") },
    { "judges the rate by the window only: what is older has left it", { unhealthy_threshold = 1000 },
      script(times(15, "fail"), 61, times(15, "ok"), times(14, "fail"), "= closed", "fail", "> opened error_rate") },
    { "lets failures slide out of the window bit by bit", { unhealthy_threshold = 1000, min_requests = 10 },
      script(times(4, "fail", "ok", "ok", "ok", 14), times(6, "ok"), "fail", "= closed") },

    { "stays open for the recovery timeout, then is half-open", opened_then(29.9, "= open", 0.1, "= half_open", 1000, "= half_open") },
    { "closes after enough good trials", opened_then(30, "ok", "= half_open", "ok", "> closed", "= closed") },
    { "takes its time: good trials may come hours apart", opened_then(30, "ok", 7200, "ok", "> closed") },
    { "opens again on one bad trial, twice as long",
      opened_then(30, "fail", "> opened trial", 59.9, "= open", 0.1, "= half_open") },
    { "forgets the good trials before a bad one",
      opened_then(30, "ok", "fail", "> opened trial", 60, "ok", "= half_open", "ok", "> closed") },
    { "doubles the wait up to eight times the first, and no more",
      opened_then(30, "fail", "> opened trial", 60, "fail", "> opened trial", 120, "fail", "> opened trial", 240, "= half_open",
        "fail", "> opened trial", 239.9, "= open", 0.1, "= half_open") },
    { "waits the first time again after it was closed",
      opened_then(30, "fail", "> opened trial", 60, "ok", "ok", "> closed", "fail", "fail", "fail", "> opened consecutive", 30,
        "= half_open") },

    { "ignores results while it is open", opened_then(10, "ok", "fail", "ok", "ok", "fail", "= open", 19.9, "= open", 0.1, "= half_open") },
    { "ignores results while it is open also for the time after", opened_then(10, "ok", "ok", 20, "ok", "= half_open", "ok", "> closed") },
    { "needs one failure after closing as little as before: the past is forgotten",
      opened_then(30, "ok", "ok", "> closed", "fail", "fail", "= closed", "fail", "> opened consecutive") },
    { "does not carry failures of its closed time into the window after closing", { unhealthy_threshold = 25, min_requests = 20 },
      script(times(19, "fail"), "fail", "> opened error_rate", 30, "ok", "ok", "> closed", times(18, "ok"), "fail", "= closed") },

    { "is half-open at once when a probe turns good", opened_then(3, "probe", "> ended the wait", "= half_open", "ok", "ok", "> closed") },
    { "is none of a probe's business while closed or half-open", script("probe", "= closed", opened_then(30, "probe", "= half_open")) },
    { "waits twice as long after a bad trial that a probe has brought on",
      opened_then(3, "probe", "> ended the wait", "fail", "> opened trial", 59.9, "= open", 0.1, "= half_open") },
    { "closes when the operator says so", opened_then("reset", "= closed", "fail", "fail", "= closed") },
    { "forgets its count when the operator says so", script("fail", "fail", "reset", "fail", "fail", "= closed") },

    -- An answer may take an hour: what began before the trials says how the instance was then.
    { "takes no old success for a trial", opened_then(30, "old ok", "old ok", "old ok", "= half_open"), old_s = 31 },
    { "takes no old failure for a trial", opened_then(30, "old fail", "= half_open", "ok", "ok", "> closed"), old_s = 31 },
    { "takes a trial of the time before for an old call: it must not double the wait twice",
      opened_then(30, "fail", "> opened trial", 60, "old fail", "= half_open"), old_s = 60.5 },
    { "takes no old failure for a new one after it was closed",
      opened_then(30, "ok", "ok", "> closed", times(30, "old fail"), "= closed", opened_then()), old_s = 31 },
    { "takes a failure for a new one if its call began with the trials",
      opened_then(30, "ok", 1, "ok", "> closed", "old fail", "old fail", "old fail", "> opened consecutive"), old_s = 1 },
    { "takes no call from before an operator's reset for a new one", opened_then(5, "reset", times(5, "old fail"), "= closed"), old_s = 6 },
  } do
    local name, overrides, steps = case[1], case[3] and case[2], case[3] or case[2]
    it(name, function() play(new_bench(overrides), steps, case.old_s) end)
  end

  it("writes no state for a good result while closed, and one counter", function()
    local bench = new_bench()
    bench.ok()
    assert.equal(1, #bench.dict:keys())
    bench.fail()
    bench.ok()
    assert.is_nil(bench.dict:get(bench.keys.failures))
  end)

  it("knows calls and failures of the window, which slides by a twelfth", function()
    local bench = new_bench { unhealthy_threshold = 1000 }
    bench.clock.now_s = 1700000040           -- a multiple of the window: buckets begin here
    for _ = 1, 6 do
      bench.ok()
      bench.fail()
      bench.clock:pass(10)
    end
    assert.same({ 10, 5 }, bench.window())       -- those of the first five seconds are just gone
    bench.clock:pass(-0.001)
    assert.same({ 12, 6 }, bench.window())
    bench.clock:pass(120)
    assert.same({ 0, 0 }, bench.window())
  end)

  it("forgets the whole window when it closes", function()
    local bench = new_bench { unhealthy_threshold = 1000, min_requests = 30, recovery_timeout_s = 0.1 }
    play(bench, script(times(12, "fail", "ok", 4.9), times(5, "fail"), "fail", "> opened error_rate"))
    assert.same({ 30, 18 }, bench.window())
    play(bench, script(0.2, "ok", "ok", "> closed"))
    assert.same({ 0, 0 }, bench.window())
  end)

  it("leaves no counters behind once the window is over", function()
    local bench = new_bench { unhealthy_threshold = 1000, min_requests = 1000 }
    for _ = 1, 100 do
      bench.ok()
      bench.fail()
      bench.clock:pass(3)
    end
    bench.clock:pass(70)
    assert.same({}, bench.dict:keys())
  end)

  -- Two workers read the state, then both act on it. The dict of the second shows what it was before the first acted.
  describe("when two workers see one reason at once", function()
    local function late_reader(bench, key)
      local seen = bench.dict:get(key)
      return setmetatable({
        get = function(_, asked)
          if asked == key then return seen end
          return bench.dict:get(asked)
        end,
      }, { __index = function(_, method) return function(_, ...) return bench.dict[method](bench.dict, ...) end end })
    end

    it("opens once", function()
      local bench = new_bench()
      play(bench, script("fail", "fail"))
      local late = late_reader(bench, bench.keys.until_)
      local at = bench.clock.now_s
      assert.equal("opened consecutive", bench.fail())
      bench.dict:set(bench.keys.failures, 3)
      assert.is_nil(breaker.failure(late, bench.keys, bench.cfg, at, at))
    end)

    it("doubles the wait once", function()
      local bench = new_bench()
      play(bench, opened_then(30))
      local late, at = late_reader(bench, bench.keys.until_), bench.clock.now_s
      assert.equal("opened trial", bench.fail())
      assert.is_nil(breaker.failure(late, bench.keys, bench.cfg, at, at))
      bench.clock:pass(60)
      assert.equal("half_open", bench.state())
    end)

    it("closes once, and not after it was opened again", function()
      local bench = new_bench { healthy_threshold = 1 }
      play(bench, opened_then(30))
      local late, at = late_reader(bench, bench.keys.until_), bench.clock.now_s
      assert.equal("closed", bench.ok())
      assert.is_nil(breaker.success(late, bench.keys, bench.cfg, at, at))
      play(bench, opened_then(30))
      late, at = late_reader(bench, bench.keys.until_), bench.clock.now_s
      assert.equal("opened trial", bench.fail())
      assert.is_nil(breaker.success(late, bench.keys, bench.cfg, at, at))
      assert.equal("open", bench.state())
    end)
  end)
end)

describe("slow start", function()
  it("is no matter for an instance that was never out", function()
    assert.equal(1, new_bench().warmth())
  end)

  it("rises from a tenth to the whole weight in a straight line", function()
    for _, point in ipairs { { 0, 0.1 }, { 1, 0.1 }, { 2, 0.1 }, { 5, 0.25 }, { 10, 0.5 }, { 19, 0.95 }, { 20, 1 }, { 1000, 1 } } do
      assert.is_near(point[2], breaker.warmth(1700000000, 1700000000 + point[1]), 1e-9)
    end
  end)

  it("begins when the breaker closes, and is over for good", function()
    local bench = new_bench()
    play(bench, script("fail", "fail", "fail", "> opened consecutive", 30, "ok", "ok", "> closed"))
    assert.equal(0.1, bench.warmth())
    bench.clock:pass(10)
    assert.is_near(0.5, bench.warmth(), 1e-6)
    bench.clock:pass(10)
    assert.equal(1, bench.warmth())
  end)

  it("is not asked of a healthy instance that an operator resets", function()
    local bench = new_bench()
    bench.close()
    assert.equal(1, bench.warmth())
  end)
end)
