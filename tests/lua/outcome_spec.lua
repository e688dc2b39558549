local outcome = require "evenkeel.outcome"

local function err(fields) return '{"error":{' .. fields .. "}}" end

describe("an error answer is", function()
  for _, case in ipairs {
    -- status, body, outcome: by its status
    { 401, err '"message":"Authentication Fails","code":"invalid_request_error"', "auth" },
    { 403, err '"message":"Country not supported","code":"unsupported_country"', "auth" },
    { 403, '{"code":30001,"message":"Sorry, your account balance is insufficient"}', "auth" },
    { 402, err '"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"', "quota" },
    { 404, err '"message":"The model `x` does not exist","code":"model_not_found"', "server_error" },
    { 408, "", "server_error" },
    { 413, "", "client_error" },
    { 422, '{"detail":[{"loc":["body","messages"],"msg":"field required"}]}', "client_error" },
    { 400, err '"message":"Invalid value for temperature","type":"invalid_request_error"', "client_error" },
    { 405, "", "client_error" },
    { 415, "", "client_error" },
    { 429, "", "rate_limited" },
    { 429, err '"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"', "rate_limited" },
    { 500, "", "server_error" },
    { 501, "", "server_error" },
    { 502, "<html><body><h1>502 Bad Gateway</h1></body></html>", "server_error" },
    { 503, err '"message":"The server is overloaded"', "server_error" },
    { 504, "", "server_error" },
    { 520, "error code: 520", "server_error" },
    { 529, err '"type":"overloaded_error","message":"Overloaded"', "rate_limited" },

    -- by its words
    { 429, err '"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"', "quota" },
    { 429, err '"code":"billing_hard_limit_reached"', "quota" },
    { 400, err '"message":"too long","code":"context_length_exceeded"', "context_length" },
    { 400, err [["message":"This model's maximum context length is 4096 tokens","type":"BadRequestError","code":400]], "context_length" },
    { 400, [[{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}]], "context_length" },
    { 400, [[{"error":"This model's maximum context length is 4096 tokens."}]], "context_length" },
    { 400, err '"message":"Invalid request: Your request exceeded model token limit: 8192"', "context_length" },
    { 400, err '"message":"Your input exceeds the context window of this model."', "context_length" },
    { 413, err '"code":"context_length_exceeded"', "context_length" },
    { 400, err '"message":"no","code":"content_policy_violation"', "content_filter" },
    { 400, err '"message":"The response was filtered","code":"content_filter"', "content_filter" },
    { 400, err '"message":"Input data may contain inappropriate content.","type":"data_inspection_failed"', "content_filter" },
    { 403, err '"code":403,"message":"Your chosen model requires moderation and your input was flagged"', "content_filter" },
    { 403, err '"code":"content_policy_violation"', "content_filter" },

    -- dressed as a success
    { 200, err '"message":"Rate limit","code":429', "rate_limited" },
    { 200, err '"message":"Rate limit","code":"429"', "rate_limited" },
    { 200, err '"code":"rate_limit_exceeded"', "rate_limited" },
    { 200, err '"message":"no credits","code":402', "quota" },
    { 200, err '"type":"insufficient_quota"', "quota" },
    { 200, err '"message":"Internal","code":502', "server_error" },
    { 200, err '"code":"context_length_exceeded"', "context_length" },
    { 200, err [["message":"This model's maximum context length is 4096 tokens"]], "context_length" },
    { 200, err '"code":"content_filter"', "content_filter" },
    { 200, err '"message":"Something went wrong"', "empty" },
    { 200, err '"message":"odd","code":1301', "empty" },
    { 200, '{"error":"overloaded"}', "empty" },

    -- whatever the body is
    { 400, "", "client_error" },
    { 400, "not JSON", "client_error" },
    { 400, '"maximum context length"', "client_error" },
    { 400, "[]", "client_error" },
    { 400, "null", "client_error" },
    { 400, '{"error":null}', "client_error" },
    { 400, '{"error":[1,2]}', "client_error" },
    { 400, '{"error":{"code":null,"type":[],"message":{}}}', "client_error" },
    { 400, '{"error":{"message":"cut in the mid', "client_error" },
    { 429, '{"error":true}', "rate_limited" },
  } do
    it(("%s: %d %s"):format(case[3], case[1], case[2]), function() assert.equal(case[3], outcome.of_error(case[1], case[2])) end)
  end

  it("the client's, when it is of a model that only the client has named", function()
    local body = err '"message":"The model `x` does not exist","code":"model_not_found"'
    assert.equal("client_error", outcome.of_error(404, body, true))
    assert.equal("client_error", outcome.of_error(200, err '"message":"no","code":404', true))
    for _, status in ipairs { 401, 402, 408, 429, 500 } do
      assert.equal(outcome.of_error(status, body), outcome.of_error(status, body, true))
    end
  end)

  it("found without a body, too", function()
    assert.equal("server_error", outcome.of_error(503, nil))
    assert.equal("empty", outcome.of_error(200, nil))
  end)
end)

