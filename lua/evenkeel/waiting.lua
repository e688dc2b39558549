-- Attempts of this worker that have had no answer yet, by instance and kind. An average of answers knows nothing of an instance that has
-- just become fifteen times slower until its first slow answer is there; how long its calls wait already tells much sooner.

local M = {}

local AT_LEAST = 3                 -- so many have to wait: one alone may be one long answer

local lists = { stream = {}, json = {} }

function M.forget() lists = { stream = {}, json = {} } end

--- An attempt at an instance begins. @param kind "stream" | "json", attempt {started, …}
function M.begin(name, kind, attempt)
  local list = lists[kind][name]
  if not list then
    list = { n = 0 }
    lists[kind][name] = list
  end
  local last = list.last
  attempt.waits_in, attempt.waits_after = list, last
  if last then last.waits_before = attempt else list.first = attempt end
  list.last = attempt
  list.n = list.n + 1
end

--- It has its answer (of a stream: its first token), or never will. Once is enough, and more do no harm.
function M.over(attempt)
  local list = attempt.waits_in
  if not list then return end
  local after, before = attempt.waits_after, attempt.waits_before
  if after then after.waits_before = before else list.first = before end
  if before then before.waits_after = after else list.last = after end
  attempt.waits_in, attempt.waits_after, attempt.waits_before = nil, nil, nil
  list.n = list.n - 1
end

--- How long the median of those that wait has waited, or nil when they are too few to tell. While answers take as long as ever the
--- median is about half of an answer's time, so it says something only when it is above their average.
function M.median_s(name, kind, now)
  local list = lists[kind][name]
  if not list or list.n < AT_LEAST then return nil end
  local attempt = list.first
  for _ = 1, math.floor(list.n / 2) do attempt = attempt.waits_before end
  return now - attempt.started
end

return M
