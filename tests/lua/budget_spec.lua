local budget = require "evenkeel.budget"
local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

describe("the retry budget", function()
  local clock, pool
  before_each(function()
    clock = fake_ngx.clock()
    budget.use(fake_dict.new(clock))
    pool = { name = "chat", retry = { budget_ratio = 0.2, budget_min_per_second = 10 } }
  end)

  local function requests(n) for _ = 1, n do budget.request(pool, clock.now_s) end end
  local function granted(asked)
    local n = 0
    for _ = 1, asked do
      if budget.retry(pool, clock.now_s) then n = n + 1 end
    end
    return n
  end

  it("has a floor of ten a second, over ten seconds, for a pool with little to do", function()
    assert.equal(100, granted(1000))
  end)

  it("adds a fifth of the requests", function()
    requests(1000)
    assert.equal(300, granted(1000))
  end)

  it("is spent once: nothing comes back before the window has slid on", function()
    granted(1000)
    assert.equal(0, granted(10))
    clock:pass(10.5)
    assert(granted(1000) <= 6)
  end)

  for _, case in ipairs {
    { "without traffic", 0, 10 },
    { "at 100 requests a second", 100, 30 },
    { "at 1000 requests a second", 1000, 210 },
  } do
    it(("in the long run is a fifth and ten a second: %s %d retries a second"):format(case[1], case[3]), function()
      local sum = 0
      for tenth = 1, 1200 do
        requests(case[2] / 10)
        local n = granted(case[2] / 10 + 50)
        if tenth > 200 then sum = sum + n end
        clock:pass(0.1)
      end
      assert.is_near(case[3], sum / 100, case[3] * 0.03)
    end)
  end

  it("is what the pool says", function()
    pool.retry = { budget_ratio = 0.5, budget_min_per_second = 0 }
    requests(10)
    assert.equal(5, granted(100))
    pool.retry = { budget_ratio = 0, budget_min_per_second = 0 }
    clock:pass(100)
    requests(1000)
    assert.equal(0, granted(100))
  end)

  it("belongs to one pool", function()
    granted(1000)
    pool = { name = "other", retry = {} }
    assert.equal(100, granted(1000))
  end)

  it("outlives a new revision of the pool", function()
    granted(1000)
    pool = { name = "chat", retry = pool.retry }
    assert.equal(0, granted(10))
  end)
end)
