local cjson = require("cjson")
local fuzz = require("support.fuzz")
local json_scan = require("evenkeel.json_scan")
local scan, splice = json_scan.scan, json_scan.splice

cjson.decode_invalid_numbers(false)

local function cut(body, s, e)
  return s and body:sub(s, e)
end

describe("json_scan.scan", function()
  it("finds what the gateway must know", function()
    local body = '{"model":"deepseek-chat","messages":[{"role":"system","content":"a"},{"role":"user","content":"b"}],"stream":true,'
      .. '"stream_options":{"include_usage":true},"n":2,"max_tokens":16,"user":"u1","tools":[{}],"response_format":{"type":"text"}}'
    local info = assert(scan(body))
    assert.equal("deepseek-chat", info.model)
    assert.equal('"deepseek-chat"', cut(body, info.model_s, info.model_e))
    assert.is_true(info.stream)
    assert.is_true(info.include_usage)
    assert.equal('{"include_usage":true}', cut(body, info.stream_options_s, info.stream_options_e))
    assert.equal('{"role":"user","content":"b"}', cut(body, info.last_message_s, info.last_message_e))
    assert.equal("[", cut(body, info.messages_s, info.messages_s))
    assert.equal("]", cut(body, info.messages_e, info.messages_e))
    assert.same({ 2, 16, true, true }, { info.n, info.max_tokens, info.tools, info.response_format })
    assert.equal('"u1"', cut(body, info.user_s, info.user_e))
    assert.equal(#body, info.body_close)
    assert.is_false(info.empty)
  end)

  it("leaves nil what is absent or null", function()
    local info = assert(scan(' {"stream":null,"n":null,"tools":null,"messages":null,"stream_options":null,"user":null,"max_tokens":null,'
      .. '"response_format":null} \n'))
    info.body_close, info.empty = nil, nil
    assert.same({}, info)
    assert.is_true(scan("{ }").empty)
    assert.equal(3, scan("{ } ").body_close)
  end)

  it("takes a whole number of choices, however it is written", function()
    for text, n in pairs { ["1"] = 1, ["128"] = 128, ["2.0"] = 2, ["1e1"] = 10 } do
      assert.equal(n, scan('{"n":' .. text .. "}").n)
    end
  end)

  it("sees the client's own stop words, at the top only", function()
    assert.is_true(scan('{"stop":["a"]}').stop)
    assert.is_true(scan('{"stop":"a"}').stop)
    assert.is_nil(scan('{"metadata":{"stop":"a"},"messages":[{"stop":1}],"stop":null}').stop)
  end)

  it("takes no tools from an empty list, and tools from the older functions", function()
    assert.is_nil(scan('{"tools":[ ]}').tools)
    assert.is_true(scan('{"functions":[{}],"tools":[]}').tools)
  end)

  it("lets max_completion_tokens go before max_tokens, in either order", function()
    assert.equal(7, scan('{"max_tokens":5,"max_completion_tokens":7}').max_tokens)
    assert.equal(7, scan('{"max_completion_tokens":7,"max_tokens":5}').max_tokens)
  end)

  it("has no last message in an empty list, and finds one that is not an object", function()
    assert.is_nil(scan('{"messages":[ ]}').last_message_s)
    local body = '{"messages":[{"a":[{}]} , "tail" ]}'
    local info = scan(body)
    assert.equal('"tail"', cut(body, info.last_message_s, info.last_message_e))
  end)

  it("reads keys after unescaping", function()
    assert.equal("x", scan('{"mod\\u0065l":"x"}').model)
    assert.is_true(scan('{"\\u0073tream":true}').stream)
    assert.is_true(scan('{"stream_options":{"include\\u005fusage":true}}').include_usage)
  end)

  it("decodes an escaped model name", function()
    assert.equal('a"é🙂/', scan([[{"model":"a\"\u00e9\ud83d\ude42\/"}]]).model)
  end)

  it("is not fooled by look-alikes inside strings and nested objects", function()
    local info = assert(scan('{"messages":[{"model":"inner","stream":true}],"metadata":{"model":"x"},'
      .. '"note":"\\"model\\":\\"y\\"","model":"real"}'))
    assert.equal("real", info.model)
    assert.is_nil(info.stream)
  end)

  local refused = {
    { '{"model":"a","model":"b"}', "model stands there twice", 14 },
    { '{"model":"a","mod\\u0065l":"b"}', "model stands there twice", 14 },
    { '{"stream":true,"stream":true}', "stream stands there twice" },
    { '{"messages":[],"messages":[]}', "messages stands there twice" },
    { '{"n":1,"n":1}', "n stands there twice" },
    { '{"stream_options":{},"stream_options":{}}', "stream_options stands there twice" },
    { '{"stream_options":{"include_usage":true,"include_usage":false}}', "stream_options.include_usage stands there twice" },
    { '{"model":1}', "model must be a string", 10 },
    { '{"model":null}', "model must be a string" },
    { '{"stream":"true"}', "stream must be true or false", 11, "stream" },
    { '{"n":"2"}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":true}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":-1}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":0}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":-0}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":1.5}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":129}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":1e15}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"n":1e400}', "n must be a whole number from 1 to 128", 6, "n" },
    { '{"max_tokens":[]}', "max_tokens must be a number" },
    { '{"messages":{}}', "messages must be an array" },
    { '{"stream_options":true}', "stream_options must be an object" },
    { '{"stream_options":{"include_usage":1}}', "stream_options.include_usage must be true or false" },
    { "", "the text ends early", 1 },
    { "\"a\"", "a JSON object expected", 1 },
    { "7", "a JSON object expected" },
    { "null", "a JSON object expected" },
    { "[]", "a JSON object expected" },
    { "{", "the text ends early", 2 },
    { '{"a"', "the text ends early" },
    { '{"a":', "the text ends early" },
    { '{"a":1', "the text ends early" },
    { '{"a":1,', "the text ends early" },
    { '{"a":1,}', "a key expected", 8 },
    { '{"a" 1}', "':' expected" },
    { '{"a":1 "b":2}', "',' or '}' expected" },
    { '{"a":[1 2]}', "',' or ']' expected" },
    { '{"a":[1,]}', "not a JSON value" },
    { '{"a":[1}}', "',' or ']' expected" },
    { '{"a":{"b":1]}', "',' or '}' expected" },
    { '{"a":tru}', "not a JSON value" },
    { '{"a":nul', "not a JSON value" },
    { '{"a":01}', "',' or '}' expected" },
    { '{"a":-}', "a digit expected", 7 },
    { '{"a":+1}', "not a JSON value" },
    { '{"a":.5}', "not a JSON value" },
    { '{"a":1.}', "a digit expected", 8 },
    { '{"a":1e}', "a digit expected" },
    { '{"a":1e+}', "a digit expected" },
    { '{"a":-', "the text ends early" },
    { '{"a":0x1}', "',' or '}' expected" },
    { '{"a":NaN}', "not a JSON value" },
    { '{"a":"b}', "the text ends inside a string", 9 },
    { '{"a":"b\\', "not an escape" },
    { '{"a":"\\u12', "the text ends inside a string" },
    { '{"a":"\\x"}', "not an escape", 7 },
    { '{"a":"\\u12g4"}', "\\u needs four hex digits" },
    { '{"a":"\\ud800"}', "half of a surrogate pair in a string", 7 },
    { '{"a":"\\ude42\\ud83d"}', "half of a surrogate pair in a string" },
    { '{"a":"\n"}', "a control character inside a string", 7 },
    { '{"a":"\0"}', "a control character inside a string" },
    { '{"a":"\128"}', "not UTF-8", 7 },
    { '{"a":"\192\128"}', "not UTF-8" },
    { '{"a":"\224\159\191"}', "not UTF-8" },
    { '{"a":"\237\160\128"}', "not UTF-8" },
    { '{"a":"\240\143\191\191"}', "not UTF-8" },
    { '{"a":"\244\144\128\128"}', "not UTF-8" },
    { '{"a":"\228\189"}', "not UTF-8" },
    { "{}x", "something stands after the JSON text", 3 },
    { "{}\0", "something stands after the JSON text" },
    { "{'a':1}", "a key expected" },
    { "\239\187\191{}", "a JSON object expected" },
  }
  for _, case in ipairs(refused) do
    it("refuses " .. ("%q"):format(case[1]):gsub("%z", "\\0") .. ": " .. case[2], function()
      local info, words, at, member = scan(case[1])
      assert.is_nil(info)
      assert.equal(case[2], words)
      if case[4] or not words:find(" must be ", 1, true) then assert.equal(case[4], member) end
      assert.is_true(at >= 1 and at <= #case[1] + 1)
      if case[3] then assert.equal(case[3], at) end
    end)
  end

  it("bounds the depth", function()
    local function nested(depth)
      return '{"a":' .. ("["):rep(depth - 1) .. ("]"):rep(depth - 1) .. "}"
    end
    assert.truthy(scan(nested(128)))
    local info, words = scan(nested(129))
    assert.is_nil(info)
    assert.equal("nested too deep", words)
    assert.truthy(scan(nested(4), 4))
    assert.is_nil(scan(nested(5), 4))
    assert.truthy(scan('{"messages":[{}]}', 3))
    assert.is_nil(scan('{"messages":[{}]}', 2))
    assert.is_nil(scan('{"stream_options":{"a":{}}}', 2))
    assert.is_nil(scan(("["):rep(1e6)))
    assert.is_nil(scan('{"a":' .. ("["):rep(1e6), 1e6)) -- more than the machinery bears
  end)

  it("checks long runs of each kind of character to their end", function()
    for _, run in ipairs({ "a", "é", "深", "🙂", "\\n", "\\u6df1", "\\ud83d\\ude42", "深a", "a\\n", "\\u6df1深" }) do
      for length = 1, 60 do
        local body = '{"k":"' .. run:rep(length)
        assert.is_true(assert(scan(body .. '","stream":true}')).stream)
        for _, bad in ipairs({ "\31", "\128", "\237\160\128", "\224\128\128", "\\u1g", "\\ud800", "\\x" }) do
          assert.is_nil((scan(body .. bad .. '", "stream":true}')))
          assert.is_nil((scan(body .. bad .. run:rep(20) .. '", "stream":true}')))
        end
        assert.is_nil((scan(body)))
        assert.is_nil((scan(body:sub(1, -2))))
      end
    end
  end)

  it("sees a quote, a backslash, a control or a bad byte at every place of a long string", function()
    for length = 0, 40 do
      for at = 0, length do
        local before, after = ("a"):rep(at), ("b"):rep(length - at)
        assert.truthy(scan('{"k":"' .. before .. '\\"' .. after .. '","stream":true}').stream)
        assert.truthy(scan('{"k":"' .. before .. "é" .. after .. '","stream":true}').stream)
          assert.is_nil((scan('{"k":"' .. before .. '"' .. after .. '?"}')))
        for _, bad in ipairs({ "\0", "\31", "\128", "\255", "\\q" }) do
          assert.is_nil((scan('{"k":"' .. before .. bad .. after .. '"}')))
        end
      end
    end
  end)
end)

describe("json_scan.splice", function()
  it("exchanges the model and touches no other byte", function()
    local body = '{ "a" : 1.0 , "model" :"x\\u0079" , "b":"\\/"} '
    local before, model, after = splice(body, assert(scan(body)), 'v"2')
    assert.equal('{ "a" : 1.0 , "model" :"v\\"2" , "b":"\\/"} ', before .. model .. after)
  end)
end)

describe("json_scan.encode_string", function()
  it("writes what cjson reads back as the same text", function()
    for code = 0, 127 do
      local text = "é" .. string.char(code) .. "x"
      assert.equal(text, cjson.decode("[" .. json_scan.encode_string(text) .. "]")[1])
    end
    assert.equal('""', json_scan.encode_string(""))
  end)
end)

describe("json_scan against cjson", function()
  local not_cjsons_business = { "UTF-8", "control character", "surrogate", "twice", "must be", "object expected" }

  local function request(random)
    local members = {}
    local function maybe(key, value)
      if random(3) > 1 then members[#members + 1] = { key, value } end
    end
    local messages = {}
    for i = 1, random(0, 4) do
      messages[i] = fuzz.json_object(random, { { "role", '"user"' }, { "content", fuzz.json_string(random, fuzz.text(random)) } })
    end
    maybe("model", fuzz.json_string(random, fuzz.text(random)))
    maybe("messages", fuzz.json_array(random, messages))
    maybe("stream", fuzz.pick(random, { "true", "false", "null" }))
    maybe("stream_options", fuzz.pick(random, { "{}", "null", '{"include_usage":true}', '{"x":[],"include_usage" :false}' }))
    maybe("n", fuzz.pick(random, { "1", "2", "null", "3.0" }))
    maybe("max_tokens", "100")
    maybe("tools", fuzz.pick(random, { "[]", "[{}]", "null" }))
    maybe("user", fuzz.json_string(random, fuzz.text(random)))
    for i = 1, random(0, 2) do members[#members + 1] = { "x" .. i .. fuzz.text(random), fuzz.json_value(random, 3) } end
    return fuzz.space(random) .. fuzz.json_object(random, fuzz.shuffle(random, members)) .. fuzz.space(random)
  end

  local function plain(value)
    if value == cjson.null then return nil end
    return value
  end

  local function compare(body, info)
    local whole = cjson.decode(body)
    local messages, options = plain(whole.messages), plain(whole.stream_options)
    assert.equal(whole.model, info.model)
    assert.equal(plain(whole.stream), info.stream)
    assert.equal(plain(whole.n), info.n)
    assert.equal(plain(whole.max_tokens), info.max_tokens)
    assert.equal(options and plain(options.include_usage), info.include_usage)
    assert.equal(plain(whole.tools) and #whole.tools > 0 or nil, info.tools)
    assert.equal(messages ~= nil, info.messages_s ~= nil)
    if messages then
      assert.same(messages, cjson.decode(cut(body, info.messages_s, info.messages_e)))
      assert.equal(#messages > 0, info.last_message_s ~= nil)
      if #messages > 0 then
        assert.same({ messages[#messages] }, cjson.decode("[" .. cut(body, info.last_message_s, info.last_message_e) .. "]"))
      end
    end
    if info.user_s then assert.equal(whole.user, json_scan.decode_string(body, info.user_s, info.user_e)) end
    if info.model then
      local before, model, after = splice(body, info, "other")
      whole.model = "other"
      assert.same(whole, cjson.decode(before .. model .. after))
    end
    local added = body:sub(1, info.body_close - 1) .. (info.empty and "" or ",") .. '"added":1' .. body:sub(info.body_close)
    assert.equal(1, cjson.decode(added).added)
  end

  it("agrees on random requests", function()
    fuzz.run(10000, function(random)
      local body = request(random)
      local info, words, at = scan(body)
      if not info then error(("refused: %s at %d: %s"):format(words, at, body)) end
      compare(body, info)
    end)
  end)

  it("agrees on what is not JSON", function()
    fuzz.run(30000, function(random)
      local body = request(random)
      for _ = 1, random(2) do body = fuzz.mutate(random, body .. " ") end
      local info, words, at = scan(body)
      local ok = pcall(cjson.decode, body)
      if info then
        if not ok then error("accepted: " .. body) end
      elseif ok then
        for _, other in ipairs(not_cjsons_business) do
          if words:find(other, 1, true) then return end
        end
        if words == "a digit expected" and body:find("^[.-]", at - 1) then return end -- cjson takes 1. and -.5
        if body:byte(at) == 0 then return end -- a NUL ends cjson's text
        error(("refused: %s at %d: %s"):format(words, at, body))
      end
    end)
  end)
end)
