local request_ids = require "evenkeel.request_ids"

describe("an id of a request", function()
  -- the first outputs of xoshiro128++ from the state 1, 2, 3, 4, as its authors' C code gives them
  it("comes from xoshiro128++", function()
    request_ids.use("\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0")
    assert.equal("00000281" .. "00180387" .. "c0183387" .. "d1ae3b02", request_ids.new())
  end)

  it("is 32 hex digits and never the same twice", function()
    request_ids.start()
    local seen = {}
    for _ = 1, 10000 do
      local id = request_ids.new()
      assert.truthy(id:find("^%x+$") and #id == 32)
      assert.is_nil(seen[id])
      seen[id] = true
    end
  end)

  it("is another one in each worker", function()
    request_ids.start()
    local one = request_ids.new()
    request_ids.start()
    assert.are_not.equal(one, request_ids.new())
  end)
end)
