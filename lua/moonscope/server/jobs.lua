-- SPDX-License-Identifier: MIT
---Long actions that outlive the request which started them: an id, progress, a result, and a way to
---cancel. A job runs in a task of the loop; whoever wants its end waits for it.
local uv = require "luv"
local job = require "moonscope.job"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local progress_text = require "moonscope.progress"
local errors = require "moonscope.server.errors"

local M = {}
M.__index = M

local KEEP = 100 -- ended jobs that are remembered
local MAX_LOG = 50 -- lines of each
local MARK_NS, MARKS = 5e8, 10 -- how fast a job is: over the last marks, which are at least so far apart

---@class moonscope.ServerJob
---@field id string
---@field kind string  "load-model"
---@field title string
---@field status "running"|"completed"|"failed"|"cancelled"
---@field stage string?  what it does now: "downloading", "converting", "loading"
---@field progress {done: integer, total: integer, unit: string?}
---@field log {at: integer, text: string}[]  what happened, in seconds since 1970
---@field result table?  once completed
---@field refusal moonscope.Refusal?  once failed or cancelled
---@field cancel fun(self): boolean  false: it was over already
---@field wait fun(self): table  the result; throws the refusal
local Job = {}
Job.__index = Job

---@param refusal_of fun(job: moonscope.ServerJob, message: any, task: thread): moonscope.Refusal
---@param on_change fun(job: moonscope.ServerJob)  it began, does something else, or is over
function M.new(refusal_of, on_change)
  return setmetatable({ list = {}, by_id = {}, n = 0, refusal_of = refusal_of, on_change = on_change }, M)
end

local function wake_all(self)
  self.version = self.version + 1
  local tasks = self.waiting
  self.waiting = {}
  for task in pairs(tasks) do loop.wake(task) end
end

local function seconds_since(ns) return (uv.hrtime() - ns) / 1e9 end

local function amount(n, unit)
  return progress_text.amount(n, unit) .. (unit == "bytes" and "" or " " .. (unit or "steps"))
end

---Logs what the stage that ends here did.
local function end_stage(self)
  local progress, seconds = self.progress, seconds_since(self.stage_began)
  if progress.done > 0 then
    self:note(("%s: %s in %.1f s"):format(self.stage or self.kind, amount(progress.done, progress.unit), seconds))
  end
end

local function begin_stage(self, stage)
  self.stage, self.stage_began = stage, uv.hrtime()
  self.progress, self.marks = { done = 0, total = 0 }, {}
end

local ENDS = { completed = "done after %.1f s", failed = "failed after %.1f s", cancelled = "cancelled after %.1f s" }

local function finish(self, status)
  end_stage(self)
  self:note(ENDS[status]:format(seconds_since(self.began)))
  self.status, self.finished_at, self.task = status, os.time(), nil
  wake_all(self)
  self.on_change(self)
end

local function fail(self, refusal)
  self.refusal = refusal
  self:note(refusal:text())
  finish(self, self.canceled and "cancelled" or "failed")
end

local function forget_old(self)
  local ended = 0
  for i = #self.list, 1, -1 do
    local old = self.list[i]
    if old.status ~= "running" then ended = ended + 1 end
    if ended > KEEP then
      table.remove(self.list, i)
      self.by_id[old.id] = nil
      return
    end
  end
end

---Starts fn(job) as a job; what it returns is the result, a table. The progress of core jobs that it
---awaits shows by itself; job:report tells any other.
---@param kind string
---@param title string
---@param fn fun(job: moonscope.ServerJob): table
---@return moonscope.ServerJob
function M:start(kind, title, fn)
  self.n = self.n + 1
  local new = setmetatable({
    id = ("job-%d"):format(self.n), kind = kind, title = title, status = "running", created_at = os.time(),
    began = uv.hrtime(), version = 0, waiting = {}, log = {}, on_change = self.on_change,
  }, Job)
  begin_stage(new)
  table.insert(self.list, new)
  self.by_id[new.id] = new
  forget_old(self)
  local function run()
    new.task = coroutine.running()
    new.result = job.watch(function(...) new:report(...) end, fn, new)
    finish(new, "completed")
  end
  loop.attempt(function(message, task) fail(new, self.refusal_of(new, message, task)) end, run)
  if new.status == "running" then self.on_change(new) end
  return new
