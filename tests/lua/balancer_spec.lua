local balancer = require "evenkeel.balancer"
local live = require "evenkeel.live"
local simulation = require "support.simulation"

local function candidate(fields)
  local c = { weight = 1, in_flight = 0, limit = 10, latency_s = 1, base_latency_s = 1 }
  for k, v in pairs(fields) do c[k] = v end
  return c
end

local function candidates(list)
  local out = {}
  for i, fields in ipairs(list) do out[i] = candidate(fields) end
  return out
end

-- How often each candidate is chosen in `draws` picks.
local function tally(algorithm, list, draws, seed)
  math.randomseed(seed or 1)
  local counts = {}
  for i = 1, #list do counts[i] = 0 end
  for turn = 1, draws do
    local i = algorithm(list, #list, math.random, turn)
    counts[i] = counts[i] + 1
  end
  return counts
end

describe("the live weight", function()
  for _, case in ipairs {
    { "an idle instance at its normal speed has its whole weight", {}, 1 },
    { "it falls with the load", { weight = 50, in_flight = 25, limit = 50 }, 25 },
    { "it is nothing at the limit", { weight = 50, in_flight = 50, limit = 50 }, 0 },
    { "it is never less than nothing, above the limit (a limit may shrink)", { weight = 50, in_flight = 60, limit = 50 }, 0 },
    { "it falls as latency rises", { weight = 50, latency_s = 4 }, 12.5 },
    { "an instance that is faster than normal gets no more than its weight", { weight = 50, latency_s = 0.1 }, 50 },
    { "(a little faster)", { weight = 50, latency_s = 0.5 }, 50 },
    { "load and latency multiply", { weight = 20, in_flight = 5, limit = 20, latency_s = 1.5, base_latency_s = 0.75 }, 7.5 },
    { "no weight stays no weight", { weight = 0 }, 0 },
  } do
    it(case[1], function()
      assert.is_near(case[3], balancer.live_weight(candidate(case[2])), 1e-12)
    end)
  end
end)

describe("weighted", function()
  -- Pearson's statistic against the exact proportions; 99.99 % of honest samples lie below the bound.
  local CHI2_9999 = { 15.14, 18.42, 21.11, 23.51, 25.74 }

  local function draw_and_compare(list, shares, seed)
    local draws = 200000
    local counts = tally(balancer.weighted, list, draws, seed)
    local chi2, freedom = 0, -1
    for i, share in ipairs(shares) do
      if share == 0 then
        assert.equal(0, counts[i], "candidate " .. i .. " has no share")
      else
        local expected = share * draws
        chi2 = chi2 + (counts[i] - expected) ^ 2 / expected
        freedom = freedom + 1
      end
    end
    assert(chi2 < CHI2_9999[freedom], ("chi² %.1f with %d degrees of freedom"):format(chi2, freedom))
  end

  for seed, case in ipairs {
    { "draws in proportion to weights", { { weight = 50 }, { weight = 30 }, { weight = 20 } }, { 0.5, 0.3, 0.2 } },
    { "draws in proportion to what is free", { { weight = 10, in_flight = 9 }, { weight = 10, in_flight = 1 } }, { 0.1, 0.9 } },
    { "draws in proportion to speed", { { latency_s = 3 }, {}, {} }, { 1 / 7, 3 / 7, 3 / 7 } },
    { "who is more than three times slower than the quickest has a trickle", { { weight = 4000, latency_s = 4 }, { weight = 98 } },
      { 0.02, 0.98 } },
    { "(each by its own normal)", { { latency_s = 40, base_latency_s = 10 }, { latency_s = 2 } }, { 1 / 3, 2 / 3 } },
    { "when all are slow alike none is", { { latency_s = 15 }, { latency_s = 30 } }, { 2 / 3, 1 / 3 } },
    { "the slow one takes what the others cannot bear", { { weight = 1000, latency_s = 4 }, { weight = 10, in_flight = 9, limit = 10 } },
      { 1 / 3, 2 / 3 } },
    { "who is as quick as the operator says is not slow, however quick the others are", { {}, { latency_s = 0.1 } }, { 0.5, 0.5 } },
    { "one without weight is no measure", { { weight = 0 }, { latency_s = 4 }, { latency_s = 8 } }, { 0, 2 / 3, 1 / 3 } },
    { "never draws weight 0 while others live", { { weight = 0 }, { weight = 1 }, { weight = 0 }, { weight = 3 } }, { 0, 0.25, 0, 0.75 } },
    { "never draws a full one while others live", { { in_flight = 10 }, { weight = 0.001 }, { weight = 0.003 } }, { 0, 0.25, 0.75 } },
    { "draws evenly when nobody has weight: somebody must", { { weight = 0 }, { weight = 0 } }, { 0.5, 0.5 } },
    { "draws evenly among very many small weights",
      { { weight = 1e-9 }, { weight = 1e-9 }, { weight = 1e-9 }, { weight = 1e-9 } }, { 0.25, 0.25, 0.25, 0.25 } },
  } do
    it(case[1], function() draw_and_compare(candidates(case[2]), case[3], seed) end)
  end

  it("looks at the first n candidates only: the table is used again for each request", function()
    local list = candidates { { weight = 1 }, { weight = 1 }, { weight = 1000 } }
    math.randomseed(1)
    for _ = 1, 1000 do assert(balancer.weighted(list, 2, math.random) <= 2) end
  end)

  it("finds somebody for every random number, the ends included", function()
    local list = candidates { { weight = 0 }, { weight = 0.1 }, { weight = 0.7 }, { weight = 0 } }
    for _, number in ipairs { 0, 1e-17, 0.125, 0.1250001, 0.5, 1 - 2 ^ -53, 1 } do      -- 1: what rounding may make of the last
      local i = balancer.weighted(list, 4, function() return number end)
      assert(i == 2 or i == 3, "chose " .. i .. " for " .. number)
    end
  end)
end)

describe("least_load", function()
  for _, case in ipairs {
    { "picks the least (in-flight + 1) / limit", { { in_flight = 5 }, { in_flight = 2 }, { in_flight = 9 } }, 2 },
    { "counts the attempt that is to come: a large idle one before a small idle one", { { limit = 10 }, { limit = 50 } }, 2 },
    { "(which tips the scales here)", { { in_flight = 1, limit = 10 }, { in_flight = 4, limit = 20 } }, 1 },
    { "a larger limit bears more", { { in_flight = 10, limit = 20 }, { in_flight = 20, limit = 50 } }, 2 },
    { "a little slowness counts as load", { { in_flight = 1, latency_s = 2 }, { in_flight = 2 } }, 2 },
    { "slowness counts as load", { { in_flight = 1, latency_s = 6 }, { in_flight = 4 } }, 2 },
    { "four times slower is left alone, idle as it is, while the others have room",
      { { limit = 50, latency_s = 4 }, { limit = 50, in_flight = 48 } }, 2 },
    { "a third slower still gets its part", { { latency_s = 1.3 }, { in_flight = 4 } }, 1 },
    { "slowness is against its own normal", { { in_flight = 1, latency_s = 6, base_latency_s = 6 }, { in_flight = 4 } }, 1 },
    { "speed is no advantage: load spreads by limits when all are well", { { in_flight = 5, latency_s = 0.01 }, { in_flight = 4 } }, 2 },
    { "weight 0 is left out while others live", { { weight = 0 }, { in_flight = 9 } }, 2 },
  } do
    it(case[1], function()
      local counts = tally(balancer.least_load, candidates(case[2]), 20)
      assert.equal(20, counts[case[3]], "it does not hang on luck")
    end)
  end

  it("breaks ties at random, evenly", function()
    local counts = tally(balancer.least_load, candidates { {}, { in_flight = 3 }, {}, {} }, 30000)
    assert.equal(0, counts[2])
    for _, i in ipairs { 1, 3, 4 } do assert.is_near(10000, counts[i], 400) end
  end)

  it("chooses somebody when all have weight 0", function()
    local counts = tally(balancer.least_load, candidates { { weight = 0 }, { weight = 0 } }, 1000)
    assert.equal(1000, counts[1] + counts[2])
  end)

  -- A trial must reach an instance that comes back, however little there is to do; otherwise it never would be healthy again.
  it("tries an instance in slow start even when nobody has much to do, and seldom", function()
    local counts = tally(balancer.least_load, candidates { { warmth = 0.1 }, { in_flight = 1 }, { in_flight = 1 } }, 20000)
    assert.is_near(2000, counts[1], 250)
  end)

  it("does not flood an idle instance in slow start while the others are busy", function()
    local counts = tally(balancer.least_load, candidates { { warmth = 0.25 }, { in_flight = 8 }, { in_flight = 9 } }, 20000)
    assert.is_near(5000, counts[1], 400)
  end)

  it("takes an instance in slow start when there is no other", function()
    assert.same({ 100 }, tally(balancer.least_load, candidates { { warmth = 0.1 } }, 100))
    assert.same({ 0, 100 }, tally(balancer.least_load, candidates { { weight = 0 }, { warmth = 0.1 } }, 100))
  end)
end)

describe("round_robin", function()
  it("goes round", function()
    assert.same({ 1000, 1000, 1000 }, tally(balancer.round_robin, candidates { {}, { in_flight = 9 }, { latency_s = 9 } }, 3000))
  end)

  it("leaves out weight 0 while others live", function()
    assert.same({ 500, 0, 500 }, tally(balancer.round_robin, candidates { {}, { weight = 0 }, {} }, 1000))
    assert.same({ 500, 500 }, tally(balancer.round_robin, candidates { { weight = 0 }, { weight = 0 } }, 1000))
  end)
end)

-- The traffic that the project was made for: three instances with ceilings 50, 50 and 20, calls of 0.8 s.
describe("85 requests in flight over ceilings of 50, 50 and 20", function()
  local CALL_S = 0.8

  -- @return error rate, mean load of the third instance, 99th percentile of latency
  local function run(algorithm, options)
    local sim = simulation.new(options.seed)
    local instances = {}
    for i, ceiling in ipairs { 50, 50, 20 } do
      instances[i] = candidate { weight = ceiling, limit = ceiling, latency_s = CALL_S, base_latency_s = CALL_S }
    end
    local list, turn, requests, errors, load_sum, latencies = {}, 0, 0, 0, 0, {}

    local function arrive(now_s)
      sim:after(sim.next_arrival(options.in_flight / CALL_S), arrive)
      requests = requests + 1
      turn = turn + 1
      load_sum = load_sum + instances[3].in_flight / 20
      local n = 0
      for _, inst in ipairs(instances) do
        if options.blind or inst.in_flight < inst.limit then
          n = n + 1
          list[n] = inst
        end
      end
      local inst = n > 0 and list[algorithm(list, n, math.random, turn)]
      if not inst or inst.in_flight >= inst.limit then
        errors = errors + 1
        return
      end
      inst.in_flight = inst.in_flight + 1
      local call_s = sim.lognormal(math.log(CALL_S) - 0.08, 0.4)
      if options.slow and inst == instances[2] and now_s > 100 and now_s < 300 then call_s = call_s * options.slow end
      latencies[#latencies + 1] = call_s
      sim:after(call_s, function()
        inst.in_flight = inst.in_flight - 1
        inst.latency_s = live.ewma(inst.latency_s, call_s)
      end)
    end

    sim:after(0, arrive)
    sim:run(600)
    table.sort(latencies)
    return errors / requests, load_sum / requests, latencies[math.floor(0.99 * #latencies)]
  end

  for seed = 1, 3 do
    it("weighted: at most 0.05 % errors, the small one at 65-75 % (seed " .. seed .. ")", function()
      local errors, load = run(balancer.weighted, { in_flight = 85, seed = seed })
      assert(errors <= 0.0005, "errors " .. errors)
      assert(load >= 0.65 and load <= 0.75, "load of the small one " .. load)
    end)
  end

  it("round robin, blind to load: at least 8 % errors, the small one all but full", function()
    local errors, load = run(balancer.round_robin, { in_flight = 85, seed = 1, blind = true })
    assert(errors >= 0.08, "errors " .. errors)
    assert(load >= 0.9, "load of the small one " .. load)
  end)

  for algorithm, most in pairs { least_load = 0.5, weighted = 0.65 } do
    it(algorithm .. ": no errors, and at most " .. most .. " of round robin's P99 while one instance is six times slower", function()
      local _, _, blind_p99 = run(balancer.round_robin, { in_flight = 60, seed = 1, slow = 6 })
      local errors, _, p99 = run(balancer[algorithm], { in_flight = 60, seed = 1, slow = 6 })
      assert.equal(0, errors)
      assert(p99 <= most * blind_p99, ("%.2f s against %.2f s"):format(p99, blind_p99))
    end)
  end
end)
