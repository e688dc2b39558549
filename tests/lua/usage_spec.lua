local usage = require "evenkeel.usage"

describe("usage", function()
  local function parse(text) return { usage.parse(text) } end

  it("is read as OpenAI tells it", function()
    assert.same({ 100, 30, 50, 20 }, parse('{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,'
      .. '"prompt_tokens_details":{"cached_tokens":30,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":20}}'))
  end)

  it("is read as DeepSeek tells it", function()
    assert.same({ 100, 64, 50, 0 }, parse('{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,'
      .. '"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}'))
  end)

  it("of embeddings has no output", function()
    assert.same({ 9, 0, 0, 0 }, parse '{ "prompt_tokens" : 9, "total_tokens" : 9 }')
  end)

  it("never says more of a part than of the whole", function()
    assert.same({ 10, 10, 5, 5 }, parse('{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":99},'
      .. '"completion_tokens_details":{"reasoning_tokens":99}}'))
  end)

  for _, text in ipairs {
    "{}", '{"prompt_tokens":null}', '{"prompt_tokens":-1,"completion_tokens":1}', '{"prompt_tokens":"12"}', '{"prompt_tokens":1e12}',
    '{"prompt_tokens":1,"prompt_tokens":2}', "[1]", '{"prompt_tokens":', "",
  } do
    it("says nothing when it is " .. text, function() assert.same({}, parse(text)) end)
  end

  it("is estimated from the text of the messages: four a message and one for four bytes", function()
    assert.equal(6, usage.estimate_input('{"model":"m","messages":[{"role":"user","content":"Hello!"}]}'))
    assert.equal(4 + 1 + 4 + 3, usage.estimate_input('{"messages":[{"role":"system","content":"Hi"},{"role":"user","content":'
      .. '[{"type":"text","text":"Hello!"},{"type":"image_url","image_url":{"url":"…"}}]}]}'))
    assert.equal(2, usage.estimate_input('{"prompt":"Hello!"}'))
    assert.equal(3, usage.estimate_input('{"input":["Hello!","ab"]}'))
    assert.equal(4, usage.estimate_input('{"messages":[{"role":"assistant","content":null}]}'))
    assert.equal(4, usage.estimate_input('{"messages":[3],"prompt":{}}'))
  end)

  it("of a very long request is estimated from its length", function()
    local body = '{"messages":[{"role":"user","content":"' .. ("x"):rep(400000) .. '"}]}'
    assert.is_near(100000, usage.estimate_input(body), 20)
  end)
end)
