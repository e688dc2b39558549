local buffer = require "string.buffer"
local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"

describe("continuing an answer:", function()
  local resume, script
  setup(function()
    fake_ngx.install().eof = function() end
    local inst = { name = "b", in_service = true, can = {}, keys = {}, idle_s = 5, first_token_s = 5 }
    local stand_ins = {                          -- nothing is sent here: what comes is the test's, and there is room for it
      transport = {
        door = function() end, close = function() end,
        request = function() return {}, { status = 200, headers = { ["content-type"] = "text/event-stream" } } end,
        read = function() return table.remove(script, 1) end,
      },
      snapshot = { current = function() return { pools = { p = { tiers = { { instances = { inst } } } } } } end },
      live = { view = function() return { cooldown_until = 0, breaker = "closed" } end },
      budget = { retry = function() return true end },
      slots = { acquire = function() return true end, release = function() end },
      events = { add = function() end }, meter = { tell = function() end },
    }
    for name, module in pairs(stand_ins) do package.loaded["evenkeel." .. name] = module end
    resume = require "evenkeel.resume"
  end)

  describe("what was delivered already", function()
    -- Cuts `text` at random places.
    local function pieces(text)
      local out, at = {}, 1
      while at <= #text do
        local to = math.min(#text, at + math.random(0, 5))
        out[#out + 1] = text:sub(at, to)
        at = to + 1
      end
      return out
    end

    it("is skipped, and the rest comes through, wherever the pieces end", function()
      math.randomseed(3)
      local text = "The quick brown 狐狸 jumps over 🙂 the lazy dog."
      for _ = 1, 2000 do
        local delivered = text:sub(1, math.random(0, #text))
        local skipper, rest = resume.new_skipper(delivered), {}
        for _, piece in ipairs(pieces(text)) do
          local left = skipper.feed(piece)
          assert(left, "the texts agree")
          rest[#rest + 1] = left
        end
        assert.equal(text, delivered .. table.concat(rest))
        assert.is_true(skipper.caught_up())
      end
    end)

    it("is found different at the first byte that differs, before any of it comes through", function()
      math.randomseed(4)
      local delivered = "The quick brown fox"
      for _ = 1, 500 do
        local at = math.random(#delivered)
        local other = delivered:sub(1, at - 1) .. "#" .. delivered:sub(at + 1) .. " jumps"
        local skipper, through, refused = resume.new_skipper(delivered), "", false
        for _, piece in ipairs(pieces(other)) do
          local left = skipper.feed(piece)
          if not left then refused = true break end
          through = through .. left
        end
        assert.is_true(refused)
        assert.equal("", through)
        assert.is_false(skipper.caught_up())
      end
    end)

    it("has not been caught up with by a shorter text", function()
      local skipper = resume.new_skipper("abcdef")
      assert.equal("", skipper.feed("abc"))
      assert.is_false(skipper.caught_up())
      assert.equal("", skipper.feed("def"))
      assert.is_true(skipper.caught_up())
      assert.equal("ghi", skipper.feed("ghi"))
    end)

    it("may be nothing", function()
      local skipper = resume.new_skipper("")
      assert.is_true(skipper.caught_up())
      assert.equal("abc", skipper.feed("abc"))
    end)
  end)

  describe("the request for the rest", function()
    local BODY = '{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}'

    it("has the delivered text as its last message, and is otherwise byte for byte the same", function()
      assert.equal('{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}],"stream":true}',
        resume.prefix_body(BODY, "Hello", false))
    end)

    it("flags it for providers that want that", function()
      local messages = cjson.decode(resume.prefix_body(BODY, "Hello", true)).messages
      assert.same({ role = "assistant", content = "Hello", prefix = true }, messages[2])
    end)

    it("bears any text", function()
      local text = 'line\nbreak "quotes" \\ backslash 你好 🙂 \0 \127 </script>'
      assert.equal(text, cjson.decode(resume.prefix_body(BODY, text, true)).messages[2].content)
    end)

    it("bears any layout of the messages", function()
      for _, messages in ipairs { "[]", "[ ]", '[{"role":"user","content":"]"} ]', '[\n{"content":[{"type":"text","text":"}"}]}\n]' } do
        local before = cjson.decode(messages)
        local after = cjson.decode(resume.prefix_body('{"messages":' .. messages .. ',"model":"m"}', "x", false)).messages
        assert.equal(#before + 1, #after)
        assert.same({ role = "assistant", content = "x" }, after[#after])
      end
    end)

    it("cannot be made from a request without messages, or from what is none", function()
      assert.is_nil(resume.prefix_body('{"model":"m","prompt":"Hi"}', "x", true))
      assert.is_nil(resume.prefix_body('{"model":"m","messages":null}', "x", true))
      assert.is_nil(resume.prefix_body("{", "x", true))
    end)
  end)

  describe("the rest", function()
    local function event(choices) return 'data: {"id":"b","choices":[' .. choices .. "]}\n\n" end
    local function delta(members) return event('{"index":0,"delta":{' .. members .. '},"finish_reason":null}') end
    local FINISH, DONE = event '{"index":0,"delta":{},"finish_reason":"stop"}', "data: [DONE]\n\n"

    -- The client has "one " already. @return what it gets besides: text, whether the answer was broken off instead of ended
    local function continued(...)
      script = { table.concat({ ... }) }
      local s = { said_content = buffer.new():put("one "), said_reasoning = buffer.new(), content = 1, n = 0 }
      local attempt = { call = { pool = "p", tier = 1 }, inst = { name = "a" }, body = '{"model":"m","messages":[]}', deadline = math.huge }
      local text, broken_off = {}, false
      resume.continue(attempt, s, "truncated", {
        chunk_head = function() return '{"id":"a"' end,
        break_off = function() broken_off = true end,
        _put = function(_, data) text[#text + 1] = data end, _send = function() return true end,
      })
      local said = ""
      for i, data in ipairs(text) do
        if data ~= "[DONE]" then
          local change = cjson.decode(data).choices[1].delta
          said = said .. (change.reasoning_content or "") .. (change.content or "")
        elseif i == #text then
          return said, broken_off, true
        end
      end
      return said, broken_off, false
    end

    it("is what the other says after what the client has", function()
      local first, second, third = delta '"role":"assistant"', delta '"content":"one tw"', delta '"content":"o"'
      assert.same({ "two", false, true }, { continued(first, second, third, FINISH, DONE) })
    end)

    for name, odd in pairs {
      ["null for a choice"] = event "null", ["a number for a choice"] = event "5", ["a list for a choice"] = event '[{"index":0}]',
      ["choices that are no list"] = 'data: {"choices":{"delta":5}}\n\n', ["null for an error"] = 'data: {"error":null,"choices":[]}\n\n',
      ["a number for a delta"] = event '{"index":0,"delta":5}',
      ["an empty finish reason"] = event '{"index":0,"delta":{},"finish_reason":""}',
      ["a list for a finish reason"] = event '{"index":0,"delta":{},"finish_reason":[]}', ["a list for usage"] = 'data: {"usage":[1]}\n\n',
      ["strings for usage"] = 'data: {"choices":[],"usage":{"prompt_tokens":"x","completion_tokens":[]}}\n\n',
    } do
      it("bears " .. name, function()
        assert.same({ "two", false, true }, { continued(delta '"content":"one "', odd, delta '"content":"two"', FINISH, DONE) })
      end)
    end

    for name, bad in pairs {
      ["no JSON"] = "data: {\n\n", ["no object"] = "data: 5\n\n", ["an error"] = 'data: {"error":{"message":"no"}}\n\n',
      ["half of a surrogate pair"] = delta '"content":"\\ud83d"',
    } do
      it("ends at what is " .. name, function()
        assert.same({ "t", true, false }, { continued(delta '"content":"one t"', bad, delta '"content":"wo"', FINISH, DONE) })
      end)
    end

    for name, members in pairs {
      ["a tool call"] = '"tool_calls":[{"index":0}]', ["a function call"] = '"function_call":{"arguments":"{"}',
      ["a refusal"] = '"refusal":"I "', audio = '"audio":{"data":"AA"}',
      ["content in parts"] = '"content":[{"type":"text","text":"a"}]',
    } do
      it("is no rest if it holds " .. name, function()
        assert.same({ "t", true, false }, { continued(delta '"content":"one t"', delta(members), FINISH, DONE) })
      end)
    end

    it("is no rest if another choice speaks as well", function()
      local other = event '{"index":1,"delta":{"content":"two"}}'
      assert.same({ "t", true, false }, { continued(delta '"content":"one t"', other, FINISH, DONE) })
    end)
  end)

  describe("the usage", function()
    local null = cjson.null
    local function usage(prompt, completion) return { prompt_tokens = prompt, completion_tokens = completion } end
    for _, case in ipairs {
      -- first, content events of the first, second, by prefix → prompt, completion
      { "is the sum of what both told", usage(10, 40), 40, usage(50, 20), true, 60, 60 },
      { "counts the events of a first that told nothing; its prompt is the second's without the delivered text",
        nil, 40, usage(50, 20), true, 60, 60 },
      { "takes a restart's prompt for the first's", nil, 40, usage(10, 60), false, 20, 100 },
      { "is what the first told when the second told nothing", usage(10, 40), 40, nil, true, 10, 40 },
      { "is what was counted when nobody told anything", nil, 40, nil, false, 0, 40 },
      { "is never below nothing, whatever tokenizers think", nil, 40, usage(10, 20), true, 10, 60 },
      { "bears nulls",
        { prompt_tokens = null, completion_tokens = null }, 40, { prompt_tokens = null, completion_tokens = null }, false, 0, 40 },
      { "bears null for all of it", nil, 40, null, true, 0, 40 },
    } do
      it(case[1], function()
        local sum = resume.sum_usage(case[2], case[3], case[4], case[5])
        assert.same({ prompt_tokens = case[6], completion_tokens = case[7], total_tokens = case[6] + case[7] }, sum)
      end)
    end
  end)
end)
