-- SPDX-License-Identifier: MIT
---Programs that a benchmark runs beside it.
local uv = require "luv"

local M = {}

---Runs a program to its end; throws where it fails.
---@param program string
---@param arguments string[]
---@param watch fun(pid: integer)?  called some fifty times a second meanwhile
---@return number seconds
function M.run(program, arguments, watch)
  local start, code, seconds = uv.hrtime(), nil, nil
  local child, pid
  child, pid = uv.spawn(program, { args = arguments, stdio = { nil, nil, 2 } }, function(exit_code)
    code, seconds = exit_code, (uv.hrtime() - start) / 1e9
    child:close()
  end)
  if not child then error(("%s: %s"):format(program, pid), 0) end
  local timer = watch and uv.new_timer()
  if timer then timer:start(0, 20, function() watch(pid) end) end
  while not code do uv.run "once" end
  if timer then timer:close() end
  uv.run "nowait"
  if code ~= 0 then error(("%s %s: exit code %d"):format(program, table.concat(arguments, " "), code), 0) end
  return seconds
end

---Starts a program and waits for its first line.
---@param program string
---@param arguments string[]
---@return {line: string, close: fun(self)}  closing it ends the program
function M.start(program, arguments)
  local pipe, started = uv.new_pipe(), { line = "" }
  local child, over
  child = assert(uv.spawn(program, { args = arguments, stdio = { nil, pipe, nil } }, function()
    over = true
    child:close()
  end))
  pipe:read_start(function(_, chunk) started.line = started.line .. (chunk or "\n") end)
  while not started.line:find "\n" do uv.run "once" end
  function started.close()
    if not over then child:kill "sigterm" end
    while not over do uv.run "once" end
    pipe:close()
    uv.run "nowait"
  end
  return setmetatable(started, { __close = started.close })
end

---All that a program prints.
---@param program string
---@param arguments string[]
---@return string
function M.output(program, arguments)
  local pipe, out, over = uv.new_pipe(), "", 0
  local child
  child = assert(uv.spawn(program, { args = arguments, stdio = { nil, pipe, 2 } }, function()
    over = over + 1
    child:close()
  end))
  pipe:read_start(function(_, chunk)
    if chunk then
      out = out .. chunk
    else
      over = over + 1
      pipe:close()
    end
  end)
  while over < 2 do uv.run "once" end
  uv.run "nowait"
  return out
end

---The path of a program, as a shell finds it; nil where there is none.
---@param name string
---@return string?
function M.find(name)
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    if uv.fs_access(path, "X") then return path end
  end
end

return M
