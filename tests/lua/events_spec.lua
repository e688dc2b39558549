local fake_dict = require "support.fake_dict"
local fake_ngx = require "support.fake_ngx"

describe("the events of a node", function()
  local stand_in, events, dict
  before_each(function()
    stand_in = fake_ngx.install()
    dict = stand_in.shared.evenkeel_stats
    events = dofile(assert(package.searchpath("evenkeel.events", package.path)))
  end)

  local function add(n)
    for i = 1, n do events.add("breaker_opened", "official-1", { n = i }) end
  end

  -- Reads as the control plane does: from the last number it has got.
  local function read(cursor, limit)
    local list, last, dropped = events.after(cursor, limit or 1000)
    return { n = #list, cursor = list[1] and list[#list].id or cursor, last = last, dropped = dropped, list = list }
  end

  it("are told with number, time, kind, subject and detail", function()
    stand_in.clock.now_s = 1700000000.25
    events.add("cooldown", "hosted-b", { seconds = 2 })
    local event = read(0).list[1]
    assert.same({ id = event.id, at = 1700000000.25, kind = "cooldown", subject = "hosted-b", detail = { seconds = 2 } }, event)
  end)

  it("are none at first", function()
    assert.same({ n = 0, cursor = 0, last = 0, dropped = 0, list = {} }, read(0))
  end)

  it("come in order, each once, however small the portions", function()
    add(25)
    local cursor, seen = 0, {}
    repeat
      local got = read(cursor, 7)
      assert(got.n <= 7)
      for _, event in ipairs(got.list) do seen[#seen + 1] = event.detail.n end
      assert.equal(0, got.dropped)
      cursor = got.cursor
    until got.n == 0
    assert.equal(25, #seen)
    for i, n in ipairs(seen) do assert.equal(i, n) end
  end)

  it("come again until the reader moves on: at least once", function()
    add(3)
    assert.equal(3, read(0).n)
    local again = read(0)
    assert.equal(3, again.n)
    assert.equal(0, read(again.cursor).n)
  end)

  it("are ten thousand at most; the oldest go first, and what went is counted", function()
    add(10100)
    assert(#dict:keys() <= 10002)
    local got = read(0)
    assert.equal(100, got.dropped)
    assert.equal(101, got.list[1].detail.n)
    assert.equal(0, read(got.cursor).dropped, "counted once")
  end)

  it("are counted as dropped from where the reader stood", function()
    add(50)
    local cursor = read(0).cursor
    add(10060)
    assert.equal(60, read(cursor).dropped)
  end)

  it("are kept however long nobody reads them", function()
    add(1)
    stand_in.clock:pass(30 * 86400)
    add(1)
    local got = read(0)
    assert.equal(2, got.n)
    assert.equal(0, got.dropped)
  end)

  it("are not passed by while another worker is about to write one", function()
    add(1)
    local number = dict:incr("ev:last", 1)          -- another worker has taken a number, and not yet written
    add(1)
    local got = read(0)
    assert.equal(1, got.n)
    assert.equal(0, got.dropped)
    dict:set("ev:" .. number, require("cjson").encode { id = number, at = stand_in.now(), kind = "reset", subject = "a", detail = {} })
    got = read(got.cursor)
    assert.equal(2, got.n)
    assert.equal("reset", got.list[1].kind)
  end)

  it("are given up if nobody writes them: a worker died", function()
    add(1)
    dict:incr("ev:last", 1)
    add(1)
    stand_in.clock:pass(1.5)
    local got = read(0)
    assert.equal(2, got.n)
    assert.equal(1, got.dropped)
  end)

  describe("after nginx was started anew", function()
    local function restart()
      stand_in.clock:pass(1)
      stand_in.shared.evenkeel_stats = fake_dict.new(stand_in.clock)
      dict = stand_in.shared.evenkeel_stats
    end

    it("have greater numbers than before, so that no reader takes them for known ones", function()
      add(500)
      local cursor = read(0).cursor
      restart()
      add(2)
      local got = read(cursor)
      assert.equal(2, got.n)
      assert.equal(0, got.dropped)
      assert(got.list[1].id > cursor)
    end)

    it("tell by where they begin that it is another life", function()
      assert.equal(0, events.begin())
      add(1)
      local begin = events.begin()
      add(1)
      assert.equal(begin, events.begin())
      stand_in.clock:pass(60)
      restart()
      add(1)
      assert.not_equal(begin, events.begin())
    end)

    it("are told also to a reader from a time to come: the clock was set back", function()
      add(500)
      local cursor = read(0).cursor
      stand_in.clock:pass(-3600)
      restart()
      add(2)
      assert.equal(2, read(cursor).n)
    end)
  end)

  it("have whole numbers in JSON", function()
    add(1)
    local text = require("cjson").encode(read(0).list[1])
    assert(text:find('"id":1700000000001[,}]'), text)
  end)

  it("get numbers of one row from all workers", function()
    local other = dofile(assert(package.searchpath("evenkeel.events", package.path)))
    events.add("a", "x", {})
    other.add("b", "x", {})
    events.add("c", "x", {})
    local kinds = {}
    for i, event in ipairs(read(0).list) do kinds[i] = event.kind end
    assert.same({ "a", "b", "c" }, kinds)
  end)
end)
