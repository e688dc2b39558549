local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"
local simulation = require "support.simulation"
local slots = require "evenkeel.slots"
local breaker = require "evenkeel.breaker"
local waiting = require "evenkeel.waiting"

local LIVE_FILE = assert(package.searchpath("evenkeel.live", package.path))

-- Another worker: a copy of the module with views of its own over the same dict.
local function new_worker(dict)
  local live = dofile(LIVE_FILE)
  live.use(dict)
  return live
end

local function new_instance(live, fields)
  local inst = { name = "a", keys = live.keys("a"), max_connections = 50, base_latency_s = 0.8 }
  for k, v in pairs(fields or {}) do inst[k] = v end
  return inst
end

describe("live", function()
  local clock, dict, live, inst
  before_each(function()
    clock = fake_ngx.clock()
    dict = fake_dict.new(clock)
    live = new_worker(dict)
    waiting.forget()
    inst = new_instance(live)
  end)

  local function now() return clock.now_s end
  local function view()
    live.touch(inst)
    return live.view(inst, now())
  end

  describe("a learned limit", function()
    -- All that run are refused at once.
    local function refused()
      local in_flight = live.working_limit(inst, now())
      for _ = 1, in_flight do live.rate_limited(inst, nil, in_flight, now(), now(), math.random) end
      clock:pass(1)
    end

    it("that falls below half of what is allowed has collapsed, which is told once to all workers together", function()
      refused()
      assert.is_nil(live.limit_news(inst, now()), "half of it is what one refusal costs")
      refused()
      local other = new_worker(dict)
      assert.equal("collapsed", (live.limit_news(inst, now())))
      assert.is_nil(other.limit_news(inst, now()))
    end)

    it("that has grown back has recovered", function()
      refused()
      refused()
      live.limit_news(inst, now())
      clock:pass(30)
      assert.is_nil(live.limit_news(inst, now()))
      clock:pass(600)
      assert.same({ "recovered", 50 }, { live.limit_news(inst, now()) })
      assert.is_nil(live.limit_news(inst, now()))
    end)
  end)

  describe("latency", function()
    it("is the base latency until something is known", function()
      assert.equal(0.8, view().stream)
      assert.equal(0.8, view().json)
    end)

    it("begins with the first sample", function() assert.equal(2, live.ewma(nil, 2)) end)

    it("rises fast and falls slowly: one bad sample is undone by no fewer than three good ones", function()
      local after_bad = live.ewma(1, 2)
      assert.is_near(1.3, after_bad, 1e-9)
      local average, samples = after_bad, 0
      while average > 1.1 do
        average = live.ewma(average, 1)
        samples = samples + 1
      end
      assert(samples >= 3, "forgot after " .. samples)
    end)

    it("of streams and of whole answers are kept apart", function()
      live.observe(inst, "stream", 3, now())
      assert.equal(3, view().stream)
      assert.equal(0.8, view().json)
    end)

    -- What another instance of the same tier answers makes the pace, too.
    local function peer_answers(kind, seconds)
      local peer = new_instance(live, { name = "b", keys = live.keys("b", "chat/1") })
      live.observe(peer, kind, seconds, now())
    end

    it("keeps its value through ten quiet seconds, then drifts back to the base latency", function()
      inst.keys = live.keys("a", "chat/1")
      live.observe(inst, "stream", 4.8, now())
      peer_answers("stream", 0.8)
      clock:pass(10)
      assert.equal(4.8, view().stream)
      clock:pass(30)
      assert.is_near(0.8 + 4 / math.exp(1), view().stream, 1e-6)
      clock:pass(600)
      assert.is_near(0.8, view().stream, 1e-6)
    end)

    it("of whole answers drifts, too", function()
      inst.keys = live.keys("a", "chat/1")
      live.observe(inst, "json", 4.8, now())
      peer_answers("json", 0.8)
      clock:pass(10)
      assert.equal(4.8, view().json)
      clock:pass(600)
      assert.is_near(0.8, view().json, 1e-6)
    end)

    it("of one of whom nothing is known is what is usual in its tier: answers of many tokens take ten base latencies everywhere", function()
      inst.keys = live.keys("a", "chat/1")
      for _ = 1, 60 do
        peer_answers("json", 8)
        clock:pass(1.1)
      end
      assert.is_near(8, view().json, 1)
      assert.equal(0.8, view().stream)
    end)

    it("counts what waits before it has ended", function()
      for i = 1, 5 do waiting.begin("a", "stream", { started = now() + i / 10 - 0.5 }) end
      clock:pass(0.6)
      assert.equal(0.8, view().stream)
      clock:pass(2)
      assert.is_near(2.8, view().stream, 1e-6)
      assert.equal(0.8, view().json)
    end)

    it("averages samples that follow each other as they are", function()
      live.observe(inst, "stream", 4, now())
      clock:pass(5)
      live.observe(inst, "stream", 2, now())
      assert.is_near(3.8, view().stream, 1e-9)
    end)

    it("drifts up to the base latency as well", function()
      live.observe(inst, "stream", 0.2, now())
      clock:pass(600)
      assert.is_near(0.8, view().stream, 1e-6)
    end)

    it("does not return to an average that had faded away, when a new sample comes", function()
      inst.keys = live.keys("a", "chat/1")
      live.observe(inst, "stream", 60, now())
      peer_answers("stream", 0.8)
      clock:pass(600)
      live.observe(inst, "stream", 0.8, now())
      assert.is_near(0.8, view().stream, 0.01)
    end)
  end)

  describe("a view", function()
    it("is good for 50 ms, then the truth is read again", function()
      assert.equal("closed", live.view(inst, now()).breaker)
      dict:set(inst.keys.breaker.until_, now() + 10)
      clock:pass(0.05)
      assert.equal("closed", live.view(inst, now()).breaker)
      clock:pass(0.001)
      assert.equal("open", live.view(inst, now()).breaker)
    end)

    it("is read again at once after this worker has changed something, in another worker after 50 ms", function()
      local other = new_worker(dict)
      live.view(inst, now())
      other.view(inst, now())
      live.cool_down(inst, 5, now())
      assert.equal(now() + 5, live.view(inst, now()).cooldown_until)
      assert.equal(0, other.view(inst, now()).cooldown_until)
      clock:pass(0.06)
      assert.is_near(now() + 4.94, other.view(inst, now()).cooldown_until, 1e-6)
    end)

    it("tells whether a probe agrees with an open breaker", function()
      dict:set(inst.keys.probe, "bad", 10)
      assert.is_false(view().probe_bad)
      dict:set(inst.keys.breaker.until_, now() + 30)
      assert.is_true(view().probe_bad)
      dict:set(inst.keys.probe, "good", 10)
      assert.is_false(view().probe_bad)
    end)

    it("holds what a pick needs: breaker, end of its open time, warmth", function()
      local cfg = { sliding_window_s = 60, unhealthy_threshold = 1, healthy_threshold = 1, recovery_timeout_s = 30, min_requests = 20,
        error_rate_threshold = 0.5 }
      breaker.failure(dict, inst.keys.breaker, cfg, now(), now())
      assert.same({ "open", now() + 30, 1 }, { view().breaker, view().open_until, view().warmth })
      clock:pass(30)
      assert.equal("half_open", view().breaker)
      breaker.success(dict, inst.keys.breaker, cfg, now(), now())
      clock:pass(5)
      assert.equal("closed", view().breaker)
      assert.is_nil(view().open_until)
      assert.is_near(0.25, view().warmth, 1e-6)
    end)
  end)

  describe("a cooldown", function()
    it("ends by itself", function()
      live.cool_down(inst, 2, now())
      assert.equal(now() + 2, view().cooldown_until)
      clock:pass(2)
      assert(view().cooldown_until <= now())
    end)

    it("keeps the longer of two", function()
      live.cool_down(inst, 10, now())
      clock:pass(1)
      live.cool_down(inst, 2, now())
      assert.is_near(now() + 9, view().cooldown_until, 1e-6)
      live.cool_down(inst, 20, now())
      assert.is_near(now() + 20, view().cooldown_until, 1e-6)
    end)
  end)

  describe("the back-off after 429s without Retry-After", function()
    local function refused(rng, retry_after_s)
      return live.rate_limited(inst, retry_after_s, 1, now(), now(), rng or function() return 1 end)
    end

    it("doubles from 0.2 s to 30 s and no further", function()
      local waits = {}
      for i = 1, 11 do
        waits[i] = refused()
        clock:pass(waits[i] + 0.1)
      end
      assert.same({ 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30 }, waits)
    end)

    it("is spread over its upper half, so that nodes do not come back together", function()
      assert.is_near(0.1, refused(function() return 0 end), 1e-9)
      clock:pass(1)
      assert.is_near(0.3, refused(function() return 0.5 end), 1e-9)
    end)

    it("gives way to what the provider asks for", function()
      assert.equal(7, refused(nil, 7))
      assert.equal(now() + 7, view().cooldown_until)
    end)

    it("takes the 429s of one burst for one", function()
      local began = now()
      clock:pass(0.1)
      assert.equal(0.2, refused())
      for _ = 1, 49 do
        clock:pass(0.01)
        assert.is_nil(live.rate_limited(inst, nil, 20, began, now(), math.random))
      end
      assert.is_near(began + 0.3, view().cooldown_until, 1e-6, "the cooldown runs from the first")
      assert.equal(0.4, refused())
    end)

    it("takes the longest Retry-After of a burst", function()
      local began = now()
      clock:pass(0.1)
      refused(nil, 2)
      live.rate_limited(inst, 8, 20, began, now(), math.random)
      assert.equal(now() + 8, view().cooldown_until)
    end)

    it("begins anew when an attempt after the first 429 was answered", function()
      refused()
      clock:pass(0.3)
      local began = now()
      clock:pass(0.3)
      refused()
      live.forgive(inst, began)
      clock:pass(0.3)
      assert.equal(0.2, refused())
    end)

    it("does not begin anew when an attempt from before is answered", function()
      local began = now()
      clock:pass(0.1)
      refused()
      live.forgive(inst, began)
      clock:pass(0.3)
      assert.equal(0.4, refused())
    end)

    it("begins anew after two minutes without a 429, not sooner", function()
      for _ = 1, 9 do
        refused()
        clock:pass(119)
      end
      assert.equal(30, refused())
      clock:pass(121)
      assert.equal(0.2, refused())
    end)
  end)

  describe("a block", function()
    it("stays until an answer ends it, or ten minutes", function()
      live.block(inst, "quota", now())
      assert.equal("quota", view().blocked)
      live.unblock(inst, now())
      assert.is_nil(view().blocked)
      live.block(inst, "auth", now())
      clock:pass(601)
      assert.is_nil(view().blocked)
    end)

    it("tells whether it is news", function()
      assert.is_true(live.block(inst, "auth", now()))
      assert.is_false(live.block(inst, "auth", now()))
      assert.is_true(live.block(inst, "quota", now()))
    end)

    it("tells whether there was one to end", function()
      assert.is_false(live.unblock(inst, now()))
      live.block(inst, "quota", now())
      assert.is_false(live.unblock(inst, now(), "auth"))
      assert.is_true(live.unblock(inst, now()))
    end)

    it("for an empty account is not ended by proof of a key", function()
      live.block(inst, "quota", now())
      live.unblock(inst, now(), "auth")
      assert.equal("quota", view().blocked)
      live.block(inst, "auth", now())
      live.unblock(inst, now(), "auth")
      assert.is_nil(view().blocked)
    end)
  end)

  describe("the working limit", function()
    local function limit() return live.working_limit(inst, now()) end
    local function refused(in_flight, began)
      return live.rate_limited(inst, nil, in_flight, began or now(), now(), math.random)
    end
    local function answered(n, in_flight)
      for _ = 1, n do live.bore(inst, in_flight, now()) end
    end

    it("is max_connections until the provider says otherwise", function()
      assert.equal(50, limit())
      answered(1000, 50)
      assert.equal(50, limit())
    end)

    it("is what the provider bore, after a 429", function()
      refused(41)
      assert.equal(40, limit())
    end)

    it("counts what was refused in the same burst as not borne", function()
      local began = now()
      clock:pass(0.02)
      for _ = 1, 10 do refused(41, began) end        -- none of them has left yet
      assert.equal(31, limit())
    end)

    it("is not learned from a refusal of a node's only permit, so that it grows with the share", function()
      dict:set(inst.keys.permits, 1)
      refused(1)
      dict:set(inst.keys.permits, 10)
      assert.equal(10, limit())
    end)

    it("halves at worst by one sign: a refusal may be about a rate", function()
      local began = now()
      clock:pass(0.02)
      for _ = 1, 50 do refused(50, began) end
      assert.equal(25, limit())
    end)

    it("is not shrunk on and on by an instance that refuses everything for a while", function()
      for _ = 1, 30 do
        clock:pass(2)
        refused(1)
      end
      assert(limit() >= 25, "limit " .. limit())
    end)

    it("is one at least", function()
      inst.max_connections = 2
      for _ = 1, 5 do
        refused(2)
        live.forgive(inst, now() + 1)
        clock:pass(2)
        refused(1)
        live.forgive(inst, now() + 1)
        clock:pass(2)
      end
      assert.equal(1, limit())
    end)

    it("grows with answers near it, slowly and then faster", function()
      inst.max_connections = 30
      refused(16)
      answered(199, 15)
      assert.equal(15, limit())
      answered(1, 15)
      assert.equal(16, limit())
      answered(200, 16)
      assert.equal(19, limit())
      answered(200, 19)
      assert.equal(24, limit())
    end)

    it("does not grow by answers that prove nothing", function()
      inst.max_connections = 30
      refused(16)
      answered(1000, 11)
      assert.equal(15, limit())
      answered(200, 12)
      assert.equal(16, limit())
    end)

    it("grows from one, too", function()
      inst.max_connections = 2
      refused(2)
      answered(200, 1)
      assert.equal(2, limit())
    end)

    it("is forgotten with time: a ceiling that nobody has tested for long is not known any more", function()
      inst.max_connections = 30
      refused(16)
      clock:pass(29)
      assert.equal(15, limit())
      clock:pass(1)
      assert.equal(16, limit())
      clock:pass(90)
      assert.equal(30, limit())
    end)

    it("leaves nothing behind when it is back at max_connections", function()
      refused(16)
      clock:pass(400)
      live.bore(inst, 1, now())
      assert.is_nil(dict:get(inst.keys.limit))
    end)

    it("never exceeds max_connections, also when that is lowered", function()
      refused(41)
      inst.max_connections = 10
      assert.equal(10, limit())
    end)
  end)
end)

