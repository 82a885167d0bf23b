-- SPDX-License-Identifier: MIT
---Loading and unloading the model.
local json = require "moonscope.json"
local resolve = require "moonscope.hub.resolve"
local errors = require "moonscope.server.errors"
local actions = require "moonscope.server.actions"
local paths = require "moonscope.server.paths"

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

---The folder of that name below the data folders; nil where there is none but the name may be the Hub's.
local function local_folder(request, name)
  local ok, found = pcall(request.paths.folder, request.paths, name, "model_name")
  if ok then return found end
  if not resolve.is_hub_name(name) or not errors.is_refusal(found) or found.status ~= 404 then error(found, 0) end
end

---Of the Hub: from its cache, else fetched, which the job that runs shows.
local function hub_folder(name)
  local folder, message, code = resolve.hub_model(name)
  if not folder then errors.refuse_failure(message, code, "model_name") end
  return folder
end

local function load_model(request)
  local bench, name = request.workbench, request.args.model_name
  if name == "" then errors.refuse(400, "EINVAL", "model_name must not be empty", "model_name") end
  local job = running_load(bench, name)
  if not job then
    if bench.model and bench.model_name == name then return 200, described(name, "Model already loaded") end
    local path = local_folder(request, name)
    job = request.jobs:start("load-model", name, function()
      local folder = path or hub_folder(name)
      bench:load_model(name, folder, paths.renamed(folder, name))
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
