-- One nginx: what happens at its start and in the background. Every module is required in `init`, so that a broken one makes the reload
-- fail and the old workers stay.

local clock = require "evenkeel.clock"

local M = {}

local TICK_S = 0.25            -- how soon an idle worker notices a new snapshot
local WORKER_TTL_S = 3         -- a worker that has not reported for so long may be dead
local MAX_WORKERS = 256        -- living and draining together

local ffi = require "ffi"
local C = ffi.C
ffi.cdef [[
  int kill(int pid, int sig); int getppid(void); unsigned int umask(unsigned int mask);
  int mallopt(int parameter, int value);
]]

M.name = "node"
M.text_digest = ""
M.prefix = ""

local function read_file(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

function M.init(options)
  require "resty.core"
  M.name, M.text_digest = options.node, options.text_digest
  M.prefix = ngx.config.prefix()
  local function token(name)
    local text = read_file(M.prefix .. name)
    text = text and text:gsub("%s+$", "")
    return text and #text >= 16 and text or nil
  end
  M.token = token "token" or error("the node's token file is missing or too short: " .. M.prefix .. "token", 0)
  M.metrics_token = token "metrics-token"

  local snapshot = require "evenkeel.snapshot"
  snapshot.use(ngx.shared.evenkeel_snapshot, M.prefix .. "snapshot.json", options.doors)
  require("evenkeel.live").use(ngx.shared.evenkeel_state)
  require("evenkeel.slots").use(ngx.shared.evenkeel_state, "init")
  for _, module in ipairs { "edge", "adapter", "admin", "balancer", "dns", "hosts", "resume", "queue", "budget", "answers", "limits",
    "meter", "telemetry", "access_log" } do
    require("evenkeel." .. module)
  end
  require("evenkeel.hosts").load(M.prefix .. "nameservers")
  require("evenkeel.shares").restore(M.prefix .. "shares.json")
  local ok, why = snapshot.restore()
  if not ok and why ~= "none on disk" then ngx.log(ngx.ERR, "the snapshot that is kept cannot be used: ", why) end
end

-- Workers claim a place in the shared dict; its number is their identity for permits (see slots).
local function claim_place(dict)
  local pid = ngx.worker.pid()
  for i = 1, MAX_WORKERS do
    if dict:add("w:" .. i, pid) then
      if i > (dict:get("w:top") or 0) then dict:set("w:top", i) end
      dict:set("wr:" .. i, "")
      return i
    end
  end
  return nil
end

local function alive(pid)
  return C.kill(pid, 0) == 0
end

-- One worker at a time gives back what dead workers held. A dead worker leaves its place only after its permits were returned.
local function reap(dict)
  if not clock.lease(dict, "lease:reaper", 0.9) then return end
  local slots = require "evenkeel.slots"
  for i = 1, MAX_WORKERS do
    local pid = dict:get("w:" .. i)
    if pid and pid ~= ngx.worker.pid() and not alive(pid) then
      local n = slots.reap(i)
      if n > 0 then ngx.log(ngx.WARN, "worker ", pid, " died with ", n, " permits; they are given back") end
      dict:delete("wr:" .. i)
      dict:delete("w:" .. i)
    end
  end
end

local function report(dict)
  local snapshot = require("evenkeel.snapshot").current()
  if M.place then
    dict:set("wr:" .. M.place, (snapshot and snapshot.revision or 0) .. " " .. M.text_digest .. " " .. clock.now())
  end
end

--- The living workers: list of {pid, revision, text_digest, age_s}.
function M.workers()
  local dict = ngx.shared.evenkeel_state
  local list = {}
  for i = 1, MAX_WORKERS do
    local pid = dict:get("w:" .. i)
    if pid and alive(pid) then
      local revision, digest, at = (dict:get("wr:" .. i) or ""):match("^(%d+) (%x*) ([%d.]+)$")
      list[#list + 1] = {
        pid = pid, revision = tonumber(revision) or 0, text_digest = digest or "",
        age_s = at and clock.now() - tonumber(at) or WORKER_TTL_S,
      }
    end
  end
  return list
end

function M.master_pid() return C.getppid() end

-- What a large request gave back is there for the next one. By itself glibc returns the end of its heap to the kernel when it exceeds
-- 128 KiB, and has it zeroed page by page a moment later: a sixth of a request of 100 KB.
local TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3                -- parameters of mallopt
local KEPT_FREE_BYTES, LARGE_BYTES = 16 * 1024 * 1024, 1024 * 1024

local function keep_freed_memory()
  C.mallopt(TRIM_THRESHOLD, KEPT_FREE_BYTES)
  C.mallopt(MMAP_THRESHOLD, LARGE_BYTES)
end

-- LuaJIT doubles its table of strings when it is full, and halves it when a collection leaves it three quarters empty. With thousands of
-- tokens a second it does both every few seconds, and all streams wait 2 to 6 ms for it. These strings, 1 MB, are never collected: the
-- table keeps room for 128K. Short ones, and no more than that takes, for each collection looks at all of them: twice as many made a
-- request of 100 KB a fifth dearer. In small tables, for one table is marked in one go.
local BALLAST_TABLES, BALLAST_STRINGS = 256, 128
M.ballast = {}

local function keep_string_table()
  for i = 1, BALLAST_TABLES do
    local strings = {}
    for k = 1, BALLAST_STRINGS do strings[k] = tostring(100000 + (i - 1) * BALLAST_STRINGS + k) end
    M.ballast[i] = strings
  end
end

function M.init_worker()
  pcall(keep_freed_memory)                        -- other C libraries have no mallopt
  keep_string_table()
  C.umask(63)                                     -- 0077: what a worker writes is its own (nginx clears it when it becomes a daemon)
  local dict = ngx.shared.evenkeel_state
  M.place = claim_place(dict)
  require("evenkeel.slots").use(dict, M.place or ("p" .. ngx.worker.pid()))
  require("evenkeel.live").use(dict)
  if M.place then require("evenkeel.queue").use(dict, M.place) end
  require("evenkeel.request_ids").start()
  math.randomseed(ngx.worker.pid() * 7919 + ngx.now() * 1000)
  local function tick(premature)
    if premature then return end
    report(dict)
    reap(dict)
    require("evenkeel.adapter").recovery_probes(dict)
  end
  report(dict)
  assert(ngx.timer.every(TICK_S, tick))
  require("evenkeel.telemetry").start(ngx.shared.evenkeel_metrics, M.place or ("p" .. ngx.worker.pid()))
  require("evenkeel.access_log").start(M.prefix .. "logs/access.log", M.master_pid)
end

function M.exit_worker() require("evenkeel.telemetry").stop() end

return M
