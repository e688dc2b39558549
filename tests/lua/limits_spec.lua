local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"
local fuzz = require "support.fuzz"

local MINUTE_US = 60e6

describe("a token bucket", function()
  local limits, dict, bucket, now_us

  before_each(function()
    local stand_in = fake_ngx.install()
    package.loaded["evenkeel.limits"], package.loaded["evenkeel.spending"] = nil, nil
    limits = require "evenkeel.limits"
    dict = fake_dict.new(stand_in.clock)
    bucket = limits.bucket("b")
    now_us = 1.7e15
  end)

  local function takes(per_minute, most)
    local n = 0
    while n < most and limits.take(dict, bucket, limits.cost_us(1, per_minute), now_us) do n = n + 1 end
    return n
  end

  it("holds one minute's worth, not one more", function()
    assert.equal(60, takes(60, 1000))
    assert.equal(0, takes(60, 1))
  end)

  it("refills steadily: one a second at 60 a minute", function()
    takes(60, 1000)
    now_us = now_us + 999999
    assert.equal(0, takes(60, 1))
    now_us = now_us + 1
    assert.equal(1, takes(60, 10))
    now_us = now_us + 30e6
    assert.equal(30, takes(60, 100))
  end)

  it("never holds more than a minute's worth, however long nobody took", function()
    takes(60, 10)
    for _, hours in ipairs { 1, 1000 } do
      now_us = now_us + hours * 3600e6
      assert.equal(60, takes(60, 1000))
    end
  end)

  it("is the same after a large taking when it had been idle for a while", function()
    limits.take(dict, bucket, MINUTE_US, now_us)
    now_us = now_us + 119e6
    assert.is_true((limits.take(dict, bucket, MINUTE_US, now_us)))
    assert.is_false((limits.take(dict, bucket, 1e6, now_us)))
  end)

  it("tells after what time it is full again, refused or not", function()
    local _, full_after = limits.take(dict, bucket, 10e6, now_us)
    assert.equal(10e6, full_after)
    _, full_after = limits.take(dict, bucket, MINUTE_US, now_us)
    assert.equal(10e6, full_after)
  end)

  it("is not touched by a refusal, not even for a moment in which others would see less than there is", function()
    takes(60, 1000)
    local reading = { get = function(_, key) return dict:get(key) end }
    local ok, full_after = limits.take(reading, bucket, 1e6, now_us)
    assert.is_false(ok)
    assert.equal(MINUTE_US, full_after)
  end)

  it("may go into debt, and then gives nothing until that is paid", function()
    limits.take(dict, bucket, 1e6, now_us)
    limits.settle(dict, bucket, 3 * MINUTE_US, now_us)
    now_us = now_us + 2 * MINUTE_US
    assert.is_false((limits.take(dict, bucket, 1e6, now_us)))
    now_us = now_us + 2e6
    assert.is_true((limits.take(dict, bucket, 1e6, now_us)))
  end)

  -- Workers whose steps on the shared dict interleave in any order.
  it("never gives more than its rate allows, and all of that, however workers interleave", function()
    fuzz.run(200, function(random)
      local clock = fake_ngx.clock()
      local shared = fake_dict.new(clock)
      local stepping = setmetatable({}, { __index = function(_, verb)
        return function(_, ...)
          coroutine.yield()
          return shared[verb](shared, ...)
        end
      end })
      local workers, per_minute = random(2, 6), fuzz.pick(random, { 7, 60, 600, 3000 })
      local cost = limits.cost_us(1, per_minute)
      local began, at = 1.7e15, 1.7e15
      local given, running = 0, {}
      local function begin()
        return coroutine.wrap(function()
          if limits.take(stepping, bucket, cost, at) then given = given + 1 end
          return "done"
        end)
      end
      -- races can only be had at an idle bucket, and then cost it less than one taking for each worker
      local idles = 1
      for _ = 1, 20 do
        if random(4) == 1 then
          at = at + random(1, 200) * 1e6
          clock.now_s = clock.now_s + 200              -- claims of the dead are forgotten
          idles = idles + 1
        end
        for _ = 1, random(1, 60) do
          for w = 1, workers do running[w] = running[w] or begin() end
          local w = random(workers)
          if running[w]() == "done" then running[w] = nil end
        end
        for w = 1, workers do
          while running[w] do if running[w]() == "done" then running[w] = nil end end
        end
      end
      local most = per_minute + (at - began) / cost + idles * workers
      assert(given <= most, ("%d given, %d at most"):format(given, most))
      at = at + 2 * MINUTE_US
      given = 0
      local asked = 0
      while asked < per_minute do
        asked = asked + 1
        local take = begin()
        while take() ~= "done" do end
      end
      assert.equal(per_minute, given, "after two quiet minutes everything is there again")
    end)
  end)
end)

