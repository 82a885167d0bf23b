-- SPDX-License-Identifier: MIT
-- 1,000 idle connections and 64 streams at once, held for a minute (P16); then what /health takes meanwhile
-- and what memory the server took for it:
--   build/release/bin/moonscope tests/bench/connections.lua [SECONDS [IDLE [STREAMS]]]
package.path = "tests/lua/?.lua;" .. package.path
local uv = require "luv"
local json = require "moonscope.json"
local http = require "http"

local SECONDS, N_IDLE, N_STREAMS = tonumber(arg[1] or 60), tonumber(arg[2] or 1000), tonumber(arg[3] or 64)

local function resident_mib(server)
  for line in io.lines(("/proc/%d/status"):format(server.pid)) do
    local kib = line:match "^VmRSS:%s*(%d+)"
    if kib then return tonumber(kib) / 1024 end
  end
end

local BODY = json.encode { prompt = "Once upon a time", max_tokens = 300, stream = true, ignore_eos = true }
local POST = ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
  .. "Content-Length: %d\r\n\r\n%s"):format(#BODY, BODY)

local server = http.serve { "--data", "examples", "--model", "examples/tiny" }
http.wait_for("the model", function() return select(2, server:request("GET", "/health")).model_loaded end)
local before = resident_mib(server)

local idle = {}
for i = 1, N_IDLE do
  idle[i] = server:connect()
  idle[i]:write "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
end
for _, connection in ipairs(idle) do assert(connection:response() == 200) end

local n_streams, n_tokens, times, most = 0, 0, {}, before
local stop = uv.hrtime() + SECONDS * 1e9
http.together(N_STREAMS + 1, SECONDS, function(i)
  while uv.hrtime() < stop do
    if i <= N_STREAMS then
      local connection = server:connect()
      connection:write(POST)
      http.wait_for("a stream", function()
        return uv.hrtime() > stop or connection.over or connection.text:find("data: [DONE]", 1, true)
      end)
      assert(connection.text:find "^HTTP/1.1 200 " and not connection.over and not connection.text:find '"error"',
        connection.text)
      connection:close()
      n_streams, n_tokens = n_streams + 1, n_tokens + select(2, connection.text:gsub("data: {", ""))
    else
      local start = uv.hrtime()
      assert(server:request("GET", "/health") == 200)
      times[#times + 1] = (uv.hrtime() - start) / 1e6
      most = math.max(most, resident_mib(server))
    end
  end
end)

for _, connection in ipairs(idle) do -- each is still there
  assert(not connection.over, connection.over)
  connection:write "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
  assert(connection:response() == 200)
  connection:close()
end
table.sort(times)
local function at(share) return times[math.max(1, math.ceil(#times * share))] end
print(("%d idle connections, %d streams at a time, %d in all, none failed; %d pieces of text in %d s"):format(N_IDLE,
  N_STREAMS, n_streams, n_tokens, SECONDS))
print(("/health on new connections: %d, ms: p50 %.1f, p99 %.1f, at most %.1f"):format(#times, at(0.5), at(0.99),
  times[#times]))
print(("memory, MiB: %.0f before, %.0f at most, %.0f after"):format(before, most, resident_mib(server)))
assert(server:stop() == 0)
