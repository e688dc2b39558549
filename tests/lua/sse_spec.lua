local ffi = require("ffi")
local fuzz = require("support.fuzz")
local sse = require("evenkeel.sse")

-- All events of the pieces of a stream: {data, type, id}.
local function events_of(pieces, max_event_bytes)
  local parser, events = sse.new(max_event_bytes), {}
  for _, piece in ipairs(pieces) do
    local ok, words = parser:feed(piece)
    if not ok then return nil, words end
    while true do
      local data, fault = parser:next()
      if fault then return nil, fault, events end
      if not data then break end
      events[#events + 1] = { data, parser.event or false, parser.id or false }
    end
  end
  local last = parser:finish()
  if last then events[#events + 1] = { last, parser.event or false, parser.id or false } end
  return events, parser
end

local function data_of(...)
  local list = {}
  for i, event in ipairs(assert(events_of({ ... }))) do list[i] = event[1] end
  return list
end

describe("the SSE parser", function()
  it("gives the data of each event", function()
    assert.same({ '{"a":1}', "[DONE]" }, data_of('data: {"a":1}\n\ndata: [DONE]\n\n'))
  end)

  it("gives the data as bytes with a zero behind them, and takes parts of a text", function()
    local parser = sse.new()
    for _, stream in ipairs({ "data: abc\n\n", "data: abc\r\r", "data: a\ndata: c\n\n" }) do
      parser:feed("<" .. stream .. ">", 2, #stream + 1)
      local data, length = parser:next_bytes()
      assert.same({ 3, 0 }, { length, data[length] })
      assert.equal(stream:find("abc") and "abc" or "a\nc", ffi.string(data, length))
      assert.is_nil(parser:next_bytes())
    end
    parser:feed("data: abc")
    assert.is_nil(parser:next_bytes())
    local data, length = parser:finish_bytes()
    assert.same({ "abc", 0 }, { ffi.string(data, length), data[length] })
  end)

  it("bears a stream of any length, and forgets what a large event took", function()
    local parser = sse.new()
    parser:feed("data: " .. ("x"):rep(500000) .. "\n\n")
    assert.equal(500000, #parser:next())
    assert.is_nil(parser:next())
    for i = 1, 5000 do
      parser:feed("data: " .. i .. "\n")
      assert.is_nil(parser:next())
      parser:feed("\n: and so on")
      assert.equal(tostring(i), parser:next())
      assert.is_nil(parser:next())
      parser:feed("\n")
    end
    assert.is_true(parser.size <= 65536)
  end)

  it("knows every line end, and tells \\r\\n from two lines", function()
    for _, line_end in ipairs({ "\n", "\r\n", "\r" }) do
      assert.same({ "a", "b\nc" }, data_of((("data: a||data: b|data: c||"):gsub("|", line_end))))
    end
    assert.same({ "a", "b" }, data_of("data: a\r", "\n\r", "\ndata: b\r\n", "\r\n"))
    assert.same({ "a", "b" }, data_of("data: a\n\rdata: b\r\r"))
  end)

  it("skips comments, blank lines and fields it does not know", function()
    assert.same({ "a" }, data_of(": keep-alive\n\n\n\n: keep-alive\n\nfoo: bar\nbaz\ndata: a\n\n"))
  end)

  it("takes one space after the colon, or none", function()
    assert.same({ "a", " b", "", "", "" }, data_of("data:a\n\ndata:  b\n\ndata\n\ndata:\n\ndata: \n\n"))
  end)

  it("joins several data lines", function()
    assert.same({ "a\n\nb" }, data_of("data: a\ndata\ndata: b\n\n"))
  end)

  it("gives type, id and retry", function()
    local events, parser = events_of({
      "id: 7\nevent: ping\ndata: a\n\ndata: b\n\nevent: lost\n\ndata: c\nid: x\0y\n\nretry: 1500\nretry: 1x\n\n",
    })
    assert.same({ { "a", "ping", "7" }, { "b", false, "7" }, { "c", false, "7" } }, events)
    assert.equal(1500, parser.retry_ms)
  end)

  it("keeps the type when the data comes in the usual form", function()
    assert.same({ { "a", false, false }, { "b", "ping", false }, { "c", false, false } },
      events_of({ "data: a\n\nevent: ping\ndata: b\n\ndata: c\n\n" }))
  end)

  it("skips a byte order mark at the start only", function()
    assert.same({ "a" }, data_of("\239\187\191data: a\n\n"))
    assert.same({ "a" }, data_of("\239", "\187", "\191", "data: a\n\n"))
    assert.same({ "a" }, data_of("data: a\n\n\239\187\191data: b\n\n"))
  end)

  it("hands out at the end what lacks its blank line", function()
    assert.same({ "a", "b" }, data_of("data: a\n\ndata: b\n"))
    assert.same({ "a", "b" }, data_of("data: a\n\ndata: ", "b"))
    assert.same({ "a" }, data_of("data: a\n\n: comm", "ent"))
  end)

  it("survives a cut at every byte, also inside a character and a line end", function()
    local stream = "\239\187\191: hi\r\nevent: e\r\ndata: é🙂\r\ndata: b\r\n\r\ndata: c\n\ndata: d\r\rid: 9\ndata: [DONE]\n\n"
    local expected = { { "é🙂\nb", "e", false }, { "c", false, false }, { "d", false, false }, { "[DONE]", false, "9" } }
    assert.same(expected, (events_of({ stream })))
    for i = 0, #stream do
      for j = i, #stream do
        assert.same(expected, (events_of({ stream:sub(1, i), stream:sub(i + 1, j), stream:sub(j + 1) })))
      end
    end
    local bytes = {}
    for i = 1, #stream do bytes[i] = stream:sub(i, i) end
    assert.same(expected, (events_of(bytes)))
  end)

  it("takes an event of 1 MiB in 4 KiB pieces, and refuses a larger one", function()
    local big = ("x"):rep(1048576 - 6)
    local function pieces(stream)
      local list = {}
      for i = 1, #stream, 4096 do list[#list + 1] = stream:sub(i, i + 4095) end
      return list
    end
    assert.same({ big, "b" }, data_of(unpack(pieces("data: " .. big .. "\n\ndata: b\n\n"))))
    for _, stream in ipairs({ "data: " .. big .. "xxxxxxxxxxxx\n\n", ("data: xyz\n"):rep(400000) .. "\n", ": " .. big .. "xxxxxxxxxxx" }) do
      local events, words = events_of(pieces(stream))
      assert.is_nil(events)
      assert.equal("could not read the stream: an event is too large", words)
    end
  end)

  it("says the same for ever after an error, and events before it are whole", function()
    local parser = sse.new(10)
    assert.is_true(parser:feed("data: a\n\ndata: " .. ("x"):rep(20) .. "\n\ndata: b\n\n"))
    assert.equal("a", parser:next())
    local data, words = parser:next()
    assert.is_nil(data)
    assert.same({ nil, words }, { parser:next() })
    assert.same({ nil, words }, { parser:feed("data: c\n\n") })
    assert.is_nil(parser:finish())
  end)

  it("stays linear on a chunk that is all line ends", function()
    local from = os.clock()
    events_of({ ("\r"):rep(65536) .. "\n" })
    events_of({ ("\n"):rep(65536) .. "\r" })
    events_of({ "data: a\n" .. ("data\n"):rep(13000) .. "\r" })
    assert.is_true(os.clock() - from < 1)
  end)

  -- The grammar again, as slow and plain as it can be said.
  local function reference(stream)
    local events, data, kind, id = {}, {}, nil, nil
    local function dispatch()
      if #data > 0 then events[#events + 1] = { table.concat(data, "\n"), kind or false, id or false } end
      data, kind = {}, nil
    end
    stream = stream:gsub("^\239\187\191", ""):gsub("\r\n", "\n"):gsub("\r", "\n")
    if stream:sub(-1) ~= "\n" and stream ~= "" then stream = stream .. "\n" end
    for line in stream:gmatch("([^\n]*)\n") do
      local name, value = line:match("^([^:]*): ?(.*)$")
      name, value = name or line, value or ""
      if line == "" then
        dispatch()
      elseif name == "data" then
        data[#data + 1] = value
      elseif name == "event" then
        kind = value ~= "" and value or nil
      elseif name == "id" and not value:find("%z") then
        id = value
      end
    end
    dispatch()
    return events
  end

  local parts = {
    "data: ", "data:", "data", "event: x", "id: 1", "retry: 5", ": c", "\n", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r",
    "é", "🙂", "{}", ":", " ", "data: {}\n\n", "data: {}\n\n", "data: [DONE]\r\n\r\n", "\239\187\191", "x", "\0",
  }

  it("agrees with the plainest reading on random streams, cut at random", function()
    fuzz.run(20000, function(random)
      local stream = {}
      for i = 1, random(0, 20) do stream[i] = fuzz.pick(random, parts) end
      stream = table.concat(stream)
      assert.same(reference(stream), (events_of(fuzz.cut(random, stream))))
    end)
  end)
end)
