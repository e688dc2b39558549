-- Setting the time of day changes nothing that waits, measures or remembers for a while. The shared dict goes by the time of day, as the
-- real one does.
local fake_ngx = require "support.fake_ngx"
local fake_dict = require "support.fake_dict"

local JUMPS = { ["an hour forward"] = 3600, ["an hour back"] = -3600, ["a day forward"] = 86400, ["a day back"] = -86400 }

describe("the clock", function()
  local stand_in, time, clock, dict

  before_each(function()
    stand_in = fake_ngx.install()
    time = stand_in.clock
    for name in pairs(package.loaded) do
      if name:find "^evenkeel%." then package.loaded[name] = nil end
    end
    clock = require "evenkeel.clock"
    dict = stand_in.shared.evenkeel_state
  end)

  it("tells the time of day of what was, by what the time of day is now", function()
    local at = clock.now()
    time:pass(10)
    assert.equal(stand_in.now() - 10, clock.of_day(at))
    time:jump(3600)
    assert.equal(stand_in.now() - 10, clock.of_day(at))
  end)

  describe("'s lease", function()
    it("is for one of those who ask within its time", function()
      assert.is_true(clock.lease(dict, "lease", 2))
      assert.is_false(clock.lease(dict, "lease", 2))
      time:pass(1.9)
      assert.is_false(clock.lease(dict, "lease", 2))
      time:pass(0.1)
      assert.is_true(clock.lease(dict, "lease", 2))
      assert.is_false(clock.lease(dict, "lease", 2))
    end)

    it("is for one when two find it free at the same moment", function()
      clock.lease(dict, "lease", 2)
      time:pass(5)
      -- the other worker takes it between our look and our taking
      local slow = setmetatable({ get = function(_, key)
        local ends = dict:get(key)
        assert.is_true(clock.lease(dict, key, 2))
        return ends
      end }, { __index = function(_, name) return function(_, ...) return dict[name](dict, ...) end end })
      assert.is_false(clock.lease(slow, "lease", 2))
      time:pass(1.9)
      assert.is_false(clock.lease(dict, "lease", 2))
      time:pass(0.1)
      assert.is_true(clock.lease(dict, "lease", 2))
    end)
  end)

  for words, seconds in pairs(JUMPS) do
    describe("set " .. words, function()
      local live, inst

      before_each(function()
        live = require "evenkeel.live"
        live.use(dict)
        inst = { name = "a", keys = live.keys("a"), max_connections = 10, base_latency_s = 0.1,
          breaker = { unhealthy_threshold = 3, healthy_threshold = 1, half_open_max_requests = 1, recovery_timeout_s = 30,
            sliding_window_s = 60, min_requests = 10, error_rate_threshold = 0.5 } }
      end)

      local function view() return live.view(inst, clock.now()) end

      it("lets leases go on and end as they would have", function()
        clock.lease(dict, "lease", 10)
        time:jump(seconds)
        assert.is_false(clock.lease(dict, "lease", 10))
        time:pass(10)
        assert.is_true(clock.lease(dict, "lease", 10))
      end)

      it("lets a cooldown go on and end as it would have", function()
        live.cool_down(inst, 60, clock.now())
        time:pass(1)
        time:jump(seconds)
        assert.is_near(59, view().cooldown_until - clock.now(), 1e-6)
        time:pass(60)
        assert(view().cooldown_until <= clock.now())
      end)

      it("lets a block go on and end as it would have", function()
        live.block(inst, "quota", clock.now())
        time:pass(1)
        time:jump(seconds)
        assert.equal("quota", view().blocked)
        time:pass(600)
        assert.is_nil(view().blocked)
        assert.is_false(live.unblock(inst, clock.now()))
      end)

      it("lets a breaker open, close and warm up as it would have", function()
        local breaker = require "evenkeel.breaker"
        local k = inst.keys.breaker
        for _ = 1, 3 do breaker.failure(dict, k, inst.breaker, clock.now(), clock.now()) end
        time:jump(seconds)
        assert.equal("open", view().breaker)
        time:pass(30)
        assert.equal("half_open", view().breaker)
        assert.equal("closed", breaker.success(dict, k, inst.breaker, clock.now(), clock.now()))
        time:pass(5)
        assert.is_near(0.25, view().warmth, 1e-6)
        time:pass(15)
        assert.equal(1, view().warmth)
      end)

      it("gives a client neither more nor less of its minute", function()
        local limits = require "evenkeel.limits"
        local bucket, cost = limits.bucket("b"), limits.cost_us(1, 10)
        local function taken()
          local n = 0
          while limits.take(dict, bucket, cost, math.floor(clock.now() * 1e6)) do n = n + 1 end
          return n
        end
        assert.equal(10, taken())
        time:jump(seconds)
        assert.equal(0, taken())
        time:pass(30)
        assert.equal(5, taken())
      end)

      it("loses no event and no count that nobody has read yet", function()
        local events, metrics = require "evenkeel.events", require "evenkeel.metrics"
        metrics.use(stand_in.shared.evenkeel_metrics, 1)
        local spec = metrics.FAMILIES.attempt
        local v = metrics.open(metrics.series(spec, { "chat", "a", "chat", "json", "ok", "client" }))
        v[spec.at.count] = 7
        metrics.flush(clock.now(), stand_in.now())
        events.add("breaker_opened", "a", {})
        time:pass(0.5)
        time:jump(seconds)
        for _ = 1, 3 do
          time:pass(1)
          metrics.flush(clock.now(), stand_in.now())
        end
        events.add("breaker_closed", "a", {})
        local row = {}
        assert.equal(spec, (metrics.row(1, 0, row)))
        assert.equal(7, row[spec.at.count])
        assert.equal(2, #events.after(0, 10))
      end)

      it("does not keep those who wait behind a worker that is dead", function()
        local fake_threads, slots = require "support.fake_threads", require "evenkeel.slots"
        local threads = fake_threads.install(time)
        slots.use(fake_dict.new(time), 1)
        local function worker(number)
          local queue = dofile(assert(package.searchpath("evenkeel.queue", package.path)))
          queue.use(dict, number)
          return queue
        end
        dict:set("w:top", 2)
        local pool = { name = "chat", queue = { size = 100, timeout_ms = 8000 } }
        local dead, living = worker(1), worker(2)
        threads:kill(threads:spawn(function() dead.wait({ pool = pool }, 8, function() end) end))
        time:jump(seconds)
        local got
        threads:spawn(function() got = living.wait({ pool = pool }, 8, function() return "an instance" end) end)
        threads:pass(3)
        assert.equal("an instance", got)
      end)
    end)
  end
end)
