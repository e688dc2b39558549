-- A small discrete-event simulation: events in the order of time, and the random numbers that traffic is made of, all from one seed.

local floor, log, sqrt, exp, cos, pi = math.floor, math.log, math.sqrt, math.exp, math.cos, math.pi
local random = math.random

local Simulation = {}
Simulation.__index = Simulation

local function new(seed)
  math.randomseed(seed)
  return setmetatable({ now_s = 0, heap = {}, size = 0, made = 0 }, Simulation)
end

local function before(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.number < b.number
end

--- Call `what(now_s)` in `delay_s`.
function Simulation:after(delay_s, what)
  self.made = self.made + 1
  local event = { at = self.now_s + delay_s, number = self.made, what = what }
  local heap, i = self.heap, self.size + 1
  self.size = i
  while i > 1 do
    local parent = floor(i / 2)
    if not before(event, heap[parent]) then break end
    heap[i] = heap[parent]
    i = parent
  end
  heap[i] = event
end

local function pop(self)
  local heap, n = self.heap, self.size
  local first, last = heap[1], heap[n]
  heap[n] = nil
  n = n - 1
  self.size = n
  local i = 1
  while 2 * i <= n do
    local child = 2 * i
    if child < n and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], last) then break end
    heap[i] = heap[child]
    i = child
  end
  if n > 0 then heap[i] = last end
  return first
end

--- Let time pass until `until_s`.
function Simulation:run(until_s)
  while self.size > 0 and self.heap[1].at <= until_s do
    local event = pop(self)
    self.now_s = event.at
    event.what(event.at)
  end
  self.now_s = until_s
end

--- Time to the next arrival of a Poisson process.
function Simulation.next_arrival(per_second)
  return -log(1 - random()) / per_second
end

--- A lognormal number with mean exp(mu + sigma² / 2).
function Simulation.lognormal(mu, sigma)
  return exp(mu + sigma * sqrt(-2 * log(1 - random())) * cos(2 * pi * random()))
end

return { new = new }
