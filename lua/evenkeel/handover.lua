-- A provider's 413 on its way from the adapter to the edge. nginx has to answer a 413 of its own in our words (error_page, for all that has
-- this status), and throws away what a provider said with it. So the adapter leaves that here as well, and the edge takes it.
--
-- Its place is the dict of kept answers, which forgets the least recently used: a flood of refusals costs no count and no breaker.

local ngx = ngx
local match = string.match

local M = {}

local HOLDS_S = 10              -- of a client that has left meanwhile

--- @param ref the edge's name of the request (`PID,NUMBER`), nil: nobody asked through the edge
function M.leave(ref, content_type, body)
  if ref then ngx.shared.evenkeel_answers:set("said:" .. ref, content_type .. "\n" .. body, HOLDS_S) end
end

--- @return content type, body; or nil when it was forgotten
function M.take(ref)
  local dict, key = ngx.shared.evenkeel_answers, "said:" .. ref
  local said = dict:get(key)
  if not said then return nil end
  dict:delete(key)
  return match(said, "^([^\n]*)\n(.*)$")
end

return M
