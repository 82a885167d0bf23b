-- SPDX-License-Identifier: MIT
---/health by wrk at several numbers of connections, beside a bare handler of libmicrohttpd in C; then what
---memory the server has after a million requests, beside what it had before them.
local uv = require "luv"
local measure = require "moonscope.bench.measure"
local process = require "moonscope.bench.process"

local CONNECTIONS, SECONDS = { 16, 100, 128, 512 }, 1
local MILLION, MEMORY_CONNECTIONS = 1000000, 100

---One run of wrk: how many requests a server answered, and how many in a second.
local function run_wrk(port, connections)
  local out = process.output("wrk", { "-t1", "-c" .. connections, "-d" .. SECONDS .. "s",
    ("http://127.0.0.1:%d/health"):format(port) })
  local wrong = out:match "Non%-2xx[^\n]*" or out:match "Socket errors[^\n]*"
  if wrong then error(("wrk, %d connections: %s"):format(connections, wrong), 0) end
  local n, a_second = out:match "(%d+) requests in", out:match "Requests/sec:%s*([%d.]+)"
  return assert(tonumber(n), out), assert(tonumber(a_second), out)
end

local function rate(port, connections) return (select(2, run_wrk(port, connections))) end

local function resident_mb(pid)
  for line in io.lines(("/proc/%d/status"):format(pid)) do
    local kib = line:match "^VmRSS:%s*(%d+)"
    if kib then return tonumber(kib) / 1024 end
  end
end

---A million requests, of which the rounds before have made some.
local function measure_memory(bench, server, port)
  local before, afters, befores = resident_mb(server.pid), {}, {}
  for i = 1, bench.n_rounds do
    local n = 0
    while n < MILLION / bench.n_rounds do n = n + run_wrk(port, MEMORY_CONNECTIONS) end
    afters[i], befores[i] = resident_mb(server.pid), before
  end
  local facts = { work = "its memory over a million requests", unit = "MiB", limit_of = "before them" }
  bench:report(measure.line(facts, afters, befores, {}))
end

return function(bench)
  local program = uv.exepath()
  local opts = { reads = true, silent = true }
  local bare <close> = process.start(program, { "-e", "require('moonscope.host').serve_bare()" }, opts)
  local served <close> = process.start(program, { "serve", "--port", "0", "--log-level", "error" }, opts)
  local bare_port, port = process.said(bare, "(%d+)\n"), process.said(served, ":(%d+)\n")
  for _, n in ipairs(CONNECTIONS) do
    bench:measure {
      work = ("GET /health, %d connections"):format(n), unit = "requests/s",
      figure = function() return rate(port, n) end,
      limit = function() return rate(bare_port, n), "bare handler" end,
    }
  end
  measure_memory(bench, served, port)
end
