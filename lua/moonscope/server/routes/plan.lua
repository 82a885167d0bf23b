-- SPDX-License-Identifier: MIT
---POST /plan: what a model, and an SAE beside it, will take of a device's memory, and what is free there. Nothing
---is loaded or downloaded.
local json = require "moonscope.json"
local memory = require "moonscope.memory"
local places = require "moonscope.places"
local resolve = require "moonscope.hub.resolve"
local errors = require "moonscope.server.errors"
local published = require "moonscope.server.published"
local saes = require "moonscope.server.saes"
local words = require "moonscope.server.words"

local SIZES = { f32 = 4, f16 = 2, bf16 = 2 }

local function told_by(path, name, field)
  local of = words.of(path, name)
  return function(value, message, code)
    if not value then errors.refuse_failure(of(message), code, field) end
    return value
  end
end

---Where a model lies: its folder (nil where it must be fetched first), and "folder", "cache" or "hub".
local function find_model(request, name)
  local path = request.paths:model(name)
  if path then return path, "folder" end
  local found, message, code = resolve.local_model(name)
  if found then return found, "cache" end
  if code ~= "ENOENT" then errors.refuse_failure(message, code, "model_name") end
  return nil, "hub"
end

---How a model would be loaded, or was where none is named.
local function wanted_of(request)
  local args, bench = request.args, request.workbench
  local model = bench.model
  if args.model_name then
    local folder, source = find_model(request, args.model_name)
    return { name = args.model_name, folder = folder, source = source, options = bench:model_options(args) }
  elseif not model then
    errors.refuse(400, "ENOMODEL", "model_name: no model is loaded; name one", "model_name")
  end
  return { name = bench.model_name, folder = model.path, source = "loaded", options = {
    device = args.device or model:device(), precision = args.precision or model:precision(),
    context = args.context or model:context(),
  } }
end

local function plan_model(request)
  local wanted = wanted_of(request)
  local name, options = wanted.name, wanted.options
  local plan = { model_name = name, source = wanted.source }
  if not wanted.folder then return plan end
  local made = told_by(wanted.folder, name, "model_name")(memory.of_model(wanted.folder, options))
  for key, value in pairs(made) do plan[key] = value end
  plan.folder, plan.precision = wanted.folder, options.precision or "fast"
  return plan
end

local function of_file(args, path, name, plan, field)
  local open = {
    format = args.format, activation = args.activation, input_scale = args.input_scale, layer = args.layer_idx,
  }
  return told_by(path, name, field)(memory.of_sae_file(path, open, plan.device, plan.dtype, args.dtype))
end

---One of SAE_CONFIGS: from its file where that is here, else from what the list says of it.
local function plan_published(request, plan)
  local args = request.args
  local config, name = published.find(args.sae_name)
  published.check_width(plan.d_model, config, name)
  local path = published.local_file(request, config, plan.folder) or published.converted(request, config, name)
  if path then
    local sae = of_file(args, path, request.paths:shown(path), plan, "sae_name")
    sae.path = request.paths:shown(path)
    return sae, "folder"
  end
  local dtype = args.dtype ~= "file" and args.dtype or plan.dtype
  local d_sae = config.d_model * config.expansion_factor
  local bytes = 2 * config.d_model * d_sae * SIZES[dtype]
  return {
    path = name, d_model = config.d_model, d_sae = d_sae, layer = places.layer_of(config.layer), dtype = dtype,
    weights_bytes = bytes, allocated_bytes = bytes,
  }, "hub"
end

local function check_fit(sae, plan, field)
  if sae.d_model == plan.d_model then return end
  errors.refuse(400, "ESHAPE", ("%s: the SAE's d_model is %d, the model's %d: it was trained on another model")
    :format(field, sae.d_model, plan.d_model), field)
end

local function plan_sae(request, plan)
  local args = request.args
  if args.sae_path and args.sae_name then
    errors.refuse(400, "EINVAL", "expected sae_path or sae_name, not both", "sae_name")
  elseif args.sae_name then
    return plan_published(request, plan)
  elseif args.sae_path then
    local sae = of_file(args, request.paths:file(args.sae_path, "sae_path"), args.sae_path, plan, "sae_path")
    check_fit(sae, plan, "sae_path")
    sae.path = args.sae_path
    return sae, "folder"
  end
end

local function or_null(value) return value == nil and json.null or value end

local function object(plan, names)
  local fields = {}
  for i, name in ipairs(names) do
    local value = plan[name]
    fields[i] = { name, type(value) == "string" and json.text(value) or or_null(value) }
  end
  return json.ordered(fields)
end

local MODEL = {
  "model_name", "source", "device", "dtype", "precision", "context", "n_ctx", "n_layers", "d_model", "n_vocab",
  "parameters", "weights_bytes", "mapped_bytes", "context_bytes", "allocated_bytes",
}
local SAE = {
  "path", "source", "format", "activation", "d_sae", "d_model", "layer", "file_dtype", "dtype", "weights_bytes",
  "allocated_bytes",
}

---What to do where something does not fit; nil where all does.
local function remedy_of(plan, sae, allocated, needed)
  local free = plan.free_bytes
  if allocated - plan.context_bytes <= free and allocated > free then
    return "make the context smaller, or free some memory"
  elseif allocated > free then
    return sae and sae.dtype == "f32" and "load the SAE in bf16, or free some memory" or "free some memory"
  elseif needed > free then
    return "it runs, but weights are read from the disk again and again: free some memory"
  end
end

local function plan_both(request)
  local plan = plan_model(request)
  if plan.source == "hub" then
    return 200, json.ordered { { "model", object(plan, MODEL) }, { "sae", json.null }, { "fits", json.null } }
  end
  local sae, source = plan_sae(request, plan)
  if sae then sae.source = source end
  local there = plan.source == "loaded" -- its weights are counted among what is taken
  local allocated = there and plan.context_bytes or plan.allocated_bytes
  local needed = there and plan.context_bytes or plan.weights_bytes + plan.context_bytes
  if sae then allocated, needed = allocated + sae.allocated_bytes, needed + sae.weights_bytes end
  return 200, json.ordered {
    { "model", object(plan, MODEL) }, { "sae", sae and object(sae, SAE) or json.null }, { "needed_bytes", needed },
    { "allocated_bytes", allocated }, { "free_bytes", plan.free_bytes }, { "total_bytes", plan.total_bytes },
    { "fits", allocated <= plan.free_bytes }, { "remedy", or_null(remedy_of(plan, sae, allocated, needed)) },
  }
end

return {
  { "POST", "/plan", plan_both, fields = {
    { "model_name", "text", null = true, max_length = 4096 },
    { "device", "text", null = true, max_length = 64 },
    { "precision", "text", null = true, choices = { "fast", "exact" } },
    { "context", "integer", null = true, min = 1, max = (1 << 31) - 1 },
    { "sae_path", "text", null = true, max_length = 4096 },
    { "sae_name", "text", null = true, max_length = 1000 },
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER },
    { "dtype", "text", null = true, choices = { "f32", "f16", "bf16", "file" } },
    { "format", "text", null = true, max_length = 64 },
    { "activation", "text", null = true, max_length = 64 },
    { "input_scale", "number", null = true, min = 1e-30, max = 1e30 },
  } },
}
