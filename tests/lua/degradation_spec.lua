-- When a pool ceases to be answered by its first tier: one event, not one for each request.
local fake_ngx = require "support.fake_ngx"

describe("a pool", function()
  local clock, degradation, events, pool
  before_each(function()
    clock = fake_ngx.install().clock
    for _, name in ipairs { "degradation", "events", "ring" } do package.loaded["evenkeel." .. name] = nil end
    degradation, events = require "evenkeel.degradation", require "evenkeel.events"
    pool = { name = "chat" }
  end)

  local function told()
    local list = {}
    for i, event in ipairs((events.after(0, 100))) do list[i] = event end
    return list
  end

  local function kinds()
    local list = told()
    for i, event in ipairs(list) do list[i] = event.kind end
    return table.concat(list, " ")
  end

  local function primary() degradation.note(pool, { tier = 1 }, "ok", clock.now_s) end
  local function second_tier() degradation.note(pool, { tier = 2, last_outcome = "server_error" }, "ok", clock.now_s) end
  local function lost() degradation.note(pool, { tier = 2, lost = "default", last_outcome = "stalled" }, "stalled", clock.now_s) end

  -- Time passes, a second at a time, as the workers' timers see it; `each` is called once a second.
  local function pass(seconds, each)
    for _ = 1, seconds do
      clock:pass(1)
      if each then each() end
      degradation.settle(pool, clock.now_s, true)
      degradation.settle(pool, clock.now_s, false)
    end
  end

  it("that its first tier answers tells nothing", function()
    pass(60, primary)
    assert.equal("", kinds())
  end)

  it("that a later tier answers tells it once, with the cause, and its end with how many there were", function()
    pass(30, function()
      second_tier()
      second_tier()
      lost()
    end)
    assert.equal("tier_degraded", kinds())
    pass(30, primary)
    assert.equal("tier_degraded tier_restored", kinds())
    local first, last = told()[1], told()[2]
    assert.same({ "chat", "server_error", 2 }, { first.subject, first.detail.outcome, first.detail.tier })
    assert.same({ 60, 30 }, { last.detail.degraded, last.detail.lost })
  end)

  it("is not restored by silence: the first tier must have answered", function()
    second_tier()
    pass(120)
    assert.equal("tier_degraded", kinds())
    pass(2, primary)
    assert.equal("tier_degraded tier_restored", kinds())
  end)

  it("that wavers is degraded all the while", function()
    pass(200, function()
      primary()
      if clock.now_s % 7 < 1 then second_tier() end
    end)
    assert.equal("tier_degraded", kinds())
  end)

  it("is told again the next time, counted from there", function()
    second_tier()
    pass(15, primary)
    second_tier()
    pass(15, primary)
    assert.equal("tier_degraded tier_restored tier_degraded tier_restored", kinds())
    assert.equal(1, told()[4].detail.degraded)
  end)

  it("is not degraded by clients who leave or ask nonsense", function()
    degradation.note(pool, { tier = 2 }, "client_gone", clock.now_s)
    degradation.note(pool, { tier = 2, lost = "default" }, "client_error", clock.now_s)
    assert.equal("", kinds())
  end)

  it("tells once for all workers, also for those with another snapshot", function()
    second_tier()
    local elsewhere = { name = "chat" }
    degradation.note(elsewhere, { tier = 2 }, "ok", clock.now_s)
    assert.equal("tier_degraded", kinds())
  end)

  it("that is taken out of the configuration is degraded no more", function()
    second_tier()
    degradation.forget(pool)
    degradation.forget(pool)
    assert.equal("tier_degraded tier_restored", kinds())
  end)
end)
