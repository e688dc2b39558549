local choices = require "evenkeel.choices"

describe("the choices of an answer", function()
  -- Notes a line such as "0 1+ 0! 1+!": index, + for content, ! for a finish. @return state, what was finished again
  local function noted(wanted, line)
    local state, again = choices.new(wanted), {}
    for index, speaks, finishes in line:gmatch("(%-?[%d.]*%d)(%+?)(!?)") do
      if choices.note(state, tonumber(index), speaks ~= "", finishes ~= "") then again[#again + 1] = tonumber(index) end
    end
    return state, again
  end

  for _, case in ipairs {
    -- at least, what comes, finished?, finished again
    { 1, "", false, {} },
    { 1, "0 0+ 0+", false, {} },
    { 1, "0 0+ 0!", true, {} },
    { 1, "0+!", true, {} },
    { 1, "0+ 0! 0", true, {} },
    { 1, "0+ 0! 0+", false, {} },
    { 1, "0+ 0! 0+ 0!", true, { 0 } },
    { 1, "0+ 0! 0! 0!", true, { 0, 0 } },
    { 1, "0+! 0+! 0+!", true, { 0, 0 } },
    { 1, "0+ 1+ 0!", false, {} },
    { 1, "0+ 1+ 0! 1!", true, {} },
    { 1, "0+ 0! 1", false, {} },
    { 2, "0+ 0!", false, {} },
    { 2, "0+ 0! 0!", false, { 0 } },
    { 2, "0+ 0! 1!", true, {} },
    { 2, "1+ 0+ 1! 0! 1!", true, { 1 } },
    { 1.5, "0!", false, {} },
    { 1, "-1!", false, {} },
    { 1, "0! -1+", false, {} },
    { 1, "0! 0.5+", false, {} },
    { 1, "0! 99999999999", false, {} },
  } do
    it(("of which %s must come: %s"):format(case[1], case[2]), function()
      local state, again = noted(case[1], case[2])
      assert.equal(case[3], choices.finished(state))
      assert.same(case[4], again)
    end)
  end

  it("that never had a finish reason are listed in order", function()
    assert.same({ 0, 3, 7 }, choices.never_finished((noted(1, "7+ 3 0 1! 2! 2+"))))
  end)

  it("are remembered up to a bound, and count as finished only below it", function()
    local state = choices.new(1)
    for index = 0, 1e5 do
      choices.note(state, index, true, true)
      if index < 2048 then assert.is_true(choices.finished(state)) end
    end
    assert.is_false(choices.finished(state))
    local n = 0
    for _ in pairs(state.of) do n = n + 1 end
    assert.equal(2048, n)
  end)
end)
