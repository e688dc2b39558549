local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

describe("the global breaker", function()
  local clock, pool, pool_breaker
  before_each(function()
    clock = fake_ngx.clock()
    fake_ngx.install(clock)
    pool_breaker = require "evenkeel.pool_breaker"
    pool_breaker.use(fake_dict.new(clock))
    pool = { name = "chat", breaker = { sliding_window_s = 60, min_requests = 20, error_rate_threshold = 0.5 } }
    math.randomseed(1)
  end)

  -- `per_s` requests a second for `seconds`, of which those that are tried succeed with probability `health`. @return share refused
  local function drive(per_s, seconds, health)
    local refused = 0
    for _ = 1, per_s * seconds do
      local refuses = pool_breaker.refuses(pool, clock.now_s, math.random)
      if refuses then refused = refused + 1 end
      pool_breaker.count(pool, refuses and "refused" or math.random() < health and "accepted" or "failed", clock.now_s)
      clock:pass(1 / per_s)
    end
    return refused / (per_s * seconds)
  end

  it("begins to refuse when the error rate passes the threshold, and grows with it", function()
    assert.equal(0, pool_breaker.refusal(100, 100, 0.5))
    assert.equal(0, pool_breaker.refusal(100, 50, 0.5))
    assert.is_near(0.2, pool_breaker.refusal(100, 40, 0.5), 0.01)
    assert.is_near(0.99, pool_breaker.refusal(100, 0, 0.5), 0.001)
    assert.equal(0, pool_breaker.refusal(100, 11, 0.9))
    assert(pool_breaker.refusal(100, 9, 0.9) > 0)
    assert.equal(0, pool_breaker.refusal(100, 2, 1), "a threshold of 100 % refuses when nothing succeeds")
    assert.is_near(0.99, pool_breaker.refusal(100, 0, 1), 0.001)
  end)

  it("tells when it begins to refuse, once, and when it has not for a while", function()
    local events = require "evenkeel.events"
    local function told()
      local kinds = {}
      for i, event in ipairs((events.after(0, 100))) do kinds[i] = event.kind .. " " .. event.subject end
      return kinds
    end
    drive(10, 20, 0)
    pool_breaker.settle(pool, clock.now_s)
    assert.same({ "pool_opened chat" }, told())
    drive(10, 40, 1)
    pool_breaker.settle(pool, clock.now_s)
    pool_breaker.settle(pool, clock.now_s)
    assert.same({ "pool_opened chat", "pool_closed chat" }, told())
  end)

  it("refuses that share of the requests, but one a second goes through", function()
    for i = 1, 100 do pool_breaker.count(pool, i <= 40 and "accepted" or "failed", clock.now_s) end
    local refused = 0
    for _ = 1, 5000 do
      if pool_breaker.refuses(pool, clock.now_s, math.random) then refused = refused + 1 end
    end
    assert.is_near(1000, refused, 120)
    clock:pass(1.5)
    local function surely() return 0 end
    assert.is_false(pool_breaker.refuses(pool, clock.now_s, surely))
    assert.is_true(pool_breaker.refuses(pool, clock.now_s, surely))
    clock:pass(0.9)
    assert.is_true(pool_breaker.refuses(pool, clock.now_s, surely))
    clock:pass(0.2)
    assert.is_false(pool_breaker.refuses(pool, clock.now_s, surely))
  end)

  it("refuses nobody while most are served", function()
    assert.equal(0, drive(20, 300, 0.7))
  end)

  it("does not judge by too few requests", function()
    assert.equal(0, drive(19, 1, 0))
  end)

  it("stops nearly all when everything fails, but tries one a second", function()
    drive(50, 60, 0)
    local refused = drive(50, 60, 0)
    assert(refused > 0.95, "refused " .. refused)
    assert(refused < 0.985, "tried too little: refused " .. refused)
  end)

  it("lets a pool come back within half a minute of its recovery", function()
    drive(50, 120, 0)
    drive(50, 30, 1)
    assert.equal(0, drive(50, 60, 1))
  end)

  it("forgets an outage when as many in a row have succeeded as it takes to judge", function()
    local function surely() return 0 end
    local function count(n, what) for _ = 1, n do pool_breaker.count(pool, what, clock.now_s) end end
    count(200, "failed")
    assert.is_false(pool_breaker.refuses(pool, clock.now_s, surely), "the trial of this second")
    clock:pass(0.5)
    count(19, "accepted")
    count(100, "refused")
    assert.is_true(pool_breaker.refuses(pool, clock.now_s, surely))
    count(1, "failed")
    count(19, "accepted")
    assert.is_true(pool_breaker.refuses(pool, clock.now_s, surely))
    count(1, "accepted")
    assert.is_false(pool_breaker.refuses(pool, clock.now_s, surely))
    count(100, "accepted")
    assert.is_false(pool_breaker.refuses(pool, clock.now_s, surely))
  end)

  it("does not take a good moment of a bad pool for its recovery", function()
    drive(50, 60, 0.3)
    assert(drive(50, 300, 0.3) > 0.3)
  end)

  it("judges the whole window and nothing before it", function()
    drive(60, 1, 0)
    clock:pass(58)
    assert(drive(20, 1, 1) > 0)
    clock:pass(121)
    assert.equal(0, drive(20, 1, 1))
  end)

  it("is asked of pools that have one", function()
    pool.breaker = nil
    assert.equal(0, drive(50, 10, 0))
  end)
end)
