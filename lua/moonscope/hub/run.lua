-- SPDX-License-Identifier: MIT
---What one download works with: settings, cache, client, and who is told how far it has come.
local job = require "moonscope.job"
local loop = require "moonscope.loop"
local cache = require "moonscope.hub.cache"
local http = require "moonscope.hub.http"
local settings = require "moonscope.hub.settings"

local M = {}

---Sums up what the files tell for one callback.
local function teller(report)
  local files = {}
  return function(file, done, size)
    if not report then return end
    files[file] = { done, size }
    local all, total = 0, 0
    for _, amounts in pairs(files) do
      all, total = all + amounts[1], total + amounts[2]
    end
    report(all, total, "bytes")
  end
end

local function new_run(opts, watcher)
  local its_settings, client, message, code
  its_settings, message, code = settings.read()
  if not its_settings then return nil, message, code end
  its_settings.offline = opts.offline or its_settings.offline
  client, message, code = http.client(its_settings, opts.retry_delay)
  if not client then return nil, message, code end
  return {
    settings = its_settings, client = client, cache = cache.open(its_settings),
    tell = teller(opts.on_progress or watcher),
  }
end

---fn(run, ...) in a task; its nil and failure become nil, message, code.
---@param opts {on_progress: fun(done: integer, total: integer)?, retry_delay: number?, offline: string?}  offline: who
---  forbids to ask the network
---@param fn function
---@return any?
---@return string? message
---@return string? code
function M.with(opts, fn, ...)
  local run, message, code = new_run(opts, job.watcher())
  if not run then return nil, message, code end
  local result, what = loop.within(fn, run, ...)
  if result == nil then return nil, what.message, what.code end
  return result
end

return M
