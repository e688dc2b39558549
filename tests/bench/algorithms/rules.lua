-- Other people's ways of choosing an instance, to compare ours with. Each has the form of `evenkeel.balancer`'s algorithms:
-- (candidates, n, rng, turn) → index. They run in our edge, with our breaker, cooldown, learned limits and retries around them,
-- so that the rule alone makes the difference.

local M = {}

local function least(candidates, n, rng, cost)
  local best, best_cost, ties = 1, nil, 0
  for i = 1, n do
    local of = cost(candidates[i])
    if not best_cost or of < best_cost then
      best, best_cost, ties = i, of, 1
    elseif of == best_cost then
      ties = ties + 1
      if rng() * ties < 1 then best = i end
    end
  end
  return best
end

local function by_weight(c) return c.weight > 0 and (c.in_flight + 1) / c.weight or math.huge end

--- Weighted least connections, as nginx and HAProxy have it.
function M.least_connections(candidates, n, rng)
  return least(candidates, n, rng, by_weight)
end

local function pair(n, rng)
  local a = 1 + math.floor(rng() * n)
  if n == 1 then return a, a end
  local b = 1 + math.floor(rng() * (n - 1))
  return a, b >= a and b + 1 or b
end

--- Finagle's peak EWMA: of two at random the one with the least latency × (requests there + 1); its latency jumps to each peak.
function M.peak_ewma_p2c(candidates, n, rng)
  local a, b = pair(n, rng)
  local ca, cb = candidates[a], candidates[b]
  return cb.latency_s * (cb.in_flight + 1) < ca.latency_s * (ca.in_flight + 1) and b or a
end

--- The average that goes with it: a new peak counts whole, what is less counts for a tenth.
function M.peak_ewma(average, sample)
  if not average or sample > average then return sample end
  return average + 0.1 * (sample - average)
end

-- Prequal (Wydrowski et al., NSDI 2024), the hot-cold lexicographic rule: those with more in flight than the quantile Q of what was
-- seen lately are hot. Of the cold ones that with the least latency, and if all are hot that with the least in flight. In flight is
-- taken as a share of the limit, for instances are of different size here, and the latency relative to nothing, as in the paper.
local Q, SEEN = 0.84, 128
local seen, at = {}, 0

function M.forget() seen, at = {}, 0 end

local sorted = {}
local function threshold()
  local n = #seen
  for i = 1, n do sorted[i] = seen[i] end
  for i = n + 1, #sorted do sorted[i] = nil end
  table.sort(sorted)
  return sorted[math.max(1, math.ceil(Q * n))]
end

local function load_of(c) return c.in_flight / c.limit end

function M.prequal(candidates, n, rng)
  for i = 1, n do
    at = at % SEEN + 1
    seen[at] = load_of(candidates[i])
  end
  local hot = threshold()
  local i = least(candidates, n, rng, function(c) return load_of(c) <= hot and c.latency_s or math.huge end)
  if load_of(candidates[i]) <= hot then return i end
  return least(candidates, n, rng, load_of)
end

--- Our least_load with the latency as it is instead of relative to what the operator calls normal.
function M.least_load_absolute(candidates, n, rng)
  return least(candidates, n, rng, function(c) return c.weight > 0 and (c.in_flight + 1) / c.limit * c.latency_s or math.huge end)
end

return M
