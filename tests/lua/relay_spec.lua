-- The relay of a stream, from the bytes of a provider to what the client gets; the connection and the client are the test's.
local cjson = require "cjson"
local fake_ngx = require "support.fake_ngx"

describe("a relayed stream", function()
  local stand_in, clock, relay, sent, resumed

  before_each(function()
    stand_in = fake_ngx.install()
    clock = stand_in.clock
    sent, resumed = {}, nil
    function stand_in.print(out) sent[#sent + 1] = table.concat(out) return true end
    function stand_in.flush() return true end
    function stand_in.eof() end
    package.loaded["evenkeel.relay"] = nil
    package.loaded["evenkeel.meter"] = { tell = function() end }
    package.loaded["evenkeel.resume"] = { continue = function(_, _, outcome) resumed = outcome end }
    package.loaded["evenkeel.transport"] = {
      -- The script of a connection: bytes, seconds of silence, and at its end false for a cut; nothing more is a whole body.
      read_range = function(conn, deadline)
        local now = clock:steady_s()
        local step = table.remove(conn.script, 1)
        if type(step) == "number" then
          if now + step > deadline then
            clock:pass(math.max(0, deadline - now) + 0.001)
            return nil, "timeout"
          end
          clock:pass(step)
          step = table.remove(conn.script, 1)
        end
        if step == false then return nil, "closed" end
        if step then return step, 1, #step end
      end,
      read = function() end, close = function() end, keep = function() end,
    }
    relay = require "evenkeel.relay"
  end)

  -- @return what became of it: outcome, text (of all that the client got), events (decoded), done
  local function relayed(script, call, kind)
    call = call or {}
    for name, value in pairs { n = 1, usage = 0, resume = true } do
      if call[name] == nil then call[name] = value end
    end
    local at = clock:steady_s()
    local result = {}
    local attempt = {
      call = call, kind = kind or "chat", started = at, first_deadline = at + 10, deadline = at + 100, body = call.body,
      inst = { idle_s = 5 },
    }
    relay.stream(attempt, { reader = { ready = function() return false end }, script = script }, {
      fail = function(_, outcome, words) result.outcome, result.words, result.failed = outcome, words, true end,
      report = function(_, outcome) result.outcome = outcome end,
      first_token = function() end, without_key = function(_, text) return text end, is_clients_model = function() return false end,
      keep = function(_, answer) result.kept = answer end,
    })
    result.text, result.events = table.concat(sent), {}
    for data in result.text:gmatch("data: (.-)\n\n") do
      if data == "[DONE]" then result.done = true else result.events[#result.events + 1] = cjson.decode((data:gsub("\\ud83d", "?"))) end
    end
    local last = result.events[#result.events]
    result.broken_off = last and last.error ~= nil
    return result
  end

  local DONE = "data: [DONE]\n\n"

  local function event(choices, rest)
    return 'data: {"id":"a","created":1,"model":"m"' .. (rest or "") .. ',"choices":[' .. choices .. "]}\n\n"
  end

  local function choice(index, delta, reason)
    return '{"index":' .. index .. ',"delta":{' .. delta .. '},"finish_reason":' .. (reason and '"' .. reason .. '"' or "null") .. "}"
  end

  local function says(index, text, reason) return event(choice(index, '"content":"' .. text .. '"', reason)) end

  local function finishes(index, reason) return event(choice(index, "", reason or "stop")) end

  -- Finish reasons by index, as the client got them: {[0] = {"stop"}, …}
  local function reasons(result)
    local of = {}
    for _, one in ipairs(result.events) do
      for _, c in ipairs(one.choices or {}) do
        if c.finish_reason ~= cjson.null then
          of[c.index] = of[c.index] or {}
          table.insert(of[c.index], c.finish_reason)
        end
      end
    end
    return of
  end

  describe("of one choice", function()
    it("is whole with its finish, and the [DONE] that is missing is supplied", function()
      local result = relayed { says(0, "a"), finishes(0), false }
      assert.equal("ok", result.outcome)
      assert.is_true(result.done)
    end)

    it("waits two seconds for usage and [DONE] after the finish", function()
      local began = clock:steady_s()
      local result = relayed { says(0, "a"), finishes(0), 60, DONE }
      assert.equal("ok", result.outcome)
      assert.is_near(2, clock:steady_s() - began, 0.1)
    end)

    it("has one finish reason, also where the provider gives two or none", function()
      assert.same({ [0] = { "length" } }, reasons(relayed { says(0, "a"), finishes(0, "length"), finishes(0), DONE }))
      sent = {}
      assert.same({ [0] = { "stop" } }, reasons(relayed { says(0, "a"), DONE }))
    end)

    it("goes on where content follows a finish, for as long as an answer may", function()
      local script = {}
      for k = 1, 8 do
        script[#script + 1] = says(0, "w" .. k, "stop")
        script[#script + 1] = 1.5
      end
      script[#script + 1] = DONE
      local result = relayed(script)
      assert.equal("ok", result.outcome)
      assert.truthy(result.text:find("w8", 1, true))
    end)

    it("is not finished by a finish that content without one follows", function()
      local result = relayed { says(0, "a"), finishes(0), says(0, "b"), false }
      assert.equal("truncated", result.outcome)
      assert.is_nil(result.done)
    end)

    it("is not kept from its end by repeated finishes", function()
      local script = { says(0, "a") }
      for _ = 1, 20 do
        script[#script + 1] = finishes(0)
        script[#script + 1] = 1.5
      end
      local began = clock:steady_s()
      assert.equal("ok", relayed(script).outcome)
      assert(clock:steady_s() - began < 4)
    end)
  end)

  describe("of several choices", function()
    it("goes on until the last of them has finished", function()
      local result = relayed({ says(0, "short"), says(1, "long"), finishes(0), 1.5, says(1, "er"), 1.5, says(1, "est"), 1.5,
        finishes(1, "length"), DONE }, { n = 2 })
      assert.equal("ok", result.outcome)
      assert.truthy(result.text:find("est", 1, true))
      assert.same({ [0] = { "stop" }, [1] = { "length" } }, reasons(result))
    end)

    it("is cut if it ends before, and says so", function()
      local result = relayed({ says(0, "short"), says(1, "long"), finishes(0), says(1, "er"), false }, { n = 2 })
      assert.equal("truncated", result.outcome)
      assert.is_true(result.broken_off)
      assert.is_nil(result.done)
    end)

    it("is cut if one of those that were asked for has not even begun", function()
      local result = relayed({ says(0, "short"), finishes(0), false }, { n = 2 })
      assert.equal("truncated", result.outcome)
    end)

    it("is whole without [DONE] once all have finished", function()
      local result = relayed({ says(0, "a"), says(1, "b"), finishes(1), finishes(0), false }, { n = 2 })
      assert.equal("ok", result.outcome)
      assert.is_true(result.done)
    end)

    it("is whole with [DONE], and each choice has one finish reason", function()
      local result = relayed({ says(0, "a"), says(1, "b"), says(2, "c"), finishes(1, "length"), finishes(1), DONE }, { n = 3 })
      assert.equal("ok", result.outcome)
      assert.same({ [0] = { "stop" }, [1] = { "length" }, [2] = { "stop" } }, reasons(result))
    end)

    it("may have them in one event", function()
      local both = event(choice(0, '"content":"a"') .. "," .. choice(1, '"content":"b"'))
      local first = event(choice(0, "", "stop") .. "," .. choice(1, '"content":"c"'))
      assert.equal("truncated", relayed({ both, first, false }, { n = 2 }).outcome)
      sent = {}
      local result = relayed({ both, first, event(choice(0, "", "stop") .. "," .. choice(1, "", "stop")), false }, { n = 2 })
      assert.equal("ok", result.outcome)
    end)

    it("does not lose a finish where nobody asked for several", function()
      local function text(index, words, reason)
        reason = reason and '"' .. reason .. '"' or "null"
        return event('{"index":' .. index .. ',"text":"' .. words .. '","finish_reason":' .. reason .. "}")
      end
      local body = '{"model":"m","prompt":["x","y"],"stream":true}'
      local result = relayed({ text(0, "a"), text(1, "b"), text(0, "", "stop"), text(1, "c"), text(1, "", "length"), DONE },
        { body = body }, "completions")
      assert.equal("ok", result.outcome)
      assert.same({ [0] = { "stop" }, [1] = { "length" } }, reasons(result))
      sent = {}
      assert.equal("truncated", relayed({ text(0, "a"), text(0, "", "stop"), false }, { body = body }, "completions").outcome)
      for _, one in ipairs { '"x"', '["x"]', "[1,2,3]", "[[1,2,3]]", "[]", "null" } do
        sent = {}
        local lone = relayed({ text(0, "a"), text(0, "", "stop"), false }, { body = '{"prompt":' .. one .. "}" }, "completions")
        assert.equal("ok", lone.outcome)
      end
    end)

    it("bears indexes without end, and indexes that are none: only [DONE] ends that", function()
      for _, odd in ipairs { "-1", "0.5", "1e300", "1e999" } do
        sent = {}
        assert.equal("truncated", relayed { says(odd, "a"), finishes(odd), false }.outcome)
        sent = {}
        assert.equal("ok", relayed { says(odd, "a"), DONE }.outcome)
      end
      local script = {}
      for index = 0, 3000 do script[#script + 1] = says(index, "a") .. finishes(index) end
      script[#script + 1] = false
      sent = {}
      assert.equal("truncated", relayed(script).outcome)
    end)
  end)

  describe("that is cut", function()
    it("is continued where all of it was text", function()
      relayed { event(choice(0, '"role":"assistant","content":""')), event(choice(0, '"reasoning_content":"hm"')), says(0, "a"), false }
      assert.equal("truncated", resumed)
    end)

    for name, delta in pairs {
      ["a tool call"] = '"tool_calls":[{"index":0}]', ["a function call"] = '"function_call":{"arguments":"{"}',
      ["a refusal"] = '"refusal":"I "', audio = '"audio":{"data":"AA"}',
      ["content in parts"] = '"content":[{"type":"text","text":"a"}]',
    } do
      it("is not continued where it held " .. name, function()
        local result = relayed { says(0, "a"), event(choice(0, delta)), false }
        assert.is_nil(resumed)
        assert.equal("truncated", result.outcome)
        assert.is_true(result.broken_off)
        assert.is_nil(result.done)
      end)
    end

    it("is not continued where another choice than the first spoke", function()
      relayed { says(0, "a"), says(1, "b"), false }
      assert.is_nil(resumed)
      relayed { event(choice(0, '"content":"a"') .. "," .. choice(1, '"content":"b"')), false }
      assert.is_nil(resumed)
    end)
  end)

  describe("has one identity:", function()
    local function identities(result)
      local of = {}
      for i, one in ipairs(result.events) do of[i] = one.id .. " " .. one.created .. " " .. one.model end
      return of
    end

    it("that of the first event, whatever the others say", function()
      local other = says(0, "b"):gsub('"id":"a","created":1,"model":"m"', '"model":"n","created":2,"id":"bb"')
      local result = relayed { says(0, "a"), other, DONE }
      assert.same({ "a 1 m", "a 1 m", "a 1 m" }, identities(result))
    end)

    it("that of the first event with choices, where an empty one goes before", function()
      local before = 'data: {"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
      local result = relayed { before, says(0, "a"), finishes(0), DONE }
      assert.same({ " 0 ", "a 1 m", "a 1 m" }, identities(result))
      assert.equal(before, result.text:sub(1, #before))
    end)

    it("that of an event without choices, if it has an id", function()
      local result = relayed { 'data: {"id":"z","created":9,"model":"y","choices":[]}\n\n', says(0, "a"), finishes(0), DONE }
      assert.same({ "z 9 y", "z 9 y", "z 9 y" }, identities(result))
    end)

    it("chunks of our own have it, too, whatever the first token is", function()
      local result = relayed { event(choice(0, '"role":"assistant"')), (says(0, "\\ud83d"):gsub('"id":"a"', '"id":"b"')), DONE }
      assert.same({ "a 1 m", "a 1 m", "a 1 m" }, identities(result))
    end)
  end)

  describe("before its first token", function()
    local ROLE = event(choice(0, '"role":"assistant"'), ',"x":"' .. ("x"):rep(1000) .. '"')

    local function roles(bytes)
      local script, many = {}, ROLE:rep(20)
      for i = 1, math.ceil(bytes / #many) do script[i] = many end
      return script
    end

    it("may say a lot", function()
      local script = roles(1200 * 1024)
      script[#script + 1] = says(0, "a") .. finishes(0) .. DONE
      assert.equal("ok", relayed(script).outcome)
    end)

    it("may not say so much that it fills the memory: somebody else is asked", function()
      local script = roles(8 * 1024 * 1024)
      local all = #script
      local result = relayed(script)
      assert.equal("bad_gateway", result.outcome)
      assert.is_true(result.failed)
      assert(#script > all / 2, "it was read to its end")
      assert.equal("", result.text)
    end)

    it("nor where whole streams are held back", function()
      local script = roles(24 * 1024 * 1024)
      assert.equal("bad_gateway", relayed(script, { buffer = true }).outcome)
    end)
  end)
end)
