-- Who may be asked, who is asked, and that every permit comes back: the edge's part of the selection.
local fake_ngx = require "support.fake_ngx"

describe("the edge", function()
  local stand_in, clock, edge, live, slots, dict, req

  local BREAKER = { unhealthy_threshold = 3, healthy_threshold = 2, error_rate_threshold = 0.5, sliding_window_s = 60,
    half_open_max_requests = 2, recovery_timeout_s = 30, min_requests = 20 }

  before_each(function()
    stand_in = fake_ngx.install()
    clock = stand_in.clock
    for _, name in ipairs { "edge", "live", "slots", "queue", "answers", "budget", "pool_breaker", "clients", "errors", "snapshot" } do
      package.loaded["evenkeel." .. name] = nil
    end
    package.loaded["ngx.balancer"], package.loaded["ngx.semaphore"] = {}, {}
    live, slots = require "evenkeel.live", require "evenkeel.slots"
    dict = stand_in.shared.evenkeel_state
    live.use(dict)
    slots.use(dict, 1)
    edge = require "evenkeel.edge"
    math.randomseed(1)
  end)

  local function new_instance(name, fields)
    local inst = { name = name, keys = live.keys(name), weight = 10, max_connections = 10, base_latency_s = 1, breaker = BREAKER,
      enabled = true, in_service = true, weight_factor = 1 }
    for k, v in pairs(fields or {}) do inst[k] = v end
    return inst
  end

  local function new_request(instances, algorithm)
    return { pool = { name = "chat", algorithm = algorithm or "weighted", turn = 0 }, tier_instances = instances, tried = {},
      latency_kind = "stream" }
  end

  -- What may have happened to an instance.
  local function opened(inst, probe)
    dict:set(inst.keys.breaker.until_, clock.now_s + 10)
    dict:set(inst.keys.probe, probe)
  end
  local function half_open(inst) dict:set(inst.keys.breaker.until_, clock.now_s) end
  local function filled(inst) for _ = 1, 10 do slots.acquire(inst.keys.in_flight, 10) end end
  local function cooling(inst, seconds) live.cool_down(inst, seconds or 1, clock.now_s) end
  local function tried(inst) req.tried[inst.name] = 1 end

  local function gather()
    local look = {}
    look.n = edge.gather(req, clock.now_s, look)
    return look
  end

  -- Names of those that `many` fresh requests reach, with how often; each gives its permit back.
  local function reached(many)
    local counts = {}
    for _ = 1, many or 300 do
      local inst = edge._choose(req, clock.now_s)
      if not inst then return counts end
      counts[inst.name] = (counts[inst.name] or 0) + 1
      req.held = inst
      edge._release(req)
    end
    return counts
  end

  local function names(counts)
    local list = {}
    for name in pairs(counts) do list[#list + 1] = name end
    table.sort(list)
    return table.concat(list, " ")
  end

  describe("asks", function()
    local a, b, c
    before_each(function()
      a, b, c = new_instance("a"), new_instance("b"), new_instance("c")
      req = new_request { a, b, c }
    end)

    for _, case in ipairs {
      -- what has happened to b, who is asked, what the look tells beside n
      { "all that are well", function() end, "a b c", { usable = 3, full = 0, open = 0 } },
      { "none that is out of service", function() b.enabled, b.in_service = false, false end, "a c", { usable = 2, full = 0, open = 0 } },
      { "none whose key or account is refused", function() live.block(b, "auth", clock.now_s) end, "a c",
        { usable = 2, full = 0, open = 0 } },
      { "none whose breaker is open", function() opened(b) end, "a c", { usable = 3, full = 0, open = 1 } },
      { "none that cools down", function() cooling(b, 2) end, "a c", { usable = 3, full = 0, open = 0, cooling_s = 2 } },
      { "none at its limit", function() filled(b) end, "a c", { usable = 3, full = 1, open = 0 } },
      { "none that it has tried in this pass", function() tried(b) end, "a c", { usable = 3, full = 0, open = 0 } },
      { "one that is half-open", function() half_open(b) end, "a b c", { usable = 3, full = 0, open = 0 } },
      { "none that is half-open and has its trials out", function()
        half_open(b)
        for _ = 1, 2 do slots.acquire(b.keys.breaker.trials, 2) end
      end, "a c", { usable = 3, full = 0, open = 1 } },
      { "none of weight 0 while others live", function() b.weight = 0 end, "a c", { usable = 3, full = 0, open = 0 } },
      { "again one whose cooldown is over", function()
        cooling(b, 1)
        clock:pass(1)
      end, "a b c", { usable = 3, full = 0, open = 0 } },
    } do
      it(case[1], function()
        case[2]()
        local look = gather()
        look.n = nil
        assert.same(case[4], look)
        assert.equal(case[3], names(reached()))
      end)
    end

    for _, algorithm in ipairs { "weighted", "least_load" } do
      it("less of one whose ghosts found it grey, by " .. algorithm, function()
        b.weight_factor = 0.1
        req.pool.algorithm = algorithm
        local share = (reached(6000).b or 0) / 6000
        assert.is_true(share > 0.02 and share < 0.07, "share " .. share)
      end)
    end

    it("a grey one all the same when there is no other", function()
      req = new_request({ b }, "least_load")
      b.weight_factor = 0.1
      assert.same({ b = 50 }, reached(50))
    end)

    it("tells of the least cooldown, also of one that it has tried", function()
      cooling(a, 5)
      cooling(b, 2)
      tried(b)
      opened(c)
      assert.same({ n = 0, usable = 3, full = 0, open = 1, cooling_s = 2 }, gather())
    end)

    it("nobody when nobody is left", function()
      for _, inst in ipairs { a, b, c } do tried(inst) end
      assert.equal(0, gather().n)
      assert.is_nil(edge._choose(req, clock.now_s))
    end)

    it("a half-open one for a tenth of its share", function()
      half_open(b)
      local counts = reached(4200)
      assert.is_near(200, counts.b, 50)
    end)

    for _, algorithm in ipairs { "weighted", "least_load", "round_robin" } do
      it("a half-open one within a few dozen requests, even when there is little to do: " .. algorithm, function()
        req = new_request({ a, b, c }, algorithm)
        half_open(b)
        assert.is_truthy(reached(100).b)
      end)
    end
  end)

  describe("in a tier of a thousand", function()
    local many, looks

    before_each(function()
      many, looks = {}, 0
      for i = 1, 1000 do many[i] = new_instance("i" .. i) end
      req = new_request(many)
      local view = live.view
      live.view = function(...)
        looks = looks + 1
        return view(...)
      end
    end)

    it("looks at a few, and reaches all", function()
      local counts, different = reached(20000), 0
      assert.is_true(looks <= 20000 * 17, looks .. " looks")
      for _, count in pairs(counts) do
        different = different + 1
        assert.is_true(count < 60, count .. " of 20 that are its part")
      end
      assert.equal(1000, different)
    end)

    it("obeys the weights", function()
      for i = 1, 500 do many[i].weight = 30 end
      local heavy = 0
      for name, count in pairs(reached(20000)) do
        if tonumber(name:sub(2)) <= 500 then heavy = heavy + count end
      end
      assert.is_true(heavy > 14400 and heavy < 15600, heavy .. " of 15000 that are their part")
    end)

    it("goes to the less loaded by least_load", function()
      for i = 1, 1000 do
        for _ = 1, i % 10 == 0 and 1 or 5 do slots.acquire(many[i].keys.in_flight, 10) end
      end
      req.pool.algorithm = "least_load"
      local quiet = 0
      for name, count in pairs(reached(2000)) do
        if tonumber(name:sub(2)) % 10 == 0 then quiet = quiet + count end
      end
      assert.is_true(quiet > 1500, quiet .. " of 2000")
    end)

    it("has somebody to ask, whatever the random numbers are", function()
      local random = math.random
      finally(function() math.random = random end) -- luacheck: ignore 122
      for _, number in ipairs { 0, 1 - 2 ^ -53 } do
        math.random = function() return number end -- luacheck: ignore 122
        package.loaded["evenkeel.edge"] = nil
        edge = require "evenkeel.edge"
        assert.truthy(edge._choose(req, clock.now_s))
      end
    end)

    it("finds the only one that is left", function()
      for i = 1, 1000 do many[i].in_service = i == 777 end
      assert.same({ i777 = 20 }, reached(20))
    end)

    for _, algorithm in ipairs { "weighted", "least_load" } do
      it("asks none of weight 0 while one that weighs is left, by " .. algorithm, function()
        for i = 1, 1000 do many[i].weight = i == 777 and 10 or 0 end
        req.pool.algorithm = algorithm
        assert.same({ i777 = 100 }, reached(100))
      end)
    end

    it("asks those of weight 0 when there are no others", function()
      for i = 1, 1000 do many[i].weight = 0 end
      local asked = 0
      for _, count in pairs(reached(100)) do asked = asked + count end
      assert.equal(100, asked)
    end)

    it("knows of further ones beyond those it sees, and when there are none", function()
      local function alone(n)
        local last = 0
        for _ = 1, n do
          local inst, more = edge._choose(req, clock.now_s)
          if not more then last = last + 1 end
          req.held = inst
          edge._release(req)
        end
        return last
      end
      for i = 1, 1000 do many[i].in_service = i % 16 == 0 end     -- often just one of a sample
      assert.equal(0, alone(300))
      for i = 1, 1000 do many[i].in_service = i == 777 end
      assert.is_true(alone(300) > 270)                            -- but for one look in 63, whose sample has it
    end)

    it("tells how all of them are to who asks", function()
      for i = 1, 400 do filled(many[i]) end
      assert.same({ n = 600, usable = 1000, full = 400, open = 0 }, gather())
    end)

    it("panics by all of them, not by those it sees", function()
      for i = 1, 600 do opened(many[i]) end
      local counts = reached(5000)
      local out = 0
      for name, count in pairs(counts) do
        if tonumber(name:sub(2)) <= 600 then out = out + count end
      end
      assert.is_true(out > 2500, out .. " of 3000 that are their part")
      for i = 401, 600 do dict:delete(many[i].keys.breaker.until_) end
      clock:pass(0.1)
      for name in pairs(reached(5000)) do assert.is_true(tonumber(name:sub(2)) > 400, name) end
    end)
  end)

  describe("in panic", function()
    local a, b, c
    before_each(function()
      a, b, c = new_instance("a"), new_instance("b"), new_instance("c")
      req = new_request { a, b, c }
    end)

    it("ignores the breakers when more than half of the tier is out: the rest would be flooded", function()
      opened(a)
      opened(b)
      assert.equal("a b c", names(reached()))
    end)

    it("ignores none when half of it is left", function()
      req.tier_instances = { a, b, c, new_instance("d") }
      opened(a)
      opened(b)
      assert.equal("c d", names(reached()))
    end)

    it("leaves out those that a probe has found ill as well: that is no mistake of ours", function()
      opened(a, "bad")
      opened(b, "bad")
      assert.equal("c", names(reached()))
      opened(b)
      clock:pass(1)
      assert.equal("c", names(reached()), "one doubtful of three is not the most of them")
      req.tier_instances = { b, c, new_instance("d"), a, new_instance("e") }
      opened(req.tier_instances[3])
      opened(req.tier_instances[5])
      clock:pass(1)
      assert.equal("b c d e", names(reached(2000)), "b, d and e are doubtful; a is really out")
    end)

    it("does not send to those that asked for a pause, or are full", function()
      opened(a)
      opened(b)
      cooling(a)
      filled(b)
      assert.equal("c", names(reached()))
    end)

    it("is no panic when all are out: the next tier takes over", function()
      for _, inst in ipairs { a, b, c } do opened(inst) end
      assert.same({ n = 0, usable = 3, full = 0, open = 3 }, gather())
    end)

    it("is no panic of a lone instance", function()
      req.tier_instances = { a }
      opened(a)
      assert.equal(0, gather().n)
    end)
  end)

  describe("holds permits", function()
    local a, b
    before_each(function()
      a, b = new_instance("a", { max_connections = 2 }), new_instance("b", { max_connections = 3 })
      req = new_request { a, b }
    end)

    local function held(inst) return slots.count(inst.keys.in_flight) end

    it("as many as the limits allow, and not one more", function()
      local requests = {}
      for i = 1, 5 do
        requests[i] = new_request { a, b }
        requests[i].held = assert(edge._choose(requests[i], clock.now_s))
      end
      assert.same({ 2, 3 }, { held(a), held(b) })
      assert.is_nil(edge._choose(req, clock.now_s))
      for i = 1, 5 do edge._release(requests[i]) end
      assert.same({ 0, 0 }, { held(a), held(b) })
    end)

    it("and says whether another candidate is left", function()
      local _, more = edge._choose(req, clock.now_s)
      assert.is_true(more)
      tried(a)
      _, more = edge._choose(req, clock.now_s)
      assert.is_false(more)
    end)

    it("goes to another when the chosen one was filled by another worker in between", function()
      edge.gather(req, clock.now_s)
      for _ = 1, 2 do slots.acquire(a.keys.in_flight, 2) end
      assert.equal("b", edge._choose(req, clock.now_s).name)
    end)

    it("a trial's slot as well, while half-open; both come back", function()
      half_open(a)
      req.tier_instances = { a }
      req.held = edge._choose(req, clock.now_s)
      assert.same({ 1, 1 }, { held(a), slots.count(a.keys.breaker.trials) })
      edge._release(req)
      assert.same({ 0, 0 }, { held(a), slots.count(a.keys.breaker.trials) })
    end)

    it("gives the permit back when no trial's slot is left", function()
      half_open(a)
      req.tier_instances = { a }
      edge.gather(req, clock.now_s)
      for _ = 1, 2 do slots.acquire(a.keys.breaker.trials, 2) end      -- another worker's
      assert.is_nil(edge._choose(req, clock.now_s))
      assert.same({ 0, 2 }, { held(a), slots.count(a.keys.breaker.trials) })
    end)

    it("gives the slot of a trial back, not one of the state at the end", function()
      half_open(a)
      req.tier_instances = { a }
      req.held = edge._choose(req, clock.now_s)
      dict:delete(a.keys.breaker.until_)         -- closed in the meantime
      live.touch(a)
      local later = new_request { a }
      later.held = edge._choose(later, clock.now_s)
      edge._release(later)
      assert.equal(1, slots.count(a.keys.breaker.trials))
      edge._release(req)
      assert.equal(0, slots.count(a.keys.breaker.trials))
    end)

    it("releases once", function()
      req.held = edge._choose(req, clock.now_s)
      edge._release(req)
      edge._release(req)
      assert.same({ 0, 0 }, { held(a), held(b) })
    end)

    it("leaks none, whatever happens", function()
      local running = {}
      for step = 1, 20000 do
        local what = math.random(100)
        if what <= 50 then
          local one = new_request({ a, b }, "least_load")
          one.held = edge._choose(one, clock.now_s)
          if one.held then running[#running + 1] = one end
        elseif what <= 95 then
          local one = table.remove(running, math.random(math.max(1, #running)))
          if one then edge._release(one) end
        else
          local inst = math.random(2) == 1 and a or b
          if math.random(2) == 1 then half_open(inst) else dict:delete(inst.keys.breaker.until_) end
          clock:pass(0.1)
        end
        local in_a, in_b, trials = 0, 0, 0
        for _, one in ipairs(running) do
          if one.held == a then in_a = in_a + 1 else in_b = in_b + 1 end
          if one.trial then trials = trials + 1 end
        end
        assert(held(a) == in_a and held(b) == in_b and in_a <= 2 and in_b <= 3, "step " .. step)
        assert(slots.count(a.keys.breaker.trials) + slots.count(b.keys.breaker.trials) == trials, "trials, step " .. step)
      end
    end)
  end)
end)
