-- SPDX-License-Identifier: MIT
---Files in and out: an SAE, the patches, what was measured of features; and descriptions from a file.
local uv = require "luv"
local core = require "moonscope.core"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local actions = require "moonscope.server.actions"
local errors = require "moonscope.server.errors"
local exports = require "moonscope.server.exports"
local patches = require "moonscope.server.patches"
local reply = require "moonscope.server.reply"
local saes = require "moonscope.server.saes"

local MAX_FEATURES = 256 -- of one export: their vectors are long
local MAX_IMPORT = 32 << 20 -- bytes

local function timestamp() return os.date "!%Y-%m-%dT%H:%M:%SZ" end

local function shown(request, path) return json.text(request.paths:shown(path)) end

-- An SAE

---As it was loaded: from its file, so that nothing is rounded twice.
local function convert_loaded(job, entry, folder, field)
  local options = { layer = entry.layer, format = entry.sae.format ~= "goodfire" and entry.sae.format or nil }
  return exports.convert(job, entry.path, folder, options, field)
end

local function export_sae(request)
  local args = request.args
  local entry = saes.entry(request.workbench, args.layer_idx)
  local folder = request.paths:output_folder(args.output_path, "output_path")
  local job = request.jobs:start("export-sae", ("layer %d"):format(entry.layer), function(job)
    local result = convert_loaded(job, entry, folder, "output_path")
    return json.ordered {
      { "success", true }, { "sae_file", shown(request, result.safetensors) },
      { "metadata_file", shown(request, result.metadata) },
    }
  end)
  return actions.answer(job, args.wait)
end

---A folder that is empty when it goes.
local function temporary_folder(root)
  local path, message = uv.fs_mkdtemp(root .. "/.export-XXXXXX")
  if not path then errors.refuse(500, "EIO", json.text(message)) end
  return path, setmetatable({}, { __close = function() uv.fs_rmdir(path) end })
end

local BINARY = "application/octet-stream"

local function download_sae(request)
  local entry = saes.entry(request.workbench, request.args.layer_idx)
  local name = ("sae_layer_%d.safetensors"):format(entry.layer)
  if entry.sae.format == "goodfire" and entry.path:find "%.safetensors$" then
    return 200, reply.file(entry.path, BINARY, name)
  end
  local folder, remove = temporary_folder(request.paths.roots[1])
  local guard <close> = remove
  local made = convert_loaded(nil, entry, folder, "layer_idx")
  local fd, message, code = core.open_file(made.safetensors)
  core.remove_file(made.safetensors)
  core.remove_file(made.metadata)
  if not fd then errors.refuse_failure(message, code) end
  return 200, reply.descriptor(fd, BINARY, name)
end

-- JSON

---Writes the parts where the request says, or gives them back.
local function deliver(request, parts, path, name, answer)
  if not path then return 200, reply.bytes(table.concat(parts), "application/json", name) end
  exports.write_json(request.paths:output(path, "output_path"), parts, "output_path")
  return 200, answer
end

local function check_model(request)
  request.workbench:check_free()
  if not request.workbench.model then
    errors.refuse(400, "ENOMODEL", "No model loaded: POST /load-model first")
  end
end