describe("a client's limits", function()
  local stand_in, limits, slots, spending, client

  before_each(function()
    stand_in = fake_ngx.install()
    for _, name in ipairs { "limits", "spending", "slots", "events" } do package.loaded["evenkeel." .. name] = nil end
    limits, slots, spending = require "evenkeel.limits", require "evenkeel.slots", require "evenkeel.spending"
    limits.use(stand_in.shared.evenkeel_state)
    slots.use(stand_in.shared.evenkeel_state, 1)
  end)

  local function new_client(fields)
    client = { name = "web-app" }
    for k, v in pairs(fields) do client[k] = v end
    limits.compile(client)
    return client
  end

  local function admit(bytes, scan)
    stand_in.header = {}
    return limits.admit(client, scan or {}, bytes or 100, stand_in.now())
  end

  it("are none where none are set", function()
    assert.is_false(new_client {}.limited)
    assert.is_true(new_client { max_concurrent = 1 }.limited)
  end)

  it("let so many requests a minute pass and say how many are left", function()
    new_client { requests_per_minute = 3 }
    assert.is_truthy(admit())
    assert.same({ 3, 2, "20.000s" }, { stand_in.header["x-ratelimit-limit-requests"], stand_in.header["x-ratelimit-remaining-requests"],
      stand_in.header["x-ratelimit-reset-requests"] })
    admit()
    admit()
    local permit, refused = admit()
    assert.is_nil(permit)
    assert.same({ "rate_limit_exceeded", 20 }, { refused.code, refused.retry_after_s })
    assert.equal(0, stand_in.header["x-ratelimit-remaining-requests"])
    stand_in.clock:pass(20)
    assert.is_truthy(admit())
    assert.is_nil((admit()))
  end)

  it("take tokens by estimate, give them back, and count what was used", function()
    new_client { tokens_per_minute = 1000 }
    local permit = admit(400, { max_tokens = 500 })                     -- 100 + 500
    assert.equal(400, stand_in.header["x-ratelimit-remaining-tokens"])
    local refused, why = admit(400, { max_tokens = 500 })
    assert.is_nil(refused)
    assert.equal("rate_limit_exceeded", why.code)
    limits.used(client, 900, 0, "USD", stand_in.now())
    limits.leave(permit)
    assert.is_truthy(admit(40, {}))
    assert.equal(90, stand_in.header["x-ratelimit-remaining-tokens"])
    assert.is_truthy(admit(360, {}), "90 fit")
    assert.is_nil((admit(4, {})))
  end)

  it("let a request that may need more than a minute's tokens pass when nothing else is going on", function()
    new_client { tokens_per_minute = 1000 }
    local permit = admit(4, { max_tokens = 1e300, n = 1e300 })
    assert.is_truthy(permit)
    assert.is_nil((admit(4)))
    limits.leave(permit)
    assert.is_truthy(admit(4))
  end)

  it("give a refused request's other takings back", function()
    new_client { requests_per_minute = 10, tokens_per_minute = 100, max_concurrent = 5 }
    assert.is_truthy(admit(400))
    for _ = 1, 20 do assert.is_nil((admit(400))) end
    assert.equal(1, slots.count(client.counts.in_flight))
    stand_in.clock:pass(60)
    assert.is_truthy(admit(4))
    assert.equal(9, stand_in.header["x-ratelimit-remaining-requests"])
  end)

  it("let so many calls run at once, and the next when one is over", function()
    new_client { max_concurrent = 2 }
    local first = admit()
    admit()
    local permit, refused = admit()
    assert.is_nil(permit)
    assert.same({ "too_many_concurrent_requests", 1 }, { refused.code, refused.retry_after_s })
    limits.leave(first)
    limits.leave(first)
    assert.is_truthy(admit())
    assert.is_nil((admit()))
  end)

  it("are divided by this node's share", function()
    new_client { requests_per_minute = 8, max_concurrent = 4 }
    limits.set_share(0.25)
    assert.is_truthy(admit())
    local _, refused = admit()
    assert.equal("too_many_concurrent_requests", refused.code)
    new_client { requests_per_minute = 8 }
    assert.is_truthy(admit())
    assert.is_nil((admit()))
    limits.set_share(0.001)
    new_client { requests_per_minute = 1, name = "small" }
    assert.is_truthy(admit(), "less than one a minute is still one after another")
  end)

  it("of one client are nothing to another", function()
    local one = new_client { requests_per_minute = 1 }
    admit()
    new_client { name = "other", requests_per_minute = 1 }
    assert.is_truthy(admit())
    client = one
    assert.is_nil((admit()))
  end)

  it("warn when the budget is nearly used and stop when it is, each told once", function()
    local events = require "evenkeel.events"
    new_client { budget = { amount = 10, currency = "USD", per = "day", warn_at = 0.8 } }
    local function spend(amount) limits.used(client, 1, amount * 1e9, "USD", stand_in.now()) end
    spend(7.9)
    assert.is_truthy(admit())
    assert.is_nil(stand_in.header["x-evenkeel-budget-warning"])
    spend(0.2)
    assert.is_truthy(admit())
    assert.is_truthy(admit())
    assert.equal("81%", stand_in.header["x-evenkeel-budget-warning"])
    spend(2)
    local permit, refused = admit()
    assert.is_nil(permit)
    assert.equal("budget_exceeded", refused.code)
    local _, ends_in_s = spending.period("day", stand_in.now())
    assert.equal(math.ceil(ends_in_s), refused.retry_after_s)
    admit()
    local kinds = {}
    for _, event in ipairs((events.after(0, 100))) do kinds[#kinds + 1] = event.kind end
    assert.same({ "budget_warning", "budget_exceeded" }, kinds)
    stand_in.clock:pass(ends_in_s)
    assert.is_truthy(admit(), "another day, another budget")
    client.budget.amount = 100
  end)
end)

describe("spending", function()
  local stand_in, spending, clients

  before_each(function()
    stand_in = fake_ngx.install()
    package.loaded["evenkeel.spending"] = nil
    spending = require "evenkeel.spending"
    spending.use(stand_in.shared.evenkeel_state)
    clients = { a = { name = "a", budget = { amount = 1, currency = "USD", per = "month" } }, b = { name = "b" } }
  end)

  local function at(text)
    local y, mo, d, h, mi, s = text:match("(%d+)-(%d+)-(%d+) (%d+):(%d+):(%d+)")
    local civil = os.time { year = y, month = mo, day = d, hour = h, min = mi, sec = s }
    return civil + os.difftime(os.time(os.date("*t", civil)), os.time(os.date("!*t", civil)))
  end

  for _, case in ipairs {
    { "day", "2026-11-25 22:30:00", "2026-11-25", 5400 },
    { "day", "2026-12-31 23:59:59", "2026-12-31", 1 },
    { "month", "2026-11-30 23:59:59", "2026-11", 1 },
    { "month", "2028-02-28 00:00:00", "2028-02", 2 * 86400 },
    { "month", "2026-12-01 00:00:00", "2026-12", 31 * 86400 },
  } do
    it("is by the " .. case[1] .. " of UTC: " .. case[2], function()
      local name, ends_in_s = spending.period(case[1], at(case[2]))
      assert.same({ case[3], case[4] }, { name, ends_in_s })
    end)
  end

  it("adds what others have spent to what was spent here, and counts nothing twice", function()
    local now = stand_in.now()
    local born = spending.born(now)
    spending.add(clients.a, 3e8, "USD", now)
    local told = spending.exchange({ a = { period = spending.period("month", now), currency = "USD", others_nano = 4e8 } }, born, now)
    assert.same({ born = born, clients = { a = { period = spending.period("month", now), currency = "USD", spent_nano = 3e8 } } }, told)
    local state, share = spending.state(clients.a, now)
    assert.equal("ok", state)
    assert.is_near(0.7, share, 1e-9)
    local again = { a = { period = spending.period("month", now), currency = "USD", others_nano = 4e8 } }
    for _ = 1, 3 do spending.exchange(again, born, now) end
    assert.is_near(0.7, select(2, spending.state(clients.a, now)), 1e-9)
  end)

  it("tells of those who have spent, each by the period of the budget that it has now", function()
    local now = stand_in.now()
    local born, day, month = spending.born(now), spending.period("day", now), spending.period("month", now)
    assert.same({ born = born, clients = {} }, spending.exchange({}, born, now))
    spending.add(clients.a, 1e8, "USD", now)
    spending.add(clients.a, 1e8, "USD", now)
    clients.a.budget.per = "day"
    spending.add(clients.a, 5e8, "USD", now)
    spending.add({ name = "c", budget = clients.a.budget }, 7e8, "USD", now)
    local told = { a = { period = day, currency = "USD", spent_nano = 5e8 }, c = { period = day, currency = "USD", spent_nano = 7e8 } }
    assert.same(told, spending.exchange({}, born, now).clients)
    clients.a.budget.per = "month"
    spending.add(clients.a, 1e8, "USD", now)
    told.a = { period = month, currency = "USD", spent_nano = 3e8 }
    assert.same(told, spending.exchange({}, born, now).clients)
    assert.same({ a = told.a }, spending.exchange({}, born, now + 86400).clients, "another day")
  end)

  it("does not take what was meant for another life or another period", function()
    local now = stand_in.now()
    local period, born = spending.period("month", now), spending.born(now)
    spending.exchange({ a = { period = period, currency = "USD", others_nano = 9e9 } }, born - 1, now)
    spending.exchange({ a = { period = "2020-01", currency = "USD", others_nano = 9e9 } }, born, now)
    spending.exchange({ a = 5, b = { period = period, currency = "USD", others_nano = 1 } }, born, now)
    assert.equal(0, select(2, spending.state(clients.a, now)))
  end)

  it("counts another currency by its rate, and one to one where there is none", function()
    local now = stand_in.now()
    clients.a.budget.rates = { GBP = 1.25 }
    spending.add(clients.a, 4e8, "GBP", now)
    spending.add(clients.a, 1e8, "EUR", now)
    assert.is_near(0.6, select(2, spending.state(clients.a, now)), 1e-9)
  end)

  it("does not take what was spent of a budget in one currency for another, and learns it converted", function()
    local now = stand_in.now()
    local period, born = spending.period("month", now), spending.born(now)
    clients.a.budget = { amount = 650, currency = "GBP", per = "month" }
    spending.add(clients.a, 640e9, "GBP", now)
    clients.a.budget = { amount = 120000, currency = "JPY", per = "month" }
    assert.same({ period = period, currency = "GBP", spent_nano = 640e9 }, spending.exchange({}, born, now).clients.a)
    spending.exchange({ a = { period = period, currency = "JPY", others_nano = 128000e9 } }, born, now)
    assert.equal("stop", (spending.state(clients.a, now)))
    spending.add(clients.a, 5e9, "JPY", now)
    assert.same({ period = period, currency = "JPY", spent_nano = 5e9 }, spending.exchange({}, born, now).clients.a)
    clients.a.budget = { amount = 650, currency = "GBP", per = "month" }
    assert.is_near(640 / 650, select(2, spending.state(clients.a, now)), 1e-9)
  end)

  it("takes no sum whose currency it is not told", function()
    local now = stand_in.now()
    spending.exchange({ a = { period = spending.period("month", now), others_nano = 9e9 } }, spending.born(now), now)
    assert.equal(0, select(2, spending.state(clients.a, now)))
  end)
end)
