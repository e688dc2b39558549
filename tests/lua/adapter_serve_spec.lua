-- What an adapter makes of a provider's answer to one request: what the client reads, whether it asks again, and what is held against the
-- instance. The provider is a script of answers.
local fake_ngx = require "support.fake_ngx"
local cjson = require "cjson"

describe("an adapter", function()
  local stand_in, clock, adapter, edge, breaker, live, dict, inst, snapshot, request, answers, asked, streamed, said

  local MODULES = { "adapter", "edge", "live", "breaker", "slots", "events", "outcome", "answers", "snapshot", "errors", "relay", "queue",
    "budget", "pool_breaker", "clients", "request_body", "meter", "peer", "transport", "telemetry" }
  local function forget()
    for _, name in ipairs(MODULES) do package.loaded["evenkeel." .. name] = nil end
  end

  before_each(function()
    stand_in = fake_ngx.install()
    clock, dict = stand_in.clock, stand_in.shared.evenkeel_state
    said = {}
    stand_in.print = function(text) said.body = text end
    stand_in.exit, stand_in.eof, stand_in.flush, stand_in.parse_http_time = function() end, function() end, function() end, function() end
    stand_in.req = { get_method = function() return "POST" end }
    forget()
    package.loaded["ngx.balancer"], package.loaded["ngx.semaphore"] = {}, {}
    package.loaded["evenkeel.request_body"] = { read = function() return request end }
    package.loaded["evenkeel.peer"] = { has_left = function() return false end }
    answers, asked, streamed = {}, {}, 0
    package.loaded["evenkeel.transport"] = {
      request = function(_, _, _, pieces)
        asked[#asked + 1] = table.concat(pieces)
        local answer = assert(answers[#asked], "asked too often")
        return { body = answer[2] or "" }, { status = answer[1], headers = { ["content-type"] = answer[3] or "application/json" } }
      end,
      read_all = function(conn) return conn.body end,
      door = function() end,
    }
    live, breaker = require "evenkeel.live", require "evenkeel.breaker"
    live.use(dict)
    require("evenkeel.slots").use(dict, 1)
    inst = { name = "a", keys = live.keys("a"), path = "/v1", max_connections = 50, base_latency_s = 1, first_token_s = 10, idle_s = 10,
      total_s = 60, can = {}, breaker = { unhealthy_threshold = 3, healthy_threshold = 2, error_rate_threshold = 0.5,
        sliding_window_s = 60, half_open_max_requests = 5, recovery_timeout_s = 30, min_requests = 20 } }
    snapshot = { instances = { a = inst }, models = { listed = {}, ["*"] = {} }, pools = {}, clients = { by_name = function() end } }
    package.loaded["evenkeel.snapshot"] = { current = function() return snapshot end }
    package.loaded["evenkeel.meter"] = { attempt = function(attempt, outcome) said.outcome, said.traffic = outcome, attempt.traffic end }
    adapter, edge = require "evenkeel.adapter", require "evenkeel.edge"
    require("evenkeel.relay").stream = function() streamed = streamed + 1 end
  end)

  teardown(forget)

  -- Serve what the edge makes of this body. `fields` go to the edge's record of the request.
  local function serve(body, fields)
    request = type(body) == "string" and body or cjson.encode(body)
    local info = assert(require("evenkeel.json_scan").scan(request))
    local req = { scan = info, stream = info.stream, pool = { name = "p" }, tier = 1, ref = 7, id = "r1",
      usage = info.include_usage and 1 or (info.stream_options_s and 2 or 0) }
    for k, v in pairs(fields or {}) do req[k] = v end
    stand_in.var = { server_addr = "unix:run/instances/a.sock", uri = "/v1/chat/completions" }
    stand_in.var.http_x_ek_call = edge._call_header(req, true)
    stand_in.header, stand_in.status, stand_in.ctx = {}, nil, {}
    adapter.serve()
    return stand_in.ctx.attempt
  end

  local function calls_failed() return { breaker.window(dict, inst.keys.breaker, inst.breaker, clock.now_s) } end
  local function err(message) return '{"error":{"message":"' .. message .. '","code":"x"}}' end

  it("refuses what it does not understand of the edge, and takes nobody for one who knocks directly", function()
    for _, header in ipairs { "", "x", "1,2", ("1.5,"):rep(30) } do
      request = '{"model":"listed","messages":[]}'
      stand_in.var = { server_addr = "unix:run/instances/a.sock", uri = "/v1/chat/completions", http_x_ek_call = header }
      stand_in.ctx, said = {}, {}
      adapter.serve()
      assert.equal(500, stand_in.status)
      assert.equal("internal_error", cjson.decode(said.body).error.code)
      assert.is_nil(stand_in.ctx.attempt)
      assert.is_nil(said.outcome)
    end
    assert.equal(0, #asked)
    assert.equal(4, #stand_in.logged)
  end)

  it("reads what the edge has written, whatever was asked for", function()
    answers = { { 200, '{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}' } }
    local attempt = serve({ model = "listed", n = 128, stop = "a", tools = { {} } },
      { client = { name = "c" }, deadline = clock.now_s + 1.5 })
    local call = attempt.call
    assert.same({ 128, true, true, "p", "c", "1,7", "r1" },
      { call.n, call.stop, call.tools, call.pool, call.client, call.ref, call.id })
    assert.equal("client", said.traffic)
    assert.is_near(clock.now_s + 1.5, attempt.deadline, 0.002)
  end)

  describe("that is told that its question for the usage is not understood", function()
    local BODY = { model = "listed", stream = true }
    local function asked_usage() return asked[#asked]:find("include_usage", 1, true) ~= nil end

    it("asks without it, and remembers that when it gets an answer", function()
      answers = { { 400, err "Unrecognized request argument: stream_options" }, { 200, "", "text/event-stream" },
        { 200, "", "text/event-stream" } }
      serve(BODY)
      assert.same({ 2, false, 1 }, { #asked, asked_usage(), streamed })
      serve(BODY)
      assert.same({ 3, false, 2 }, { #asked, asked_usage(), streamed })
    end)

    it("does not take a client's own words for that", function()
      answers = { { 400, err "temperature: not a number: stream_options" }, { 400, err "temperature: not a number: stream_options" },
        { 200, "", "text/event-stream" } }
      serve(BODY)
      assert.same({ 2, 400, "client_error" }, { #asked, stand_in.status, said.outcome })
      assert.equal(answers[2][2], said.body)
      serve(BODY)
      assert.is_true(asked_usage())
    end)

    it("asks once more and no further, even when there is no room to remember anything", function()
      dict.set = function() return nil, "no memory" end
      for i = 1, 10 do answers[i] = { 422, err "include_usage" } end
      serve(BODY)
      assert.same({ 2, 422 }, { #asked, stand_in.status })
    end)
  end)

  describe("whose provider does not know the model", function()
    local NOT_FOUND = { 404, err "The model does not exist" }
    local IN_200 = { 200, '{"error":{"message":"no such model","code":404}}' }

    it("passes that on when only the client has named it", function()
      for i = 1, 6 do answers[i] = NOT_FOUND end
      for _ = 1, 6 do
        serve { model = "made-up" }
        assert.same({ 404, "client_error", NOT_FOUND[2] }, { stand_in.status, said.outcome, said.body })
      end
      assert.same({ 0, 0 }, calls_failed())
    end)

    it("passes it on when it comes as a success, too", function()
      answers = { IN_200 }
      serve { model = "made-up" }
      assert.same({ 400, "client_error", IN_200[2] }, { stand_in.status, said.outcome, said.body })
      assert.same({ 0, 0 }, calls_failed())
    end)

    it("has others asked when the pool knows it", function()
      answers = { NOT_FOUND }
      serve { model = "listed" }
      assert.same({ 503, "server_error" }, { stand_in.status, said.outcome })
      assert.same({ 1, 1 }, calls_failed())
    end)

    it("has others asked when instance or tier name it", function()
      answers = { NOT_FOUND, NOT_FOUND }
      inst.model = "upstream"
      serve { model = "made-up" }
      assert.same({ 503, "server_error" }, { stand_in.status, said.outcome })
      inst.model = nil
      request = '{"model":"made-up"}'
      local req = { scan = require("evenkeel.json_scan").scan(request), pool = { name = "p" }, tier = 1, ref = 7, id = "r1", usage = 0 }
      stand_in.var.http_x_ek_call = edge._call_header(req, true, "of-the-tier")
      stand_in.ctx = {}
      adapter.serve()
      assert.same({ 503, "server_error" }, { stand_in.status, said.outcome })
    end)
  end)

  describe("that gets nothing but a whole answer", function()
    local EMPTY = { 200, '{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}' }

    it("has others asked and counts it", function()
      answers = { EMPTY }
      serve { model = "listed" }
      assert.same({ 502, "empty" }, { stand_in.status, said.outcome })
      assert.same({ 1, 1 }, calls_failed())
    end)

    it("has others asked and counts nothing when the client brought stop words", function()
      answers = { EMPTY }
      serve { model = "listed", stop = { "a" } }
      assert.same({ 502, "empty" }, { stand_in.status, said.outcome })
      assert.same({ 0, 0 }, calls_failed())
    end)

    it("counts an error dressed as one, whatever the client brought", function()
      answers = { { 200, err "Something went wrong" } }
      serve { model = "listed", stop = { "a" } }
      assert.equal("empty", said.outcome)
      assert.same({ 1, 1 }, calls_failed())
    end)
  end)

  it("passes on an answer with more choices than it looks at", function()
    local choices = {}
    for i = 1, 129 do choices[i] = { index = i - 1, text = "t" .. i, finish_reason = "stop" } end
    answers = { { 200, cjson.encode { choices = choices } } }
    serve { model = "listed" }
    assert.same({ "ok", answers[1][2] }, { said.outcome, said.body })
  end)

  describe("of a client with a time of its own", function()
    local STREAM = { model = "listed", stream = true }
    before_each(function() answers = { { 200, "", "text/event-stream" } } end)

    it("keeps to it to the end", function()
      local attempt = serve(STREAM, { deadline = clock.now_s + 2 })
      adapter._first_token(attempt)
      assert.is_near(clock.now_s + 2, attempt.deadline, 0.002)
      assert.is_true(attempt.clients_deadline)
    end)

    it("is free of it with the first token, if it was for that", function()
      local attempt = serve(STREAM, { deadline = clock.now_s + 2, until_first = true })
      assert.is_near(clock.now_s + 2, attempt.first_deadline, 0.002)
      assert.is_near(clock.now_s + 2, attempt.deadline, 0.002)
      adapter._first_token(attempt)
      assert.equal(attempt.started + 60, attempt.deadline)
      assert.is_nil(attempt.clients_deadline)
    end)
  end)
end)
