-- Seeded random tests. FUZZ_CASES sets how many cases each runs, FUZZ_SEED which; a failure names the seed of its case, and
-- `FUZZ_SEED=that FUZZ_CASES=1` runs just it.
local fuzz = {}

local function number_of(name)
  return tonumber(os.getenv(name) or "")
end

-- Calls check(random, case) with random(m, n) as in math.random.
function fuzz.run(default_cases, check)
  local seed, cases = number_of("FUZZ_SEED") or 20260101, number_of("FUZZ_CASES") or default_cases
  for case = 1, cases do
    math.randomseed(seed)
    local ok, words = pcall(check, math.random, case)
    if not ok then error(("FUZZ_SEED=%d: %s"):format(seed, type(words) == "table" and words.message or tostring(words)), 0) end
    seed = seed + 1
  end
end

function fuzz.pick(random, list)
  return list[random(#list)]
end

local spice = { '"', "\\", "{", "}", "[", "]", ",", ":", "0", "-", ".", "e", "\\u", "null",
  "\0", "\n", " ", "\195", "\128", "\255", "\\ud83d" }

-- `text` with one byte changed, taken out or put in, or a stretch doubled or gone.
function fuzz.mutate(random, text)
  local at, way = random(#text), random(5)
  if way == 1 then return text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + 1) end
  if way == 2 then return text:sub(1, at - 1) .. text:sub(at + 1) end
  if way == 3 then return text:sub(1, at - 1) .. fuzz.pick(random, spice) .. text:sub(at) end
  local to = math.min(#text, at + random(0, 12))
  if way == 4 then return text:sub(1, to) .. text:sub(at) end
  return text:sub(1, at - 1) .. text:sub(to + 1)
end

local samples = { "", "a", "hello", "你好", "🙂", "é", '"', "\\", "/", "\n\t", "a long text that spans several words of eight bytes, really",
  '"finish_reason":"stop"', '{"error":{"message":"x"}}', "[DONE]", "data: x\n\n", "\127", "深度求索深度求索" }

function fuzz.text(random)
  local parts = {}
  for i = 1, random(0, 3) do parts[i] = fuzz.pick(random, samples) end
  return table.concat(parts)
end

-- `text` as JSON, each character written in one of the ways JSON has.
function fuzz.json_string(random, text)
  local short = { ["\n"] = "\\n", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/" }
  local out = text:gsub("[%z\1-\127\194-\244][\128-\191]*", function(character)
    local must = character:find('[%z\1-\31"\\]')
    local way = random(must and 2 or 12)
    if way == 1 and #character == 1 then return ("\\u%04x"):format(character:byte()) end
    if way == 2 and short[character] then return short[character] end
    if way <= 3 and character == "🙂" then return "\\ud83d\\uDE42" end
    if must then return short[character] or ("\\u%04X"):format(character:byte()) end
    return character
  end)
  return '"' .. out .. '"'
end

local spaces = { "", "", "", "", " ", " ", "\n  ", "\t", "\r\n" }
function fuzz.space(random)
  return fuzz.pick(random, spaces)
end

local numbers = { "0", "-0", "1", "12", "-3.5", "1e3", "0.25E-2", "1E+2", "123456789012345678901" }

-- Any JSON value.
function fuzz.json_value(random, depth)
  local kind = random(depth > 0 and 8 or 5)
  if kind == 1 then return "null" end
  if kind == 2 then return random(2) == 1 and "true" or "false" end
  if kind == 3 then return fuzz.pick(random, numbers) end
  if kind <= 5 then return fuzz.json_string(random, fuzz.text(random)) end
  local parts = {}
  if kind == 6 then
    for i = 1, random(0, 3) do parts[i] = fuzz.json_value(random, depth - 1) end
    return fuzz.json_array(random, parts)
  end
  for i = 1, random(0, 3) do parts[i] = { "k" .. i .. fuzz.text(random), fuzz.json_value(random, depth - 1) } end
  return fuzz.json_object(random, parts)
end

function fuzz.json_array(random, values)
  local out = { "[", fuzz.space(random) }
  for i, value in ipairs(values) do
    if i > 1 then out[#out + 1] = "," .. fuzz.space(random) end
    out[#out + 1] = value .. fuzz.space(random)
  end
  out[#out + 1] = "]"
  return table.concat(out)
end

-- members: list of { key (plain text), value (JSON text) }
function fuzz.json_object(random, members)
  local out = { "{", fuzz.space(random) }
  for i, member in ipairs(members) do
    if i > 1 then out[#out + 1] = "," .. fuzz.space(random) end
    out[#out + 1] = fuzz.json_string(random, member[1]) .. fuzz.space(random) .. ":" .. fuzz.space(random) .. member[2]
      .. fuzz.space(random)
  end
  out[#out + 1] = "}"
  return table.concat(out)
end

function fuzz.shuffle(random, list)
  for i = #list, 2, -1 do
    local j = random(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

-- `text` in pieces.
function fuzz.cut(random, text)
  local pieces, at = {}, 1
  while at <= #text do
    local length = random(4) == 1 and random(#text) or random(8)
    pieces[#pieces + 1] = text:sub(at, at + length - 1)
    at = at + length
  end
  return pieces
end

return fuzz
