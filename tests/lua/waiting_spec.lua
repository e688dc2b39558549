local waiting = require "evenkeel.waiting"

describe("waiting", function()
  before_each(waiting.forget)

  local function begin(...)
    local attempts = {}
    for i, started in ipairs { ... } do
      attempts[i] = { started = started }
      waiting.begin("a", "stream", attempts[i])
    end
    return attempts
  end

  it("says nothing of nobody, nor of two", function()
    assert.is_nil(waiting.median_s("a", "stream", 10))
    begin(1, 2)
    assert.is_nil(waiting.median_s("a", "stream", 10))
  end)

  it("tells the median: one that hangs does not speak for all", function()
    begin(0, 97, 98, 99)
    assert.equal(2, waiting.median_s("a", "stream", 100))
  end)

  it("keeps instances and kinds apart", function()
    begin(1, 2, 3)
    assert.is_nil(waiting.median_s("b", "stream", 10))
    assert.is_nil(waiting.median_s("a", "json", 10))
  end)

  it("forgets who has been answered, the first, the last and one between, once", function()
    local attempts = begin(1, 2, 3, 4, 5, 6)
    for _, i in ipairs { 1, 6, 3, 3 } do waiting.over(attempts[i]) end
    assert.equal(6, waiting.median_s("a", "stream", 10))          -- 2, 4, 5: the one of 4
    waiting.over(attempts[2])
    assert.is_nil(waiting.median_s("a", "stream", 10))
    for _, i in ipairs { 4, 5 } do waiting.over(attempts[i]) end
    begin(7, 8, 9)
    assert.equal(2, waiting.median_s("a", "stream", 10))
  end)

  it("takes it easily when somebody never began", function() waiting.over({}) end)
end)
