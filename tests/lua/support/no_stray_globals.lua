-- Our own modules may not make globals: any write of one from lua/evenkeel fails the run.
-- (Test files run in busted's own environments, and other libraries may do as they like.)
setmetatable(_G, {
  __newindex = function(globals, name, value)
    local from = debug.getinfo(2, "S").source
    if from:find("lua/evenkeel/", 1, true) then error("stray global " .. tostring(name) .. " in " .. from, 2) end
    rawset(globals, name, value)
  end,
})
