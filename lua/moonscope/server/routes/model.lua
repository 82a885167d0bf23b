-- SPDX-License-Identifier: MIT
---Loading and unloading the model.
local json = require "moonscope.json"
local resolve = require "moonscope.hub.resolve"
local errors = require "moonscope.server.errors"
local actions = require "moonscope.server.actions"
local words = require "moonscope.server.words"

local function described(name, message)
  local entries = { { "status", "ready" }, { "model_name", name }, { "modelName", name }, { "success", true } }
  if message then entries[#entries + 1] = { "message", message } end
  return json.ordered(entries)
end

local function is_same(a, b) return a.device == b.device and a.precision == b.precision and a.context == b.context end

---Joins the same load that runs; another one has to wait for its end.
local function running_load(bench, name, options)
  local job = bench.loading
  if not job or job.status ~= "running" then return nil end
  if bench.loading_name == name and is_same(bench.loading_options, options) then return job end
  errors.refuse(409, "ELOADING", ("The model %s is being loaded"):format(bench.loading_name), "model_name")
end

local function is_on(model, device)
  return not device or device == "auto" or model:device() == device or model:device() == device .. ":0"
end

---Whether the model that is there is what is asked for.
local function is_loaded(bench, name, args)
  local model = bench.model
  return model and bench.model_name == name and is_on(model, args.device)
    and (not args.precision or model:precision() == args.precision)
    and (not args.context or model:context() == args.context)
end

---Of the Hub: from its cache, else fetched, which the job that runs shows.
local function hub_folder(name)
  local folder, message, code = resolve.hub_model(name)
  if not folder then errors.refuse_failure(message, code, "model_name") end
  return folder
end

local function load_model(request)
  local bench, args = request.workbench, request.args
  local name = args.model_name
  if name == "" then errors.refuse(400, "EINVAL", "model_name must not be empty", "model_name") end
  local options = bench:model_options(args)
  local job = running_load(bench, name, options)
  if not job then
    if is_loaded(bench, name, args) then return 200, described(name, "Model already loaded") end
    local path = request.paths:model(name)
    job = request.jobs:start("load-model", name, function()
      local folder = path or hub_folder(name)
      options.words = words.of(folder, name)
      bench:load_model(name, folder, options)
      return described(name)
    end)
    bench.loading, bench.loading_name, bench.loading_options = job, name, options
  end
  return actions.answer(job, args.wait)
end

local function unload_model(request)
  local unloaded = request.workbench:unload_model()
  return 200, json.ordered { { "success", true }, { "status", "idle" }, { "unloaded", unloaded } }
end

return {
  { "POST", "/load-model", load_model, fields = {
    { "model_name", "text", required = true, max_length = 4096 },
    { "device", "text", null = true, max_length = 64 },
    { "precision", "text", null = true, choices = { "fast", "exact" } },
    { "context", "integer", null = true, min = 1, max = (1 << 31) - 1 },
    { "wait", "boolean", default = true },
  } },
  { "POST", "/unload-model", unload_model },
}
