-- What our modules take from nginx when they are loaded, on a clock of the test. `install()` puts it in place of the global; busted takes
-- it away again after each file. Time passes only when a test says so: clock.now_s = …, clock:pass(seconds). clock:jump(seconds) sets the
-- time of day and nothing else: evenkeel.clock goes on as if nothing had happened.

local fake_dict = require "support.fake_dict"

local fake = {}

function fake.clock(now_s)
  return {
    now_s = now_s or 1700000000, jumped_s = 0,
    jump = function(self, seconds) self.now_s, self.jumped_s = self.now_s + seconds, self.jumped_s + seconds end,
    steady_s = function(self) return self.now_s - self.jumped_s end,
    pass = function(self, seconds) self.now_s = self.now_s + seconds end,
  }
end

--- @param clock from fake.clock, optional
--- @return the stand-in; its `logged` lists what was logged, its `clock` is the time
function fake.install(clock)
  clock = clock or fake.clock()
  fake.installed = clock
  local shared = setmetatable({}, {
    __index = function(dicts, name)
      local dict = fake_dict.new(clock)
      rawset(dicts, name, dict)
      return dict
    end,
  })
  local logged = {}
  local stand_in = {
    clock = clock, logged = logged, shared = shared, null = require("cjson").null,
    ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, ERROR = -1, OK = 0, HTTP_OK = 200,
    now = function() return clock.now_s end,
    time = function() return math.floor(clock.now_s) end,
    update_time = function() end,
    log = function(_, ...)
      local words = { ... }
      for i = 1, select("#", ...) do words[i] = tostring(words[i]) end
      logged[#logged + 1] = table.concat(words)
    end,
    config = { prefix = function() return "./" end },
    worker = { pid = function() return 1 end },
    ctx = {}, var = {}, header = {},
  }
  rawset(_G, "ngx", stand_in)
  local function steady()
    local module = dofile(assert(package.searchpath("evenkeel.clock", package.path)))
    module.now = function() return fake.installed:steady_s() end
    return module
  end
  package.preload["evenkeel.clock"], package.loaded["evenkeel.clock"] = steady, steady()
  return stand_in
end

return fake
