-- SPDX-License-Identifier: MIT
---Long actions that outlive the request which started them: an id, progress, a result, and a way to
---cancel. A job runs in a task of the loop; whoever wants its end waits for it.
local job = require "moonscope.job"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local errors = require "moonscope.server.errors"

local M = {}
M.__index = M

local KEEP = 100 -- ended jobs that are remembered

---@class moonscope.ServerJob
---@field id string
---@field kind string  "load-model"
---@field title string
---@field status "running"|"completed"|"failed"|"cancelled"
---@field stage string?  what it does now: "downloading", "converting", "loading"
---@field progress {done: integer, total: integer, unit: string?}
---@field result table?  once completed
---@field refusal moonscope.Refusal?  once failed or cancelled
---@field cancel fun(self): boolean  false: it was over already
---@field wait fun(self): table  the result; throws the refusal
local Job = {}
Job.__index = Job

---@param refusal_of fun(job: moonscope.ServerJob, message: any, task: thread): moonscope.Refusal
function M.new(refusal_of) return setmetatable({ list = {}, by_id = {}, n = 0, refusal_of = refusal_of }, M) end

local function wake_all(self)
  self.version = self.version + 1
  local tasks = self.waiting
  self.waiting = {}
  for task in pairs(tasks) do loop.wake(task) end
end

local function finish(self, status)
  self.status, self.finished_at, self.task = status, os.time(), nil
  wake_all(self)
end

local function fail(self, refusal)
  self.refusal = refusal
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
    progress = { done = 0, total = 0 }, version = 0, waiting = {}
  }, Job)
  table.insert(self.list, new)
  self.by_id[new.id] = new
  forget_old(self)
  local function run()
    new.task = coroutine.running()
    new.result = job.watch(function(...) new:report(...) end, fn, new)
    finish(new, "completed")
  end
  loop.attempt(function(message, task) fail(new, self.refusal_of(new, message, task)) end, run)
  return new
end

---@param id string
---@return moonscope.ServerJob
function M:get(id)
  return self.by_id[id] or errors.refuse(404, "ENOENT", ("Job %s not found"):format(id), "id")
end

---Tells how far it is.
function Job:report(done, total, unit)
  local progress = self.progress
  if progress.done == done and progress.total == total then return end
  progress.done, progress.total, progress.unit = done, total, unit
  wake_all(self)
end

---Another part of the work begins.
---@param stage string
function Job:enter_stage(stage)
  self.stage, self.progress = stage, { done = 0, total = 0 }
  wake_all(self)
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

---As JSON has it.
function Job:describe()
  local refusal = self.refusal
  local entries = {
    { "id", self.id }, { "kind", self.kind }, { "title", json.text(self.title) }, { "status", self.status },
    { "progress", json.ordered {
      { "done", self.progress.done }, { "total", self.progress.total }, { "unit", self.progress.unit },
      { "stage", self.stage },
    } },
    { "created_at", os.date("!%Y-%m-%dT%H:%M:%SZ", self.created_at) },
  }
  if self.finished_at then
    entries[#entries + 1] = { "finished_at", os.date("!%Y-%m-%dT%H:%M:%SZ", self.finished_at) }
  end
  if self.result then entries[#entries + 1] = { "result", self.result } end
  if refusal then
    entries[#entries + 1] = { "error", json.ordered { { "detail", refusal:text() }, { "code", refusal.code } } }
  end
  return json.ordered(entries)
end

return M
