local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"
local fake_threads = require "support.fake_threads"
local fuzz = require "support.fuzz"

describe("the queue of a pool", function()
  local stand_in, threads, slots, queue, pool
  local free, served, tries         -- free permits of the pool's instances; names in the order of service; looks per name

  local function new_queue() return dofile(assert(package.searchpath("evenkeel.queue", package.path))) end

  before_each(function()
    stand_in = fake_ngx.install()
    threads = fake_threads.install(stand_in.clock)
    package.loaded["evenkeel.slots"] = nil
    slots = require "evenkeel.slots"
    slots.use(fake_dict.new(stand_in.clock), 1)
    queue = new_queue()
    pool = { name = "chat", queue = { size = 100, timeout_ms = 2000 } }
    free, served, tries = 0, {}, {}
  end)

  local function waiting() return slots.count("q:" .. pool.name) end

  -- A request that waits at most `timeout_s`. @return its record: {name, got, why, at (when it was over)}
  local function enter(name, timeout_s, which, client)
    local req = { pool = pool, name = name, client = client and { name = client }, snapshot = client and { several_clients = true } }
    req.thread = threads:spawn(function()
      req.got, req.why = (which or queue).wait(req, timeout_s or 2, function()
        tries[name] = (tries[name] or 0) + 1
        if free < 1 then return nil end
        free = free - 1
        served[#served + 1] = name
        return "an instance"
      end)
      req.at = stand_in.now()
    end)
    return req
  end

  local function leave(req)
    threads:act(function()
      threads:kill(req.thread)
      queue.leave(req)
    end)
  end

  local function release(n)
    threads:act(function()
      free = free + (n or 1)
      queue.wake(pool)
    end)
  end

  it("lets nobody wait when there is a permit", function()
    free = 1
    local req = enter("a")
    assert.equal("an instance", req.got)
    assert.equal(0, waiting())
    assert.is_false(queue.busy(pool))
  end)

  it("serves the first as soon as a permit is free, without time passing", function()
    local req = enter("a")
    assert.is_true(queue.busy(pool))
    release()
    assert.equal("an instance", req.got)
    assert.equal(stand_in.now(), req.at)
    assert.equal(0, waiting())
  end)

  it("serves in the order of arrival", function()
    for _, name in ipairs { "a", "b", "c", "d" } do enter(name) end
    release()
    threads:pass(0.5)
    release(3)
    assert.same({ "a", "b", "c", "d" }, served)
  end)

  it("lets only the first in line look for a permit", function()
    enter("a")
    enter("b")
    enter("c")
    threads:pass(1)
    assert(tries.a >= 10)
    assert.is_nil(tries.b)
    assert.is_nil(tries.c)
  end)

  it("notices a permit that another worker has freed within 5 ms", function()
    local req = enter("a")
    threads:pass(0.505)
    free = 1
    local since = stand_in.now()
    threads:pass(1)
    assert(req.at - since <= 0.005 + 1e-6, "took " .. req.at - since)
  end)

  it("gives up after the wait, and says so", function()
    local began = stand_in.now()
    local req = enter("a", 2)
    threads:pass(1.99)
    assert.is_nil(req.at)
    threads:pass(0.01)
    assert.same({ nil, "timeout" }, { req.got, req.why })
    assert.is_near(began + 2, req.at, 1e-6)
    assert.equal(0, waiting())
    assert.is_false(queue.busy(pool))
  end)

  it("goes on with the next when the first gives up", function()
    local first, second = enter("a", 0.5), enter("b", 2)
    threads:pass(0.6)
    assert.equal("timeout", first.why)
    release()
    assert.equal("an instance", second.got)
  end)

  it("gives up each in its own time, first in line or not", function()
    local first, second, third = enter("a", 2), enter("b", 0.5), enter("c", 2)
    threads:pass(0.5)
    assert.equal("timeout", second.why)
    release(2)
    assert.same({ "a", "c" }, served)
    assert.is_truthy(first.got and third.got)
  end)

  it("looks once without a wait", function()
    local req = enter("a", 0)
    assert.equal("timeout", req.why)
    assert.equal(1, tries.a)
    free = 1
    assert.equal("an instance", enter("b", 0).got)
  end)

  it("has room for as many as it says, and tells the next at once", function()
    pool.queue.size = 2
    enter("a")
    enter("b")
    local req = enter("c")
    assert.same({ nil, "full" }, { req.got, req.why })
    assert.equal(2, waiting())
    release()
    assert.is_nil(enter("d").why, "a place is free again")
  end)

  it("of size 0 is none", function()
    pool.queue.size = 0
    assert.equal("full", enter("a").why)
    assert.is_nil(tries.a)
  end)

  it("counts its places over all workers", function()
    pool.queue.size = 2
    local other = new_queue()
    enter("a")
    enter("b", 2, other)
    assert.equal("full", enter("c").why)
    assert.equal("full", enter("d", 2, other).why)
  end)

  it("is left behind when the client leaves, and the next moves up at once", function()
    local first, second = enter("a"), enter("b")
    leave(first)
    assert.equal(1, waiting())
    release()
    assert.equal("an instance", second.got)
    assert.same({ "b" }, served)
  end)

  it("strands no permit when the one who was woken for it has left", function()
    local first, second = enter("a"), enter("b")
    threads:act(function()
      free = 1
      queue.wake(pool)              -- wakes the first …
      threads:kill(first.thread)    -- … whose client leaves before it runs
      queue.leave(first)
    end)
    assert.equal("an instance", second.got)
  end)

  it("may be left twice, and by who never was in it", function()
    local req = enter("a")
    leave(req)
    queue.leave(req)
    queue.leave { pool = pool }
    assert.equal(0, waiting())
  end)

  describe("between clients", function()
    it("takes turns, whoever came with more, and serves each client's own in the order of arrival", function()
      for i = 1, 6 do enter("a" .. i, 2, nil, "a") end
      for i = 1, 2 do enter("b" .. i, 2, nil, "b") end
      enter("c1", 2, nil, "c")
      release(9)
      assert.same({ "a1", "b1", "c1", "a2", "b2", "a3", "a4", "a5", "a6" }, served)
    end)

    it("gives who comes later a turn in the round that is being served, not the first one", function()
      for i = 1, 6 do enter("a" .. i, 2, nil, "a") end
      release(3)
      enter("b1", 2, nil, "b")
      enter("b2", 2, nil, "b")
      release(5)
      assert.same({ "a1", "a2", "a3", "a4", "b1", "a5", "b2", "a6" }, served)
    end)

    it("does not hold it against a client that its earlier calls gave up", function()
      for i = 1, 6 do enter("a" .. i, 0.1, nil, "a") end
      threads:pass(0.2)
      enter("b1", 2, nil, "b")
      enter("a7", 2, nil, "a")
      enter("b2", 2, nil, "b")
      enter("a8", 2, nil, "a")
      release(4)
      assert.same({ "b1", "a7", "b2", "a8" }, served)
    end)

    it("gives none more than half of the places", function()
      pool.queue.size = 4
      enter("a1", 2, nil, "a")
      enter("a2", 2, nil, "a")
      assert.equal("full", enter("a3", 2, nil, "a").why)
      assert.is_nil(enter("b1", 2, nil, "b").why)
      release(3)
      assert.is_nil(enter("a4", 2, nil, "a").why, "places come back")
    end)

    it("serves every client alike, whatever crowd one brings", function()
      fuzz.run(50, function(random)
        served, free = {}, 0
        local crowd = {}
        for _, client in ipairs { "a", "b", "c" } do
          for i = 1, random(3, 20) do crowd[#crowd + 1] = { client, i } end
        end
        local many = #crowd
        fuzz.shuffle(random, crowd)
        local turn = {}
        for _, one in ipairs(crowd) do
          turn[one[1]] = (turn[one[1]] or 0) + 1
          enter(one[1] .. turn[one[1]], 100, nil, one[1])
        end
        local got, last = {}, {}
        for n = 1, many do
          release()
          local client, number = served[n]:match("(%a)(%d+)")
          assert(tonumber(number) == (last[client] or 0) + 1, "overtaken by one's own")
          last[client] = tonumber(number)
          got[client] = (got[client] or 0) + 1
          for other, all in pairs(turn) do
            if (got[other] or 0) < all then assert((got[client] - (got[other] or 0)) <= 1, "one was served twice as another waited") end
          end
        end
      end)
    end)
  end)

  it("is one per pool", function()
    enter("a")
    local other = { name = "other", queue = { size = 1, timeout_ms = 1000 } }
    assert.is_false(queue.busy(other))
    pool = other
    assert.is_nil(enter("b").why)
    release()
    assert.same({ "b" }, served)
  end)

  it("keeps order and count through a busy hour", function()
    math.randomseed(5)
    local line = {}
    for step = 1, 5000 do
      local what = math.random(10)
      if what <= 4 then
        line[#line + 1] = enter(step, 0.2 + math.random())
      elseif what <= 6 then
        release(math.random(2))
      elseif what == 7 then
        local req = line[math.random(math.max(1, #line))]
        if req and not req.at then
          leave(req)
          req.left = true
        end
      else
        threads:pass(0.02 + math.random() * 0.1)
        assert(free == 0 or waiting() == 0, "a permit lies idle while somebody waits")
      end
      local still = 0
      for _, req in ipairs(line) do
        if not req.at and not req.left then still = still + 1 end
      end
      assert(waiting() == still, ("step %d: %d counted, %d there"):format(step, waiting(), still))
    end
    for i = 2, #served do assert(served[i] > served[i - 1], "overtaken") end
    threads:pass(5)
    assert.equal(0, waiting())
  end)

  describe("of several workers", function()
    local dict, other

    before_each(function()
      dict = fake_dict.new(stand_in.clock)
      dict:set("w:top", 2)
      other = new_queue()
      queue.use(dict, 1)
      other.use(dict, 2)
    end)

    it("serves in the order of arrival, whoever frees the permit", function()
      enter("a", 2)
      enter("b", 2, other)
      enter("c", 2)
      threads:pass(0.1)
      release(2)                               -- in the first worker
      threads:pass(0.1)
      assert.same({ "a", "b" }, served)
      release()
      threads:pass(0.1)
      assert.same({ "a", "b", "c" }, served)
    end)

    it("takes turns between clients, in whichever worker they wait", function()
      for i = 1, 3 do enter("a" .. i, 5, nil, "a") end
      enter("b1", 5, other, "b")
      enter("b2", 5, other, "b")
      for _ = 1, 5 do
        release()
        threads:pass(0.1)
      end
      local round = {}
      for i, name in ipairs(served) do round[i] = name:sub(2) end        -- within a round either may be first
      assert.same({ "1", "1", "2", "2", "3" }, round)
    end)

    it("does not wait for a worker that died in line", function()
      local first = enter("a", 2, other)
      threads:pass(0.1)
      threads:act(function() threads:kill(first.thread) end)       -- without leaving
      enter("b", 3)
      threads:pass(1.5)
      release()
      assert.same({ "b" }, served)
    end)

    it("lets another tier's line be", function()
      local first = { pool = pool, tier = 1 }
      threads:spawn(function() queue.wait(first, 2, function() return nil end) end)
      local second = { pool = pool, tier = 2 }
      threads:spawn(function() second.got = queue.wait(second, 2, function() return "an instance" end) end)
      assert.equal("an instance", second.got)
    end)
  end)
end)
