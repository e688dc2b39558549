-- Which instance gets the next attempt. Pure: candidates, random numbers and the turn come in as arguments.
--
-- A candidate is a table with
--   weight      configured weight × slow-start factor × what its ghosts left of it (>= 0)
--   in_flight   attempts running there now
--   limit       how many may run there at once (> in_flight, or it would not be a candidate)
--   latency_s   live latency for this kind of request: first content token of streams, whole answer otherwise
--   base_latency_s  what the operator calls normal
-- An algorithm is `(candidates, n, rng, turn) → index`: it looks at the first `n` candidates (n >= 1), calls `rng()` for a number in
-- [0, 1) and, if it goes round, uses the integer `turn`.

local M = {}

--- weight × (1 − load) × min(1, base_latency / latency): the live weight, >= 0
local function live_weight(c)
  local load = c.in_flight / c.limit
  if load > 1 then load = 1 end
  local speed = c.base_latency_s / c.latency_s
  if speed > 1 then speed = 1 end
  return c.weight * (1 - load) * speed
end
M.live_weight = live_weight

-- Slow is who takes longer than the operator calls normal, and over SLOW times longer than the quickest, each by its own normal. It has
-- only TRICKLE of its weight: a few calls in a hundred that take twelve seconds are the whole P99. What it still gets tells when it is
-- well again, and as the others fill up it gets what they cannot bear. Where all are slow alike, nobody is.
local SLOW, TRICKLE = 3, 0.002

-- Notes each one's latency / base_latency. @return from which on one is slow
local function slow_from(candidates, n)
  local quickest = math.huge
  for i = 1, n do
    local c = candidates[i]
    local ratio = c.latency_s / c.base_latency_s
    c.ratio = ratio
    if ratio < quickest and c.weight > 0 then quickest = ratio end
  end
  return math.max(1, quickest * SLOW)
end

--- Random, in proportion to the live weight.
function M.weighted(candidates, n, rng)
  local slow, sum = slow_from(candidates, n), 0
  for i = 1, n do
    local c = candidates[i]
    local w = live_weight(c)
    if c.ratio > slow then w = w * TRICKLE end
    c.score = w
    sum = sum + w
  end
  if sum <= 0 then return 1 + math.floor(rng() * n) end
  local mark = rng() * sum
  for i = 1, n do
    mark = mark - candidates[i].score
    if mark < 0 then return i end
  end
  for i = n, 1, -1 do           -- rounding ate the mark: the last one that may be chosen
    if candidates[i].score > 0 then return i end
  end
  return n
end

-- Added to the cost of who comes back slowly and sits this pick out: only those of weight 0 are worse.
local SITS_OUT = 1e9

--- The least (in-flight + 1) / limit × (latency / base_latency)³; ties at random. Cubed, so that one that is several times slower than
--- normal gets calls only when the others are nearly full: a few in a hundred there already make the P99 (docs/benchmarks). Who is slow
--- among quick ones costs 1 / TRICKLE times as much, so that it gets none before they are full. The limit is
--- the capacity here, so the weight says only whether an instance takes part (0: no). In slow start, or of less weight for what its
--- ghosts saw, it takes part in the share `warmth` of the picks (0 < warmth <= 1, nil: warm): as a factor of the cost it would keep an
--- instance from ever being tried while the others have little to do.
function M.least_load(candidates, n, rng)
  local slow, best, best_cost, ties = slow_from(candidates, n), 1, nil, 0
  for i = 1, n do
    local c = candidates[i]
    local slowness = c.ratio > 1 and c.ratio or 1
    local cost = c.weight > 0 and (c.in_flight + 1) / c.limit * slowness * slowness * slowness or math.huge
    if c.ratio > slow then cost = cost / TRICKLE end
    local warmth = c.warmth
    if warmth and warmth < 1 and rng() >= warmth then cost = cost + SITS_OUT end
    if not best_cost or cost < best_cost then
      best, best_cost, ties = i, cost, 1
    elseif cost == best_cost then
      ties = ties + 1
      if rng() * ties < 1 then best = i end
    end
  end
  return best
end

--- Each in turn, but those of weight 0 only if there are no others: the baseline to compare with.
function M.round_robin(candidates, n, _, turn)
  local live = 0
  for i = 1, n do
    if candidates[i].weight > 0 then live = live + 1 end
  end
  if live == 0 then return turn % n + 1 end
  local place = turn % live
  for i = 1, n do
    if candidates[i].weight > 0 then
      if place == 0 then return i end
      place = place - 1
    end
  end
end

return M
