-- SPDX-License-Identifier: MIT
---POST /load-goodfire-sae: an autoencoder of SAE_CONFIGS by its name, downloaded, converted and loaded as one job.
local hub = require "moonscope.hub"
local json = require "moonscope.json"
local places = require "moonscope.places"
local actions = require "moonscope.server.actions"
local errors = require "moonscope.server.errors"
local exports = require "moonscope.server.exports"
local published = require "moonscope.server.published"
local saes = require "moonscope.server.saes"

local function download(job, config, name)
  if not config.repo_id then
    errors.refuse(404, "ENOENT", ("sae_name: %s: its file %s is neither in a data folder nor beside the model")
      :format(name, config.filename), "sae_name")
  end
  job:enter_stage "downloading"
  local paths, message, code = hub.download(config.repo_id, {
    files = { config.filename }, on_progress = function(done, total) job:report(done, total, "bytes") end,
  })
  if not paths then errors.refuse_failure(message, code, "sae_name") end
  return paths[1]
end

---The converted file, made where it is missing, and what was odd.
local function prepare(request, job, config, name)
  local layer = places.layer_of(config.layer)
  local source = published.local_file(request, config, request.workbench.model.path)
  local folder = published.make_folder(request, name)
  local done = not source and published.converted(request, config, name)
  if done then return done end
  source = source or download(job, config, name)
  job:enter_stage "converting"
  local result = exports.convert(job, source, folder, { layer = layer, format = config.format }, "sae_name")
  return result.safetensors, result.warning
end

local function prepare_and_load(request, job, config, name)
  local bench = request.workbench
  local model = bench.model
  local path, warning = prepare(request, job, config, name)
  if bench.model ~= model then
    errors.refuse(409, "EMODEL", ("The model went while %s was prepared; load it again"):format(name), "sae_name")
  end
  job:enter_stage "loading"
  local more = { { "sae_name", name }, { "path", json.text(request.paths:shown(path)) } }
  if warning then more[3] = { "warning", json.text(warning) } end
  return saes.loaded(bench:load_sae(path, { dtype = request.args.dtype }), more)
end

---Joins the load of the same name that runs.
local function running_load(jobs, name)
  for _, job in ipairs(jobs.list) do
    if job.kind == "load-goodfire-sae" and job.title == name and job.status == "running" then return job end
  end
end

local function load_goodfire_sae(request)
  local bench = request.workbench
  saes.check_activations(request)
  local config, name = published.find(request.args.sae_name)
  published.check_width(bench:enter().model.config.d_model, config, name)
  bench:leave(coroutine.running()) -- the job uses the model, not this request, which only waits
  local job = running_load(request.jobs, name) or request.jobs:start("load-goodfire-sae", name, function(job)
    return prepare_and_load(request, job, config, name)
  end)
  return actions.answer(job, request.args.wait)
end

return {
  { "POST", "/load-goodfire-sae", load_goodfire_sae, fields = {
    { "sae_name", "text", required = true, max_length = 1000 },
    { "activations_path", "text", null = true, max_length = 4096 },
    { "dtype", "text", null = true, choices = { "f32", "f16", "bf16", "file" } },
    { "wait", "boolean", default = true },
  } },
}