-- An instance with a ceiling of its own, which nobody has told us; more work than it can bear; several workers.
describe("the learned limit", function()
  local function run(options)
    local sim = simulation.new(options.seed or 1)
    local clock = setmetatable({}, { __index = function() return 1700000000 + sim.now_s end })
    local dict = fake_dict.new(clock)
    slots.use(dict, "1")
    local workers = {}
    for i = 1, options.workers or 4 do workers[i] = new_worker(dict) end
    local inst = new_instance(workers[1], { max_connections = options.configured or 50 })
    local in_flight = inst.keys.in_flight
    local running, attempts, refused, seen = 0, 0, 0, {}

    local function attempt(live)
      local at = clock.now_s
      local v = live.view(inst, at)
      if v.cooldown_until > at or slots.count(in_flight) >= v.limit or not slots.acquire(in_flight, v.limit) then return end
      local counted = sim.now_s >= options.from
      if counted then attempts = attempts + 1 end
      local function over() sim:after(0.0005, function() slots.release(in_flight) end) end     -- the edge hears of it a little later
      sim:after(0.002, function()
        if running >= options.ceiling(sim.now_s) then
          sim:after(0.02 * math.random(), function()
            if counted then refused = refused + 1 end
            live.rate_limited(inst, options.retry_after_s, slots.count(in_flight), at, clock.now_s, math.random)
            over()
          end)
          return
        end
        running = running + 1
        sim:after(sim.lognormal(math.log(0.8) - 0.08, 0.4), function()
          running = running - 1
          live.forgive(inst, at)
          live.bore(inst, slots.count(in_flight), clock.now_s)
          over()
        end)
      end)
    end

    local function arrive()
      sim:after(sim.next_arrival(options.per_s or 60), arrive)
      attempt(workers[math.random(#workers)])
    end
    local function sample()
      sim:after(0.05, sample)
      if sim.now_s >= options.from then seen[#seen + 1] = running end
    end
    for _ = 1, options.burst or 0 do attempt(workers[math.random(#workers)]) end
    arrive()
    sample()
    sim:run(options.to)
    table.sort(seen)
    local sum = 0
    for _, n in ipairs(seen) do sum = sum + n end
    return { refused = refused / attempts, mean = sum / #seen, low = seen[math.ceil(#seen * 0.05)],
      limit = workers[1].working_limit(inst, clock.now_s) }
  end

  local function always(ceiling) return function() return ceiling end end

  for _, case in ipairs {
    { "finds a ceiling of 15 under a configured 50 in a few seconds", { ceiling = always(15), from = 5, to = 65 }, 0.01, 13.9, 12 },
    { "finds it in one worker alike", { workers = 1, ceiling = always(15), from = 5, to = 65 }, 0.01, 13.9, 12 },
    { "finds it through a burst of 50 at the start", { burst = 50, ceiling = always(15), from = 5, to = 65 }, 0.01, 13.9, 12 },
    { "keeps it for long", { ceiling = always(15), from = 5, to = 400 }, 0.01, 14, 12 },
    { "keeps it when each 429 asks for a second",
      { retry_after_s = 1, burst = 50, ceiling = always(15), from = 10, to = 200 }, 0.01, 13, 5 },
    { "finds a small one", { ceiling = always(3), from = 10, to = 200 }, 0.015, 2.7, 2 },
    { "finds it far below what is configured",
      { configured = 500, burst = 300, ceiling = always(15), from = 15, to = 75 }, 0.01, 13.9, 12 },
    { "finds a large one", { configured = 400, per_s = 200, ceiling = always(100), from = 10, to = 60 }, 0.01, 90, 75 },
    { "follows one that falls", { per_s = 80, ceiling = function(s) return s < 20 and 40 or 15 end, from = 25, to = 80 }, 0.01, 13.5, 11 },
    { "follows one that rises, within half a minute",
      { per_s = 80, ceiling = function(s) return s < 20 and 15 or 40 end, from = 50, to = 80 }, 0.01, 35, 27 },
    { "is no burden after a minute in which everything was refused",
      { per_s = 80, ceiling = function(s) return s >= 10 and s < 70 and 0 or 50 end, from = 105, to = 130 }, 0.01, 38, 30 },
  } do
    it(("%s: at most %.1f %% are refused, %.1f run at once"):format(case[1], case[3] * 100, case[4]), function()
      local seen = run(case[2])
      local words = ("%.2f %% refused, %.1f in flight, 5th percentile %d, limit %d"):format(seen.refused * 100, seen.mean, seen.low,
        seen.limit)
      assert(seen.refused <= case[3], words)
      assert(seen.mean >= case[4], words)
      assert(seen.low >= case[5], words)
    end)
  end
end)
