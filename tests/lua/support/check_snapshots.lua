-- Tells what a node has against snapshots, as for a push: each line of the input is a number and a snapshot, each line of the output the
-- number and the faults of one that is refused. For luajit, with LUA_PATH.

require("support.fake_ngx").install()
local snapshot = require "evenkeel.snapshot"

for line in io.lines() do
  local number, raw = line:match("^(%d+) (.*)$")
  local compiled, faults = snapshot.compile(raw, function() end)
  if not compiled then print(number .. " " .. table.concat(faults, "; ")) end
end
