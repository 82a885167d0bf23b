-- SPDX-License-Identifier: MIT
---Routes over a workbench, without a socket: a request in, status and body out. The server calls it, and
---so do tests: `app:call("POST", "/load-model", { model_name = "tiny" })`.
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local cache = require "moonscope.server.cache"
local errors = require "moonscope.server.errors"
local jobs = require "moonscope.server.jobs"
local log = require "moonscope.server.log"
local patches = require "moonscope.server.patches"
local paths = require "moonscope.server.paths"
local reply = require "moonscope.server.reply"
local request = require "moonscope.server.request"
local router = require "moonscope.server.router"
local workbench = require "moonscope.server.workbench"

local M = {}
M.__index = M

---The families of routes, lua/moonscope/server/routes/NAME.lua; what a family adds overrides those before.
M.FAMILIES = {
  "status", "model", "sae", "goodfire", "features", "patches", "inference", "files", "caches", "absent", "jobs",
  "openai", "websocket", "inspect", "directions", "next", "doctor", "plan", "catalog", "system", "page",
}

local FEATURE_LISTS, INFERENCES = 8, 64 -- that are kept

---@param options table  see server/init.lua
---@return table? app
---@return string? message
---@return string? code
function M.new(options)
  local data, message, code = paths.new(options.data or { "." })
  if not data then return nil, message, code end
  local lists = {}
  for i, name in ipairs(M.FAMILIES) do lists[i] = require("moonscope.server.routes." .. name) end
  lists[#lists + 1] = options.routes
  local self = setmetatable({
    router = router.new(lists), paths = data, options = options, on_lost = function() end,
    listeners = {}, era = 0,
  }, M)
  self.jobs = jobs.new(function(...) return self:refusal_of(...) end, function(job)
    self:publish("job_update", { id = job.id, kind = job.kind, status = job.status, stage = job.stage })
  end)
  self.workbench = workbench.new(options, function(bench)
    self:on_status(bench)
  end)
  self.patches = patches.new(self)
  self.caches = { feature = cache.new(FEATURE_LISTS), inference = cache.new(INFERENCES) }
  return self
end

---The model, its status or the SAEs are others than before: `era` is another, too.
function M:on_status(bench)
  self.era = self.era + 1
  for _, kept in pairs(self.caches) do kept:clear() end
  self.patches:sweep()
  self:publish("model_status", { status = bench.status, modelName = bench.model_name, error = bench.error })
end

---Tells every WebSocket that listens (routes/websocket.lua): {"type": kind, "data": data, ...more}.
---@param kind string
---@param data table
---@param more table?  fields beside type and data
function M:publish(kind, data, more)
  local message = { type = kind, data = data }
  for key, value in pairs(more or {}) do message[key] = value end
  for listener in pairs(self.listeners) do listener(message) end
end

---Finds a request's route and checks its fields. Throws a refusal.
---@param new moonscope.Request
function M:read(new)
  local route, parameters = self.router:find(new.method, new.path)
  new.route = route
  request.read(new, parameters)
end

---The whole goes to the log only.
function M:hide_paths(new, refusal)
  local detail = refusal.detail
  local shown = type(detail) == "string" and self.paths:shown(detail) or detail
  if shown == detail then return end
  log.write("info", { { "id", new.id }, { "error", detail } })
  refusal.detail = shown
end

---The refusal for whatever a handler or a job threw; what it did not mean to throw is logged. A device that
---is lost is told to `on_lost(refusal)`, which the server sets.
---@param new moonscope.Request|moonscope.ServerJob
---@param message any
---@param where thread|string  the task that failed, or a traceback
---@return moonscope.Refusal
function M:refusal_of(new, message, where)
  local refusal = errors.of_thrown(message)
  if refusal then
    if refusal.code == "ELOST" then self.on_lost(refusal) end
    self:hide_paths(new, refusal)
    return refusal
  end
  log.write("error", {
    { "id", new.id }, { "route", new.route and new.route.name or nil }, { "error", tostring(message) },
    { "traceback", errors.traceback(where) },
  })
  return errors.internal(new.id)
end

-- For tests

local n_calls = 0

local function raw_of(query, body, headers)
  if type(body) == "table" then body = json.encode(body) end
  local lower = { ["content-type"] = body and "application/json" or nil }
  for name, value in pairs(headers or {}) do lower[name:lower()] = value or nil end
  local list = {}
  for name, value in (query or ""):gmatch "([^&=]+)=?([^&]*)" do
    list[#list + 1], list[#list + 2] = name, value
  end
  n_calls = n_calls + 1
  local id = "call-" .. n_calls
  return {
    id = function() return id end,
    header = function(_, name) return lower[name:lower()] end,
    query = function() return list end,
    body = function() return body or "" end,
  }
end

---Answers one request in the current task; the loop must run where the handler starts a job.
---@param method string
---@param target string  path?query
---@param body table|string|nil  a table is sent as JSON
---@param headers table<string, string>?
---@return integer status
---@return table body  or a reply
---@return string[]? headers
function M:call(method, target, body, headers)
  local path, query = target:match "^([^?]*)%??(.*)$"
  local new = request.new(self, raw_of(query, body, headers), method, path)
  local traceback
  local result = table.pack(xpcall(function()
    self:read(new)
    return new.route[3](new)
  end, function(message)
    traceback = not errors.is_refusal(message) and debug.traceback(tostring(message), 2)
    return message
  end))
  if new.workbench.answers[coroutine.running()] then new.workbench:leave(coroutine.running()) end
  if result[1] and reply.is_reply(result[3]) and result[3].kind == "constant" then result[3] = result[3].body end
  if result[1] then return table.unpack(result, 2, result.n) end
  return errors.answer(self:refusal_of(new, result[2], traceback), new.route and new.route.openai)
end

---Ends every job and waits for them, then frees everything.
function M:close()
  for _, job in ipairs(self.jobs.list) do
    job:cancel()
    pcall(job.wait, job)
  end
  self.workbench:close()
  self.paths.close()
end

---loop's own, for who has only the app
M.spawn = loop.attempt

return M
