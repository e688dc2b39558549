local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"

describe("what other nodes have found out", function()
  local hints, live, breaker, dict, clock, inst, snapshot, events
  local NOW = 1.7e9

  before_each(function()
    local stand_in = fake_ngx.install()
    clock = stand_in.clock
    clock.now_s = NOW
    for _, name in ipairs { "hints", "live", "shares", "limits", "breaker", "events", "ring" } do
      package.loaded["evenkeel." .. name] = nil
    end
    dict = ngx.shared.evenkeel_state
    live, breaker = require "evenkeel.live", require "evenkeel.breaker"
    events = {}
    package.loaded["evenkeel.events"] = {
      add = function(kind, subject, detail) events[#events + 1] = kind .. " " .. subject .. " " .. (detail.by or "") end,
    }
    hints = require "evenkeel.hints"
    live.use(dict)
    inst = {
      name = "one", max_connections = 10, base_latency_s = 1, keys = live.keys("one"),
      breaker = {
        unhealthy_threshold = 2, healthy_threshold = 1, error_rate_threshold = 0.5, sliding_window_s = 60, half_open_max_requests = 1,
        recovery_timeout_s = 30, min_requests = 10,
      },
    }
    snapshot = { instances = { one = inst } }
  end)

  local function hear(kind, id, for_s, by)
    local hint = { instance = "one", kind = kind, by = by or "node-2", id = id, for_s = for_s }
    return (hints.accept(dict, cjson.encode { hints = { hint } }, snapshot, clock.now_s))
  end
  local function state() return (breaker.state(dict, inst.keys.breaker, clock.now_s)) end

  it("opens the breaker for the rest of the time, and is told as another's", function()
    assert.equal(204, hear("open", "a", 20))
    assert.equal("open", state())
    assert.equal("node-2", (hints.findings(dict, inst, NOW)).by)
    assert.same({ "breaker_opened one node-2" }, events)
    clock.now_s = NOW + 20
    assert.equal("half_open", state())
  end)

  it("is no more than an own opening: the own trial closes it, and what was heeded once is not heeded again", function()
    hear("open", "a", 20)
    clock.now_s = NOW + 21
    assert.equal("closed", breaker.success(dict, inst.keys.breaker, inst.breaker, NOW + 22, NOW + 21))
    hear("open", "a", 20)
    assert.equal("closed", state())
    hear("open", "b", 20)
    assert.equal("open", state())
  end)

  it("never ends or prolongs what this node found itself", function()
    for _ = 1, 2 do breaker.failure(dict, inst.keys.breaker, inst.breaker, NOW, NOW) end
    local mine = hints.findings(dict, inst, NOW)
    assert.is_nil(mine.by)
    hear("open", "a", 300)
    hear("closed", "a", 0)
    assert.same(mine, (hints.findings(dict, inst, NOW)))
    assert.same({}, events)
  end)

  it("closes what the same node had opened, and nothing else", function()
    hear("open", "a", 20)
    hear("closed", "a", 0, "node-3")
    assert.equal("open", state())
    hear("closed", "a", 0)
    assert.equal("closed", state())
    assert.is_true(live.view(inst, clock.now_s).warmth < 1)
  end)

  it("opens it as this node's own again when its own trial fails", function()
    hear("open", "a", 20)
    clock.now_s = NOW + 21
    breaker.failure(dict, inst.keys.breaker, inst.breaker, NOW + 22, NOW + 21)
    clock.now_s = NOW + 22
    assert.equal("open", state())
    assert.is_nil((hints.findings(dict, inst, NOW + 22)).by)
  end)

  it("lets it cool down, but no longer cooldown ends earlier for it", function()
    hear("cooldown", "a", 5)
    local _, cooldown = hints.findings(dict, inst, NOW)
    assert.equal("node-2", cooldown.by)
    assert.equal(NOW + 5, live.view(inst, NOW).cooldown_until)
    live.cool_down(inst, 9, NOW)
    hear("cooldown", "b", 2)
    _, cooldown = hints.findings(dict, inst, NOW)
    assert.is_nil(cooldown.by)
    assert.equal(NOW + 9, live.view(inst, NOW).cooldown_until)
  end)

  it("is passed by when it is of an instance that is not here", function()
    snapshot.instances = {}
    assert.equal(204, hear("open", "a", 20))
    assert.equal("closed", state())
  end)

  it("is refused when it is none", function()
    for _, raw in ipairs { "", "[]", "{}", '{"hints":[1]}', '{"hints":[{"instance":"one","kind":"up","by":"b","id":"a","for_s":1}]}',
      '{"hints":[{"instance":"one","kind":"open","by":"b","id":"a","for_s":1e9}]}' } do
      assert.equal(422, (hints.accept(dict, raw, snapshot, NOW)), raw)
    end
    assert.equal("closed", state())
  end)
end)
