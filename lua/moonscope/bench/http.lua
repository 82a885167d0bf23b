-- SPDX-License-Identifier: MIT
---/health by wrk at several numbers of connections, beside a bare handler of libmicrohttpd in C.
local uv = require "luv"
local process = require "moonscope.bench.process"

local CONNECTIONS, SECONDS = { 16, 100, 128, 512 }, 1

---Requests per second that a server answers.
local function rate(port, connections)
  local out = process.output("wrk", { "-t1", "-c" .. connections, "-d" .. SECONDS .. "s",
    ("http://127.0.0.1:%d/health"):format(port) })
  local wrong = out:match "Non%-2xx[^\n]*" or out:match "Socket errors[^\n]*"
  if wrong then error(("wrk, %d connections: %s"):format(connections, wrong), 0) end
  return assert(tonumber(out:match "Requests/sec:%s*([%d.]+)"), out)
end

return function(bench)
  local program = uv.exepath()
  local bare <close> = process.start(program, { "-e", "require('moonscope.host').serve_bare()" })
  local served <close> = process.start(program, { "serve", "--port", "0", "--log-level", "error" })
  local bare_port, port = bare.line:match "(%d+)\n", served.line:match ":(%d+)\n"
  for _, n in ipairs(CONNECTIONS) do
    bench:measure {
      work = ("GET /health, %d connections"):format(n), unit = "requests/s",
      figure = function() return rate(port, n) end,
      limit = function() return rate(bare_port, n), "bare handler" end,
    }
  end
end
