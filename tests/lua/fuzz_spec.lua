-- A million hostile texts for what reads other people's bytes: each is judged by the plainest reading there is. The parts are made once and
-- put together anew for each case, so that a case costs microseconds.
local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"
local fake_socket = require "support.fake_socket"
local fuzz = require "support.fuzz"

local null = cjson.null

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b or a ~= a and b ~= b end
  for k, v in pairs(a) do if not same(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

-- `text` in at most four pieces, one of them perhaps empty.
local function pieces_of(random, text)
  local pieces, at = {}, 1
  for i = 1, random(0, 3) do
    local to = at + random(0, 12)
    pieces[i] = text:sub(at, to - 1)
    at = to
  end
  pieces[#pieces + 1] = text:sub(at)
  return pieces
end

describe("a million hostile texts:", function()
  describe("event streams", function()
    local sse = require "evenkeel.sse"
    local parts = {
      "data: ", "data:", "data", "event: x", "id: 1", "id:\0", "retry: 5", ": c", "\n", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\r\r\n",
      "é", "🙂", "{}", ":", " ", "data: {}\n\n", "data: [DONE]\r\n\r\n", "\239\187\191", "x", "\0", "\255", "datax: 1", "\128",
    }

    -- the grammar, line by line
    local function data_of(stream)
      local events, data, n = {}, nil, 0
      if stream:sub(1, 3) == "\239\187\191" then stream = stream:sub(4) end
      stream = stream:gsub("\r\n?", "\n")
      if stream:sub(-1) ~= "\n" then stream = stream .. "\n" end
      for line in stream:gmatch("([^\n]*)\n") do
        if line == "" then
          if data then n, events[n + 1], data = n + 1, data, nil end
        elseif line == "data" or line:sub(1, 5) == "data:" then
          local value = line:sub(6)
          if value:sub(1, 1) == " " then value = value:sub(2) end
          data = data and data .. "\n" .. value or value
        end
      end
      if data then events[n + 1] = data end
      return events
    end

    it("are read as the grammar says, however they are cut", function()
      fuzz.run(400000, function(random)
        local stream = {}
        for i = 1, random(0, 9) do stream[i] = parts[random(#parts)] end
        stream = table.concat(stream)
        local parser, n = sse.new(200), 0
        local wanted = data_of(stream)
        for _, piece in ipairs(pieces_of(random, stream)) do
          if not parser:feed(piece) then error("refused: " .. stream) end
          while true do
            local data, fault = parser:next()
            if fault then error(fault .. ": " .. stream) end
            if not data then break end
            n = n + 1
            if data ~= wanted[n] then error(("%q: %q, not %q"):format(stream, data, tostring(wanted[n]))) end
          end
        end
        local last = parser:finish()
        if last then
          n = n + 1
          if last ~= wanted[n] then error(("%q: %q at the end"):format(stream, last)) end
        end
        if n ~= #wanted then error(("%q: %d events, not %d"):format(stream, n, #wanted)) end
      end)
    end)
  end)

  describe("request bodies", function()
    local adapter, json_scan

    setup(function()
      fake_ngx.install()
      package.loaded["evenkeel.adapter"] = nil
      package.loaded["evenkeel.transport"], package.loaded["evenkeel.relay"] = {}, {}
      adapter, json_scan = require "evenkeel.adapter", require "evenkeel.json_scan"
    end)

    teardown(function() package.loaded["evenkeel.transport"], package.loaded["evenkeel.relay"] = nil, nil end)

    -- Members that the gateway acts on, and others; a few of each kind are drawn for a body.
    local MEMBERS = {
      '"model":"m"', '"model" : "a\\"b"', '"mod\\u0065l":"é"', '"model":null', '"model":5', '"model":""', '"model":"\\ud83d\\ude42"',
      '"messages":[{"role":"user","content":"hi"}]', '"messages":[]', '"stream":true', '"stream": false', '"stream":null', '"stream":"x"',
      '"stream_options":{}', '"stream_options": {"include_usage":true,"x":[1]}', '"stream_options":{"include_usage":false}',
      '"stream_options":null', '"n":1', '"n":"1"', '"max_tokens":7', '"tools":[]', '"tools":[{}]', '"user":"\\u0000"', '"x":{"model":"no"}',
      '"y":[[[["model"]]]]', '"z":-1.5e3', '"model ":"other"', '"Model":"other"', '"":"model"', '"\\/":1', '"\255":1', '"k":"\128"',
      '"k":"\0"',
    }
    local OTHERS = { "UTF-8", "control character", "surrogate", "twice", "must be", "object expected", "deep" }

    local function body_of(random)
      local drawn = {}
      for i = 1, random(0, 5) do drawn[i] = MEMBERS[random(#MEMBERS)] end
      local body = "{" .. table.concat(drawn, ",") .. "}"
      if random(2) == 1 then body = fuzz.mutate(random, body .. " ") end
      return body
    end

    it("are taken only when they are JSON, and changed in nothing but what is meant", function()
      fuzz.run(300000, function(random)
        local body = body_of(random)
        local info, words, at = json_scan.scan(body)
        local ok, whole = pcall(cjson.decode, body)
        if not info then
          if not ok then return end
          for _, other in ipairs(OTHERS) do if words:find(other, 1, true) then return end end
          -- cjson takes 1. and -.5 and 05, and a NUL ends its text
          if words == "a digit expected" and body:find("^[.-]", at - 1) or body:find("^0%d", at - 1) or body:byte(at) == 0 then return end
          error(("refused: %s at %d: %q"):format(words, at, body))
        end
        if not ok then error(("accepted: %q"):format(body)) end
        if (whole.model ~= null and whole.model or nil) ~= info.model then error(("model: %q"):format(body)) end
        if not info.model then return end
        local call = adapter._read_call(nil, body)
        local ask = random(2) == 1
        local pieces, length = adapter._body_pieces(body, call, random(4) > 1 and "other" or nil, ask and call.usage ~= 1)
        local sent = table.concat(pieces)
        if #sent ~= length then error(("length: %q"):format(body)) end
        local renamed = cjson.decode(sent)
        if renamed.model ~= "other" and renamed.model ~= info.model then error(("sent: %q"):format(sent)) end
        if ask and renamed.stream_options.include_usage ~= true then error(("usage: %q"):format(sent)) end
        renamed.model, whole.model, renamed.stream_options, whole.stream_options = nil, nil, nil, nil
        if not same(whole, renamed) then error(("%q became %q"):format(body, sent)) end
      end)
    end)
  end)

  describe("providers' answers", function()
    local http_reader = require "evenkeel.http_reader"
    local STATUS = { "HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 429 \r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" }
    local HEADERS = { "", "A: b\r\n", "Content-Type: text/event-stream\r\n", "Connection: close\r\n", "Set-Cookie: x\r\nset-cookie: y\r\n" }
    local BODIES = { "", "a", "{}", "data: {}\n\n", ("x"):rep(70), "\r\n\r\n", "0\r\n\r\n", "é\0\255" }
    local SPICE = { "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", " folded\r\n", "Content-Length: -1\r\n", "\0", "\n", "\r",
      "Transfer-Encoding: gzip, chunked\r\n", "Content-Length: 1, 2\r\n", "A:\r\n", ":\r\n", "HTTP/1.1 200\r\n" }

    local function in_chunks(random, body)
      local out, at = {}, 1
      while at <= #body do
        local piece = body:sub(at, at + random(20))
        out[#out + 1] = ("%x\r\n%s\r\n"):format(#piece, piece)
        at = at + #piece
      end
      return table.concat(out) .. "0\r\n\r\n"
    end

    -- @return body, or nil and words; errors when it does not come to an end
    local function read(random, answer, last)
      local reader = http_reader.new(fake_socket.new(pieces_of(random, answer), last))
      local head, words = reader:read_head()
      if not head then return nil, words end
      local body = ""
      for _ = 1, 200 do
        local piece, fault = reader:read()
        if fault then return nil, fault end
        if not piece then return body, nil, head end
        body = body .. piece
      end
      error(("no end: %q"):format(answer))
    end

    it("are whole as they were sent, or refused: never something else", function()
      fuzz.run(300000, function(random)
        local body, way = BODIES[random(#BODIES)], random(3)
        local start = STATUS[random(#STATUS)] .. HEADERS[random(#HEADERS)]
        local last, answer = "closed"
        if way == 1 then
          answer, last = start .. "Content-Length: " .. #body .. "\r\n\r\n" .. body, "open"
        elseif way == 2 and start:find("HTTP/1.1", 1, true) == 1 then
          answer, last = start .. "Transfer-Encoding: chunked\r\n\r\n" .. in_chunks(random, body), "open"
        else
          answer = start .. "\r\n" .. body
        end
        local kind = random(3)
        if kind == 1 then
          local got, words = read(random, answer, last)
          if got ~= body then error(("%q: %s"):format(answer, tostring(words or got))) end
        elseif kind == 2 then
          local cut = answer:sub(1, random(0, #answer - 1))
          local got = read(random, cut, "closed")
          -- a body without length ends where the connection does
          if got and last == "open" then error(("cut, yet whole: %q"):format(cut)) end
        else
          local at = random(#answer)
          local spiced = answer:sub(1, at - 1) .. SPICE[random(#SPICE)] .. answer:sub(at)
          answer = random(2) == 1 and fuzz.mutate(random, answer) or spiced
          local _, _, head = read(random, answer, "closed")
          local headers = head and head.headers or {}
          if headers["transfer-encoding"] and headers["content-length"] then error(("two lengths: %q"):format(answer)) end
        end
      end)
    end)
  end)
end)
