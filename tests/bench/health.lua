-- SPDX-License-Identifier: MIT
-- How long /health takes while a model of 1B's shape prefills 2,000 tokens and 2.1 GB are converted, over
-- and over, in the same server (limit: 20 ms at p99):
--   build/release/bin/moonscope tests/bench/health.lua [SECONDS]
-- Needs 7 GB in /dev/shm, which are freed at the end.
package.path = "tests/lua/?.lua;" .. package.path
local uv = require "luv"
local json = require "moonscope.json"
local ms = require "moonscope"
local fixtures = require "fixtures"
local http = require "http"

local SECONDS, N_TOKENS, PAUSE_MS = tonumber(arg[1] or 30), 2000, 5
local D_MODEL, D_SAE = 4096, 65536

local ROUTES = [[
local convert, errors = require "moonscope.convert", require "moonscope.server.errors"
local function start(request)
  local folder = request.args.folder
  local job = request.jobs:start("convert", folder, function(job)
    local function report(done, total) job:report(done, total, "bytes") end
    while true do errors.check(convert.sae(folder .. "/in", { output = folder, layer = 19, on_progress = report })) end
  end)
  return 202, { job_id = job.id }
end
return { { "POST", "/convert", start, fields = { { "folder", "text", required = true, max_length = 4096 } } } }
]]

---An SAE of Goodfire's shape, and its file in `folder`/in.
local function write_sae(folder)
  assert(uv.fs_mkdir(folder .. "/in", 448))
  assert(ms.save(folder .. "/in/sae.safetensors", {
    ["encoder_linear.weight"] = ms.zeros { D_SAE, D_MODEL }, ["encoder_linear.bias"] = ms.zeros { D_SAE },
    ["decoder_linear.weight"] = ms.zeros { D_MODEL, D_SAE }, ["decoder_linear.bias"] = ms.zeros { D_MODEL },
  }))
  collectgarbage()
end

local function write_model(folder)
  require("moonscope.bench.random").model(folder, require("moonscope.bench.shapes").shape "1b")
end

local function pause()
  local over, timer = false, uv.new_timer()
  timer:start(PAUSE_MS, 0, function() over = true end)
  while not over do uv.run "once" end
  timer:close()
end

local function start_prefill(server)
  local ids = json.array {}
  for i = 1, N_TOKENS do ids[i] = i % 500 end
  local text = json.encode { prompt = ids, max_tokens = 1, temperature = 0 }
  local connection = server:connect()
  connection:write(("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    .. "Content-Length: %d\r\n\r\n%s"):format(#text, text))
  return connection
end

---Asks for /health until the time is over, or `done()`; how long each answer took, in ms, sorted.
local function ask(server, done)
  local times, stop = {}, uv.hrtime() + SECONDS * 1e9
  local connection = server:connect()
  while uv.hrtime() < stop and not done() do
    local start = uv.hrtime()
    connection:write "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    local status = connection:response()
    assert(status == 200, status)
    times[#times + 1] = (uv.hrtime() - start) / 1e6
    pause()
  end
  connection:close()
  table.sort(times)
  return times
end

local function print_times(what, times)
  local function at(share) return times[math.max(1, math.ceil(#times * share))] end
  print(("%-28s %5d answers, ms: p50 %.2f, p99 %.2f, p99.9 %.2f, at most %.2f")
    :format(what, #times, at(0.5), at(0.99), at(0.999), times[#times]))
end

local function converting(server)
  local _, body = server:request("GET", "/jobs")
  for _, job in ipairs(body.jobs) do
    if job.status == "failed" then error(job.error.detail, 0) end
    if job.kind == "convert" then return job.status == "running" end
  end
end

local folder = "/dev/shm/moonscope-health-" .. uv.os_getpid()
local ok, message = xpcall(function()
  assert(uv.fs_mkdir(folder, 448))
  fixtures.write(folder .. "/routes.lua", ROUTES)
  write_sae(folder)
  write_model(folder .. "/model")
  local server = http.serve { "--data", folder, "--model", folder .. "/model", "--routes", folder .. "/routes.lua" }
  http.wait_for("the model", function()
    return select(2, server:request("GET", "/health")).model_loaded
  end)
  print_times("nothing else runs", ask(server, function() return false end))
  assert(server:request("POST", "/convert", { folder = folder }) == 202)
  http.wait_for("the conversion", function() return converting(server) end)
  local prefill = start_prefill(server)
  print_times("prefill and conversion", ask(server, function() return prefill.text ~= "" end))
  print(prefill.text == "" and "the prefill still ran" or "the prefill ended: " .. prefill.text:match "^[^\r]*")
  assert(converting(server), "the conversion does not run")
  prefill:close()
  server:stop "sigkill"
end, debug.traceback)
os.execute("rm -rf " .. folder)
if not ok then error(message, 0) end
