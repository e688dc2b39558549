-- Clients' requests on their way to become prompts of ghosts: opt-in per pool (`ghost_sample`, a share). A bounded list in a shared dict of
-- its own, never on disk and never logged; when it is full, what comes is dropped. The control plane takes the list over the admin
-- listener and redacts before it keeps anything.

local cjson = require "cjson.safe"

local M = {}

local LIST = "samples"
local MOST, LONGEST = 64, 16 * 1024

--- Maybe keep a request. Called only for pools that sample.
--- @param rng () → [0, 1)
--- @return true if it was kept
function M.offer(dict, pool, kind, body, rng)
  if kind ~= "chat" or #body > LONGEST or rng() >= pool.ghost_sample then return false end
  if (dict:llen(LIST) or MOST) >= MOST then return false end
  return dict:rpush(LIST, pool.name .. " " .. body) ~= nil
end

--- Take all that is kept: the text of a JSON object {"samples": [{"pool", "body"}]}.
function M.take(dict)
  local list = {}
  for i = 1, MOST do
    local entry = dict:lpop(LIST)
    if not entry then break end
    local pool, body = entry:match("^(%S+) (.*)$")
    list[i] = { pool = pool, body = body }
  end
  if #list == 0 then return '{"samples":[]}' end
  return cjson.encode { samples = list }
end

return M
