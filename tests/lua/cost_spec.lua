-- The same cases are checked in C#, against decimals: tests/contract/cost.
local cjson = require "cjson"
local cost = require "evenkeel.cost"

local function read(name)
  local file = assert(io.open("tests/contract/cost/" .. name .. ".json"))
  local text = file:read("*a")
  file:close()
  return cjson.decode(text)
end

describe("what tokens cost", function()
  for _, name in ipairs { "plain", "dated", "later" } do
    local contract = read(name)
    for i, case in ipairs(contract.cases) do
      it(("%s, case %d: %s"):format(name, i, case.why), function()
        local nano, currency = cost.of(contract.prices, case.at, case.input, case.cached_input, case.output)
        assert.equal(("%.0f"):format(case.cost_nano), ("%.0f"):format(nano))
        assert.equal(case.currency, currency)
      end)
    end
  end

  -- 40,000 attempts over a month, as a provider would bill them: exact integers against our doubles.
  it("sums to the cent over a month of attempts", function()
    math.randomseed(31)
    local prices = read("dated").prices
    local sum, ledger = 0, 0
    for _ = 1, 40000 do
      local at = 1739030400 + math.random() * 30 * 86400
      local input, output = math.random(1, 60000), math.random(1, 8000)
      local cached = math.random(0, input)
      sum = sum + cost.of(prices, at, input, cached, output)
      local rate = cost.rate(prices, at)
      -- in whole millionths of a unit per million tokens, which the prices are
      local function exact(price) return math.floor(price * 1e6 + 0.5) end
      ledger = ledger + (input - cached) * exact(rate.input_per_million) + output * exact(rate.output_per_million)
        + cached * exact(rate.cached_input_per_million or rate.input_per_million)
    end
    assert.is_near(ledger / 1e12, sum / 1e9, 0.00005, "they differ by less than a hundredth of a cent")
  end)
end)
