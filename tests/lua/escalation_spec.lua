-- The rows of the fault catalogue (FailoverBench and our own) that are decided at L2, each as the situation that the edge finds itself in.
local decide = require("evenkeel.escalation").decide

local BASE = {
  eligible = 0, usable = 1, full = 0, open = 0, cooling_s = nil, last_outcome = nil, retry_after = false, line = false, waited = false,
  passes = 1, has_next_tier = true, attempts_left = true, stop = nil, time_left_s = nil, max_wait_s = 3, queue_timeout_s = 2, jitter = 0.5,
}

local function situation(...)
  local s = {}
  for _, part in ipairs { BASE, ... } do
    for k, v in pairs(part) do s[k] = v end
  end
  return s
end

local LAST = { has_next_tier = false }
local LONE, SEVERAL = { usable = 1 }, { usable = 3 }
local SECOND_PASS = { passes = 2 }

local function after(outcome) return { last_outcome = outcome } end
local RATE_LIMITED_2S = { last_outcome = "rate_limited", retry_after = true, cooling_s = 1.99 }
local RATE_LIMITED = { last_outcome = "rate_limited", retry_after = false, cooling_s = 0.15 }

describe("L2 decides", function()
  -- name, situation, action, least and most seconds to wait
  for _, case in ipairs {
    { "1: a 429 with a short Retry-After is waited for at the primary", { RATE_LIMITED_2S }, "retry", 1.99, 2.1 },
    { "1: by several instances as well, when all of them are cooling down", { SEVERAL, RATE_LIMITED_2S }, "retry", 1.99, 2.1 },
    { "1: once per tier, then the next tier has its turn", { RATE_LIMITED_2S, SECOND_PASS, { waited = true } }, "next_tier" },
    { "1: as long as the pool allows", { RATE_LIMITED_2S, { cooling_s = 3 } }, "retry", 3, 3.1 },
    { "1: not longer than the pool allows", { RATE_LIMITED_2S, { cooling_s = 3.01 } }, "next_tier" },
    { "1: the time that is left counts, not the time that was told", { RATE_LIMITED_2S, { cooling_s = 0.2 } }, "retry", 0.2, 0.3 },
    { "2: a 429 without Retry-After goes to the next tier at once", { RATE_LIMITED }, "next_tier" },
    { "2: without a next tier the back-off is waited for", { RATE_LIMITED, LAST }, "retry", 0.15, 0.2 },
    { "2: again and again while attempts last", { RATE_LIMITED, LAST, { waited = true, passes = 3 } }, "retry", 0.15, 0.2 },
    { "2: but no long back-off", { RATE_LIMITED, LAST, { cooling_s = 3.01 } }, "fallback" },
    { "3: a 500 of a lone instance is asked once more, after a moment", { LONE, after "server_error" }, "retry", 0.05, 0.15 },
    { "3: with another instance in the tier L1 has asked that already", { SEVERAL, after "server_error" }, "next_tier" },
    { "3: not while its breaker keeps it out", { LONE, after "server_error", { open = 1 } }, "next_tier" },
    { "3: not while it cools down", { LONE, after "server_error", { cooling_s = 1 } }, "next_tier" },
    { "4: a second failure goes to the next tier", { LONE, after "server_error", SECOND_PASS }, "next_tier" },
    { "4: without a next tier it is tried on, with growing pauses", { LAST, after "server_error", SECOND_PASS }, "retry", 0.1, 0.3 },
    { "4: and further", { LAST, after "server_error", { passes = 3 } }, "retry", 0.2, 0.6 },
    { "4: but not one that has been taken out of service meanwhile", { LAST, after "server_error", { usable = 0 } }, "fallback" },
    { "4: nor one that does not know the model", { LONE, after "server_error", { hopeless = true } }, "next_tier" },
    { "4: (nobody else)", { LAST, after "server_error", { hopeless = true } }, "fallback" },
    { "4: with pauses of a second at most", { LAST, after "server_error", { passes = 9 } }, "retry", 1, 1 },
    { "4: several instances of the last tier, too", { SEVERAL, LAST, after "server_error" }, "retry", 0.05, 0.15 },
    { "5: a reset connection is asked once more", { LONE, after "bad_gateway" }, "retry", 0.05, 0.15 },
    { "5: and so are empty and cut answers", { LONE, after "empty" }, "retry", 0.05, 0.15 },
    { "5: (a cut one)", { LONE, after "truncated" }, "retry", 0.05, 0.15 },
    { "6: a silent route is not asked again", { LONE, after "timeout_first_token" }, "next_tier" },
    { "6: not even when there is nobody else", { LONE, LAST, after "timeout_first_token" }, "fallback" },
    { "6: nor is one that stalled", { LONE, after "stalled" }, "next_tier" },
    { "12: a context that is too long goes to the next tier, which may hold more", { after "context_length" }, "next_tier" },
    { "12: not to the rest of the tier, even if it waits there",
      { after "context_length", { eligible = 2, usable = 3, full = 1 } }, "next_tier" },
    { "12: an outcome of the tier before says nothing about this one: a full one is waited for", { { last_outcome = nil, full = 1 } },
      "queue", 2, 2 },
    { "15: while the breaker is open nobody is asked and nobody waits", { { open = 1 } }, "next_tier" },
    { "15: (without a next tier)", { LAST, { open = 1 } }, "fallback" },
    { "a wrong key or an empty account is not asked again", { { usable = 0, last_outcome = "auth" } }, "next_tier" },
    { "(an empty account, nobody else)", { { usable = 0, last_outcome = "quota" }, LAST }, "fallback" },
    { "an empty tier is passed by", { { usable = 0 } }, "next_tier" },
    { "nobody anywhere: the predefined answer", { { usable = 0 }, LAST }, "fallback" },

    { "saturated: wait in line", { { full = 1 } }, "queue", 2, 2 },
    { "saturated: wait in line for the busy ones after the free one failed",
      { SEVERAL, after "server_error", { full = 2 } }, "queue", 2, 2 },
    { "saturated: once per tier, then the next tier", { { full = 1, queued = true } }, "next_tier" },
    { "saturated: nobody else, and the wait was in vain", { LAST, { full = 1, queued = true } }, "fallback" },
    { "saturated: no longer than the client waits", { { full = 1, time_left_s = 0.55 } }, "queue", 0.49, 0.51 },
    { "others wait in line, but there is nobody to wait for", { { eligible = 0, line = true, open = 1 } }, "next_tier" },
    { "others wait in line: nobody overtakes them", { { eligible = 1, line = true } }, "queue", 2, 2 },
    { "others wait in line, but this one has waited already", { { eligible = 1, line = true, queued = true } }, "retry", 0, 0 },
    { "somebody became free in the meantime", { { eligible = 1 } }, "retry", 0, 0 },
    { "somebody seems free, but three passes have found nobody", { { eligible = 1, passes = 4 } }, "next_tier" },

    { "the deadline has passed", { { stop = "deadline", eligible = 1 } }, "fallback" },
    { "the deadline is about to pass", { { time_left_s = 0.04, eligible = 1, full = 1 } }, "fallback" },
    { "a pause that the client would not live to see is not made", { after "server_error", { time_left_s = 0.06 } }, "next_tier" },
    { "a Retry-After that the client would not live to see is not waited for", { RATE_LIMITED_2S, { time_left_s = 1.5 } }, "next_tier" },
    { "no retry without budget, not even at the next tier", { { stop = "budget", eligible = 1 } }, "fallback" },
    { "attempts are used up: a backup is still reached", { { stop = "attempts", eligible = 1 } }, "next_tier" },
    { "attempts are used up, and there is no backup", { LAST, { stop = "attempts", eligible = 1 } }, "fallback" },
    { "no attempts are left: nobody waits for anything", { { attempts_left = false, full = 1 } }, "next_tier" },
    { "no attempts are left: no pause either", { RATE_LIMITED_2S, { attempts_left = false } }, "next_tier" },
    { "a look that found nobody is no reason to stop", { { stop = "none", full = 1 } }, "queue", 2, 2 },
  } do
    it(case[1], function()
      local action, wait_s = decide(situation(unpack(case[2])))
      assert.equal(case[3], action)
      if case[4] then
        assert(wait_s >= case[4] and wait_s <= case[5] + 1e-9, ("waits %.3f s"):format(wait_s))
      else
        assert.is_nil(wait_s)
      end
    end)
  end

  it("spreads the pauses of many requests, so that they do not come back at once", function()
    local function pause(jitter) return select(2, decide(situation(after "server_error", { jitter = jitter }))) end
    assert.is_near(0.05, pause(0), 1e-9)
    assert.is_near(0.15, pause(1), 1e-9)
    assert.is_near(0.1, pause(0.5), 1e-9)
  end)

  -- Whatever happens, a request comes to an end: what leads back to the same tier waits (once) or makes a pass (the edge counts).
  it("never goes round in circles", function()
    local outcomes = { "server_error", "rate_limited", "timeout_first_token", "context_length", "saturated", "auth" }
    math.randomseed(7)
    for case = 1, 20000 do
      local tiers, tier, passes, waited, queued, steps, hops = math.random(3), 1, 1, false, false, 0, 0
      while hops < 8 do
        steps = steps + 1
        assert(steps <= 16, "case " .. case .. " goes on and on")
        local action, wait_s = decide(situation {
          eligible = math.random(0, 2), usable = math.random(0, 3), full = math.random(0, 1), open = math.random(0, 1),
          cooling_s = math.random(2) == 1 and 4 * math.random() or nil, last_outcome = outcomes[math.random(#outcomes)],
          retry_after = math.random(2) == 1, line = math.random(2) == 1, waited = waited, queued = queued, passes = passes,
          has_next_tier = tier < tiers, attempts_left = math.random(4) > 1, jitter = math.random(),
          time_left_s = math.random(2) == 1 and 5 * math.random() or nil,
        })
        if action == "fallback" then break end
        if action == "next_tier" then
          assert(tier < tiers, "there is no next tier")
          tier, passes, waited, queued = tier + 1, 1, false, false
        else
          assert(wait_s >= 0 and wait_s < 3.1, "waits " .. wait_s)
          if action == "queue" then
            queued = true
          elseif wait_s > 0 then
            waited = true
          end
          if action == "retry" then passes, hops = passes + 1, hops + 1 end
        end
      end
    end
  end)
end)
