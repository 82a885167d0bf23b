-- SPDX-License-Identifier: MIT
---Is the server there, and what does it hold?
local uv = require "luv"
local json = require "moonscope.json"
local reply = require "moonscope.server.reply"

local function healthy(model_loaded)
  return reply.constant(json.ordered { { "status", "healthy" }, { "model_loaded", model_loaded } })
end

local with_model, without_model = healthy(true), healthy(false)

local function health(request) return 200, request.workbench.model and with_model or without_model end

local function ping()
  local seconds, microseconds = uv.gettimeofday()
  return 200, json.ordered { { "status", "ok" }, { "timestamp", seconds + microseconds / 1e6 } }
end

local function model_status(request)
  local bench = request.workbench
  local entries = { { "status", bench.status } }
  local function add(name, value)
    if value ~= nil then entries[#entries + 1] = { name, value } end
  end
  add("modelName", bench.model_name)
  add("model_name", bench.model_name)
  add("error", bench.error and json.text(bench.error))
  local model = bench.model
  if model then
    add("device", model:device())
    add("dtype", model:dtype())
    add("precision", model:precision())
    add("context", model:context())
    add("d_model", model.config.d_model)
    add("n_layers", model.config.n_layers)
  end
  add("memoryUsage", { rss_bytes = uv.resident_set_memory() })
  return 200, json.ordered(entries)
end

return {
  { "GET", "/health", health, at_once = true },
  { "GET", "/ping", ping, at_once = true },
  { "GET", "/model/status", model_status, at_once = true },
}
