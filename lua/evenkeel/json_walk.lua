-- Walks a JSON text once, checks all of it, and notes where the few values stand that a shape asks for.
--
-- Promises: the whole RFC 8259 grammar, UTF-8 and the depth are checked; nothing is allocated per value; no recursion.
-- The walk is one flat loop over a state, a few bytes or one token a turn, because that is what a tracing JIT compiles whole: a loop
-- inside it would end its traces, and long branches would multiply them (LuaJIT allows 100 a loop, and mixed traffic must fit). Text in
-- strings is tested eight bytes at a time.
--
--   shape(tree) -> shape           what to look for, see below; made once, when a module loads
--   walk(shape, text, depth, text_bytes) -> rows | nil, words, offset (0-based)
--     text is a string, or a pointer to `text_bytes` bytes that a zero byte follows
--     shape.from[row * shape.fields + id], shape.to[…]   after a walk: range of the field's value as in string.sub; from is 0
--                                                        when it is absent. Valid until the next walk of that shape.
--     shape.from[TOP], shape.to[TOP]                     the whole value, without the space around it
--     shape.lone_surrogate                               after a walk: a \u escape that is half a pair stands here (1-based), 0: none
--
-- A tree is a table {key = node, …} for an object, {[1] = node} for an array, and a node is {id, object = tree, array = tree}: the field's
-- number (from 2 on) and what to look for in it. The array marked `rows = true` counts its elements: fields inside it are noted per row, of
-- its first MAX_ROWS elements; those that follow are checked, and otherwise as if they were not there.
-- A key that is looked for may stand there only once, however it is escaped.

local ffi = require("ffi")
local bit = require("bit")
local json_text = require("evenkeel.json_text")

local band, bor, bxor, rshift = bit.band, bit.bor, bit.bxor, bit.rshift
local cast, fill, ffi_string = ffi.cast, ffi.fill, ffi.string
local tonumber = tonumber
local has_escape, decode_string, hex4, escapes = json_text.has_escape, json_text.decode_string, json_text.hex4, json_text.escapes

local bytes_t = ffi.typeof("const uint8_t *")
local word_t = ffi.typeof("const uint64_t *")

local MAX_DEPTH, MAX_ROWS, LONGEST_KEY = 1024, 128, 64
local TOP = 1 -- the field that is the whole text

local M = { TOP = TOP }

-- The containers that are open. A context says what is looked for in one: even numbers are arrays, odd ones objects; 0 and 1 are
-- those where nothing is.
local contexts = ffi.new("int32_t[?]", MAX_DEPTH + 1)
local fields_of = ffi.new("int32_t[?]", MAX_DEPTH + 1)

function M.shape(tree)
  local keys, elements, children, names = {}, {}, {}, {}
  local last_context, last_field, rows_context = 1, 0, -1
  local add_field

  local function add_context(branch, is_object, path)
    local context = last_context + (is_object and 2 or 1)
    last_context = last_context + 2
    keys[context], elements[context] = {}, 0
    for key, node in pairs(branch) do
      if is_object then
        keys[context][key] = add_field(node, path .. key)
      elseif key == 1 then
        elements[context] = add_field(node, path .. "[]")
      elseif key == "rows" then
        rows_context = context
      end
    end
    return context
  end

  function add_field(node, path)
    local field = node[1]
    last_field = math.max(last_field, field)
    names[field] = path
    local prefix = path == "" and "" or path .. "."
    local array, object = node.array, node.object
    children[field] = { array and add_context(array, false, path) or 0, object and add_context(object, true, prefix) or 1 }
    return field
  end

  add_field({ 0 }, "nothing")
  add_field({ TOP, object = tree }, "")
  local fields = last_field + 1
  local child = ffi.new("int32_t[?]", fields * 2) -- a field's context: as an array [2 field], as an object [2 field + 1]
  for field, pair in pairs(children) do child[2 * field], child[2 * field + 1] = pair[1], pair[2] end
  local element = ffi.new("int32_t[?]", last_context + 1)
  for context, field in pairs(elements) do element[context] = field end
  local slots = fields * (rows_context > 0 and MAX_ROWS or 1)
  return {
    from = ffi.new("int32_t[?]", slots), to = ffi.new("int32_t[?]", slots), fields = fields, names = names, lone_surrogate = 0,
    keys = keys, child = child, element = element, rows_context = rows_context,
  }
end

