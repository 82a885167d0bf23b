-- SPDX-License-Identifier: MIT
-- How long `moonscope -e 'print(1)'` takes, with the program that runs this:
--   build/release/bin/moonscope tests/bench/startup.lua [TIMES]
local uv = require "luv"

local times = {}
for i = 1, tonumber(arg[1] or 20) do
  local start = uv.hrtime()
  local child
  child = assert(uv.spawn(uv.exepath(), { args = { "-e", "print(1)" } }, function(code)
    assert(code == 0)
    times[i] = (uv.hrtime() - start) / 1e6
    child:close()
  end))
  uv.run()
end
table.sort(times)
print(("%d starts: median %.2f ms, from %.2f to %.2f ms"):format(
  #times, times[(#times + 1) // 2], times[1], times[#times]))
