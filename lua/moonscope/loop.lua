-- SPDX-License-Identifier: MIT
---The event loop: many tasks (coroutines) on the Lua thread, none of which blocks it. A task waits by
---yielding: `job.await` for the compute thread, `sleep` for the clock, `park` for another task.
local uv = require "luv"
local core = require "moonscope.core"
local job = require "moonscope.job"

---@class moonscope.loop
local M = {}

local TICK_MS = 100 -- between two looks at a job's progress

local alive = {} -- task -> true, until its function is over
local waiting = {} -- task -> the job that it waits for
local sleeping = {} -- task -> true
local parked = {} -- task -> true: until somebody wakes it
local due = {} -- task -> true: woken or canceled, to be resumed at the end of this turn
local canceled = {} -- task -> { reason }, which every wait of it throws
local failed = setmetatable({}, { __mode = "k" }) -- task -> who is told of its error
local failure -- { message } of the first task that failed with nobody to tell; ends the loop

local function fail(message) failure = failure or { message } end

---luv ends the process when a callback throws: here it ends the loop.
local function guarded(fn)
  return function()
    local ok, message = pcall(fn)
    if not ok then fail(message) end
  end
end

---A callback for luv whose error ends the loop, and is thrown by `run`, instead of the process.
---@param fn function
---@return function
M.guarded = guarded

---Ctrl-C raises in `task` while it runs, and wakes the loop while none does. In a plain Lua, whose
---own Ctrl-C does not reach into a coroutine, this does nothing.
local host = package.preload["moonscope.host"] and require "moonscope.host"
local function interrupt_to(task_or_fd)
  if host and host.interrupt_to(task_or_fd) then fail "interrupted" end
end

local current -- the task that runs

local function resume(task)
  local outer = current
  current = task
  interrupt_to(task)
  local ok, message = coroutine.resume(task)
  current = outer
  interrupt_to(outer or core.queue_fd())
  if not ok then
    local tell = failed[task]
    if tell then
      guarded(function() tell(message, task) end)()
    else
      fail(message)
    end
    coroutine.close(task)
  end
  if coroutine.status(task) == "dead" then
    alive[task], canceled[task] = nil, nil
  elseif not (waiting[task] or sleeping[task] or parked[task]) then
    fail "loop: a task yielded by itself, so nothing would wake it; it may await a job, sleep or park"
  end
end

local function check_canceled(task)
  local reason = canceled[task]
  if reason then error(reason[1], 0) end
end

---Yields until somebody takes the task out of `set` and resumes it.
local function wait_in(set, task, value)
  check_canceled(task)
  set[task] = value
  coroutine.yield()
  check_canceled(task)
end

---A variable of this kind closes the luv handle when it goes out of scope.
local function closing(handle)
  return setmetatable({}, { __close = function() handle:close() end })
end

---job.await's way to wait here: false outside of a task.
local function suspend(running_job, tick)
  local task = coroutine.running()
  if not alive[task] then return false end
  if running_job:done() then return true end -- it ended before somebody waited, and is told of no more
  local timer = tick and uv.new_timer()
  local guard <close> = timer and closing(timer)
  if timer then timer:start(TICK_MS, TICK_MS, guarded(tick)) end
  wait_in(waiting, task, running_job)
  return true
end

