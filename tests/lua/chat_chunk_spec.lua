local cjson = require("cjson")
local fuzz = require("support.fuzz")
local chat_chunk = require("evenkeel.chat_chunk")
local classify, choice, said, decode_string = chat_chunk.classify, chat_chunk.choice, chat_chunk.said, chat_chunk.decode_string

cjson.decode_invalid_numbers(false)

local function delta(members, rest)
  return '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{' .. members .. "}"
    .. (rest or ',"finish_reason":null') .. "}]}"
end

describe("chat_chunk.classify", function()
  local cases = {
    { "done", "[DONE]" },
    { "done", "[DONE] " },
    { "broken", "" },
    { "broken", "[DONE" },
    { "broken", "[]" },
    { "broken", '"text"' },
    { "broken", '{"choices":[{"delta":{"content":"cut' },
    { "broken", '{"choices":[]} {}' },
    { "broken", '{"choices":[],"choices":[]}' },
    { "broken", '{"choices":[{"delta":{"content":"a","con\\u0074ent":""}}]}' },
    { "content", delta('"content":"a"') },
    { "content", delta('"content":" "') },
    { "content", delta('"content":"\\ud83d"') }, -- half a pair: its other half comes with the next chunk
    { "content", delta('"content":null,"reasoning_content":"hm"') },
    { "content", delta('"content":"","reasoning":"hm"') },
    { "content", delta('"refusal":"no"') },
    { "content", delta('"tool_calls":[{"index":0}]') },
    { "content", delta('"tool_calls":[ {}]') },
    { "content", delta('"function_call":{"name":"f"}') },
    { "content", delta('"audio":{"data":"AA"}') },
    { "content", delta('"content":[{"type":"text","text":"a"}]') },
    { "content", '{"choices":[{"index":0,"text":"a"}]}' },
    { "content", delta('"content":"a"', ',"finish_reason":"stop"') },
    { "content", '{"choices":[{"delta":{}},{"delta":{"content":"b"}}]}' },
    { "role_only", delta('"role":"assistant","content":""') },
    { "role_only", delta('"role":"assistant","content":null,"tool_calls":[ ],"function_call":{ },"refusal":null,"audio":null') },
    { "role_only", delta("") },
    { "role_only", '{"choices":[{"index":0,"text":"","delta":null}]}' },
    { "role_only", delta('"content":""', ',"finish_reason":""') },
    { "role_only", '{"choices":[null,1,"a",[]]}' },
    { "content", '{"choices":[{"message":{"content":"a"}}]}' },
    { "content", '{"choices":[{"message":{"tool_calls":[{}]}}]}' },
    { "content", '{"choices":[{"delta":{"content":""},"message":{"content":"a"}}]}' },
    { "role_only", '{"choices":[{"message":{"content":null}}]}' },
    { "content", '{"data":[{"embedding":[0.1]}]}' },
    { "other", '{"data":[]}' },
    { "finish", delta("", ',"finish_reason":"stop"') },
    { "finish", delta('"content":""', ',"finish_reason":"length"') },
    { "finish", '{"choices":[{"finish_reason":"stop"}],"usage":{}}' },
    { "usage", '{"choices":[],"usage":{"total_tokens":1}}' },
    { "usage", '{"usage":{}}' },
    { "other", '{"choices":[],"usage":null}' },
    { "other", '{"type":"ping"}' },
    { "other", " {} " },
    { "error", '{"error":{"message":"no"}}' },
    { "error", '{"error":"no"}' },
    { "error", '{"choices":[{"delta":{"content":"a"}}],"error":{"code":500}}' },
    { "content", '{"error":null,"choices":[{"delta":{"content":"a"}}]}' },
    { "role_only", '{"error":{ },"choices":[{}]}' },
    { "role_only", '{"error":"","choices":[{}]}' },
    -- Text that looks like structure, and structure at the wrong place.
    { "content", delta('"content":"\\"finish_reason\\":\\"stop\\""') },
    { "content", delta('"content":"{\\"error\\":{\\"message\\":\\"x\\"}}"') },
    { "content", delta('"content":"[DONE]"') },
    { "role_only", delta('"role":"\\"content\\":\\"a\\""') },
    { "role_only", delta('"extra":{"content":"a","finish_reason":"stop"}') },
    { "other", '{"x":{"error":{"a":1}},"content":"a","finish_reason":"stop","delta":{"content":"a"}}' },
    { "role_only", '{"choices":[{"messages":{"content":"a"}}]}' },
    { "role_only", '{"choices":[[{"delta":{"content":"a"}}]]}' },
    { "other", '{"choices":{"delta":{"content":"a"}}}' },
    { "content", '{"choices":[{"delt\\u0061":{"c\\u006fntent":"a"}}]}' },
  }
  for _, case in ipairs(cases) do
    it(("calls %s %s"):format(case[2], case[1]), function()
      local kind, info = classify(case[2])
      assert.equal(case[1], kind)
      if kind == "broken" then assert.is_string(info.words) end
    end)
  end

  it("gives the ranges of what a rewriter needs", function()
    local data = '{"id":"a","created":12,"model":"m","choices":[{"index":3,"finish_reason":"stop","delta":{"content":"x\\ny"}}],'
      .. '"usage":{"total_tokens":1}}'
    local kind, info = classify(data)
    assert.equal("content", kind)
    assert.equal('"a"', data:sub(info.id_s, info.id_e))
    assert.equal("12", data:sub(info.created_s, info.created_e))
    assert.equal('"m"', data:sub(info.model_s, info.model_e))
    assert.equal('{"total_tokens":1}', data:sub(info.usage_s, info.usage_e))
    assert.equal("x\ny", decode_string(data, info.content_s, info.content_e))
    assert.equal("stop", decode_string(data, info.finish_s, info.finish_e))
    assert.same({ 3, 1, true, true, false },
      { info.index, info.choices, info.has_finish, info.has_usage, info.has_tool_calls })
    assert.is_false(info.error_s)
  end)

  for members, other in pairs {
    ['"content":"a"'] = false, ['"content":null,"reasoning_content":"a"'] = false, ['"content":"a","reasoning":"b"'] = false,
    ['"role":"assistant","content":"","refusal":null,"tool_calls":[]'] = false,
    ['"refusal":"a"'] = true, ['"tool_calls":[{}]'] = true, ['"function_call":{"name":"f"}'] = true, ['"audio":{"id":"a"}'] = true,
    ['"content":"a","refusal":"b"'] = true, ['"content":[{"text":"a"}]'] = true, ['"content":"a","reasoning":{"text":"b"}'] = true,
  } do
    it(("%s anything but text in %s"):format(other and "sees" or "does not see", members), function()
      assert.equal(other, select(2, classify(delta(members))).has_other)
    end)
  end

  it("takes the text of another choice than the first for something else", function()
    local function has_other(choices) return select(2, classify('{"choices":[' .. choices .. "]}")).has_other end
    assert.is_false(has_other('{"delta":{"content":"a"}}'))
    assert.is_false(has_other('{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":""}}'))
    assert.is_true(has_other('{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}'))
    assert.is_true(has_other('{"index":1,"delta":{"content":"b"}}'))
  end)

  it("keeps nothing of the chunk before", function()
    classify('{"id":"a","created":1,"model":"m","choices":[{"index":1,"delta":{"content":"a","reasoning_content":"b","tool_calls":[1]},'
      .. '"finish_reason":"stop"}],"usage":{"a":1},"error":{"a":1}}')
    local function nothing_but(choices, wanted, data)
      local kind, info = classify(data)
      assert.equal(wanted, kind)
      for name, value in pairs(info) do
        if name ~= "words" and name ~= "at" then assert.equal(name == "choices" and choices, value) end
      end
    end
    nothing_but(1, "role_only", '{"choices":[{}]}')
    nothing_but(0, "done", "[DONE]")
    nothing_but(0, "broken", "{")
  end)

  it("gives every choice of a chunk that holds several, the first 128 of more", function()
    local data = '{"choices":[{"index":1,"delta":{"content":"one"}},{"delta":{"content":"two"},"index":0},'
      .. '{"index":2,"finish_reason":"stop"}]}'
    local _, info = classify(data)
    assert.equal(3, info.choices)
    local index, s, e = choice(2)
    assert.same({ 0, "two" }, { index, decode_string(data, s, e) })
    local third, third_s, _, _, _, finish_s, finish_e = choice(3)
    assert.same({ 2, false, "stop" }, { third, third_s, decode_string(data, finish_s, finish_e) })
    assert.is_nil(choice(4))
    assert.same({ 1, true, false }, { said(1) })
    assert.same({ 0, true, false }, { said(2) })
    assert.same({ 2, false, true }, { said(3) })
    local many = {}
    for i = 1, 300 do many[i] = ('{"index":%d,"text":"t%d","finish_reason":"stop"}'):format(i - 1, i) end
    local whole = '{"choices":[' .. table.concat(many, ",") .. '],"usage":{"total_tokens":7}}'
    local kind, of_many = classify(whole)
    assert.same({ "content", 128, true }, { kind, of_many.choices, of_many.has_usage })
    assert.equal('{"total_tokens":7}', whole:sub(of_many.usage_s, of_many.usage_e))
    local last, last_s, last_e = choice(128)
    assert.same({ 127, "t128" }, { last, decode_string(whole, last_s, last_e) })
    assert.is_nil(choice(129))
    assert.equal("broken", (classify((whole:gsub('"t300"', "t300")))))
  end)

  it("decodes every escape, and half a pair as the replacement character", function()
    local data = delta([["content":"\u00e9\u6df1\ud83d\ude42\"\\\/\b\f\n\r\t\u0041|\ud83d|\ude42|\ud83d\u0041"]])
    local _, info = classify(data)
    assert.equal('é深🙂"\\/\b\f\n\r\tA|\239\191\189|\239\191\189|\239\191\189A', decode_string(data, info.content_s, info.content_e))
    local long = ("\\u6df1\\n"):rep(300000)
    data = delta('"content":"' .. long .. '"')
    _, info = classify(data)
    assert.equal(("深\n"):rep(300000), decode_string(data, info.content_s, info.content_e))
  end)
end)

