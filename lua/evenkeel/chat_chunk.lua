-- Tells what one event of a chat/completions (or completions) stream says, or a whole JSON answer (embeddings, too), without decoding it.
--
-- Promises: exact, not heuristic: the whole JSON is checked and only the real members count, whatever the text of an answer looks like;
-- an object that holds a member read here twice is ambiguous and counts as broken; nothing is allocated.
--
--   classify(data, length) -> kind, info       data: a string, or a pointer to `length` bytes that a zero byte follows
--     done       [DONE]
--     broken     not a JSON object; info.words and info.at say why
--     error      a top-level error that is not empty (null, false, 0, "", {} and [] are, as for OpenAI's own client)
--     content    a choice says something: content, reasoning, refusal, tool or function calls, audio, or text (completions); or there is
--                data that is not empty (embeddings)
--     finish     a finish_reason and no content
--     usage      usage and neither of them
--     role_only  choices that say nothing yet
--     other      an object with none of all this, such as a ping
--   choice(k) -> index, content_s, content_e, reasoning_s, reasoning_e, finish_s, finish_e      the k-th choice, 1 <= k <= info.choices
--   said(k) -> index, has_content, has_finish      of the k-th choice alone
--   decode_string(data, s, e) -> the text of a range
--
-- info is one table, and with choice() and said() valid until the next classify: use it before yielding, while the data is there. Ranges
-- are as in string.sub, strings with their quotes; false: absent, null or of another type.
--   choices                        how many there are
--   has_content, has_finish, has_usage, has_tool_calls    over all choices; any of them may come together
--   has_other                      something is said that is no text of choice 0: a tool or function call, a refusal, audio, content in
--                                  parts, another choice
--   id_s/_e created_s/_e model_s/_e usage_s/_e error_s/_e
--   index, content_s/_e, reasoning_s/_e, finish_s/_e      of the first choice; content is text for completions. An empty finish_reason
--                                                         is none: some providers send it with every token

local ffi = require("ffi")
local json_text = require("evenkeel.json_text")
local json_walk = require("evenkeel.json_walk")

local walk, match, tonumber = json_walk.walk, string.match, tonumber
local cast, ffi_string, bytes_t = ffi.cast, ffi.string, ffi.typeof("const uint8_t *")

local ID, CREATED, MODEL, CHOICES, CHOICE, USAGE, ERROR = 2, 3, 4, 5, 6, 7, 8
local INDEX, FINISH_REASON, DELTA, TEXT, CONTENT, REASONING_CONTENT, REASONING = 9, 10, 11, 12, 13, 14, 15
local REFUSAL, TOOL_CALLS, FUNCTION_CALL, AUDIO, MESSAGE, DATA = 16, 17, 18, 19, 20, 21
local OF_MESSAGE = 10 -- CONTENT + OF_MESSAGE is the content of a message, CONTENT of a delta
local MAX_DEPTH = 128
local QUOTE, OPEN_BRACE, OPEN_BRACKET, FALSE, NULL, TRUE = 34, 123, 91, 102, 110, 116 -- what a value begins with

local function what_is_said(offset)
  return {
    content = { CONTENT + offset },
    reasoning_content = { REASONING_CONTENT + offset },
    reasoning = { REASONING + offset },
    refusal = { REFUSAL + offset },
    tool_calls = { TOOL_CALLS + offset },
    function_call = { FUNCTION_CALL + offset },
    audio = { AUDIO + offset },
  }
end

local shape = json_walk.shape({
  id = { ID },
  created = { CREATED },
  model = { MODEL },
  usage = { USAGE },
  error = { ERROR },
  data = { DATA },
  choices = { CHOICES, array = { rows = true, { CHOICE, object = {
    index = { INDEX },
    finish_reason = { FINISH_REASON },
    text = { TEXT },
    delta = { DELTA, object = what_is_said(0) },
    message = { MESSAGE, object = what_is_said(OF_MESSAGE) },
  } } } },
})
local from, to, stride = shape.from, shape.to, shape.fields

local M = { decode_string = json_text.decode_string }

-- No member is ever nil: putting a key in and taking it out again costs more than the walk.
local function new_info()
  return {
    choices = 0, has_content = false, has_finish = false, has_usage = false, has_tool_calls = false, has_other = false, index = false,
    id_s = false, id_e = false, created_s = false, created_e = false, model_s = false, model_e = false,
    usage_s = false, usage_e = false, error_s = false, error_e = false, content_s = false, content_e = false,
    reasoning_s = false, reasoning_e = false, finish_s = false, finish_e = false, words = false, at = false,
  }
end
local info = new_info()
local no_info = new_info() -- of [DONE] and of what is broken
local bytes -- what classify was given last

local function number(slot)
  return tonumber(ffi_string(bytes + from[slot] - 1, to[slot] - from[slot] + 1))
end

-- Does a value say anything: neither absent nor null, false, 0, "", [] or {}?
local function says(slot)
  local at = from[slot]
  if at == 0 then return false end
  local c = bytes[at - 1]
  if c == NULL or c == FALSE then return false end
  if c == QUOTE then return to[slot] > at + 1 end
  if c == OPEN_BRACE or c == OPEN_BRACKET then
    at = at + 1
    while bytes[at - 1] <= 32 do at = at + 1 end
    return at < to[slot]
  end
  return c == TRUE or number(slot) ~= 0
end

local function is_string(slot)
  return from[slot] ~= 0 and bytes[from[slot] - 1] == QUOTE
end

local function string_range(slot)
  if is_string(slot) then return from[slot], to[slot] end
  return false, false
end

local function choice(row)
  local content, reasoning, finish = row + CONTENT, row + REASONING_CONTENT, row + FINISH_REASON
  if not is_string(content) then content = from[row + TEXT] > 0 and row + TEXT or content + OF_MESSAGE end
  if not is_string(reasoning) then reasoning = row + REASONING end
  if not is_string(reasoning) then reasoning = row + REASONING_CONTENT + OF_MESSAGE end
  if not is_string(reasoning) then reasoning = row + REASONING + OF_MESSAGE end
  local index = false
  if from[row + INDEX] > 0 then index = number(row + INDEX) or false end
  local content_s, content_e = string_range(content)
  local reasoning_s, reasoning_e = string_range(reasoning)
  local finish_s, finish_e = false, false
  if says(finish) then finish_s, finish_e = string_range(finish) end
  return index, content_s, content_e, reasoning_s, reasoning_e, finish_s, finish_e
end

function M.choice(k)
  if k > info.choices then return nil end
  return choice((k - 1) * stride)
end

-- Is there text here, or something in its place?
local function says_text(slot)
  if not says(slot) then return false end
  if not is_string(slot) then info.has_other = true end
  return true
end

local function note_what_is_said(row)
  local content, reasoning, same = says_text(row + CONTENT), says_text(row + REASONING_CONTENT), says_text(row + REASONING)
  local speaks = content or reasoning or same
  if says(row + TOOL_CALLS) then info.has_tool_calls, info.has_other, speaks = true, true, true end
  if says(row + REFUSAL) or says(row + FUNCTION_CALL) or says(row + AUDIO) then info.has_other, speaks = true, true end
  return speaks
end

-- @return has_content, has_finish
local function note_choice(row)
  local speaks = note_what_is_said(row)
  if from[row + MESSAGE] > 0 and note_what_is_said(row + OF_MESSAGE) then speaks = true end
  if says_text(row + TEXT) then speaks = true end
  return speaks, says(row + FINISH_REASON)
end

function M.said(k)
  local row = (k - 1) * stride
  return from[row + INDEX] > 0 and number(row + INDEX) or false, note_choice(row)
end

function M.classify(data, length)
  local p, n = cast(bytes_t, data), length or #data
  if p[0] == OPEN_BRACKET and match(ffi_string(p, n), "^%[DONE%]%s*$") then
    no_info.words, no_info.at = false, false
    return "done", no_info
  end
  local rows, words, at = walk(shape, data, MAX_DEPTH, n)
  if not rows then
    info.choices, no_info.words, no_info.at = 0, words, at + 1
    return "broken", no_info
  end
  bytes = p
  info.choices, info.has_tool_calls, info.has_other = rows, false, false
  info.id_s, info.id_e = string_range(ID)
  info.model_s, info.model_e = string_range(MODEL)
  info.created_s, info.created_e = false, false
  if from[CREATED] > 0 then info.created_s, info.created_e = from[CREATED], to[CREATED] end
  info.has_usage = from[USAGE] > 0 and p[from[USAGE] - 1] == OPEN_BRACE
  info.usage_s, info.usage_e = false, false
  if info.has_usage then info.usage_s, info.usage_e = from[USAGE], to[USAGE] end
  info.index, info.content_s, info.content_e, info.reasoning_s, info.reasoning_e, info.finish_s, info.finish_e = choice(0)

  info.error_s, info.error_e = false, false
  local has_content, has_finish = note_choice(0)
  if has_content and info.index and info.index ~= 0 then info.has_other = true end
  if rows > 1 then
    for k = 1, rows - 1 do
      local speaks, finishes = note_choice(k * stride)
      if speaks then has_content, info.has_other = true, true end
      has_finish = has_finish or finishes
    end
  end
  has_content = has_content or says(DATA)
  info.has_content, info.has_finish = has_content, has_finish
  local kind = "other"
  if says(ERROR) then
    info.error_s, info.error_e = from[ERROR], to[ERROR]
    kind = "error"
  elseif has_content then
    kind = "content"
  elseif has_finish then
    kind = "finish"
  elseif info.has_usage then
    kind = "usage"
  elseif rows > 0 then
    kind = "role_only"
  end
  return kind, info
end

return M
