-- SPDX-License-Identifier: MIT
---Loading and freeing SAEs.
local json = require "moonscope.json"
local actions = require "moonscope.server.actions"
local saes = require "moonscope.server.saes"
local words = require "moonscope.server.words"

local function load_sae(request)
  local args, bench = request.args, request.workbench
  saes.check_activations(request)
  bench:enter()
  local path = request.paths:file(args.sae_path, "sae_path")
  bench:leave(coroutine.running()) -- the job uses the model, not this request, which only waits
  local job = request.jobs:start("load-sae", args.sae_path, function()
    return saes.loaded(bench:load_sae(path, {
      layer = args.layer_idx, dtype = args.dtype, force = args.force, format = args.format,
      activation = args.activation, input_scale = args.input_scale, words = words.of(path, args.sae_path),
    }))
  end)
  return actions.answer(job, args.wait)
end

local function sae_status(request)
  local list = request.workbench:list_saes()
  if #list == 0 then return 200, { status = "idle" } end
  local features, layers = 0, json.array {}
  for i, entry in ipairs(list) do
    features = features + entry.sae.d_sae
    layers[i] = json.ordered {
      { "layer_idx", entry.layer }, { "layer_name", ("model.layers.%d"):format(entry.layer) },
      { "features", entry.sae.d_sae }, { "device", entry.sae:device() }, { "dtype", entry.sae:dtype() },
    }
  end
  return 200, json.ordered {
    { "status", "ready" }, { "layerCount", #list }, { "featureCount", features },
    { "device", list[1].sae:device() }, { "dtype", list[1].sae:dtype() }, { "layers", layers },
  }
end

local function unload_sae(request)
  request.workbench:unload_sae(request.args.layer_idx)
  return 200, json.ordered { { "success", true }, { "layer_idx", request.args.layer_idx } }
end

return {
  { "POST", "/load-sae", load_sae, fields = {
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER },
    { "sae_path", "text", required = true, max_length = 4096 },
    { "activations_path", "text", null = true, max_length = 4096 },
    { "dtype", "text", null = true, choices = { "f32", "f16", "bf16", "file" } },
    { "format", "text", null = true, max_length = 64 },
    { "activation", "text", null = true, max_length = 64 },
    { "input_scale", "number", null = true, min = 1e-30, max = 1e30 },
    { "force", "boolean", default = false },
    { "wait", "boolean", default = true },
  } },
  { "GET", "/sae/status", sae_status, at_once = true },
  { "DELETE", "/sae/{layer_idx}", unload_sae, fields = {
    { "layer_idx", "integer", required = true, min = 0, max = saes.MAX_LAYER },
  } },
}
