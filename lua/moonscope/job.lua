-- SPDX-License-Identifier: MIT
---Waiting for work on the compute thread. A raw function of the core that is slow returns a Job;
---`await` turns it into its results: inside the loop (loop.lua) by yielding, elsewhere in place.
local core = require "moonscope.core"

local M = {}

local methods = core.types.Job
local SLICE_MS = 100 -- how often a wait in place lets Ctrl-C and progress through

local watchers = setmetatable({}, { __mode = "k" }) -- coroutine -> callback(done, total, unit)

---Set by the loop while it runs: waits for the job by yielding, and is false where it cannot.
---@type fun(job: userdata, tick: function?): boolean
M.suspend = nil

---@param x any
---@return boolean
function M.is_job(x)
  local meta = type(x) == "userdata" and getmetatable(x)
  return meta and meta.__index == methods or false
end

local function wait_in_place(job, tick)
  while not job:wait(SLICE_MS) do
    if tick then tick() end
  end
end

---The results of a job once it is done; any other values as they are. An error on the way here
---(Ctrl-C, a coroutine that is closed) cancels the job.
function M.await(job, ...)
  if not M.is_job(job) then return job, ... end
  local guard <close> = job
  local watcher = watchers[coroutine.running()]
  local tick = watcher and function() watcher(job:progress()) end
  local at_once = job:quick() and core.queue_length() <= 1 -- others before it take their time
  if at_once or not (M.suspend and M.suspend(job, tick)) then wait_in_place(job, tick) end
  return job:result()
end

---A function that awaits whatever `raw` returns.
---@param raw function
---@return function
function M.wrap(raw)
  return function(...) return M.await(raw(...)) end
end

local function once_more(raw, arguments, ...)
  if select(3, ...) ~= "ENOMEM" then return ... end
  collectgarbage()
  return M.await(raw(table.unpack(arguments, 1, arguments.n)))
end

---What raw(...) gives once awaited. Without memory (nil, message, "ENOMEM") the collector, which sees
---none of a device's, gets one chance to free what nobody holds, and `raw` another.
---@param raw function  leaves nothing behind when it fails
function M.insist(raw, ...)
  return once_more(raw, table.pack(...), M.await(raw(...)))
end

local function check(...)
  local result, message, code = ...
  if select("#", ...) == 3 and not result then core.throw(code, message) end
  return ...
end

---The same for what throws when it fails.
---@param raw function
function M.demand(raw, ...)
  return check(M.insist(raw, ...))
end

---The callback that `watch` set for the caller; nil where there is none.
---@return fun(done: integer, total: integer, unit: string?)?
function M.watcher() return watchers[coroutine.running()] end

---Calls fn(...); while a job that it awaits runs, calls callback(done, total, unit) ten times a second.
---@param callback fun(done: integer, total: integer, unit: string?)  total is 0 while unknown
function M.watch(callback, fn, ...)
  local thread = coroutine.running()
  local before = watchers[thread]
  local restore <close> = setmetatable({}, { __close = function() watchers[thread] = before end })
  watchers[thread] = callback
  return fn(...)
end

return M
