-- An adapter: the door to one instance. It turns every failure that an LLM endpoint can have into an HTTP failure *before* anything is
-- committed to the client, so that the edge is a plain HTTP balancer over well-behaved local peers.
--
-- It owns scheme, path, credential, model name and TLS name of its instance; splices the model name into the body and leaves every
-- other byte; holds the answer back until the first content token (or until a JSON answer is whole); keeps the budgets; reports the
-- outcome to breaker, cooldown and latency. Knock by hand: curl --unix-socket run/instances/NAME.sock http://x/v1/models

local cjson = require "cjson.safe"
local answers = require "evenkeel.answers"
local breaker = require "evenkeel.breaker"
local clock = require "evenkeel.clock"
local events = require "evenkeel.events"
local errors = require "evenkeel.errors"
local handover = require "evenkeel.handover"
local json_scan = require "evenkeel.json_scan"
local live = require "evenkeel.live"
local meter = require "evenkeel.meter"
local outcomes = require "evenkeel.outcome"
local peer = require "evenkeel.peer"
local relay = require "evenkeel.relay"
local request_body = require "evenkeel.request_body"
local slots = require "evenkeel.slots"
local snapshots = require "evenkeel.snapshot"
local telemetry = require "evenkeel.telemetry"
local transport = require "evenkeel.transport"
local waiting = require "evenkeel.waiting"

local ngx = ngx
local now = clock.now
local sub, find, match, byte, concat = string.sub, string.find, string.match, string.byte, table.concat
local tonumber, random, min = tonumber, math.random, math.min

local M = {}

local MAX_ERROR_BODY = 64 * 1024
local MAX_JSON_ANSWER = 64 * 1024 * 1024
local ERROR_BODY_WAIT_S = 2
local PROBE_HOLDS_S = 10          -- the result of a recovery probe says nothing about the next outage

-- ------------------------------------------------------------------------------------------------------------ the request

local CALL = "^(%d+),(%d+),(%d),(%d),(%d),(%d),(%d+),(%d),(%d),(%d),(%d+),(%d+),(%d+),(%d+),(%d+),(%d),(%d),(%d+),([^,]+),(%d+),([^,]*),"
  .. "(%d+,%d+),([^,]+),(.*)$"

--- What is known of a request: from the edge (see its call_header), or by scanning the body of somebody who knocked directly.
--- @return call, or nil and why. A header that is not understood is a fault of ours: whoever was taken for a direct knock because of it
---   would be charged for nothing and have no deadline.
local function read_call(header, body)
  if header then
    local model_s, model_e, stream, last, resume, buffer, n, tools, stop, usage, options_s, options_e, close,
      messages_s, messages_e, keep, until_first, deadline_ms, pool, tier, client, ref, id, model_name = match(header, CALL)
    if not model_s then return nil, "the edge's words are not understood: " .. header end
    return {
      model_s = tonumber(model_s), model_e = tonumber(model_e), stream = stream == "1", last = last == "1",
      resume = resume == "1", buffer = buffer == "1",
      n = tonumber(n), tools = tools == "1", stop = stop == "1",
      usage = tonumber(usage), options_s = tonumber(options_s), options_e = tonumber(options_e),
      close = tonumber(close),
      messages_s = tonumber(messages_s), messages_e = tonumber(messages_e), keep = keep == "1",
      until_first = until_first == "1", deadline = deadline_ms ~= "0" and tonumber(deadline_ms) / 1000 or nil,
      pool = pool, tier = tonumber(tier), client = client ~= "" and client or nil,
      ref = ref, id = id, model = model_name ~= "" and model_name or nil,
    }
  end
  local info, message = json_scan.scan(body)
  if not info then return nil, message end
  if not info.model then return nil, "the request must name a model" end
  return {
    model_s = info.model_s, model_e = info.model_e, stream = info.stream == true, last = true, resume = false, n = info.n or 1,
    tools = info.tools or false, stop = info.stop or false, usage = info.include_usage and 1 or (info.stream_options_s and 2 or 0),
    options_s = info.stream_options_s or 0, options_e = info.stream_options_e or 0, close = info.body_close,
  }
end

