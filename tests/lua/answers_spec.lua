local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"

describe("the answer that a stream would have been", function()
  local answers
  setup(function()
    fake_ngx.install()
    answers = require "evenkeel.answers"
  end)

  local function message(content, reasoning)
    return cjson.decode(answers.from_stream({ id = 'an "id"', created = 7, model = "m" }, content, reasoning, "stop"))
  end

  it("has the identity of its first chunk and what the client was told, escapes included", function()
    local answer = message([[a \"quote\", a line\nand \ud83d\ude42]], "")
    assert.same({ 'an "id"', 7, "m", "stop" }, { answer.id, answer.created, answer.model, answer.choices[1].finish_reason })
    assert.same({ role = "assistant", content = 'a "quote", a line\nand 🙂' }, answer.choices[1].message)
  end)

  it("has its reasoning apart", function()
    assert.same({ role = "assistant", content = "", reasoning_content = "a\\b" }, message("", [[a\\b]]).choices[1].message)
  end)
end)