end

---@param id string
---@return moonscope.ServerJob
function M:get(id)
  return self.by_id[id] or errors.refuse(404, "ENOENT", ("Job %s not found"):format(id), "id")
end

---Tells how far it is.
function Job:report(done, total, unit)
  local progress, now = self.progress, uv.hrtime()
  if progress.done == done and progress.total == total then return end
  progress.done, progress.total, progress.unit = done, total, unit
  local marks = self.marks
  if #marks == 0 or now - marks[#marks].at >= MARK_NS or done < marks[#marks].done then
    if #marks > 0 and done < marks[#marks].done then self.marks = {} end -- it begins anew
    table.insert(self.marks, { at = now, done = done })
    if #self.marks > MARKS then table.remove(self.marks, 1) end
  end
  wake_all(self)
end

---How much it does in a second of late, and how long the rest will take; nil while nobody knows.
local function speed_of(self)
  local progress, first = self.progress, self.marks[1]
  local seconds = first and seconds_since(first.at) or 0
  if self.status ~= "running" or seconds * 1e9 < MARK_NS or progress.done <= first.done then return nil end
  local per_second = (progress.done - first.done) / seconds
  return per_second, progress.total > progress.done and (progress.total - progress.done) / per_second or nil
end

---Another part of the work begins.
---@param stage string
function Job:enter_stage(stage)
  end_stage(self)
  begin_stage(self, stage)
  self:note(stage)
  wake_all(self)
  self.on_change(self)
end

---Adds a line to its log.
---@param text string
function Job:note(text)
  table.insert(self.log, { at = os.time(), text = text })
  if #self.log > MAX_LOG then table.remove(self.log, 1) end
end

function Job:cancel()
  if self.status ~= "running" then return false end
  self.canceled = true
  if self.task then
    local detail = ("Job %s was cancelled"):format(self.id)
    loop.cancel(self.task, errors.new { status = 409, code = "ECANCELED", detail = detail })
  end
  return true
end

---Waits for news: until its version is another than the one given, or it is over.
---@param version integer
function Job:wait_for_news(version)
  while self.version == version and self.status == "running" do
    self.waiting[coroutine.running()] = true
    loop.park()
  end
end

function Job:wait()
  while self.status == "running" do self:wait_for_news(self.version) end
  if self.status ~= "completed" then error(self.refusal, 0) end
  return self.result
end

local function time_text(seconds) return os.date("!%Y-%m-%dT%H:%M:%SZ", seconds) end

local function log_of(self)
  local lines = json.array {}
  for i, line in ipairs(self.log) do
    lines[i] = json.ordered { { "at", time_text(line.at) }, { "text", json.text(line.text) } }
  end
  return lines
end

---As JSON has it.
function Job:describe()
  local refusal = self.refusal
  local per_second, seconds_left = speed_of(self)
  local entries = {
    { "id", self.id }, { "kind", self.kind }, { "title", json.text(self.title) }, { "status", self.status },
    { "progress", json.ordered {
      { "done", self.progress.done }, { "total", self.progress.total }, { "unit", self.progress.unit },
      { "stage", self.stage }, { "per_second", per_second }, { "seconds_left", seconds_left },
    } },
    { "log", log_of(self) }, { "created_at", time_text(self.created_at) },
  }
  if self.finished_at then entries[#entries + 1] = { "finished_at", time_text(self.finished_at) } end
  if self.result then entries[#entries + 1] = { "result", self.result } end
  if refusal then
    entries[#entries + 1] = { "error", json.ordered {
      { "detail", refusal:text() }, { "code", refusal.code }, { "field", refusal.field or json.null },
    } }
  end
  return json.ordered(entries)
end

return M