-- body[from .. s - 1] and the text that stands instead of body[s .. e]. Not a closure: those are never compiled.
local function replace(pieces, n, body, from, s, e, text)
  pieces[n + 1] = sub(body, from, s - 1)
  pieces[n + 2] = text
  return n + 2, e + 1
end

-- The body in pieces: the model name replaced, usage asked for; nothing else is touched.
local function body_pieces(body, call, model, ask_usage)
  local pieces, n, from = {}, 0, 1
  local options = nil
  if ask_usage and call.options_s > 0 then
    local given = cjson.decode(sub(body, call.options_s, call.options_e)) or {}
    given.include_usage = true
    options = cjson.encode(given)
  end
  local options_first = options and call.options_s < call.model_s
  if options_first then n, from = replace(pieces, n, body, from, call.options_s, call.options_e, options) end
  if model then n, from = replace(pieces, n, body, from, call.model_s, call.model_e, json_scan.encode_string(model)) end
  if options and not options_first then n, from = replace(pieces, n, body, from, call.options_s, call.options_e, options) end
  if ask_usage and not options then
    n = replace(pieces, n, body, from, call.close, call.close - 1, ',"stream_options":{"include_usage":true}')
    from = call.close
  end
  n = n + 1
  pieces[n] = from == 1 and body or sub(body, from)
  local length = 0
  for i = 1, n do length = length + #pieces[i] end
  return pieces, length
end
M._body_pieces, M._read_call = body_pieces, read_call

-- ------------------------------------------------------------------------------------------------------------- the result

local function tell_limit(inst, at)
  local news, limit = live.limit_news(inst, at)
  if news then events.add("limit_" .. news, inst.name, { limit = limit, max_connections = inst.max_connections }) end
end

-- One attempt is one success for the breaker, however often it is told.
local function succeeded(attempt, at)
  if attempt.succeeded then return end
  attempt.succeeded = true
  local inst = attempt.inst
  if breaker.success(ngx.shared.evenkeel_state, inst.keys.breaker, inst.breaker, at, attempt.started) then
    events.add("breaker_closed", inst.name, { outcome = "ok" })
    live.touch(inst)
  end
end

--- Feed breaker, cooldown, limit and latency with what became of an attempt. Once per attempt.
local function report(attempt, outcome, at)
  if attempt.reported then return end
  attempt.reported = true
  attempt.outcome = outcome
  waiting.over(attempt)
  meter.attempt(attempt, outcome, at)
  if not attempt.kind then                      -- a probe or a look: it proves a key and a connection, not the service or its account
    if outcome == "ok" and live.unblock(attempt.inst, at, "auth") then events.add("unblocked", attempt.inst.name, { outcome = outcome }) end
    return
  end
  local inst, dict = attempt.inst, ngx.shared.evenkeel_state
  local k = inst.keys
  if outcome == "ok" then
    if attempt.latency_s then live.observe(inst, attempt.call.stream and "stream" or "json", attempt.latency_s, at) end
    succeeded(attempt, at)
    if live.unblock(inst, at) then events.add("unblocked", inst.name, { outcome = outcome }) end
    if live.view(inst, at).refused then             -- lately: there is something to forgive or to learn
      live.forgive(inst, attempt.started)
      live.bore(inst, slots.count(k.in_flight), at)
      tell_limit(inst, at)
    end
  elseif outcome == "empty" and attempt.answered and attempt.call.stop then
    -- the client's own stop words may have left nothing of an answer: no evidence either way
    return
  elseif outcomes.FAILURES[outcome] then
    if outcome == "timeout_first_token" or outcome == "stalled" then
      -- the silence is what was slow, not all that had been told before it
      local waited_s = at - attempt.started
      if attempt.call.stream and outcome == "stalled" then waited_s = min(waited_s, inst.idle_s) end
      live.observe(inst, attempt.call.stream and "stream" or "json", waited_s, at)
    end
    local opened, why = breaker.failure(dict, k.breaker, inst.breaker, at, attempt.started)
    if opened then
      -- nobody there to connect to: the first probe that gets through is news (see recovery_probes)
      if outcome == "bad_gateway" then dict:set(k.probe, "bad", PROBE_HOLDS_S) end
      events.add("breaker_opened", inst.name, { outcome = outcome, why = why, evidence = attempt.words, request_id = attempt.request_id })
      live.touch(inst)
    end
  elseif outcome == "rate_limited" then
    local wait_s = live.rate_limited(inst, attempt.retry_after_s, slots.count(k.in_flight), attempt.started, at, random)
    tell_limit(inst, at)
    if wait_s then events.add("cooldown", inst.name, { outcome = outcome, seconds = wait_s, request_id = attempt.request_id }) end
  elseif outcome == "auth" or outcome == "quota" then
    local news, block_s = live.block(inst, outcome, at)
    if news then
      events.add("blocked", inst.name, { outcome = outcome, seconds = block_s, evidence = attempt.words, request_id = attempt.request_id })
    end
  end
