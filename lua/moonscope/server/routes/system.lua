-- SPDX-License-Identifier: MIT
---GET /system: the machine and the process.
local uv = require "luv"
local json = require "moonscope.json"
local memory = require "moonscope.memory"
local ms = require "moonscope"

local started = uv.hrtime()

---Of the last answer; null before the first.
local function speed_of(bench)
  local speed = bench.speed
  if not speed then return json.null end
  return json.ordered {
    { "prompt_tokens_per_second", speed.prompt_per_second or json.null },
    { "generated_tokens_per_second", speed.generated_per_second or json.null },
    { "prompt_tokens", speed.prompt_tokens }, { "generated_tokens", speed.generated_tokens },
  }
end

local function system(request)
  local bench, running = request.workbench, 0
  for _, job in ipairs(request.jobs.list) do
    if job.status == "running" then running = running + 1 end
  end
  local free, total = memory.of_host()
  return 200, json.ordered {
    { "version", ms.version }, { "uptime_seconds", (uv.hrtime() - started) / 1e9 },
    { "devices", json.array(ms.devices()) }, { "instruction_set", ms.instruction_set() },
    { "memory", json.ordered {
      { "rss_bytes", uv.resident_set_memory() }, { "free_bytes", free or json.null },
      { "total_bytes", free and total or json.null },
    } },
    { "speed", speed_of(bench) }, { "answers", bench.n_answers }, { "jobs_running", running },
  }
end

return { { "GET", "/system", system, at_once = true } }
