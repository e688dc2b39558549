-- Clients' requests that become prompts of ghosts: bounded, by chance, forgotten when they are taken.
local fake_dict = require "support.fake_dict"
local cjson = require "cjson.safe"
local samples = require "evenkeel.samples"

describe("samples", function()
  local dict
  local function always() return 0 end
  local function pool(share) return { name = "chat", ghost_sample = share } end
  local function taken() return cjson.decode(samples.take(dict)).samples end

  before_each(function() dict = fake_dict.new { now_s = 0 } end)

  it("are told with their pool, byte for byte and in order, and forgotten", function()
    assert.is_true(samples.offer(dict, pool(1), "chat", '{"messages":\n[1]}', always))
    assert.is_true(samples.offer(dict, pool(1), "chat", "{}", always))
    assert.same({ { pool = "chat", body = '{"messages":\n[1]}' }, { pool = "chat", body = "{}" } }, taken())
    assert.same({}, taken())
  end)

  it("are a share of the requests", function()
    local i = 0
    local function rng()
      i = i + 1
      return (i % 100) / 100
    end
    local kept = 0
    for _ = 1, 1000 do
      if samples.offer(dict, pool(0.01), "chat", "{}", rng) then kept = kept + 1 end
    end
    assert.equal(10, kept)
  end)

  it("are chats of usual length only", function()
    assert.is_false(samples.offer(dict, pool(1), "embeddings", "{}", always))
    assert.is_false(samples.offer(dict, pool(1), "chat", ("x"):rep(16 * 1024 + 1), always))
    assert.is_true(samples.offer(dict, pool(1), "chat", ("x"):rep(16 * 1024), always))
  end)

  it("are dropped when the list is full, and taken again when there is room", function()
    for i = 1, 100 do assert.equal(i <= 64, samples.offer(dict, pool(1), "chat", "{}", always)) end
    assert.equal(64, #taken())
    assert.is_true(samples.offer(dict, pool(1), "chat", "{}", always))
  end)

  it("are dropped when the memory is full", function()
    dict.full = true
    assert.is_false(samples.offer(dict, pool(1), "chat", "{}", always))
  end)
end)
