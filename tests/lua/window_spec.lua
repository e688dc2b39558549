local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"
local window = require "evenkeel.window"

describe("a sliding window", function()
  local clock, dict, counted
  before_each(function()
    clock = fake_ngx.clock(1700000000)
    dict = fake_dict.new(clock)
    counted = window.new("w:", 10)
  end)
  local function add(n) for _ = 1, n do counted:add(dict, clock.now_s) end end
  local function count() return counted:count(dict, clock.now_s) end

  it("is empty at first", function() assert.equal(0, count()) end)

  it("counts what was added", function()
    add(7)
    assert.equal(7, count())
  end)

  it("is as long as it says: even traffic of 5 per second is 50 in ten seconds, at any moment", function()
    for tenth = 1, 500 do
      if tenth % 2 == 0 then add(1) end
      clock:pass(0.1)
      if tenth > 200 then assert.is_near(50, count(), 1.1) end
    end
  end)

  it("forgets in a straight line, and wholly after two lengths", function()
    add(100)
    clock:pass(10)
    assert.is_near(100, count(), 0.001)
    clock:pass(2.5)
    assert.is_near(75, count(), 0.001)
    clock:pass(7.5)
    assert.equal(0, count())
  end)

  it("begins at nothing when it is told to forget", function()
    add(50)
    clock:pass(10)
    add(50)
    counted:forget(dict, clock.now_s)
    assert.equal(0, count())
    add(1)
    assert.equal(1, count())
  end)

  it("is shared by the workers", function()
    add(3)
    window.new("w:", 10):add(dict, clock.now_s)
    assert.equal(4, count())
  end)

  it("leaves nothing behind", function()
    for _ = 1, 100 do
      add(1)
      clock:pass(7)
    end
    assert(#dict:keys() <= 5)
    clock:pass(31)
    assert.same({}, dict:keys())
  end)
end)
