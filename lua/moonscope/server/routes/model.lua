-- SPDX-License-Identifier: MIT
---Loading and unloading the model.
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"
local actions = require "moonscope.server.actions"

local function described(name, message)
  local entries = { { "status", "ready" }, { "model_name", name }, { "modelName", name }, { "success", true } }
  if message then entries[#entries + 1] = { "message", message } end
  return json.ordered(entries)
end

---Joins the load of the same name that runs; another name has to wait for its end.
local function running_load(bench, name)
  local job = bench.loading
  if not job or job.status ~= "running" then return nil end
  if bench.loading_name == name then return job end
  errors.refuse(409, "ELOADING", ("The model %s is being loaded"):format(bench.loading_name), "model_name")
end

local function load_model(request)
  local bench, name = request.workbench, request.args.model_name
  if name == "" then errors.refuse(400, "EINVAL", "model_name must not be empty", "model_name") end
  local job = running_load(bench, name)
  if not job then
    if bench.model and bench.model_name == name then return 200, described(name, "Model already loaded") end
    local path = request.paths:folder(name, "model_name")
    job = request.jobs:start("load-model", name, function()
      bench:load_model(name, path)
      return described(name)
    end)
    bench.loading, bench.loading_name = job, name
  end
  return actions.answer(job, request.args.wait)
end

local function unload_model(request)
  local unloaded = request.workbench:unload_model()
  return 200, json.ordered { { "success", true }, { "status", "idle" }, { "unloaded", unloaded } }
end

return {
  { "POST", "/load-model", load_model, fields = {
    { "model_name", "text", required = true, max_length = 4096 },
    { "wait", "boolean", default = true },
  } },
  { "POST", "/unload-model", unload_model },
}
