-- Light threads and semaphores on the clock of a test: what of nginx's scheduling our waiting code sees. A thread runs until it waits;
-- who was posted to runs again before time passes.

local Threads = {}
Threads.__index = Threads

local Semaphore = {}
Semaphore.__index = Semaphore

--- Puts itself in place of ngx.semaphore. @param clock from fake_ngx.clock
local function install(clock)
  local threads = setmetatable({ clock = clock, waiting = {}, ready = {} }, Threads)
  package.loaded["ngx.semaphore"] = {
    new = function(n) return setmetatable({ threads = threads, resources = n or 0, waiters = {} }, Semaphore) end,
  }
  return threads
end

local function without(list, element)
  for i, other in ipairs(list) do
    if other == element then return table.remove(list, i) end
  end
end

local function resume(threads, thread, ...)
  threads.running = thread
  local ok, words = coroutine.resume(thread.routine, ...)
  threads.running = nil
  if not ok then error(words, 0) end
end

local function run_ready(threads)
  while #threads.ready > 0 do
    local thread = table.remove(threads.ready, 1)
    if not thread.killed then resume(threads, thread, true) end
  end
end

--- Run `what()` in a thread of its own until it waits.
function Threads:spawn(what)
  local thread = { routine = coroutine.create(what) }
  resume(self, thread)
  run_ready(self)
  return thread
end

--- End a thread where it waits: its client has left.
function Threads:kill(thread)
  thread.killed = true
  without(self.waiting, thread)
  if thread.on then without(thread.on.waiters, thread) end
end

--- Do `what()` as another thread would, and let run whom it woke.
function Threads:act(what)
  what()
  run_ready(self)
end

--- Let time pass.
function Threads:pass(seconds)
  local until_s = self.clock.now_s + seconds
  while true do
    local first
    for _, thread in ipairs(self.waiting) do
      if thread.deadline_s <= until_s and (not first or thread.deadline_s < first.deadline_s) then first = thread end
    end
    if not first then break end
    self.clock.now_s = math.max(self.clock.now_s, first.deadline_s)
    without(self.waiting, first)
    without(first.on.waiters, first)
    resume(self, first, nil, "timeout")
    run_ready(self)
  end
  self.clock.now_s = until_s
end

function Semaphore:count()
  return self.resources - #self.waiters
end

function Semaphore:post(n)
  for _ = 1, n or 1 do
    local thread = table.remove(self.waiters, 1)
    if thread then
      without(self.threads.waiting, thread)
      table.insert(self.threads.ready, thread)
    else
      self.resources = self.resources + 1
    end
  end
end

function Semaphore:wait(seconds)
  if self.resources > 0 then
    self.resources = self.resources - 1
    return true
  end
  if seconds <= 0 then return nil, "timeout" end
  local threads = self.threads
  local thread = assert(threads.running, "only a thread may wait")
  thread.on, thread.deadline_s = self, threads.clock.now_s + seconds
  table.insert(self.waiters, thread)
  table.insert(threads.waiting, thread)
  return coroutine.yield()
end

return { install = install }
