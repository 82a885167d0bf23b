-- SPDX-License-Identifier: MIT
-- How late a 10 ms tick on the loop is while matrix jobs keep the compute thread busy:
--   build/release/bin/moonscope tests/bench/lua_thread_awake.lua [SECONDS [THREADS]]
local uv = require "luv"
local loop = require "moonscope.loop"
local ms = require "moonscope"

local seconds, threads = tonumber(arg[1] or 10), math.tointeger(tonumber(arg[2] or 2))
local TICK_MS = 10
ms.set_threads(threads)

local late, jobs = {}, 0
loop.run(function()
  local stop = uv.hrtime() + seconds * 1e9
  loop.spawn(function()
    while uv.hrtime() < stop do
      local start = uv.hrtime()
      loop.sleep(TICK_MS)
      late[#late + 1] = (uv.hrtime() - start) / 1e6 - TICK_MS
    end
  end)
  local a = ms.zeros { 2048, 2048 }
  while uv.hrtime() < stop do
    a:matmul(a)
    jobs = jobs + 1
  end
end)

table.sort(late)
local function percentile(p) return late[math.max(1, math.ceil(#late * p / 100))] end
print(("%d matrix jobs on %d threads, %d ticks of %d ms; late by p50 %.2f ms, p99 %.2f ms, at most %.2f ms"):format(
  jobs, threads, #late, TICK_MS, percentile(50), percentile(99), late[#late]))
