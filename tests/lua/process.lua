-- SPDX-License-Identifier: MIT
---Runs programs for the specs.
local uv = require "luv"

local M = {}

local PATIENCE_MS = 100000

---The program under test, and its module for a plain Lua.
M.program = os.getenv "MOONSCOPE" or "build/release/bin/moonscope"
M.module = os.getenv "MOONSCOPE_MODULE" or "build/release/lib/moonscope.so"

---The environment with changes, as uv.spawn takes it.
function M.environment(changes)
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
---options.interrupt_at: a SIGINT is sent once its output holds this text;
---options.answers: { mark, text, ... }, each text is written once the mark before it has come, in turn.
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
    env = M.environment(options.env),
  }, function(code, signal)
    result.code, result.signal, result.ms = code, signal, (uv.hrtime() - start) / 1e6
    child:close()
  end)
  assert(child, pid)

  local answers, answered, seen = options.answers or {}, 0, 1
  local function answer()
    local mark, text = answers[answered + 1], answers[answered + 2]
    local _, last = result.out:find(mark or "", seen, true)
    if mark and last then
      answered, seen = answered + 2, last + 1
      pipes[1]:write(text)
      return answer()
    elseif not mark then
      pipes[1]:close()
    end
  end

  local mark = options.interrupt_at
  local function collect(pipe, name)
    pipe:read_start(function(_, chunk)
      if not chunk then return pipe:close() end
      result[name] = result[name] .. chunk
      if mark and result[name]:find(mark, 1, true) then
        mark, start = nil, uv.hrtime()
        child:kill "sigint"
      end
      if options.answers and not pipes[1]:is_closing() then answer() end
    end)
  end
  collect(pipes[2], "out")
  collect(pipes[3], "err")
  local broken_pipe = uv.new_signal() -- the child may end before it has read everything
  broken_pipe:start "sigpipe"
  broken_pipe:unref()
  if options.stdin then
    pipes[1]:write(options.stdin, function() pipes[1]:close() end)
  elseif not options.answers then
    pipes[1]:close()
  end
  local patience = uv.new_timer() -- what hangs shall show what it had to say
  uv.update_time() -- the loop's clock stood still since it last ran, and timers start from it
  patience:start(PATIENCE_MS, 0, function() child:kill "sigkill" end)
  patience:unref()
  uv.run()
  patience:close()
  broken_pipe:close()
  uv.run "nowait"
  return result
end

---Runs the program under test.
function M.moonscope(arguments, options) return M.run(M.program, arguments, options) end

---Runs the program under test on a terminal of its own. From its keyboard come `typed`, a text or such
---answers as above, and then Ctrl-D. What it prints, both streams and the echo of the keys, is in `out`.
---env changes its environment.
function M.terminal(arguments, typed, env)
  local words = { "exec " .. M.program } -- a shell in between would take Ctrl-C to itself
  for i, word in ipairs(arguments) do
    words[i + 1] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  local options = { env = { TERM = "xterm" } }
  for name, value in pairs(env or {}) do options.env[name] = value end
  options[type(typed) == "table" and "answers" or "stdin"] = typed
  return M.run("script", { "-qec", table.concat(words, " "), "/dev/null" }, options)
end

return M
