-- Which choices of a streamed answer have finished? The answer to n = 2, or to a batch of prompts, has several, each with its own finish.
--
-- Promises: pure; a chunk of the one choice that most answers have costs one look-up; a provider may make up indexes without end, MOST are
-- remembered. An answer with more, or with an index that is none, never counts as finished: then only [DONE] ends it.
--
--   new(wanted) -> state                               `wanted` choices are to come at least
--   note(state, index, speaks, finishes) -> again      what a chunk says of a choice: content, a finish reason, or neither;
--                                                      again: it finishes what had a finish reason before
--   finished(state) -> have all finished, and said nothing since?
--   never_finished(state) -> indexes of those without a finish reason, in order

local M = {}

local MOST, HIGHEST_INDEX = 2048, 2 ^ 31
local OPEN, FINISHED, REOPENED = 1, 2, 3

function M.new(wanted)
  return { wanted = wanted, seen = 0, open = 0, of = {}, lost = false }
end

function M.note(state, index, speaks, finishes)
  local of = state.of
  local was = of[index]
  if was == OPEN and not finishes then return false end
  if not was then
    if state.seen == MOST or index < 0 or index > HIGHEST_INDEX or index % 1 ~= 0 then
      state.lost = true
      return false
    end
    state.seen, state.open = state.seen + 1, state.open + 1
    was, of[index] = OPEN, OPEN
  end
  if finishes then
    if was ~= FINISHED then state.open = state.open - 1 end
    of[index] = FINISHED
    return was ~= OPEN
  end
  if speaks and was == FINISHED then
    of[index] = REOPENED
    state.open = state.open + 1
  end
  return false
end

function M.finished(state)
  return state.open == 0 and state.seen >= state.wanted and not state.lost
end

function M.never_finished(state)
  local list = {}
  for index, is in pairs(state.of) do
    if is == OPEN then list[#list + 1] = index end
  end
  table.sort(list)
  return list
end

return M