end
M.report = report

-- A trial has shown what it was for with its first token; waiting for the end of a long answer would keep a recovered instance out. And a
-- client that set a time for the first token only has got it in time.
local function first_token(attempt)
  waiting.over(attempt)
  local inst = attempt.inst
  local at = now()
  if attempt.call.until_first and attempt.clients_deadline then
    attempt.deadline, attempt.clients_deadline = attempt.started + inst.total_s, nil
  end
  if attempt.kind and live.view(inst, at).breaker == "half_open" then succeeded(attempt, at) end
end
M._first_token = first_token

-- Some providers repeat the key in their errors: neither clients nor incidents shall read it. (A shorter one is a dummy and a word.)
local LEAST_KEY = 8
local MOST_BACKSLASHES = 7      -- a string inside a string inside a string

-- Where the key ends that begins at `at`; nil: it does not. JSON may spell a character \/ or \u002d, and once more in a string inside a
-- string.
local function past_key(text, at, key)
  for i = 1, #key do
    local c = byte(text, at)
    if c == 92 then
      for _ = 1, MOST_BACKSLASHES do
        at = at + 1
        c = byte(text, at)
        if c ~= 92 then break end
      end
      local code = c == 117 and match(text, "^%x%x%x%x", at + 1)
      if code then c, at = tonumber(code, 16), at + 4 end
    end
    if c ~= byte(key, i) then return nil end
    at = at + 1
  end
  return at
end

local function without_key(inst, text)
  local key = inst.api_key
  if not key or #key < LEAST_KEY or not (find(text, key, 1, true) or find(text, "\\", 1, true)) then return text end
  local first = sub(key, 1, 1)
  local begin = "[\\" .. (find(first, "%w") and first or "%" .. first) .. "]"
  local pieces, n, from, at = {}, 0, 1, find(text, begin)
  while at do
    local past = past_key(text, at, key)
    if past then
      pieces[n + 1], pieces[n + 2] = sub(text, from, at - 1), "***"
      n, from = n + 2, past
    end
    at = find(text, begin, past or at + 1)
  end
  pieces[n + 1] = sub(text, from)
  return concat(pieces)
end
M._without_key = without_key

-- Tell the edge of a failure: status by outcome, the word in a header, a short body for those who knocked directly.
local function fail(attempt, outcome, words)
  attempt.words = words and sub(words, 1, 300)
  report(attempt, outcome, now())
  local status = outcomes.STATUS[outcome] or 502
  local header = ngx.header
  header["x-ek-outcome"] = outcome
  if attempt.retry_after_s then header["x-ek-retry-after"] = attempt.retry_after_s end
  if attempt.hopeless then header["x-ek-again"] = "no" end
  return errors.send(status, outcome, "instance " .. attempt.inst.name .. ": " .. outcome .. (words and " (" .. attempt.words .. ")" or ""))
end

-- A head that the edge has no room for would be a failure of ours.
local MAX_CONTENT_TYPE = 256

local function content_type(attempt, given)
  if not given or #given > MAX_CONTENT_TYPE then return "application/json" end
  return without_key(attempt.inst, given)
end

-- The provider's own answer, unchanged but for our key.
local function pass_on(attempt, outcome, status, given_type, body)
  attempt.passed_on = true
  report(attempt, outcome, now())
  ngx.status = status
  local header = ngx.header
  header["x-ek-outcome"] = outcome
  local told_type = content_type(attempt, given_type)
  header["Content-Type"] = told_type
  header["Content-Length"] = #body
  if status == 413 then handover.leave(attempt.call.ref, told_type, body) end
  ngx.print(body)
  return ngx.exit(ngx.HTTP_OK)
end

