-- The retry budget of a pool: retries may be `budget_ratio` of its requests plus `budget_min_per_second`, over a sliding window of ten
-- seconds, all workers together. Without it, an outage would double the traffic on what is left.

local window = require "evenkeel.window"

local M = {}

local WINDOW_S = 10

local dict
function M.use(shared) dict = shared end

local function counts_of(pool)
  local counts = pool.budget_counts
  if not counts then
    local prefix = "r:" .. pool.name .. ":"
    counts = { requests = window.new(prefix .. "q", WINDOW_S), retries = window.new(prefix .. "r", WINDOW_S) }
    pool.budget_counts = counts
  end
  return counts
end

--- Count one request of the pool.
function M.request(pool, now)
  counts_of(pool).requests:add(dict, now)
end

--- May there be one retry more? Counts it if so.
function M.retry(pool, now)
  local counts, retry = counts_of(pool), pool.retry
  local allowed = counts.requests:count(dict, now) * (retry.budget_ratio or 0.2) + (retry.budget_min_per_second or 10) * WINDOW_S
  if counts.retries:count(dict, now) + 1 > allowed then return false end
  counts.retries:add(dict, now)
  return true
end

return M