local function wake_up()
  uv.fs_read(core.queue_fd(), 8) -- takes the count of ended jobs, so that the next one is heard
  interrupt_to(core.queue_fd())
  local ready = {}
  for task, its_job in pairs(waiting) do
    if its_job:done() then ready[#ready + 1] = task end
  end
  for _, task in ipairs(ready) do
    if waiting[task] then -- not canceled by one before it
      waiting[task] = nil
      resume(task)
    end
  end
end

local function start(tell, fn, arguments)
  assert(job.suspend, "loop.spawn: the loop does not run")
  local task = coroutine.create(function() fn(table.unpack(arguments, 1, arguments.n)) end)
  alive[task] = true
  failed[task] = tell
  resume(task)
  return task
end

---Starts a task beside the others; `run` returns when all are over.
---@param fn function
---@param ... any  its arguments
---@return thread task
function M.spawn(fn, ...) return start(nil, fn, table.pack(...)) end

---The same, but its error ends neither the loop nor the others: it is told to `tell`, outside of the task.
---@param tell fun(message: any, task: thread)  the task is dead; debug.traceback(task) shows where it failed
---@param fn function
---@param ... any  its arguments
---@return thread task
function M.attempt(tell, fn, ...) return start(tell, fn, table.pack(...)) end

---Waits until somebody wakes this task.
function M.park()
  local task = coroutine.running()
  assert(alive[task], "loop.park: called outside of a task")
  wait_in(parked, task, true)
end

---Lets a parked task go on, at the end of this turn. Any other is left as it is.
---@param task thread
function M.wake(task)
  if parked[task] then parked[task], due[task] = nil, true end
end

---Throws `reason` in a task where it waits, at the end of this turn, and at each further wait of it.
---@param task thread
---@param reason any
function M.cancel(task, reason)
  if not alive[task] or canceled[task] then return end
  canceled[task] = { reason }
  if waiting[task] or sleeping[task] or parked[task] then
    waiting[task], sleeping[task], parked[task] = nil, nil, nil
    due[task] = true
  end
end

local function resume_due()
  while next(due) do
    local tasks = due
    due = {}
    for task in pairs(tasks) do
      if alive[task] then resume(task) end
    end
  end
end

---Calls fn after so many milliseconds; 0: in the next turn of the loop. A timer of 0 that a timer starts would run
---in the same turn, and one after the other, before anything else is heard (libuv before 1.45).
local function call_after(ms, fn)
  local handle = ms > 0 and uv.new_timer() or uv.new_idle()
  if ms > 0 then
    handle:start(math.ceil(ms), 0, fn)
  else
    handle:start(fn)
  end
  return handle
end

---Lets the other tasks run for `ms` milliseconds; 0: for a turn.
---@param ms number
function M.sleep(ms)
  local task = coroutine.running()
  assert(alive[task], "loop.sleep: called outside of a task")
  if not (type(ms) == "number" and ms >= 0 and ms < 2 ^ 53) then
    error(("loop.sleep: found %s, expected milliseconds from 0"):format(tostring(ms)), 2)
  end
  local guard <close> = closing(call_after(ms, function()
    if not sleeping[task] then return end -- canceled meanwhile
    sleeping[task] = nil
    resume(task)
  end))
  wait_in(sleeping, task, true)
end

---Whether the caller is a task, so that it may sleep and spawn.
---@return boolean
function M.is_task() return alive[coroutine.running()] or false end

---Runs each function as a task of its own and waits until all of them are over.
---@param functions function[]
function M.all(functions)
  local task, left = coroutine.running(), #functions
  assert(alive[task], "loop.all: called outside of a task")
  local timer = uv.new_timer()
  local guard <close> = closing(timer)
  for _, fn in ipairs(functions) do
    M.spawn(function()
      fn()
      left = left - 1
      if left == 0 and sleeping[task] then timer:start(0, 0, function() resume(task) end) end
    end)
  end
  if left == 0 then return end
  sleeping[task] = true
  coroutine.yield()
  sleeping[task] = nil
end

---fn(...) as a task: the caller's own, else that of a loop that runs until it is over.
---@param fn function
---@param ... any  its arguments
---@return any ...  its results
function M.within(fn, ...)
  if M.is_task() then return fn(...) end
  return M.run(fn, ...)
end

local function stop_tasks()
  for task in pairs(alive) do
    coroutine.close(task) -- cancels the job that it waits for
  end
  alive, waiting, sleeping, parked, due, canceled = {}, {}, {}, {}, {}, {}
end

---Runs fn(...) as a task until it and everything that it spawned are over; returns its results. The
---first error of any task cancels the others and is thrown, as "interrupted" is on Ctrl-C.
---@param fn function
---@param ... any  its arguments
---@return any ...  its results
function M.run(fn, ...)
  assert(not job.suspend, "loop.run: the loop runs already")
  local ended = uv.new_poll(core.queue_fd())
  ended:start("r", guarded(wake_up))
  local broken_pipe = uv.new_signal() -- writing to a closed socket is an error, not the end
  broken_pipe:start "sigpipe"
  failure = nil
  job.suspend = suspend
  local results
  M.spawn(function(...) results = table.pack(fn(...)) end, ...)
  resume_due() -- what the first task woke or canceled: uv would wait for something else
  while next(alive) and not failure do
    uv.run "once"
    resume_due()
  end
  stop_tasks()
  job.suspend = nil

  interrupt_to(coroutine.running())
  ended:close()
  broken_pipe:close()
  uv.run "nowait" -- lets the handles go
  if failure then error(failure[1], 0) end
  return table.unpack(results, 1, results.n)
end

return M
