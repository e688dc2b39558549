local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"

describe("continuing an answer:", function()
  local resume
  setup(function()
    fake_ngx.install()
    for _, name in ipairs { "transport", "sse" } do package.loaded["evenkeel." .. name] = {} end     -- nothing is sent here
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
