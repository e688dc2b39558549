-- The retry budget of a pool: retries may be `budget_ratio` of its requests plus `budget_min_per_second`, over a sliding window of about
-- ten seconds, all workers together. Without it, an outage would double the traffic on what is left.

local floor = math.floor

local M = {}

local HALF_S = 5          -- the window is the running half and the one before it

local dict
function M.use(shared) dict = shared end

local function keys_of(pool, half)
  local k = pool.budget_keys
  if not k or k.half ~= half then
    local p = "r:" .. pool.name .. ":"
    k = {
      half = half, requests = p .. "q" .. half, retries = p .. "r" .. half,
      requests_before = p .. "q" .. (half - 1), retries_before = p .. "r" .. (half - 1),
    }
    pool.budget_keys = k
  end
  return k
end

--- Count one request of the pool.
function M.request(pool, now)
  dict:incr(keys_of(pool, floor(now / HALF_S)).requests, 1, 0, 3 * HALF_S)
end

--- May there be one retry more? Counts it if so. The part of the older half that has left the window no longer counts.
function M.retry(pool, now)
  local half = now / HALF_S
  local k = keys_of(pool, floor(half))
  local fresh = half - floor(half)
  local requests = (dict:get(k.requests) or 0) + (dict:get(k.requests_before) or 0) * (1 - fresh)
  local retries = (dict:get(k.retries) or 0) + (dict:get(k.retries_before) or 0) * (1 - fresh)
  local retry = pool.retry
  local window_s = HALF_S * 2
  if retries + 1 > requests * (retry.budget_ratio or 0.2) + (retry.budget_min_per_second or 10) * window_s then return false end
  dict:incr(k.retries, 1, 0, 3 * HALF_S)
  return true
end

return M
