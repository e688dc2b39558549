-- Counters of several workers: what all have counted is in the dict once all have merged, and nothing else is.
local fake_ngx = require "support.fake_ngx"
local fake_dict = require "support.fake_dict"

describe("the counters", function()
  local clock, dict
  before_each(function()
    clock = fake_ngx.clock(1764106847.123)
    fake_ngx.install(clock)
    dict = fake_dict.new(clock)
  end)

  local function worker(who)
    local metrics = dofile(assert(package.searchpath("evenkeel.metrics", package.path)))
    metrics.use(dict, who)
    return metrics
  end

  local function count(metrics, labels, n)
    local spec = metrics.FAMILIES.attempt
    local v = metrics.open(metrics.series(spec, labels))
    v[spec.at.count] = v[spec.at.count] + (n or 1)
    return v
  end

  local function labels(instance, outcome) return { "chat", instance, "chat", "json", outcome or "ok", "client" } end

  -- "instance/outcome" → {count, born}, of what changed after `after`
  local function read(metrics, after)
    local got, v = {}, {}
    for id = 1, metrics.top() do
      local spec, values, born = metrics.row(id, after or 0, v)
      if spec then
        local name = values[spec.name == "usage" and 3 or 2] .. "/" .. values[5]
        assert.is_nil(got[name], "a label set has one row")
        got[name] = { count = v[1], born = born }
      end
    end
    return got
  end

  it("are there when they are merged, and not before", function()
    local a = worker(1)
    count(a, labels("x"))
    assert.same({}, read(a))
    a.flush(clock:steady_s(), clock.now_s)
    assert.equal(1, read(a)["x/ok"].count)
  end)

  it("of any workers sum up to what was counted, whatever order they merge in", function()
    math.randomseed(7)
    local workers, truth = {}, {}
    for i = 1, 5 do workers[i] = worker(i) end
    for _ = 1, 3000 do
      local instance, outcome = "i" .. math.random(7), math.random() < 0.9 and "ok" or "stalled"
      local metrics, n = workers[math.random(5)], math.random(4)
      count(metrics, labels(instance, outcome), n)
      local name = instance .. "/" .. outcome
      truth[name] = (truth[name] or 0) + n
      if math.random() < 0.05 then workers[math.random(5)].flush(clock:steady_s(), clock.now_s) end
      clock:pass(0.01)
    end
    for i = 1, 5 do workers[i].flush(clock:steady_s(), clock.now_s) end
    local got = read(workers[1])
    for name, n in pairs(truth) do assert.equal(n, got[name].count, name) end
  end)

  it("of a killed worker are lost from its last merge on, and nothing before", function()
    local a, b = worker(1), worker(2)
    count(a, labels("x"), 10)
    a.flush(clock:steady_s(), clock.now_s)
    count(a, labels("x"), 3)                            -- killed here
    count(b, labels("x"), 5)
    b.flush(clock:steady_s(), clock.now_s)
    assert.equal(15, read(b)["x/ok"].count)
  end)

  it("go on when a worker died with the lock", function()
    local a = worker(1)
    dict:add("lock", 9, 5)
    count(a, labels("x"))
    assert.is_false(a.flush(clock:steady_s(), clock.now_s))
    clock:pass(5.1)
    assert.is_true(a.flush(clock:steady_s(), clock.now_s))
    assert.equal(1, read(a)["x/ok"].count)
  end)

  it("that changed are told by a number that only grows", function()
    local a, b = worker(1), worker(2)
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    local seq = a.seq()
    assert.same({}, read(a, seq))
    count(b, labels("y"))
    b.flush(clock:steady_s(), clock.now_s)
    assert(b.seq() > seq)
    assert.is_nil(read(a, seq)["x/ok"])
    assert.equal(1, read(a, seq)["y/ok"].count)
    a.flush(clock:steady_s(), clock.now_s)
    assert.same({}, read(a, b.seq()), "a merge of nothing changes nothing")
  end)

  it("are told again when a merge was not finished", function()
    local a, b = worker(1), worker(2)
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    local seq = a.seq()
    count(a, labels("x"))
    local set = dict.set
    dict.set = function(self, key, ...)                -- the worker dies before it tells the number
      if key == "seq" then error("killed") end
      return set(self, key, ...)
    end
    assert.has_error(function() a.flush(clock:steady_s(), clock.now_s) end)
    dict.set = nil
    clock:pass(6)
    count(b, labels("y"))
    b.flush(clock:steady_s(), clock.now_s)
    local got = read(b, seq)
    assert.same({ 2, 1 }, { got["x/ok"].count, got["y/ok"].count })
  end)

  it("that did not change for an hour are forgotten, and begin a new life", function()
    local a = worker(1)
    count(a, labels("x"), 4)
    a.flush(clock:steady_s(), clock.now_s)
    local born = read(a)["x/ok"].born
    clock:pass(3601)
    a.flush(clock:steady_s(), clock.now_s)
    assert.same({}, read(a))
    count(a, labels("x"), 1)
    a.flush(clock:steady_s(), clock.now_s)
    local again = read(a)["x/ok"]
    assert.equal(1, again.count)
    assert(again.born > born)
    assert.equal(1, a.top(), "its row is used again")
  end)

  it("have lives of their own after a restart, above those before", function()
    local a = worker(1)
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    local born, seq = read(a)["x/ok"].born, a.seq()
    clock:pass(1)
    dict = fake_dict.new(clock)
    a = worker(1)
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    assert(read(a)["x/ok"].born > born)
    assert(a.seq() > seq)
    assert(born < 2 ^ 53)
  end)

  it("are bounded: what finds no room counts under _other, and is counted as dropped", function()
    local a = worker(1)
    local spec = a.FAMILIES.usage
    dict:set("live", 20000)
    local held = {}                                    -- as the snapshot's objects hold them
    local function spend(client)
      held[client] = held[client] or a.series(spec, { "chat", "x", client, "m", "client", "", "USD" })
      local v = a.open(held[client])
      v[spec.at.attempts] = v[spec.at.attempts] + 1
    end
    for i = 1, 5 do spend("client-" .. i) end
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    assert.same({ "_other/client" }, { (next(read(a))) })
    assert.equal(5, read(a)["_other/client"].count)
    assert.equal(6, a.dropped(), "there is no other name for an instance")
    spend("client-1")
    a.flush(clock:steady_s(), clock.now_s)
    assert.equal(6, a.dropped(), "it knows its place by now")
  end)

  it("that find the dict full are dropped and counted; those that are there go on", function()
    local a = worker(1)
    count(a, labels("x"))
    a.flush(clock:steady_s(), clock.now_s)
    local safe_set = dict.safe_set
    dict.safe_set = function() return nil, "no memory" end
    count(a, labels("x"))
    count(a, labels("y"))
    a.flush(clock:steady_s(), clock.now_s)
    assert.equal(2, read(a)["x/ok"].count)
    assert.is_nil(read(a)["y/ok"])
    assert.equal(1, a.dropped())
    dict.safe_set = safe_set
    count(a, labels("y"))
    a.flush(clock:steady_s(), clock.now_s)
    assert.equal(1, read(a)["y/ok"].count)
  end)

  it("put a value into the bucket whose bound is the first that is not below it", function()
    local a = worker(1)
    local bounds = a.BOUNDS.long
    local last = #bounds
    for _, case in ipairs { { 0, 1 }, { 0.05, 1 }, { 0.0501, 2 }, { 599, last }, { 600, last }, { 601, last + 1 }, { 1e9, last + 1 } } do
      local v = {}
      for i = 1, 2 + #bounds do v[i] = 0 end
      a.observe(v, 1, bounds, case[1])
      for i = 1, #bounds + 1 do assert.equal(i == case[2] and 1 or 0, v[1 + i], case[1] .. " in " .. i) end
      assert.equal(case[1], v[1])
    end
  end)
end)