local ONES, HIGHS = 0x0101010101010101ULL, 0x8080808080808080ULL
local SPACES, QUOTES, BACKSLASHES = 0x2020202020202020ULL, 0x2222222222222222ULL, 0x5c5c5c5c5c5c5c5cULL
local BYTE_OF_BIT = 0x0020406080a0c0e0ULL

-- Of eight bytes, those that are a quote, a backslash, a control or not ASCII have their high bit set here. Borrows can only spoil bytes
-- after the first of them.
local function hits_in(p, i)
  local w = cast(word_t, p + i)[0]
  return band(bor(w, w - SPACES, bxor(w, QUOTES) - ONES, bxor(w, BACKSLASHES) - ONES), HIGHS)
end

-- How many of the eight bytes at i stand before the first of those? The multiplication turns its bit into its number.
local function plain_bytes(p, i)
  local hits = hits_in(p, i)
  if hits == 0ULL then return 8 end
  return tonumber(rshift(rshift(band(hits, -hits), 7) * BYTE_OF_BIT, 61))
end

-- How long is the escape at i? 0: it is none; -6: half of a surrogate pair.
local function escape_length(p, i, n)
  local c = p[i + 1]
  if c ~= 117 then return escapes[c] ~= 0 and 2 or 0 end
  if i + 6 > n then return 0 end
  local unit = hex4(p, i + 2)
  if unit < 0 then return 0 end
  if unit < 0xd800 or unit > 0xdfff then return 6 end
  if unit <= 0xdbff and i + 12 <= n and p[i + 6] == 92 and p[i + 7] == 117 then
    local low = hex4(p, i + 8)
    if low >= 0xdc00 and low <= 0xdfff then return 12 end
  end
  return -6
end

local function bad_escape(p, i, n)
  if p[i + 1] == 117 then
    if i + 6 > n then return nil, "the text ends inside a string", n end
    return nil, "\\u needs four hex digits", i
  end
  return nil, "not an escape", i
end

-- How long is the non-ASCII character at i (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF)? 0: it is none.
local function utf8_length(p, i)
  local c, d = p[i], p[i + 1]
  if band(d, 0xc0) ~= 0x80 or c < 0xc2 or c > 0xf4 then return 0 end
  if c < 0xe0 then return 2 end
  if band(p[i + 2], 0xc0) ~= 0x80 then return 0 end
  if c < 0xf0 then
    if (c == 0xe0 and d < 0xa0) or (c == 0xed and d > 0x9f) then return 0 end
    return 3
  end
  if band(p[i + 3], 0xc0) ~= 0x80 or (c == 0xf0 and d < 0x90) or (c == 0xf4 and d > 0x8f) then return 0 end
  return 4
end

-- Long runs have loops of their own, eight bytes or a character a turn. They are entered only where many turns are sure, and where
-- they end the flat loop goes on.
local function skip_plain_words(p, i, n)
  for at = i, n - 8, 8 do
    if hits_in(p, at) ~= 0ULL then return at end
  end
  return n - band(n - i, 7)
end

local function wide(p, i) -- a character of three bytes, but for the few that need a closer look
  local c = p[i]
  return c >= 0xe1 and c <= 0xef and c ~= 0xed and band(p[i + 1], 0xc0) == 0x80 and band(p[i + 2], 0xc0) == 0x80
end

local function skip_wide(p, i)
  while wide(p, i) do i = i + 3 end
  return i
end

local function skip_units(p, i, n) -- \uXXXX, but for surrogates
  while i + 6 <= n and p[i] == 92 and p[i + 1] == 117 do
    local unit = hex4(p, i + 2)
    if unit < 0 or band(unit, 0xf800) == 0xd800 then return i end
    i = i + 6
  end
  return i
end