-- A provider that says its allowance is used up need not be asked for the 429.
local function cool_down_by(attempt, remaining, reset)
  if not remaining or tonumber(remaining) ~= 0 then return end
  local wait = outcomes.reset_s(reset)
  if wait and wait > 0 then live.cool_down(attempt.inst, min(wait, 600), now()) end
end

local function watch_rate_limit_headers(attempt, headers)
  cool_down_by(attempt, headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"])
  cool_down_by(attempt, headers["x-ratelimit-remaining-tokens"], headers["x-ratelimit-reset-tokens"])
end

-- Few vendors know no stream_options and refuse the request for it. Then their usage is not to be had: they are not asked again for it.
local NO_USAGE_HOLDS_S = 86400

-- Does it? The words of a refusal may be the client's own: only an answer to the same request without the question proves it (see perform).
local function may_mind_our_question(attempt, status, body)
  if not attempt.asks_usage or (status ~= 400 and status ~= 422) then return false end
  return find(body, "stream_options", 1, true) ~= nil or find(body, "include_usage", 1, true) ~= nil
end

local perform

-- Was the provider asked for a name that the client made up? That is so in a pool for any model ("*"), unless instance or tier name one.
local function is_clients_model(attempt)
  local call = attempt.call
  if attempt.model or not call.model_s then return false end
  local snapshot = snapshots.current()
  return snapshot.models[json_scan.decode_string(attempt.body, call.model_s, call.model_e)] == nil
end

local function error_answer(attempt, conn, head)
  local status = head.status
  local body = without_key(attempt.inst, transport.read_all(conn, MAX_ERROR_BODY, now() + ERROR_BODY_WAIT_S) or "")
  if may_mind_our_question(attempt, status, body) then
    attempt.question_dropped = true
    return perform(attempt)
  end
  attempt.retry_after_s = outcomes.retry_after_s(head.headers["retry-after"], ngx.now(), ngx.parse_http_time)
  watch_rate_limit_headers(attempt, head.headers)
  if status < 400 then return fail(attempt, "bad_gateway", "answered " .. status .. " (redirects are not followed)") end
  local outcome = outcomes.of_error(status, body, status == 404 and is_clients_model(attempt))
  attempt.hopeless = status == 404              -- it will not know the model a moment later, either
  if outcomes.RETRYABLE[outcome] and not attempt.look then
    return fail(attempt, outcome, "HTTP " .. status .. " " .. sub(body, 1, 200))
  end
  if outcome == "context_length" and not attempt.call.last then return fail(attempt, outcome, "HTTP " .. status) end
  return pass_on(attempt, outcome, status, head.headers["content-type"], body)
end

-- ---------------------------------------------------------------------------------------------------------------- answers

-- Keep a whole answer for the day nothing else is left.
local function keep(attempt, body)
  local call = attempt.call
  if not call.keep then return end
  if call.tier ~= 1 then return end               -- a degraded answer is no answer to come back to
  local snapshot = snapshots.current()
  local pool = snapshot.pools[call.pool]
  if not pool then return end
  local key = answers.key(call.client, call.pool, attempt.kind, attempt.body, call.messages_s, call.messages_e)
  answers.keep(key, body, pool.fallback.cache_ttl_s)
end

local function json_answer(attempt, conn, head)
  local body, why, bytes = transport.read_all(conn, MAX_JSON_ANSWER, attempt.deadline)
  if not body then
    attempt.bytes = bytes
    if why == "timeout" and relay.clients_time_is_up(attempt, now()) then return fail(attempt, "client_gone", "the client's deadline") end
    return fail(attempt, why == "timeout" and "stalled" or why == "too large" and "bad_gateway" or "truncated", "answer cut: " .. why)
  end
  local at = now()
  local verdict
  verdict, attempt.usage = relay.judge_json(body, attempt.kind)
  attempt.answered, attempt.bytes = verdict == "ok" or verdict == "empty", #body
  if verdict == "error" then
    if #body > MAX_ERROR_BODY then return fail(attempt, "bad_gateway", "an error of " .. #body .. " bytes") end
    body = without_key(attempt.inst, body)
    local outcome = outcomes.of_error(200, body, is_clients_model(attempt))
    if outcomes.RETRYABLE[outcome] then return fail(attempt, outcome, sub(body, 1, 200)) end
    if outcome == "context_length" and not attempt.call.last then return fail(attempt, outcome) end
    return pass_on(attempt, outcome, 400, head.headers["content-type"], body)
  elseif verdict == "broken" then
    return fail(attempt, "bad_gateway", "the answer is not JSON: " .. sub(without_key(attempt.inst, sub(body, 1, MAX_ERROR_BODY)), 1, 100))
  elseif verdict == "empty" then
    return fail(attempt, "empty", "the answer has no content")
  end
  if attempt.call.stream then return fail(attempt, "bad_gateway", "answered a stream request with one JSON object") end
  attempt.latency_s = at - attempt.started
  report(attempt, "ok", at)
  watch_rate_limit_headers(attempt, head.headers)
  local header = ngx.header
  header["Content-Type"] = content_type(attempt, head.headers["content-type"])
  header["Content-Length"] = #body
  ngx.print(body)
  ngx.eof()
  keep(attempt, body)
end

-- Who knocks directly: another adapter that continues a stream, a ghost (the control plane's, for a pool), else it is a probe. None of
-- these headers comes from a client: the edge passes no headers on.
local function whose(attempt, var, snapshot)
  local continues, ghost = var.http_x_ek_continues, var.http_x_evenkeel_ghost
  local call = attempt.call
  if continues then
    local pool, client = match(continues, "^([^,]*),([^,]*)$")
    attempt.traffic, call.pool, call.client = "resumed", pool, client ~= "" and client or nil
  elseif ghost then
    attempt.traffic, call.pool = "ghost", snapshot.pools[ghost] and ghost or nil
  end
end

-- The door that was knocked on tells the instance: "unix:run/instances/NAME.sock".
local name_of = setmetatable({}, { __index = function(names, address)
  local name = match(address, "([^/]+)%.sock$") or ""
  names[address] = name
  return name
end })

local KINDS = { ["/v1/chat/completions"] = "chat", ["/v1/completions"] = "completions", ["/v1/embeddings"] = "embeddings" }

local LAST = { last = true }             -- of what has no call: nobody comes after it

--- Serve one request at this door.
function M.serve()
  local var = ngx.var
  local snapshot = snapshots.current()
  local inst = snapshot and snapshot.instances[name_of[var.server_addr]]
  local uri = var.uri
  local attempt = { inst = inst, started = now(), kind = KINDS[uri], call = LAST }
  ngx.ctx.attempt = attempt
  if not inst then
    ngx.header["x-ek-outcome"] = "circuit_open"
    return errors.send(503, "no_such_instance", "This node's configuration has no such instance.")
  end
  attempt.deadline = attempt.started + inst.total_s

  local method = ngx.req.get_method()
  attempt.look = method == "GET"       -- a probe, never a part of a walk over instances: it wants the provider's own words
  local path = inst.path .. (find(uri, "^/v1/") and sub(uri, 4) or uri)
  local args = var.args
  if uri == "/user/balance" then path = (match(inst.path, "^(.-)/v1$") or inst.path) .. uri end   -- where DeepSeek has it
  if args then path = path .. "?" .. args end

  if method == "POST" then
    local body = request_body.read()
    local given = var.http_x_ek_call
    local call, why = read_call(given, body)
    if not call and given then
      ngx.ctx.attempt = nil                         -- it never began
      ngx.log(ngx.ERR, why)
      return errors.send(500, "internal_error", "The gateway could not handle this request.")
    end
    if not call then return pass_on(attempt, "client_error", 400, nil, errors.body(400, "invalid_json", why)) end
    attempt.call = call
    if call.deadline and call.deadline < attempt.deadline then attempt.deadline, attempt.clients_deadline = call.deadline, true end
    attempt.body = body
    if call.ref then
      attempt.traffic, attempt.request_id, attempt.model = "client", call.id, call.model or inst.model
    else                                            -- a continuation, or somebody who knocks directly
      attempt.request_id, attempt.model = var.http_x_request_id, var.http_x_ek_model or inst.model
      attempt.prefix, call.show_usage = var.http_x_ek_prefix, var.http_x_ek_usage ~= nil
      whose(attempt, var, snapshot)
      if var.http_x_evenkeel_ghost then             -- it takes a permit like a client's call, and never comes on top of a full house
        if not slots.acquire(inst.keys.in_flight, live.view(inst, attempt.started).limit) then
          return fail(attempt, "saturated", "all its permits are out")
        end
        attempt.ghost_at = inst.keys.in_flight
      end
    end
    if attempt.prefix == "beta" then path = match(inst.path, "^(.-)/v1$") or inst.path path = path .. "/beta" .. sub(uri, 4) end
  else
    attempt.request_id = var.http_x_request_id
  end
  attempt.method, attempt.path = method, path
  if attempt.kind and attempt.body then waiting.begin(inst.name, attempt.call.stream and "stream" or "json", attempt) end
  attempt.first_deadline = attempt.call.stream and min(attempt.deadline, attempt.started + inst.first_token_s) or attempt.deadline
  if peer.has_left() then return ngx.exit(499) end        -- nobody reads the answer; the log phase tells
  return perform(attempt)
end

-- Ask the provider and answer by what it says.
function perform(attempt)
  local inst, call = attempt.inst, attempt.call
  local stream = call.stream
  local pieces, length
  if attempt.body then
    attempt.asks_usage = stream and call.usage ~= 1 and not attempt.question_dropped
      and not ngx.shared.evenkeel_state:get(inst.keys.no_usage)
    pieces, length = body_pieces(attempt.body, call, attempt.model, attempt.asks_usage)
  end
  local conn, head, outcome, words = transport.request(inst, attempt.method, attempt.path, pieces, length, attempt)
  if not conn then
    if relay.clients_time_is_up(attempt, now()) then outcome = "client_gone" end
    return fail(attempt, outcome, words)
  end
  if head.status ~= 200 then return error_answer(attempt, conn, head) end
  attempt.answered = true
  if attempt.question_dropped then ngx.shared.evenkeel_state:set(inst.keys.no_usage, true, NO_USAGE_HOLDS_S) end

  local given_type = head.headers["content-type"] or ""
  if stream and find(given_type, "event-stream", 1, true) or (stream and not find(given_type, "json", 1, true)) then
    watch_rate_limit_headers(attempt, head.headers)
    return relay.stream(attempt, conn, { fail = fail, pass_on = pass_on, report = report, keep = keep, first_token = first_token,
      without_key = without_key, is_clients_model = is_clients_model })
  end
  return json_answer(attempt, conn, head)
end

function M.log()
  local attempt = ngx.ctx.attempt
  if not attempt or not attempt.inst then return end
  if not attempt.reported then report(attempt, "client_gone", now()) end
  local permit = attempt.continued_at or attempt.ghost_at
  if permit then slots.release(permit) end
  telemetry.over()
end

-- -------------------------------------------------------------------------------------------------------- recovery probes

-- While a breaker is open, the node itself asks the instance for its models every RECOVERY_PROBE_S. An answer that turns from bad to
-- good ends the wait early: an instance is back within seconds of its recovery. Answers that were good all along prove nothing (an
-- instance may list models and yet fail to complete), so they change nothing.
local RECOVERY_PROBE_S = 2

local function probe(inst, dict)
  local k = inst.keys.probe
  local at = now()
  local conn, head = transport.request(transport.door(inst), "GET", "/v1/models", nil, nil, { first_deadline = at + 5 })
  local good = conn ~= nil and head.status == 200
  if conn then transport.close(conn) end
  local was = dict:get(k)
  dict:set(k, good and "good" or "bad", PROBE_HOLDS_S)
  if good and was == "bad" then
    dict:delete(k)
    if breaker.end_wait(dict, inst.keys.breaker, now()) then
      live.touch(inst)
      events.add("breaker_half_open", inst.name, { why = "probe" })
    end
  end
end

--- Called on a timer by every worker; one of them probes each instance.
function M.recovery_probes(dict)
  local snapshot = snapshots.current()
  if not snapshot then return end
  local at = now()
  for _, name in ipairs(snapshot.instance_names) do
    local inst = snapshot.instances[name]
    if inst.reachable and breaker.state(dict, inst.keys.breaker, at) == "open" and clock.lease(dict, "pl:" .. name, RECOVERY_PROBE_S) then
      ngx.timer.at(0, function(premature)
        if not premature then probe(inst, dict) end
      end)
    end
  end
end

return M