describe("the taxonomy", function()
  local WORDS = { ok = "fine", rate_limited = "retried", quota = "retried", auth = "retried", bad_gateway = "counts",
    server_error = "counts", timeout_first_token = "counts", stalled = "counts", truncated = "counts", empty = "counts",
    context_length = "neutral", content_filter = "neutral", client_error = "neutral", client_gone = "neutral" }

  it("counts against the breaker what an instance is to blame for, and nothing else", function()
    for word, kind in pairs(WORDS) do assert.equal(kind == "counts", outcome.FAILURES[word] == true, word) end
  end)

  it("asks another instance after those and after what takes this one out", function()
    for word, kind in pairs(WORDS) do assert.equal(kind == "counts" or kind == "retried", outcome.RETRYABLE[word] == true, word) end
  end)

  it("tells the edge by a status that makes it move on, or by 590 for the next tier", function()
    local moves_on = { [429] = true, [500] = true, [502] = true, [503] = true, [504] = true }
    for word in pairs(outcome.RETRYABLE) do assert(moves_on[outcome.STATUS[word]], word) end
    assert.equal(590, outcome.STATUS.context_length)
    assert.is_nil(outcome.STATUS.client_error)
    assert.is_nil(outcome.STATUS.content_filter)
  end)
end)

describe("Retry-After", function()
  local NOW = 1700000000
  local function parse(text)
    return ({ ["Tue, 14 Nov 2023 22:13:50 GMT"] = NOW + 30, ["Tue, 14 Nov 2023 22:00:00 GMT"] = NOW - 800,
      ["Thu, 31 Dec 2099 23:59:59 GMT"] = 4102444799 })[text]
  end
  for _, case in ipairs {
    { "seconds", "2", 2 },
    { "part of a second, rounded up to one", "0.25", 1 },
    { "seconds and a part", "1.5", 1.5 },
    { "at once is a second", "0", 1 },
    { "spaces do not matter", " 7 ", 7 },
    { "a date", "Tue, 14 Nov 2023 22:13:50 GMT", 30 },
    { "a date that has passed", "Tue, 14 Nov 2023 22:00:00 GMT", 1 },
    { "a date in another life", "Thu, 31 Dec 2099 23:59:59 GMT", 600 },
    { "too long", "86400", 600 },
    { "absurdly long", ("9"):rep(60), 600 },
    { "negative", "-5" },
    { "infinite", "inf" },
    { "no number", "nan" },
    { "hexadecimal", "0x10" },
    { "with a unit", "2s" },
    { "garbage", "soon" },
    { "a date that is none", "Someday, 99 Foo 2023" },
    { "empty", "" },
    { "a flood", ("9"):rep(10000) },
    { "absent", nil },
  } do
    it(case[1], function() assert.equal(case[3], outcome.retry_after_s(case[2], NOW, parse)) end)
  end
end)

describe("the reset of a rate-limit window", function()
  for _, case in ipairs {
    { "1s", 1 }, { "6m0s", 360 }, { "250ms", 0.25 }, { "1h2m3s", 3723 }, { "1.5s", 1.5 }, { "12", 12 }, { "0.5", 0.5 }, { "0", 0 },
    { "1m30.5s", 90.5 }, { "1s1s", 2 }, { "11s1s", 12 },
    { "-1" }, { "-1s" }, { "1 s" }, { "1d" }, { "s" }, { "1s?" }, { "x1s" }, { "" }, { "soon" }, { "inf" }, { "nan" },
    { "1700000000" }, { "2023-11-14T22:13:50Z" }, { ("1s"):rep(100) },
  } do
    it(("%q is %s"):format(case[1], case[2] and case[2] .. " s" or "nothing usable"), function()
      local seconds = outcome.reset_s(case[1])
      if case[2] then assert.is_near(case[2], seconds, 1e-9) else assert.is_nil(seconds) end
    end)
  end

  it("is not there when nobody says it", function() assert.is_nil(outcome.reset_s(nil)) end)
end)