-- Compile these loops now: first met inside a walk, they would be unrolled into its traces, a few turns each time.
do
  local plain, wides, units = ("a"):rep(256), ("深"):rep(64), ("\\u6df1"):rep(64)
  for _ = 1, 100 do
    skip_plain_words(cast(bytes_t, plain), 0, #plain)
    skip_wide(cast(bytes_t, wides), 0)
    skip_units(cast(bytes_t, units), 0, #units)
  end
end

-- The grammar of a number as a table: state * 256 + byte -> state, 0: the number ends before this byte.
local NUMBER_ENDS_WELL = { [2] = true, [3] = true, [5] = true, [8] = true }
local number_step, may_end = ffi.new("uint8_t[?]", 9 * 256), ffi.new("uint8_t[9]")
do
  local function step(from, bytes, to)
    for i = 1, #bytes do number_step[from * 256 + bytes:byte(i)] = to end
  end
  step(1, "0", 2) -- 1: after '-', 2: a zero
  step(1, "123456789", 3) -- 3: digits
  step(3, "0123456789", 3)
  for _, integer in ipairs({ 2, 3 }) do
    step(integer, ".", 4)
    step(integer, "eE", 6)
  end
  step(4, "0123456789", 5) -- 5: digits after the point
  step(5, "0123456789", 5)
  step(5, "eE", 6)
  step(6, "+-", 7)
  step(6, "0123456789", 8) -- 8: digits of the exponent
  step(7, "0123456789", 8)
  step(8, "0123456789", 8)
  for state in pairs(NUMBER_ENDS_WELL) do may_end[state] = 1 end
end

local one_space = ffi.new("uint8_t[256]") -- skips the space that many put after , and : without a branch
one_space[32] = 1

local START, VALUE, KEY, KEY_END, COLON, TEXT, AFTER, NUMBER = 0, 1, 2, 3, 4, 5, 6, 7
local NOWHERE = cast(bytes_t, "")

local function expected(what, i, n)
  if i >= n then return nil, "the text ends early", n end
  return nil, what .. " expected", i
end

function M.walk(shape, text, max_depth, text_bytes)
  local p, n = NOWHERE, text_bytes or #text
  local from, to, child, element = shape.from, shape.to, shape.child, shape.element
  local stride, rows_context = shape.fields, shape.rows_context
  local i, state = 0, START
  local depth, context, field = 0, -1, TOP -- field: whose value is being read, 0: nobody's
  local key_from = -1 -- where the key that is being read begins; -1: the string is a value
  local first = false -- may the container close right here?
  local row, rows = 0, 0
  local number = 0

  while true do
    if state == VALUE then
      i = i + one_space[p[i]]
      local c = p[i]
      from[row + field] = i + 1
      if c == 34 and context >= 0 then
        i = i + 1
        key_from = -1
        state = TEXT
        if i + 8 <= n then
          local at = i + plain_bytes(p, i)
          if p[at] == 34 then -- a short string
            i = at + 1
            state = AFTER
          end
        end
      elseif c == 123 or c == 91 then
        depth = depth + 1
        if depth > max_depth or depth > MAX_DEPTH then return nil, "nested too deep", i end
        contexts[depth - 1] = context
        fields_of[depth] = field
        if c == 123 then
          context = child[2 * field + 1]
          state = KEY
          field = 0
        elseif context < 0 then
          return nil, "a JSON object expected", i
        else
          context = child[2 * field]
          field = element[context]
          if context == rows_context then rows = 1 end
        end
        first = true
        i = i + 1
      elseif context < 0 and c > 32 then
        return nil, "a JSON object expected", i
      elseif c == 110 and p[i + 1] == 117 and p[i + 2] == 108 and p[i + 3] == 108 then
        i = i + 4
        state = AFTER
      elseif c == 116 and p[i + 1] == 114 and p[i + 2] == 117 and p[i + 3] == 101 then
        i = i + 4
        state = AFTER
      elseif c == 102 and p[i + 1] == 97 and p[i + 2] == 108 and p[i + 3] == 115 and p[i + 4] == 101 then
        i = i + 5
        state = AFTER
      elseif c >= 48 and c <= 57 then
        number = c == 48 and 2 or 3
        i = i + 1
        state = NUMBER
      elseif c == 45 then
        number = 1
        i = i + 1
        state = NUMBER
      elseif c == 93 and first and band(context, 1) == 0 then
        if context == rows_context then rows = 0 end
        i = i + 1
        from[row + field] = 0
        field = fields_of[depth]
        depth = depth - 1
        context = contexts[depth]
        state = AFTER
      elseif c == 32 or c == 10 or c == 13 or c == 9 then
        i = i + 1
      elseif i >= n then
        return nil, "the text ends early", n
      else
        return nil, "not a JSON value", i
      end
    elseif state == TEXT then
      local c = 32
      if i + 8 <= n then
        local plain = plain_bytes(p, i)
        i = i + plain
        if plain < 8 then
          c = p[i]
        elseif i + 40 <= n and bor(hits_in(p, i), hits_in(p, i + 8), hits_in(p, i + 16), hits_in(p, i + 24)) == 0ULL then
          i = skip_plain_words(p, i + 32, n)
        end
      else
        c = p[i]
        if c >= 32 and c < 128 and c ~= 34 and c ~= 92 then
          i = i + 1
          c = 32
        end
      end
      if c == 34 then
        if key_from >= 0 then
          state = KEY_END
        else
          i = i + 1
          state = AFTER
        end
      elseif c >= 128 then
        local length = utf8_length(p, i)
        if length == 0 then return nil, "not UTF-8", i end
        i = i + length
        if i + 24 <= n and p[i] >= 0xe1 and p[i + 3] >= 0xe1 and p[i + 6] >= 0xe1 and p[i + 9] >= 0xe1 and p[i + 12] >= 0xe1 then
          i = skip_wide(p, i)
        end
      elseif c == 92 then
        local length = escape_length(p, i, n)
        if length <= 0 then
          if length == 0 then return bad_escape(p, i, n) end
          shape.lone_surrogate = i + 1
          length = 6
        end
        i = i + length
        if length == 6 and i + 24 <= n and p[i] == 92 and p[i + 6] == 92 and p[i + 12] == 92 and p[i + 18] == 92 then
          i = skip_units(p, i, n)
        end
      elseif c < 32 then
        if i >= n then return nil, "the text ends inside a string", n end
        return nil, "a control character inside a string", i
      end
    elseif state == NUMBER then
      local next_number = number_step[number * 256 + p[i]]
      if next_number ~= 0 then
        number = next_number
        i = i + 1
      elseif may_end[number] == 0 then
        return expected("a digit", i, n)
      else
        state = AFTER
      end
    elseif state == START then -- in here, because what stands before the loop would never be compiled
      p = cast(bytes_t, text)
      fill(from, stride * 4)
      shape.lone_surrogate = 0
      state = VALUE
    else
      if state == AFTER then
        to[row + field] = i
        field = 0
        i = i + one_space[p[i]]
        local c = p[i]
        if depth == 0 then
          if i >= n then break end
          if c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9 then return nil, "something stands after the JSON text", i end
          i = i + 1
        elseif c == 44 then
          i = i + 1
          first = false
          if band(context, 1) == 1 then
            state = KEY
          else
            state = VALUE
            field = element[context]
            if context == rows_context then
              if rows >= MAX_ROWS then
                field = 0 -- there is no more room to note anything: this one is only checked
              else
                rows, row = rows + 1, row + stride
                fill(from + row, stride * 4)
              end
            end
          end
        elseif c == 93 + 32 * band(context, 1) then
          if context == rows_context then row = 0 end
          i = i + 1
          field = fields_of[depth]
          depth = depth - 1
          context = contexts[depth]
        elseif c == 32 or c == 10 or c == 13 or c == 9 then
          i = i + 1
        else
          return expected(band(context, 1) == 1 and "',' or '}'" or "',' or ']'", i, n)
        end
      end

      if state == KEY then
        i = i + one_space[p[i]]
        local c = p[i]
        if c == 34 then
          i = i + 1
          key_from = i
          first = false
          state = TEXT
          if i + 8 <= n then
            local at = i + plain_bytes(p, i)
            if p[at] == 34 then -- most keys are short
              i = at
              state = KEY_END
            end
          end
        elseif c == 125 and first then
          i = i + 1
          field = fields_of[depth]
          depth = depth - 1
          context = contexts[depth]
          state = AFTER
        elseif c == 32 or c == 10 or c == 13 or c == 9 then
          i = i + 1
        else
          return expected("a key", i, n)
        end
      end

      if state == KEY_END then
        if context >= 2 and i - key_from <= LONGEST_KEY then
          local name = ffi_string(p + key_from, i - key_from)
          if has_escape(p, key_from, i) then name = decode_string(text, key_from, i + 1) end
          field = shape.keys[context][name] or 0
          if field ~= 0 and from[row + field] ~= 0 then return nil, shape.names[field] .. " stands there twice", key_from - 1 end
        end
        i = i + 1
        state = COLON
      end

      if state == COLON then
        local c = p[i]
        if c == 58 then
          state = VALUE
        elseif c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9 then
          return expected("':'", i, n)
        end
        i = i + 1
      end
    end
  end
  return rows
end

return M