local function export_patches(request)
  local args, list = request.args, json.array {}
  check_model(request)
  if args.patch_ids then
    for i, id in ipairs(args.patch_ids) do list[i] = patches.describe(request.app.patches:get(id)) end
  else
    for i, patch in ipairs(request.app.patches:list()) do list[i] = patches.describe(patch) end
  end
  local text = json.encode(json.ordered {
    { "patches", list },
    { "metadata", json.ordered {
      { "model_name", request.workbench.model_name }, { "export_timestamp", timestamp() }, { "total_patches", #list },
      { "export_version", "1.0" }, { "created_by", exports.CREATED_BY },
    } },
  }, { indent = 2 })
  return deliver(request, { text, "\n" }, args.output_path, "patches.json",
    json.ordered { { "success", true }, { "output_path", args.output_path }, { "patches_exported", #list } })
end

---The features that fired, strongest first, of one SAE or of all.
local function strongest(bench, layer)
  local list = {}
  for _, entry in ipairs(layer and { saes.entry(bench, layer) } or bench:list_saes()) do
    for index, record in pairs(entry.activity.records) do list[#list + 1] = { entry, index, record.max } end
  end
  table.sort(list, function(a, b)
    if a[3] ~= b[3] then return a[3] > b[3] end
    if a[1].layer ~= b[1].layer then return a[1].layer < b[1].layer end
    return a[2] < b[2]
  end)
  for i = #list, MAX_FEATURES + 1, -1 do list[i] = nil end
  return list
end

local function chosen(request)
  local args, bench = request.args, request.workbench
  if not args.feature_ids then return strongest(bench, args.layer_idx) end
  local list, seen = {}, {}
  for _, id in ipairs(args.feature_ids) do
    local entry, index = saes.feature(bench, id)
    local wanted = not seen[id] and (not args.layer_idx or entry.layer == args.layer_idx)
    if wanted then list[#list + 1] = { entry, index } end
    seen[id] = true
  end
  return list
end

local function loaded_saes(bench)
  local list = json.array {}
  for i, entry in ipairs(bench:list_saes()) do list[i] = entry.layer end
  return list
end

---Feature by feature: others get their turn between two.
local function feature_parts(request, list)
  local bench = request.workbench
  local use, parts = bench:enter(), { '{"features":{' }
  for _, feature in ipairs(list) do use:sae(feature[1].layer) end
  for i, feature in ipairs(list) do
    local entry, index = feature[1], feature[2]
    local body = saes.describe(bench, entry, index)
    body[#body + 1] = { "vector", saes.vector(entry.sae:direction(index)) }
    parts[#parts + 1] = ('%s\n"%s":'):format(i > 1 and "," or "", saes.feature_id(entry.layer, index))
    parts[#parts + 1] = json.encode(json.ordered(body))
    loop.sleep(0)
  end
  parts[#parts + 1] = '},\n"metadata":' .. json.encode(json.ordered {
    { "model_name", use.model_name }, { "export_timestamp", timestamp() }, { "total_features", #list },
    { "layer_filter", request.args.layer_idx }, { "sae_models_loaded", loaded_saes(bench) },
    { "activation_data_paths", json.array {} }, { "export_version", "1.0" },
    { "provenance_analyzer_available", false }, { "created_by", exports.CREATED_BY },
  }) .. "}\n"
  return parts
end

local function export_features(request)
  local args = request.args
  check_model(request)
  local path = args.output_path or not args.feature_ids and "features_export.json" or nil
  if path then request.paths:output(path, "output_path") end
  local list = chosen(request)
  return deliver(request, feature_parts(request, list), path, "features.json", json.ordered {
    { "success", true }, { "output_file", path }, { "features_exported", #list },
  })
end

-- Descriptions

local function refuse_file(path, format, ...)
  errors.refuse(400, "EFORMAT", ("input_path: %s: " .. format):format(json.text(path), ...), "input_path")
end

local function number_or_nil(x) return math.type(x) and x - x == 0 and x or nil end

---What a file says about a feature: its description, and what was measured elsewhere, told apart from what
---was measured here.
local function label_of(path, id, feature)
  if type(feature) ~= "table" then refuse_file(path, "%s: expected an object", id) end
  local description = feature.description
  if description == json.null then description = nil end
  if description ~= nil and (type(description) ~= "string" or #description > 10000) then
    refuse_file(path, "%s: description: expected a text of at most 10000 bytes", id)
  end
  return {
    description = description,
    shown = json.ordered {
      { "activation_strength", number_or_nil(feature.activation_strength) },
      { "sparsity", number_or_nil(feature.sparsity) }, { "frequency", number_or_nil(feature.frequency) },
    },
  }
end

---{ entry, index, label } for those of loaded SAEs; everything is checked before anything changes.
local function labels_of(request, path, features)
  local bench, labels = request.workbench, {}
  for id, feature in pairs(features) do
    local layer, index = saes.parse_id(tostring(id))
    if not layer then refuse_file(path, "%s: expected layer_N_feature_M", json.text(tostring(id))) end
    local label, entry = label_of(path, id, feature), bench.saes[layer]
    local wanted = not request.args.layer_idx or layer == request.args.layer_idx
    if wanted and entry and index < entry.sae.d_sae then labels[#labels + 1] = { entry, index, label } end
  end
  return labels
end

local function import_features(request)
  local args = request.args
  request.workbench:check_free()
  local path = request.paths:file(args.input_path, "input_path")
  saes.entry(request.workbench, args.layer_idx or next(request.workbench.saes))
  local value, message, code = json.read(path, MAX_IMPORT)
  if value == nil then errors.refuse_failure(message, code, "input_path") end
  local features = type(value) == "table" and value.features
  if type(features) ~= "table" then refuse_file(args.input_path, 'expected {"features": {...}}') end
  local labels, total = labels_of(request, args.input_path, features), 0
  for _ in pairs(features) do total = total + 1 end
  for _, label in ipairs(labels) do label[1].labels[label[2]] = label[3] end
  request.app.caches.feature:clear() -- a search finds descriptions
  return 200, json.ordered {
    { "success", true }, { "imported_count", #labels }, { "skipped_count", total - #labels },
    { "input_path", args.input_path },
  }
end

local LAYER = { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER }
local OUTPUT = { "output_path", "text", null = true, max_length = 4096 }

local function ids(name, max_items)
  return { name, "list", null = true, max_items = max_items, item = { "text", max_length = 64 } }
end

return {
  { "POST", "/export-sae", export_sae, fields = {
    LAYER, { "output_path", "text", required = true, max_length = 4096 }, { "wait", "boolean", default = true },
  } },
  { "GET", "/export-sae", download_sae, fields = { LAYER } },
  { "POST", "/export-patches", export_patches, fields = { OUTPUT, ids("patch_ids", 1000) } },
  { "POST", "/export-features", export_features, fields = { LAYER, OUTPUT, ids("feature_ids", MAX_FEATURES) } },
  { "POST", "/import-features", import_features, fields = {
    LAYER, { "input_path", "text", required = true, max_length = 4096 },
  } },
}