describe("chat_chunk against cjson", function()
  local function says(value)
    if value == nil or value == cjson.null or value == false or value == 0 or value == "" then return false end
    return type(value) ~= "table" or next(value) ~= nil
  end

  local function object(value)
    return type(value) == "table" and value or {}
  end

  -- Reads the decoded chunk as classify should.
  local function reference(whole)
    local has_content, has_finish = false, false
    local choices = object(whole.choices)
    for _, one in ipairs(choices) do
      one = object(one)
      local change, message = object(one.delta), object(one.message)
      for _, name in ipairs({ "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio" }) do
        has_content = has_content or says(change[name]) or says(message[name])
      end
      has_content = has_content or says(one.text)
      has_finish = has_finish or says(one.finish_reason)
    end
    has_content = has_content or says(whole.data)
    local has_usage = type(whole.usage) == "table"
    local kind = says(whole.error) and "error" or has_content and "content" or has_finish and "finish" or has_usage and "usage"
    return kind or #choices > 0 and "role_only" or "other", has_content, has_finish
  end

  local function chunk(random)
    local function text()
      return fuzz.json_string(random, fuzz.text(random))
    end
    local function one_of(...)
      return fuzz.pick(random, { ... })
    end
    local function some(members)
      local kept = {}
      for _, member in ipairs(members) do
        if random(3) > 1 then kept[#kept + 1] = member end
      end
      return fuzz.json_object(random, fuzz.shuffle(random, kept))
    end
    local choices = {}
    for i = 1, fuzz.pick(random, { 0, 1, 1, 1, 1, 1, 2, 5 }) do
      local change = some({ { "role", '"assistant"' }, { "content", one_of(text(), text(), '""', "null") },
        { "reasoning_content", one_of('""', "null", text()) }, { "refusal", one_of("null", "null", text()) },
        { "tool_calls", one_of("null", "[]", "[ ]", '[{"index":0}]') }, { "x" .. fuzz.text(random), fuzz.json_value(random, 2) } })
      choices[i] = some({ { "index", one_of("0", "1", tostring(i)) }, { random(9) == 1 and "message" or "delta", change },
        { "finish_reason", one_of("null", "null", '"stop"') }, { "logprobs", one_of("null", fuzz.json_value(random, 2)) } })
    end
    return some({ { "id", text() }, { "object", '"chat.completion.chunk"' }, { "created", "1735689600" }, { "model", text() },
      { "choices", fuzz.json_array(random, choices) }, { "usage", one_of("null", "null", '{"total_tokens":3}') },
      { "error", one_of("null", "null", "null", "{}", "{ }", '{"message":"x"}', '"x"', '""') },
      { "x" .. fuzz.text(random), fuzz.json_value(random, 3) } })
  end

  local function range(data, s, e)
    return s and decode_string(data, s, e) or nil
  end

  local function string_or_nil(value)
    if type(value) == "string" then return value end
  end

  local function compare(data, kind, info)
    local whole = cjson.decode(data)
    local wanted, has_content, has_finish = reference(whole)
    assert.equal(wanted, kind)
    assert.equal(string_or_nil(whole.id), range(data, info.id_s, info.id_e))
    assert.equal(string_or_nil(whole.model), range(data, info.model_s, info.model_e))
    assert.equal(whole.created, info.created_s and tonumber(data:sub(info.created_s, info.created_e)) or nil)
    if kind ~= "error" then assert.same({ has_content, has_finish }, { info.has_content, info.has_finish }) end
    if info.usage_s then assert.same(whole.usage, cjson.decode(data:sub(info.usage_s, info.usage_e))) end
    local choices = object(whole.choices)
    assert.equal(#choices, info.choices)
    for k, one in ipairs(choices) do
      one = object(one)
      local index, content_s, content_e, reasoning_s, reasoning_e, finish_s, finish_e = choice(k)
      local change = object(one.delta or one.message)
      assert.equal(one.index or false, index)
      assert.equal(string_or_nil(change.content) or string_or_nil(one.text), range(data, content_s, content_e))
      assert.equal(string_or_nil(change.reasoning_content), range(data, reasoning_s, reasoning_e))
      assert.equal(string_or_nil(one.finish_reason), range(data, finish_s, finish_e))
    end
  end

  it("agrees on random chunks", function()
    fuzz.run(10000, function(random)
      local data = chunk(random)
      local kind, info = classify(data)
      if kind == "broken" then error(("%s at %d: %s"):format(info.words, info.at, data)) end
      compare(data, kind, info)
    end)
  end)

  it("agrees on what is broken", function()
    local not_cjsons_business = { "UTF-8", "control character", "twice", "a digit", "after the JSON text", "object expected" }
    fuzz.run(30000, function(random)
      local data = chunk(random)
      for _ = 1, random(2) do data = fuzz.mutate(random, data .. " ") end
      local kind, info = classify(data)
      local ok, whole = pcall(cjson.decode, data)
      if kind == "broken" then
        if not ok then return end
        for _, other in ipairs(not_cjsons_business) do
          if info.words:find(other, 1, true) then return end
        end
        error(("%s at %d: %s"):format(info.words, info.at, data))
      elseif not ok then
        if not data:lower():find("\\ud", 1, true) then error("accepted: " .. data) end -- cjson refuses half a surrogate pair
      elseif type(whole) == "table" then
        assert.equal((reference(whole)), kind)
      end
    end)
  end)
end)
