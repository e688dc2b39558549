local cjson = require "cjson"
local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

describe("this node's shares", function()
  local shares, limits, dict, inst, path

  local function fresh(memory)
    for _, name in ipairs { "shares", "limits", "spending" } do package.loaded["evenkeel." .. name] = nil end
    shares, limits = require "evenkeel.shares", require "evenkeel.limits"
    dict = memory
    limits.use(dict)
    shares.use(dict)
  end

  before_each(function()
    local stand_in = fake_ngx.install()
    fresh(fake_dict.new(stand_in.clock))
    inst = { name = "one", max_connections = 40, breaker = { half_open_max_requests = 3 } }
    inst.keys = shares.keys("one", {})
    path = os.tmpname()
    os.remove(path)
    shares.restore(path)
  end)

  after_each(function() os.remove(path) end)

  local function order(based_on, permits, trials, share)
    local one = { permits = permits, trials = trials }
    return shares.accept(cjson.encode { based_on = based_on, share = share or 0.25, instances = { one = one } })
  end

  it("are all there is for a node that was never told", function()
    assert.is_false(shares.told())
    assert.equal(40, shares.permits(inst))
    assert.equal(3, shares.trials(inst, 0, 100))
  end)

  it("are what was dealt, never more than the configuration allows now", function()
    assert.equal(204, order(0, 12, 1))
    assert.equal(12, shares.permits(inst))
    assert.equal(1, shares.trials(inst, 0, 100))
    assert.equal(0.25, limits.share())
    inst.max_connections = 5
    assert.equal(5, shares.permits(inst))
  end)

  it("are the node's fraction for an instance that is new since they were dealt, and at least one", function()
    order(0, 12, 1)
    local new = { name = "new", max_connections = 40, keys = shares.keys("new", {}) }
    assert.equal(10, shares.permits(new))
    new.max_connections = 2
    assert.equal(1, shares.permits(new))
  end)

  it("may be nothing; then trials come later than the others', but they come", function()
    order(0, 0, 0)
    assert.equal(0, shares.permits(inst))
    assert.equal(0, shares.trials(inst, 100, 104.9))
    assert.equal(1, shares.trials(inst, 100, 105))
  end)

  it("are not taken from an order that was made for others than these", function()
    assert.equal(204, order(0, 12, 1))
    assert.equal(409, (order(0, 40, 1)))
    assert.equal(12, shares.permits(inst))
    assert.equal(204, order(1, 13, 1))
    assert.equal(13, shares.permits(inst))
  end)

  it("forget an instance that the newest order does not name", function()
    order(0, 12, 1, 1)
    shares.accept('{"based_on":1,"share":1,"instances":{}}')
    assert.equal(40, shares.permits(inst))
  end)

  it("are on disk for the next start, and a reload's memory comes first", function()
    order(0, 12, 1)
    fresh(fake_dict.new { now_s = 1 })
    shares.restore(path)
    assert.equal(12, shares.permits(inst))
    assert.equal(0.25, limits.share())
    assert.equal(1, (shares.state()))
    order(1, 7, 1)
    os.remove(path)
    fresh(dict)
    shares.restore(path)
    assert.equal(7, shares.permits(inst))
  end)

  it("are all there is when the file is no order", function()
    for _, text in ipairs { "", "{", "[]", "null", '{"version":1}', '{"version":1,"share":2,"instances":{}}' } do
      local file = io.open(path, "w")
      file:write(text)
      file:close()
      fresh(fake_dict.new { now_s = 1 })
      shares.restore(path)
      assert.equal(40, shares.permits(inst))
    end
  end)

  it("refuse what is no order", function()
    for _, raw in ipairs {
      "", "[]", "1", '{"based_on":0}', '{"based_on":0,"share":0,"instances":{}}', '{"based_on":0,"share":1.5,"instances":{}}',
      '{"based_on":-1,"share":1,"instances":{}}', '{"based_on":0,"share":1,"instances":{"one":{"permits":-1,"trials":0}}}',
      '{"based_on":0,"share":1,"instances":{"one":{"permits":1.5,"trials":0}}}', '{"based_on":0,"share":1,"instances":{"one":3}}',
    } do
      assert.equal(422, (shares.accept(raw)), raw)
    end
    assert.is_false(shares.told())
  end)
end)
