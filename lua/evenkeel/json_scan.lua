-- Reads what the gateway must know of a JSON request body, in one pass, without decoding or changing it.
--
-- Promises: the whole body is checked (RFC 8259 grammar, UTF-8, depth), so no instance is blamed for a client's mistake; a key that
-- the gateway acts on may stand there only once, however it is escaped; every other byte reaches the provider as it was sent.
--
--   scan(body, max_depth = 128) -> info | nil, message, offset, member    offset and all ranges are 1-based, as in string.sub;
--                                                                         member: whose value is wrong, nil when it is the JSON
--   splice(body, info, model) -> prefix, encoded model, suffix     put together they are the body with another model name
--   encode_string(text) -> JSON string
--   decode_string(body, s, e) -> text of the JSON string body[s..e]
--
-- info (a fresh table; nil stands for a member that is absent or null):
--   model, model_s, model_e              the name, and the range of its value with the quotes
--   stream                               true | false
--   n                                    1 … 128, a whole number
--   max_tokens                           a number; max_completion_tokens goes before max_tokens
--   stream_options_s/_e, include_usage   range of the object; true | false
--   messages_s/_e, last_message_s/_e     range of the array, and of its last element (nil when empty)
--   user_s/_e                            range of the string
--   tools, response_format, stop         true when given; an empty array of tools (or of the older functions) is none
--   body_close, empty                    offset of the final '}'; whether a member put in before it needs no comma

local json_text = require("evenkeel.json_text")
local json_walk = require("evenkeel.json_walk")

local walk, TOP, decode_string, encode_string = json_walk.walk, json_walk.TOP, json_text.decode_string, json_text.encode_string
local sub, byte, tonumber = string.sub, string.byte, tonumber

local M = { encode_string = encode_string, decode_string = decode_string }

local MODEL, STREAM, N, MESSAGES, LAST_MESSAGE, TOOLS, TOOL, FUNCTIONS, FUNCTION = 2, 3, 4, 5, 6, 7, 8, 9, 10
local USER, MAX_TOKENS, MAX_COMPLETION_TOKENS, RESPONSE_FORMAT, STREAM_OPTIONS, INCLUDE_USAGE, STOP = 11, 12, 13, 14, 15, 16, 17
local MOST_CHOICES = 128 -- as for OpenAI

local shape = json_walk.shape({
  model = { MODEL },
  stream = { STREAM },
  n = { N },
  messages = { MESSAGES, array = { { LAST_MESSAGE } } }, -- of an array's elements the last one stays noted
  tools = { TOOLS, array = { { TOOL } } },
  functions = { FUNCTIONS, array = { { FUNCTION } } },
  user = { USER },
  max_tokens = { MAX_TOKENS },
  max_completion_tokens = { MAX_COMPLETION_TOKENS },
  response_format = { RESPONSE_FORMAT },
  stop = { STOP },
  stream_options = { STREAM_OPTIONS, object = { include_usage = { INCLUDE_USAGE } } },
})
local from, to = shape.from, shape.to

local QUOTE, OPEN_BRACE, OPEN_BRACKET, FALSE, NULL, TRUE = 34, 123, 91, 102, 110, 116 -- what a value begins with

local function first_byte(body, field)
  local c = byte(body, from[field]) -- nil when absent: from is 0
  if c ~= NULL then return c end
end

local function wrong(field, what)
  local name = shape.names[field]
  return nil, name .. " must be " .. what, from[field], name
end

local function number(body, field)
  local c = first_byte(body, field)
  if not c then return nil end
  if c > 57 or c == QUOTE then return false end
  return tonumber(sub(body, from[field], to[field]))
end

local function boolean(body, field)
  local c = first_byte(body, field)
  if not c then return nil end
  if c == TRUE then return true end
  return c ~= FALSE and "wrong" or false
end

function M.scan(body, max_depth)
  local rows, words, at = walk(shape, body, max_depth or 128)
  if not rows then return nil, words, at + 1 end
  if shape.lone_surrogate > 0 then return nil, "half of a surrogate pair in a string", shape.lone_surrogate end

  local last = to[TOP] - 1 -- what stands before the final '}'
  while byte(body, last) <= 32 do last = last - 1 end
  local info = {
    model = nil, model_s = nil, model_e = nil, stream = nil, n = nil, max_tokens = nil,
    stream_options_s = nil, stream_options_e = nil, include_usage = nil,
    messages_s = nil, messages_e = nil, last_message_s = nil, last_message_e = nil,
    user_s = nil, user_e = nil, tools = nil, response_format = nil, stop = nil,
    body_close = to[TOP], empty = byte(body, last) == OPEN_BRACE,
  }
  if from[MODEL] > 0 then
    if byte(body, from[MODEL]) ~= QUOTE then return wrong(MODEL, "a string") end
    info.model_s, info.model_e = from[MODEL], to[MODEL]
    info.model = decode_string(body, from[MODEL], to[MODEL])
  end

  local c = first_byte(body, MESSAGES)
  if c then
    if c ~= OPEN_BRACKET then return wrong(MESSAGES, "an array") end
    info.messages_s, info.messages_e = from[MESSAGES], to[MESSAGES]
    if from[LAST_MESSAGE] > 0 then info.last_message_s, info.last_message_e = from[LAST_MESSAGE], to[LAST_MESSAGE] end
  end

  info.stream = boolean(body, STREAM)
  if info.stream == "wrong" then return wrong(STREAM, "true or false") end

  c = first_byte(body, STREAM_OPTIONS)
  if c then
    if c ~= OPEN_BRACE then return wrong(STREAM_OPTIONS, "an object") end
    info.stream_options_s, info.stream_options_e = from[STREAM_OPTIONS], to[STREAM_OPTIONS]
    info.include_usage = boolean(body, INCLUDE_USAGE)
    if info.include_usage == "wrong" then return wrong(INCLUDE_USAGE, "true or false") end
  end

  c = first_byte(body, USER)
  if c then
    if c ~= QUOTE then return wrong(USER, "a string") end
    info.user_s, info.user_e = from[USER], to[USER]
  end

  local n, max_tokens, max_completion_tokens = number(body, N), number(body, MAX_TOKENS), number(body, MAX_COMPLETION_TOKENS)
  if n == false or n and (n < 1 or n > MOST_CHOICES or n % 1 ~= 0) then return wrong(N, "a whole number from 1 to " .. MOST_CHOICES) end
  if max_tokens == false then return wrong(MAX_TOKENS, "a number") end
  if max_completion_tokens == false then return wrong(MAX_COMPLETION_TOKENS, "a number") end
  info.n, info.max_tokens = n, max_completion_tokens or max_tokens

  c = first_byte(body, TOOLS)
  local d = first_byte(body, FUNCTIONS)
  if (c and (c ~= OPEN_BRACKET or from[TOOL] > 0)) or (d and (d ~= OPEN_BRACKET or from[FUNCTION] > 0)) then info.tools = true end
  if first_byte(body, RESPONSE_FORMAT) then info.response_format = true end
  if first_byte(body, STOP) then info.stop = true end
  return info
end

function M.splice(body, info, model)
  return sub(body, 1, info.model_s - 1), encode_string(model), sub(body, info.model_e + 1)
end

return M
