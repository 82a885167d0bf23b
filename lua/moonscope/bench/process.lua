-- SPDX-License-Identifier: MIT
---Programs that a benchmark runs beside it. They are waited for in the loop: luv ends the process where a
---callback throws, as Ctrl-C would make it outside of the loop, and leaves the benchmark's files behind.
local uv = require "luv"
local loop = require "moonscope.loop"

local M = {}

local WATCH_MS = 20

---@class moonscope.bench.Program
---@field pid integer
---@field text string  what it has printed
---@field code integer?  its exit code, once it has ended
---@field seconds number?  from its start to its end
---@field private name string
---@field private handle userdata
---@field private pipe userdata?
---@field private task thread?  waits for a change
local Program = {}
Program.__index = Program

---Waits until `holds()`, which may change when it prints or ends.
function Program:wait(holds)
  loop.within(function()
    self.task = coroutine.running()
    while not holds() do loop.park() end
    self.task = nil
  end)
end

local function changed(self)
  if self.task then loop.wake(self.task) end
end

---Ends it, if it runs, and waits for that: it may use files that are removed after it.
function Program:close()
  local function has_ended() return self.code ~= nil end
  if not self.code then self.handle:kill "sigterm" end
  local ok, message = pcall(self.wait, self, has_ended)
  while not self.code do uv.run "once" end -- there is no loop any more after Ctrl-C, nor a second error
  self.handle:close()
  if self.pipe then self.pipe:close() end
  uv.run "nowait"
  if not ok then error(message, 0) end
end

Program.__close = Program.close

---Starts a program.
---@param name string  its path, or one in PATH
---@param arguments string[]
---@param opts {reads: boolean?, silent: boolean?}?  reads: what it prints is wanted; silent: but not what it says of
---  errors, as a server does of its end
---@return moonscope.bench.Program  to be closed
function M.start(name, arguments, opts)
  opts = opts or {}
  local pipe = opts.reads and uv.new_pipe() or nil
  local self = setmetatable({ name = name, text = "", pipe = pipe }, Program)
  local start = uv.hrtime()
  local stdio = { nil, pipe, not opts.silent and 2 or nil }
  local handle, pid = uv.spawn(name, { args = arguments, stdio = stdio }, function(code)
    self.code, self.seconds = code, (uv.hrtime() - start) / 1e9
    changed(self)
  end)
  if not handle then
    if pipe then pipe:close() end
    error(("%s: %s"):format(name, pid), 0)
  end
  self.handle, self.pid = handle, pid
  if pipe then
    pipe:read_start(function(_, chunk)
      self.text, self.told = self.text .. (chunk or ""), not chunk
      changed(self)
    end)
  end
  return self
end

---Waits for its end; throws where it fails.
local function finish(program, arguments)
  program:wait(function() return program.code and (program.told or not program.pipe) end)
  if program.code ~= 0 then
    error(("%s %s: exit code %d"):format(program.name, table.concat(arguments, " "), program.code), 0)
  end
end

---Runs a program to its end; throws where it fails.
---@param name string
---@param arguments string[]
---@param watch fun(pid: integer)?  called some fifty times a second meanwhile
---@return number seconds
function M.run(name, arguments, watch)
  local program <close> = M.start(name, arguments)
  local timer = watch and uv.new_timer()
  local guard <close> = timer and setmetatable({}, { __close = function() timer:close() end })
  if timer then timer:start(0, WATCH_MS, loop.guarded(function() watch(program.pid) end)) end
  finish(program, arguments)
  return program.seconds
end

---All that a program prints; throws where it fails.
---@param name string
---@param arguments string[]
---@return string
function M.output(name, arguments)
  local program <close> = M.start(name, arguments, { reads = true })
  finish(program, arguments)
  return program.text
end

---What a server that has been started says in the first line that it prints.
---@param program moonscope.bench.Program
---@param pattern string
---@return string
function M.said(program, pattern)
  program:wait(function() return program.text:find "\n" or program.told end)
  local found = program.text:match(pattern)
  if not found then error(("%s: said \"%s\", expected its port"):format(program.name, program.text), 0) end
  return found
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
