local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

local SLOTS_FILE = assert(package.searchpath("evenkeel.slots", package.path))

local function new_worker(dict, who)
  local slots = dofile(SLOTS_FILE)
  slots.use(dict, who)
  return slots
end

describe("slots", function()
  local dict, slots
  before_each(function()
    dict = fake_dict.new(fake_ngx.clock())
    slots = new_worker(dict, 1)
  end)

  it("gives out as many permits as the limit says", function()
    for _ = 1, 3 do assert.is_true(slots.acquire("f:a", 3)) end
    assert.is_false(slots.acquire("f:a", 3))
    assert.equal(3, slots.count("f:a"))
  end)

  it("gives a permit again once it is released", function()
    slots.acquire("f:a", 1)
    slots.release("f:a")
    assert.equal(0, slots.count("f:a"))
    assert.is_true(slots.acquire("f:a", 1))
  end)

  it("keeps keys apart", function()
    slots.acquire("f:a", 1)
    assert.is_true(slots.acquire("f:b", 1))
  end)

  it("shares the permits among the workers", function()
    local other = new_worker(dict, 2)
    assert.is_true(slots.acquire("f:a", 2))
    assert.is_true(other.acquire("f:a", 2))
    assert.is_false(slots.acquire("f:a", 2))
    assert.is_false(other.acquire("f:a", 2))
    assert.equal(2, other.count("f:a"))
  end)

  it("bears a limit that shrinks under its permits", function()
    for _ = 1, 5 do slots.acquire("f:a", 5) end
    assert.is_false(slots.acquire("f:a", 2))
    assert.equal(5, slots.count("f:a"))
    for _ = 1, 4 do slots.release("f:a") end
    assert.is_true(slots.acquire("f:a", 2))
  end)

  it("never counts below nothing, whatever is released", function()
    slots.release("f:never")
    slots.acquire("f:a", 1)
    slots.release("f:a")
    slots.release("f:a")
    assert.equal(0, slots.count("f:a"))
    assert.is_true(slots.acquire("f:a", 1))
    assert.is_false(slots.acquire("f:a", 1))
  end)

  it("serves uncounted rather than not at all when the dict is full", function()
    dict.full = true
    assert.is_true(slots.acquire("f:a", 1))
    assert.is_true(slots.acquire("f:a", 1))
    slots.release("f:a")
    assert.equal(0, slots.count("f:a"))
  end)

  describe("of a worker that was killed", function()
    it("are given back, and only those", function()
      local dead = new_worker(dict, 2)
      slots.acquire("f:a", 10)
      for _ = 1, 3 do dead.acquire("f:a", 10) end
      dead.acquire("b:a:trials", 5)
      dead.release("f:a")
      assert.equal(3, slots.reap(2))
      assert.equal(1, slots.count("f:a"))
      assert.equal(0, slots.count("b:a:trials"))
    end)

    it("are given back once, however often one looks", function()
      local dead = new_worker(dict, 2)
      dead.acquire("f:a", 10)
      slots.acquire("f:a", 10)
      assert.equal(1, slots.reap(2))
      assert.equal(0, slots.reap(2))
      assert.equal(1, slots.count("f:a"))
    end)

    it("are given back for instances, too, that no configuration names any more", function()
      local dead = new_worker(dict, 2)
      dead.acquire("f:removed-yesterday", 10)
      slots.reap(2)
      assert.equal(0, slots.count("f:removed-yesterday"))
    end)

    it("do not burden the next worker in its place", function()
      new_worker(dict, 2).acquire("f:a", 10)
      slots.reap(2)
      local heir = new_worker(dict, 2)
      heir.acquire("f:a", 10)
      assert.equal(1, slots.count("f:a"))
      assert.equal(1, slots.reap(2))
      assert.equal(0, slots.count("f:a"))
    end)

    it("leave nothing behind in the dict", function()
      local dead = new_worker(dict, 2)
      dead.acquire("f:a", 10)
      slots.reap(2)
      assert.same({ "f:a" }, dict:keys())
    end)
  end)

  it("lists a key once, however many others come between", function()
    for _ = 1, 3 do
      for key = 1, 50001 do
        slots.acquire("f:" .. key, 1)
        slots.release("f:" .. key)
      end
    end
    local listed = 0
    while dict:lpop("sk:1") do listed = listed + 1 end
    assert.equal(50001, listed)
  end)

  it("counts right through any life of several workers", function()
    math.randomseed(11)
    local keys, workers, held = { "f:a", "f:b", "q:chat" }, {}, {}
    for who = 1, 4 do workers[who], held[who] = new_worker(dict, who), { ["f:a"] = 0, ["f:b"] = 0, ["q:chat"] = 0 } end
    for step = 1, 20000 do
      local who, key, what = math.random(4), keys[math.random(3)], math.random(100)
      if what <= 55 then
        if workers[who].acquire(key, 20) then held[who][key] = held[who][key] + 1 end
      elseif what <= 99 then
        if held[who][key] > 0 then
          workers[who].release(key)
          held[who][key] = held[who][key] - 1
        end
      else
        workers[who % 4 + 1].reap(who)
        workers[who], held[who] = new_worker(dict, who), { ["f:a"] = 0, ["f:b"] = 0, ["q:chat"] = 0 }
      end
      local sum = held[1][key] + held[2][key] + held[3][key] + held[4][key]
      assert(sum <= 20 and sum == workers[1].count(key), "step " .. step)
    end
  end)
end)
