-- SPDX-License-Identifier: MIT
---Runs programs for the specs.
local uv = require "luv"

local M = {}

---The program under test, and its module for a plain Lua.
M.program = os.getenv "MOONSCOPE" or "build/release/bin/moonscope"
M.module = os.getenv "MOONSCOPE_MODULE" or "build/release/lib/moonscope.so"

local function environment(changes)
  local variables = uv.os_environ()
  for name, value in pairs(changes or {}) do
    variables[name] = value or nil -- false removes it
  end
  local list = {}
  for name, value in pairs(variables) do
    list[#list + 1] = name .. "=" .. value
  end
  return list
end

---Runs program and waits for its end.
---options.stdin is written to it, options.env changes its environment (false removes a variable);
---options.interrupt_at: a SIGINT is sent once its output holds this text.
---@return { code: integer, signal: integer, out: string, err: string, ms: number }
---ms: from the start, or from the SIGINT, to the end
function M.run(program, arguments, options)
  options = options or {}
  local result = { out = "", err = "" }
  local pipes = { uv.new_pipe(), uv.new_pipe(), uv.new_pipe() }
  local start = uv.hrtime()
  local child, pid
  child, pid = uv.spawn(program, {
    args = arguments,
    stdio = pipes,
    env = environment(options.env),
  }, function(code, signal)
    result.code, result.signal, result.ms = code, signal, (uv.hrtime() - start) / 1e6
    child:close()
  end)
  assert(child, pid)

  local mark = options.interrupt_at
  local function collect(pipe, name)
    pipe:read_start(function(_, chunk)
      if not chunk then return pipe:close() end
      result[name] = result[name] .. chunk
      if mark and result[name]:find(mark, 1, true) then
        mark, start = nil, uv.hrtime()
        child:kill "sigint"
      end
    end)
  end
  collect(pipes[2], "out")
  collect(pipes[3], "err")
  if options.stdin then
    pipes[1]:write(options.stdin, function() pipes[1]:close() end)
  else
    pipes[1]:close() -- a write, even of nothing, raises SIGPIPE where the child has already gone
  end
  uv.run()
  return result
end

---Runs the program under test.
function M.moonscope(arguments, options) return M.run(M.program, arguments, options) end

---Runs the program under test on a terminal of its own; `typed` and then Ctrl-D come from its keyboard.
---What it prints, both streams and the echo of the keys, is in `out`.
function M.terminal(arguments, typed)
  local words = { M.program }
  for i, word in ipairs(arguments) do
    words[i + 1] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  return M.run("script", { "-qec", table.concat(words, " "), "/dev/null" },
    { stdin = typed, env = { TERM = "xterm" } })
end

return M
