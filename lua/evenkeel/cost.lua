-- What tokens cost. Pure; the same cases are checked in C# (tests/contract/cost).
--
-- A price list is what the snapshot says of an instance: prices in the order of their `from` (epoch seconds; the first one may have none),
-- each {input_per_million, cached_input_per_million (absent: as input), output_per_million, currency, off_peak}. `off_peak` is a list of
-- windows of the UTC day, {from_s, to_s (seconds of the day; to_s <= from_s crosses midnight), input_per_million, …}: inside of one its
-- prices replace those of the day. Beginnings belong to what begins there, ends do not.

local floor = math.floor

local M = {}

local DAY_S = 86400
local NANO_PER_TOKEN = 1000              -- of a price per million: 1e9 / 1e6

local function inside(window, second)
  local from, to = window.from_s, window.to_s
  if from < to then return second >= from and second < to end
  return second >= from or second < to
end

--- The prices in force at `at` (epoch seconds) and their currency, or nil when there are none.
function M.rate(prices, at)
  local price
  for i = #prices, 1, -1 do
    if (prices[i].from or 0) <= at then
      price = prices[i]
      break
    end
  end
  if not price then return nil end
  local windows = price.off_peak
  if windows then
    local second = at % DAY_S
    for i = 1, #windows do
      if inside(windows[i], second) then return windows[i], price.currency end
    end
  end
  return price, price.currency
end

--- What tokens cost that were billed at `at`: input (cached included), cached_input, output (reasoning included).
--- @return billionths of the currency's unit, rounded half up, and the currency; 0 and "" where no price is in force
function M.of(prices, at, input, cached_input, output)
  local rate, currency = M.rate(prices, at)
  if not rate then return 0, "" end
  local cached_price = rate.cached_input_per_million or rate.input_per_million
  local per_million = (input - cached_input) * rate.input_per_million + cached_input * cached_price + output * rate.output_per_million
  return floor(per_million * NANO_PER_TOKEN + 0.5), currency
end

return M
