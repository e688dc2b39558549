-- L2: what to do when a pass over a tier has found nobody. Pure: a description of the situation comes in, an action goes out.

local min = math.min

local M = {}

local LONGEST_PAUSE_S = 1         -- between two tries of an instance that fails at once

-- Worth asking the same route again: it answered, or refused at once. A silent route is not asked again.
local TRANSIENT = { bad_gateway = true, server_error = true, empty = true, truncated = true }

--- @param s
---   eligible        instances of the tier that could take an attempt right now and were not tried in this pass
---   usable          instances that are in service at all (enabled, not drained, not blocked)
---   full            instances that are at their limit
---   open            instances kept out by their breaker
---   cooling_s       the least remaining cooldown, nil if nobody cools down
---   last_outcome    of the last attempt of this request in this tier, nil if there was none
---   retry_after     that attempt was told when to come back
---   line            others are waiting in this pool's queue already
---   hopeless        the last attempt failed for a reason that will not go away by itself
---   waited          this request has waited out a cooldown in this tier already
---   queued          it has stood in the queue in this tier already
---   passes          passes over this tier so far, this one included
---   has_next_tier, attempts_left
---   stop            "deadline" | "budget" | "attempts": why the balancer gave up, nil otherwise
---   time_left_s     until the client's own deadline, nil if it has none
---   max_wait_s      the longest wait for a `Retry-After`
---   queue_timeout_s the longest wait for a free permit
---   jitter          a random number in [0, 1)
--- @return "retry" (the same tier), seconds to wait first
---       | "queue", seconds to wait at most | "next_tier" | "fallback"
function M.decide(s)
  local onward = s.has_next_tier and "next_tier" or "fallback"
  local time_left = s.time_left_s or math.huge
  if s.stop == "deadline" or s.stop == "budget" or time_left < 0.05 then return "fallback" end
  if s.last_outcome == "context_length" then return onward end
  if s.stop == "attempts" or not s.attempts_left then return onward end

  if (s.full > 0 or (s.eligible > 0 and s.line)) and not s.queued then
    return "queue", min(s.queue_timeout_s, time_left - 0.05)
  end
  if s.eligible > 0 and s.passes < 4 then return "retry", 0 end

  -- one transient error of a lone instance: it is asked once more; with no tier behind it, as long as attempts last
  local nobody_open = s.open == 0 and not s.cooling_s
  if TRANSIENT[s.last_outcome] and not s.hopeless and nobody_open and s.usable > 0 then
    if s.usable == 1 and s.passes == 1 or not s.has_next_tier then
      local wait = min((0.05 + 0.1 * s.jitter) * 2 ^ (s.passes - 1), LONGEST_PAUSE_S)
      if wait < time_left then return "retry", wait end
    end
  end

  -- a short wait that the provider asked for beats a worse model; without another tier any short wait beats giving up
  if s.cooling_s and s.cooling_s <= s.max_wait_s and s.cooling_s < time_left and not (s.waited and s.has_next_tier) then
    if s.retry_after or not s.has_next_tier then return "retry", s.cooling_s + 0.01 end
  end
  return onward
end

return M
