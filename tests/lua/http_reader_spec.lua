local deflate = require("support.deflate")
local fake_socket = require("support.fake_socket")
local fuzz = require("support.fuzz")
local http_reader = require("evenkeel.http_reader")

local function reader_of(answer, last, method)
  return http_reader.new(fake_socket.new(type(answer) == "table" and answer or { answer }, last), method)
end

-- The whole answer: head, body, reader; or nil, message, what of the body came before.
local function read_all(reader)
  local head, words = reader:read_head()
  if not head then return nil, words end
  local pieces = {}
  while true do
    local piece, fault = reader:read()
    if fault and fault ~= "timeout" then return nil, fault, table.concat(pieces) end
    if not piece and not fault then return head, table.concat(pieces), reader end
    pieces[#pieces + 1] = piece
  end
end

local function bytes_of(text)
  local list = {}
  for i = 1, #text do list[i] = text:sub(i, i) end
  return list
end

local function chunked(text, sizes, extension)
  local out, at = {}, 1
  for _, size in ipairs(sizes) do
    local piece = text:sub(at, at + size - 1)
    if piece ~= "" then out[#out + 1] = ("%x%s\r\n%s\r\n"):format(#piece, extension or "", piece) end
    at = at + size
  end
  if at <= #text then out[#out + 1] = ("%X\r\n%s\r\n"):format(#text - at + 1, text:sub(at)) end
  return table.concat(out) .. "0\r\n\r\n"
end

local OK = "HTTP/1.1 200 OK\r\n"
local CHUNKED = OK .. "Transfer-Encoding: chunked\r\n\r\n"

describe("http_reader.read_head", function()
  it("gives status, headers in lower case, framing and length", function()
    local lines = "Content-Type:  application/json \t\r\nX-A: 1\r\nx-a: 2\r\nEmpty:\r\nContent-Length: 12\r\n\r\n"
    local head = assert(reader_of(OK .. lines):read_head())
    assert.same({ status = 200, version = 1.1, framing = "length", length = 12, keepalive = true,
      headers = { ["content-type"] = "application/json", ["x-a"] = "1, 2", empty = "", ["content-length"] = "12" } }, head)
  end)

  local framings = {
    { "chunked", CHUNKED },
    { "chunked", OK .. "transfer-encoding: Chunked\r\n\r\n" },
    { "length", OK .. "Content-Length: 0\r\n\r\n" },
    { "length", OK .. "Content-Length: 5\r\nContent-Length: 5\r\n\r\n" },
    { "close", OK .. "\r\n" },
    { "close", "HTTP/1.0 200 OK\n\n" },
    { "none", "HTTP/1.1 204 No Content\r\n\r\n" },
    { "none", "HTTP/1.1 304\r\nContent-Length: 7\r\n\r\n" },
    { "none", OK .. "Content-Length: 7\r\n\r\n", "HEAD" },
  }
  for _, case in ipairs(framings) do
    it(("takes %q%s as %s"):format(case[2], case[3] or "", case[1]), function()
      assert.equal(case[1], assert(reader_of(case[2], "open", case[3]):read_head()).framing)
    end)
  end

  local kept = {
    { true, OK .. "Content-Length: 0\r\n\r\n" },
    { false, OK .. "Content-Length: 0\r\nConnection: close\r\n\r\n" },
    { false, OK .. "Content-Length: 0\r\nConnection: x , Close\r\n\r\n" },
    { true, OK .. "Content-Length: 0\r\nConnection: closed\r\n\r\n" },
    { false, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n" },
    { true, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n" },
    { false, OK .. "\r\n" },
    { false, OK .. "Content-Length: 0\r\n\r\nHTTP" }, -- something came that nobody asked for
  }
  for _, case in ipairs(kept) do
    it(("%s the connection after %q"):format(case[1] and "keeps" or "does not keep", case[2]), function()
      local _, _, reader = read_all(reader_of(case[2]))
      assert.equal(case[1], reader:reusable())
    end)
  end

  it("skips interim answers", function()
    local head, body = read_all(reader_of("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" .. OK
      .. "Content-Length: 2\r\n\r\nhi", "open"))
    assert.same({ 200, nil, "hi" }, { head.status, head.headers.link, body })
  end)

  local refused = {
    { "HTTP/1.1 101 Switching\r\n\r\n", "it switches protocols" },
    { "HTTP/2 200\r\n\r\n", "bad status line" },
    { "HTTP/1.1 20\r\n\r\n", "bad status line" },
    { "HTTP/1.1 2000\r\n\r\n", "bad status line" },
    { "HTTP/1.1  200 OK\r\n\r\n", "bad status line" },
    { "http/1.1 200 OK\r\n\r\n", "bad status line" },
    { "\r\n" .. OK .. "\r\n", "bad status line" },
    { "<html>\r\n", "bad status line" },
    { "HTTP/1.1 200 a\rb\r\n\r\n", "bad status line" },
    { OK .. "A: b\r\n c\r\n\r\n", "a folded header" },
    { OK .. "A : b\r\n\r\n", "bad header" },
    { OK .. ": b\r\n\r\n", "bad header" },
    { OK .. "A\r\n\r\n", "bad header" },
    { OK .. "A: b\0c\r\n\r\n", "bad header" },
    { OK .. "A: b\rc\r\n\r\n", "bad header" },
    { OK .. "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "two content-lengths" },
    { OK .. "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both content-length and transfer-encoding" },
    { OK .. "Content-Length: -1\r\n\r\n", "bad content-length" },
    { OK .. "Content-Length: 0x5\r\n\r\n", "bad content-length" },
    { OK .. "Content-Length: \r\n\r\n", "bad content-length" },
    { OK .. "Content-Length: 9999999999999999\r\n\r\n", "bad content-length" },
    { OK .. "Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer-encoding gzip, chunked" },
    { OK .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding chunked, chunked" },
    { "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding chunked" },
    { OK .. ("A: b\r\n"):rep(101) .. "\r\n", "too many headers" },
    { OK .. "A: " .. ("b"):rep(17000) .. "\r\n\r\n", "a header is too long" },
    { OK .. "A: " .. ("b"):rep(17000), "a header is too long" },
    { OK .. ("A: " .. ("b"):rep(16000) .. "\r\n"):rep(5) .. "\r\n", "the head is too large" },
    { ("HTTP/1.1 100 Continue\r\n\r\n"):rep(3000), "the head is too large" },
    { ("x"):rep(17000), "the status line is too long" },
  }
  for _, case in ipairs(refused) do
    it(("refuses %q: %s"):format(case[1]:sub(1, 70):gsub("%z", "\\0"), case[2]), function()
      for _, pieces in ipairs({ { case[1] }, bytes_of(case[1]:sub(1, 20000)) }) do
        local reader = reader_of(pieces)
        local head, words = reader:read_head()
        assert.is_nil(head)
        if #case[1] < 20000 or #pieces == 1 then assert.equal("could not read the answer: " .. case[2], words) end
        assert.same({ nil, words }, { reader:read() })
        assert.is_false(reader:reusable())
      end
    end)
  end

  it("refuses an encoding it cannot undo", function()
    assert.same({ nil, "could not undo content-encoding br" }, { reader_of(OK .. "Content-Encoding: br\r\n\r\nx"):read_head() })
    assert.truthy(reader_of(OK .. "Content-Encoding: identity\r\n\r\nx"):read_head())
  end)

  it("says the socket's own words only when nothing has come", function()
    assert.same({ nil, "closed" }, { reader_of({}):read_head() })
    assert.same({ nil, "connection reset by peer" }, { reader_of({}, "connection reset by peer"):read_head() })
    for _, part in ipairs({ "H", OK, "HTTP/1.1 100 Continue\r\n\r\n", OK .. "A: b\r\n" }) do
      assert.same({ nil, "truncated" }, { reader_of(part):read_head() })
      assert.same({ nil, "truncated" }, { reader_of(part, "connection reset by peer"):read_head() })
      assert.same({ nil, "timeout" }, { reader_of(part, "timeout"):read_head() })
    end
  end)
end)

describe("http_reader.read", function()
  local text = ("data: {\"a\":\"é\"}\n\n"):rep(20)
  local answers = {
    length = OK .. "Content-Length: " .. #text .. "\r\n\r\n" .. text,
    chunked = CHUNKED .. chunked(text, { 1, 7, 16, 100 }),
    ["with extensions"] = CHUNKED .. chunked(text, { 50, 60 }, ' ;a="b";c') ,
    ["with trailers"] = CHUNKED .. chunked(text, { 50 }):sub(1, -3) .. "X-Sum: 1\r\nY:\r\n\r\n",
    ["with bare line feeds"] = CHUNKED .. "002 \nda\n" .. ("%x"):format(#text - 2) .. "\n" .. text:sub(3) .. "\n0\n\n",
  }
  for name, answer in pairs(answers) do
    it("reads " .. name .. ", byte by byte, and does not wait for more than the answer", function()
      for _, pieces in ipairs({ { answer }, bytes_of(answer) }) do
        local head, body, reader = read_all(reader_of(pieces, "open"))
        assert.equal(200, head.status)
        assert.equal(text, body)
        assert.is_true(reader:reusable())
        assert.is_nil(reader:read())
      end
    end)

    it("says truncated wherever " .. name .. " is cut", function()
      for last = 1, #answer - 1 do
        local head, words, before = read_all(reader_of(answer:sub(1, last)))
        assert.is_nil(head)
        assert.equal("truncated", words)
        assert.equal(text:sub(1, #(before or "")), before or "")
      end
    end)
  end

  it("reads until the connection is closed when nothing else says the end", function()
    local head, body, reader = read_all(reader_of({ OK .. "\r\nab", "c", "d" }))
    assert.same({ "close", "abcd", false }, { head.framing, body, reader:reusable() })
    assert.same({ nil, "connection reset by peer", "ab" }, { read_all(reader_of({ OK .. "\r\nab" }, "connection reset by peer")) })
  end)

  it("gives bytes on as they come", function()
    local reader = reader_of({ CHUNKED .. "6\r\nab", "cd", { fault = "timeout" }, "ef\r\n", "1", "\r\ng\r\n0\r\n\r\n" }, "open")
    reader:read_head()
    local seen = {}
    for i = 1, 7 do
      local bytes, words = reader:read()
      seen[i] = bytes or words or "end"
    end
    assert.same({ "ab", "cd", "timeout", "ef", "g", "end", "end" }, seen)
    assert.is_true(reader:reusable())
  end)

  it("loses nothing to a timeout at any byte", function()
    local answer = answers["with extensions"]
    local head_bytes = #CHUNKED
    for at = head_bytes + 1, #answer do
      local _, body, reader = read_all(reader_of({ answer:sub(1, at - 1), { fault = "timeout" }, answer:sub(at) }, "open"))
      assert.equal(text, body)
      assert.is_true(reader:reusable())
    end
  end)

  it("costs one receive for one event", function()
    local pieces = { CHUNKED }
    for i = 1, 10 do pieces[i + 1] = "5\r\nabcde\r\n" end
    pieces[12] = "0\r\n\r\n"
    local reader = reader_of(pieces, "open")
    read_all(reader)
    assert.equal(12, reader.sock.receives)
  end)

  local broken = {
    { "g\r\n", "bad chunk size" },
    { "\r\n", "bad chunk size" },
    { "-1\r\n", "bad chunk size" },
    { "0x1\r\na\r\n", "bad chunk size" },
    { "1 x\r\na\r\n", "bad chunk size" },
    { "fffffffffffffffff\r\n", "bad chunk size" },
    { "1000000000000\r\n", "bad chunk size" },
    { "1\r\nab\r\n0\r\n\r\n", "a chunk is too long" },
    { "1\r\nabcdefgh", "the end of a chunk is too long" },
    { "1;" .. ("x"):rep(5000) .. "\r\na\r\n", "the line of a chunk's size is too long" },
    { ("1;" .. ("x"):rep(4000) .. "\r\na\r\n"):rep(20), "the chunk extensions are too large" },
    { "0\r\n" .. ("A: b\r\n"):rep(200) .. "\r\n", "the trailers are too large" },
    { "0\r\nA: " .. ("b"):rep(17000), "a trailer is too long" },
  }
  for _, case in ipairs(broken) do
    it(("refuses chunks %q: %s"):format(case[1]:sub(1, 40), case[2]), function()
      local head, words = read_all(reader_of(CHUNKED .. case[1]))
      assert.is_nil(head)
      assert.equal("could not read the answer: " .. case[2], words)
    end)
  end

  it("takes chunk sizes with leading zeros and in both cases", function()
    local _, body = read_all(reader_of(CHUNKED .. "00000000000000000000a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n", "open"))
    assert.equal("01234567890123456789", body)
  end)

  it("agrees with what was sent, cut at random", function()
    fuzz.run(5000, function(random)
      local sent = {}
      for i = 1, random(0, 30) do sent[i] = fuzz.text(random) end
      sent = table.concat(sent)
      local sizes = {}
      for i = 1, random(0, 10) do sizes[i] = random(50) end
      local encoding = random(4) == 1 and "gzip"
      local body = encoding and deflate(sent, "gzip") or sent
      local head = OK .. (encoding and "Content-Encoding: gzip\r\n" or "")
      local answer
      local last = "open"
      local way = random(3)
      if way == 1 then
        answer = head .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
      elseif way == 2 then
        answer = head .. "Transfer-Encoding: chunked\r\n\r\n" .. chunked(body, sizes)
      else
        answer, last = head .. "\r\n" .. body, "closed"
      end
      local got, received, reader = read_all(reader_of(fuzz.cut(random, answer), last))
      if not got then error(received) end
      assert.equal(sent, received)
      assert.equal(way ~= 3, reader:reusable())
      -- and cut short it is never whole
      if way ~= 3 then
        local short = answer:sub(1, random(0, #answer - 1))
        assert.is_nil((read_all(reader_of(fuzz.cut(random, short)))))
      end
    end)
  end)
end)

describe("http_reader.read_range", function()
  local fuzz_cases = 800

  it("gives the bytes that read gives, however the answer is cut, in slices or not", function()
    fuzz.run(fuzz_cases, function(random)
      local text = {}
      for i = 1, random(0, 400) do text[i] = string.char(random(97, 122)) end
      text = table.concat(text)
      local sizes = {}
      for i = 1, random(0, 6) do sizes[i] = random(1, 200) end
      local reader = reader_of(fuzz.cut(random, CHUNKED .. chunked(text, sizes)), "open")
      assert(reader:read_head())
      reader.in_slices = random(1, 2) == 1
      local pieces = {}
      while true do
        local bytes, from, to = reader:read_range()
        if not bytes then
          assert.is_nil(from)
          break
        end
        pieces[#pieces + 1] = bytes:sub(from, to)
      end
      assert.equal(text, table.concat(pieces))
      assert.is_true(reader:reusable())
    end)
  end)

  it("is ready only for what can be read without waiting", function()
    fuzz.run(fuzz_cases, function(random)
      local answer = CHUNKED .. chunked(("x"):rep(random(1, 60)), { random(1, 9), random(1, 9), random(1, 30) })
      local reader = reader_of(fuzz.cut(random, answer), "open")
      assert(reader:read_head())
      while true do
        local ready, receives = reader:ready(), reader.sock.receives
        local more = reader:read_range()
        if ready then assert.equal(receives, reader.sock.receives) end
        if not more then return end
      end
    end)
  end)

  it("says that the rest of what came is ready", function()
    local reader = reader_of({ CHUNKED, "3\r\nabc\r\n3\r\ndef\r\n", "0\r\n\r\n" }, "open")
    assert(reader:read_head())
    assert.is_false(reader:ready())
    assert.equal("abc", reader:read())
    assert.is_true(reader:ready())
    assert.equal("def", reader:read())
    assert.is_false(reader:ready())
    assert.is_nil(reader:read())
  end)

  it("asks for short strings in slices, and for all there is when much comes at once", function()
    local reader = reader_of({ CHUNKED, "fff0\r\n" .. ("x"):rep(2000), ("y"):rep(100) }, "open")
    assert(reader:read_head())
    reader.in_slices = true
    local lengths = {}
    for i = 1, 6 do lengths[i] = #assert(reader:read()) end
    assert.same({ 121, 127, 127, 127, 1498, 100 }, lengths)
  end)
end)

describe("http_reader undoing an encoding", function()
  local text = ('{"n":1,"text":"深度求索"}\n'):rep(20000)
  local function answer_of(body, encoding)
    return OK .. "Content-Type: a/b\r\nContent-Encoding: " .. encoding .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  end

  for _, case in ipairs({ { "gzip", "gzip" }, { "X-GZIP", "gzip" }, { "deflate", "zlib" }, { "deflate", "raw" } }) do
    it(("undoes %s (%s), in one piece or many, and takes it out of the headers"):format(case[1], case[2]), function()
      local answer = answer_of(deflate(text, case[2]), case[1])
      for _, pieces in ipairs({ { answer }, bytes_of(answer) }) do
        local head, body, reader = read_all(reader_of(pieces, "open"))
        assert.same({ ["content-type"] = "a/b" }, head.headers)
        assert.equal(text, body)
        assert.is_true(reader:reusable())
      end
    end)
  end

  it("takes several gzip members, none, and nothing but an empty one", function()
    local two = deflate("ab", "gzip") .. deflate("", "gzip") .. deflate("cd", "gzip")
    local _, body = read_all(reader_of(answer_of(two, "gzip"), "open"))
    assert.equal("abcd", body)
    assert.equal("", select(2, read_all(reader_of(answer_of("", "gzip"), "open"))))
    assert.equal("", select(2, read_all(reader_of(answer_of(deflate("", "gzip"), "gzip"), "open"))))
  end)

  it("says truncated when the encoding is not at its end although the body is", function()
    local packed = deflate(text, "gzip")
    for _, last in ipairs({ 1, 5, 11, #packed - 9, #packed - 1 }) do
      local head, words = read_all(reader_of(answer_of(packed:sub(1, last), "gzip"), "open"))
      assert.same({ nil, "truncated" }, { head, words })
    end
  end)

  it("refuses broken data", function()
    local packed = deflate(text, "gzip")
    local flipped = packed:sub(1, -6) .. string.char((packed:byte(-5) + 1) % 256) .. packed:sub(-4)
    for _, body in ipairs({ "not gzip at all", flipped }) do
      local head, words = read_all(reader_of(answer_of(body, "gzip")))
      assert.same({ nil, "could not read the answer: could not inflate: broken data" }, { head, words })
    end
  end)

  it("refuses a bomb early", function()
    local packed = deflate(("\0"):rep(64 * 1048576), "gzip")
    local head, words, before = read_all(reader_of(answer_of(packed, "gzip")))
    assert.same({ nil, "could not read the answer: could not inflate: too large" }, { head, words })
    assert.is_true(#before <= 200 * #packed + 65536)
  end)
end)
