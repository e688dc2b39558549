-- Reads what the gateway must know of a JSON request body, in one pass, without decoding or changing it.
--
-- Promises: the whole body is checked (RFC 8259 grammar, UTF-8, depth), so no instance is blamed for a client's mistake; a key that
-- the gateway acts on may stand there only once, however it is escaped; every other byte reaches the provider as it was sent.
--
--   scan(body, max_depth = 128) -> info | nil, message, offset    offset and all ranges are 1-based, as in string.sub
--   splice(body, info, model) -> prefix, encoded model, suffix     put together they are the body with another model name
--   encode_string(text) -> JSON string
--   decode_string(body, s, e) -> text of the JSON string body[s..e]
--
-- info (a fresh table; nil stands for a member that is absent or null):
--   model, model_s, model_e              the name, and the range of its value with the quotes
--   stream                               true | false
--   n, max_tokens                        numbers; max_completion_tokens goes before max_tokens
--   stream_options_s/_e, include_usage   range of the object; true | false
--   messages_s/_e, last_message_s/_e     range of the array, and of its last element (nil when empty)
--   user_s/_e                            range of the string
--   tools, response_format               true when given; an empty array of tools (or of the older functions) is none
--   body_close, empty                    offset of the final '}'; whether a member put in before it needs no comma

local bit = require("bit")
local text = require("evenkeel.json_text")

local band, bor, lshift = bit.band, bit.bor, bit.lshift
local pointer, equals, expected = text.pointer, text.equals, text.expected
local skip_space, skip_key, skip_value, has_escape = text.skip_space, text.skip_key, text.skip_value, text.has_escape
local decode_string, encode_string, lone_surrogate = text.decode_string, text.encode_string, text.lone_surrogate
local sub, tonumber = string.sub, tonumber

local QUOTE, COMMA, OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET = 34, 44, 123, 125, 91, 93
local FALSE, NULL, TRUE = 102, 110, 116 -- first letters

local M = { encode_string = encode_string, decode_string = decode_string }

local MODEL, STREAM, N, STREAM_OPTIONS, MESSAGES, TOOLS, FUNCTIONS, USER, MAX_TOKENS, MAX_COMPLETION_TOKENS, RESPONSE_FORMAT =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local names = { "model", "stream", "n", "stream_options", "messages", "tools", "functions", "user", "max_tokens",
  "max_completion_tokens", "response_format" }

-- Which of the names is p[from, to)? 0: none.
local function key_number(p, from, to)
  local c = p[from]
  if c == 109 then -- m
    if equals(p, from, to, "model") then return MODEL end
    if equals(p, from, to, "messages") then return MESSAGES end
    if equals(p, from, to, "max_tokens") then return MAX_TOKENS end
    if equals(p, from, to, "max_completion_tokens") then return MAX_COMPLETION_TOKENS end
  elseif c == 115 then -- s
    if equals(p, from, to, "stream") then return STREAM end
    if equals(p, from, to, "stream_options") then return STREAM_OPTIONS end
  elseif c == 117 then -- u
    if equals(p, from, to, "user") then return USER end
  elseif c == 116 then -- t
    if equals(p, from, to, "tools") then return TOOLS end
  elseif c == 110 then -- n
    if equals(p, from, to, "n") then return N end
  elseif c == 114 then -- r
    if equals(p, from, to, "response_format") then return RESPONSE_FORMAT end
  elseif c == 102 then -- f
    if equals(p, from, to, "functions") then return FUNCTIONS end
  end
  return 0
end

local function escaped_key_number(body, s, e)
  local name = decode_string(body, s, e)
  return key_number(pointer(name), 0, #name)
end

-- The array at offset i: the offset after it, and the range (offsets) of its last element.
local function skip_messages(p, i, n, depth)
  local words, at
  i = skip_space(p, i + 1)
  if p[i] == CLOSE_BRACKET then return i + 1 end
  while true do
    local from = i
    i, words, at = skip_value(p, i, n, depth)
    if not i then return nil, words, at end
    local to = i
    if p[i] <= 32 then i = skip_space(p, i) end
    local c = p[i]
    if c == CLOSE_BRACKET then return i + 1, from, to end
    if c ~= COMMA then return expected("',' or ']'", i, n) end
    i = skip_space(p, i + 1)
  end
end

-- The object at offset i: the offset after it, and its include_usage (nil | true | false).
local function skip_stream_options(body, p, i, n, depth)
  local include_usage, seen
  i = skip_space(p, i + 1)
  if p[i] == CLOSE_BRACE then return i + 1 end
  while true do
    local from = i
    local key_end, value, at = skip_key(p, i, n)
    if not key_end then return nil, value, at end
    local words
    i, words, at = skip_value(p, value, n, depth)
    if not i then return nil, words, at end
    if decode_string(body, from + 1, key_end) == "include_usage" then
      if seen then return nil, "stream_options.include_usage stands there twice", from end
      seen = true
      local literal = sub(body, value + 1, i)
      if literal == "true" then
        include_usage = true
      elseif literal == "false" then
        include_usage = false
      elseif literal ~= "null" then
        return nil, "stream_options.include_usage must be true or false", value
      end
    end
    if p[i] <= 32 then i = skip_space(p, i) end
    local c = p[i]
    if c == CLOSE_BRACE then return i + 1, include_usage end
    if c ~= COMMA then return expected("',' or '}'", i, n) end
    i = skip_space(p, i + 1)
  end
end

local function scan(body, max_depth)
  local p, length = pointer(body), #body
  local depth = (max_depth or 128) - 1 -- what may be open inside the top level
  local seen = 0
  local model, model_s, model_e, stream, n, include_usage, options_s, options_e, messages_s, messages_e, last_s, last_e
  local tools, user_s, user_e, max_tokens, max_completion_tokens, response_format
  lone_surrogate[0] = -1

  local i = skip_space(p, 0)
  if p[i] ~= OPEN_BRACE then return nil, "a JSON object expected", i end
  i = skip_space(p, i + 1)
  local empty = p[i] == CLOSE_BRACE
  while not empty do
    local from = i
    local key_end, value, key_fault_at = skip_key(p, i, length)
    if not key_end then return nil, value, key_fault_at end
    local key = key_number(p, from + 1, key_end - 1)
    if key == 0 and has_escape(p, from, key_end) then key = escaped_key_number(body, from + 1, key_end) end

    local c = p[value]
    local a, b
    if key == MESSAGES and c == OPEN_BRACKET then
      i, a, b = skip_messages(p, value, length, depth - 1)
    elseif key == STREAM_OPTIONS and c == OPEN_BRACE then
      i, a, b = skip_stream_options(body, p, value, length, depth - 1)
    else
      i, a, b = skip_value(p, value, length, depth)
    end
    if not i then return nil, a, b end

    if key ~= 0 then
      if band(seen, lshift(1, key)) ~= 0 then return nil, names[key] .. " stands there twice", from end
      seen = bor(seen, lshift(1, key))
      local wrong
      if key == MODEL then
        if c ~= QUOTE then
          wrong = "model must be a string"
        else
          model, model_s, model_e = decode_string(body, value + 1, i), value + 1, i
        end
      elseif c == NULL then -- as good as absent
        wrong = nil
      elseif key == MESSAGES then
        if c ~= OPEN_BRACKET then wrong = "messages must be an array" end
        messages_s, messages_e = value + 1, i
        if a then last_s, last_e = a + 1, b end
      elseif key == STREAM then
        if c ~= TRUE and c ~= FALSE then wrong = "stream must be true or false" end
        stream = c == TRUE
      elseif key == STREAM_OPTIONS then
        if c ~= OPEN_BRACE then wrong = "stream_options must be an object" end
        options_s, options_e, include_usage = value + 1, i, a
      elseif key == USER then
        if c ~= QUOTE then wrong = "user must be a string" end
        user_s, user_e = value + 1, i
      elseif key == TOOLS or key == FUNCTIONS then
        tools = tools or c ~= OPEN_BRACKET or p[skip_space(p, value + 1)] ~= CLOSE_BRACKET or nil
      elseif key == RESPONSE_FORMAT then
        response_format = true
      else
        local number = c <= 57 and c ~= QUOTE and tonumber(sub(body, value + 1, i)) or nil
        if not number then wrong = names[key] .. " must be a number" end
        if key == N then
          n = number
        elseif key == MAX_TOKENS then
          max_tokens = number
        else
          max_completion_tokens = number
        end
      end
      if wrong then return nil, wrong, value end
    end

    if p[i] <= 32 then i = skip_space(p, i) end
    c = p[i]
    if c == CLOSE_BRACE then break end
    if c ~= COMMA then return expected("',' or '}'", i, length) end
    i = skip_space(p, i + 1)
  end

  local body_close = i + 1
  i = skip_space(p, body_close)
  if i < length then return nil, "something stands after the JSON object", i end
  if lone_surrogate[0] >= 0 then return nil, "half of a surrogate pair in a string", lone_surrogate[0] end
  return {
    model = model, model_s = model_s, model_e = model_e, stream = stream, n = n,
    stream_options_s = options_s, stream_options_e = options_e, include_usage = include_usage,
    messages_s = messages_s, messages_e = messages_e, last_message_s = last_s, last_message_e = last_e,
    user_s = user_s, user_e = user_e, tools = tools, max_tokens = max_completion_tokens or max_tokens,
    response_format = response_format, body_close = body_close, empty = empty,
  }
end

function M.scan(body, max_depth)
  local info, words, at = scan(body, max_depth)
  if info then return info end
  return nil, words, at + 1
end

function M.splice(body, info, model)
  return sub(body, 1, info.model_s - 1), encode_string(model), sub(body, info.model_e + 1)
end

return M
