-- SPDX-License-Identifier: MIT
---Loading a sparse autoencoder, and what it can do.
local core = require "moonscope.core"
local job = require "moonscope.job"
local checkpoint = require "moonscope.checkpoint"
local json = require "moonscope.json"
local options = require "moonscope.options"
local sae_format = require "moonscope.sae_format"
local sae_configs = require "moonscope.sae_configs"

local M = {}

local Sae, Features = core.types.Sae, core.types.Features

local OPTIONS = options.names("model", "layer", "device", "dtype")

---The metadata beside a converted file: {} when there are none.
local function metadata_of(path)
  local meta_path = path:gsub("%.safetensors$", "_metadata.json")
  if meta_path == path then return {} end
  local metadata, message, code = json.read(meta_path)
  if code == "ENOENT" then return {} end
  if message then return nil, message, code end
  if type(metadata) ~= "table" then return nil, meta_path .. ": expected a JSON object", "EFORMAT" end
  local activation = metadata.activation_fn
  if activation ~= nil and activation ~= json.null and activation ~= "relu" then
    return nil, ("%s: activation_fn: found %s, expected relu"):format(meta_path, tostring(activation)), "EUNSUPPORTED"
  end
  return metadata
end

---Where the SAE reads: what was asked for, else the metadata's, else the list's; nil when nobody knows.
local function hook_of(path, layer, metadata)
  if layer ~= nil then return sae_configs.parse_layer(layer) end
  for _, hook in ipairs { metadata.hook or false, metadata.layer or false } do
    if type(hook) == "string" then return hook end
  end
  if math.type(metadata.layer_idx) == "integer" then return sae_configs.parse_layer(metadata.layer_idx) end
  local config = sae_configs.of_file(path)
  return config and config.layer
end

local function check_fit(sae, model)
  local config = model.config
  if sae.d_model ~= config.d_model then
    return nil, ("the SAE's d_model is %d, the model's %d: it was trained on another model")
      :format(sae.d_model, config.d_model), "ESHAPE"
  end
  if sae.layer and sae.layer >= config.n_layers then
    return nil, ("the SAE reads layer %d, the model's layers are 0 to %d")
      :format(sae.layer, config.n_layers - 1), "ERANGE"
  end
  return true
end

local DTYPES = options.names("f32", "f16", "bf16", "file")

local function dtype_of(opts, file_dtype)
  if opts.dtype == "file" then return file_dtype end
  return opts.dtype or opts.model and opts.model:dtype() or file_dtype
end

local function build(file, path, opts)
  local format, message, code = sae_format.recognise(file)
  if not format then return nil, message, code end
  local parts = format.parts(file)
  parts.activation = "relu"
  parts.device = opts.device or opts.model and opts.model:device() or "cpu"
  parts.dtype = dtype_of(opts, parts.w_enc:dtype())
  local sae
  sae, message, code = job.insist(core.sae, parts)
  if not sae then return nil, path .. ": " .. message, code end
  return sae
end

---The options without the model, which an SAE does not keep alive: what loads the same file once more.
local function kept(opts)
  local copy = {}
  for name, value in pairs(opts) do copy[name] = value end
  copy.model = nil
  return copy
end

---Loads an autoencoder in any known format, found by its keys. With {model = m} it follows the
---model's device and dtype; {dtype = "file"} keeps the file's.
---@param path string
---@param opts {model: userdata?, layer: integer|string|nil, device: string?, dtype: string?}?
---@return userdata? sae  with .layer, .hook (nil when unknown), .d_sae, .d_model, .activation, .subtract_b_dec, .path, .options
---@return string? message
---@return string? code
function M.load_sae(path, opts)
  opts = options.check("load_sae", opts, OPTIONS)
  options.check_text("load_sae", "path", path)
  if opts.model ~= nil and (type(opts.model) ~= "userdata" or not opts.model.config) then
    error("load_sae: model: expected a loaded model", 2)
  end
  local metadata, message, code = metadata_of(path)
  if not metadata then return nil, message, code end
  if opts.dtype ~= nil and not DTYPES[opts.dtype] then
    return nil, ("dtype: found %s, expected f32, f16, bf16 or file"):format(tostring(opts.dtype)), "EDTYPE"
  end
  local hook
  hook, message, code = hook_of(path, opts.layer, metadata)
  if message then return nil, message, code end
  local file
  file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local guard <close> = file
  local sae
  sae, message, code = build(file, path, opts)
  if not sae then return nil, message, code end
  local fields = core.fields(sae)
  for key, value in pairs(sae:_info()) do fields[key] = value end
  fields.path, fields.hook, fields.options = path, hook, kept(opts)
  fields.layer = hook and math.tointeger(tonumber(hook:match "^model%.layers%.(%d+)"))
  fields.exact = opts.model ~= nil and opts.model:precision() == "exact"
  if opts.model then
    local fits
    fits, message, code = check_fit(sae, opts.model)
    if not fits then
      sae:close()
      return nil, path .. ": " .. message, code
    end
  end
  return sae
end

---Sparse features of x [n_tok][d_model], in the prefill arithmetic.
---@param x userdata
---@return userdata features
function Sae:encode(x) return job.demand(self._encode, self, x, self.exact) end

---What the features stand for: [n_tok][d_model].
---@param features userdata
---@return userdata
function Sae:decode(features) return job.demand(self._decode, self, features) end

---A feature's direction in the residual stream: [d_model], f32.
---@param feature integer  from 0
---@return userdata
function Sae:direction(feature) return job.demand(self._direction, self, feature) end

local function by_activation(a, b)
  if a.activation ~= b.activation then return a.activation > b.activation end
  return a.index < b.index
end

---The features that fire at a position, largest first. Throws where one is not a number: weights or stream are broken.
---@param number integer  position, from 1
---@param top integer?  at most so many; default: all
---@return {index: integer, activation: number}[]
function Features:strongest(number, top)
  local row = self:row(number)
  for _, feature in ipairs(row) do
    if feature.activation ~= feature.activation then
      error(("feature %d at position %d is not a number (NaN): the weights or the stream are broken")
        :format(feature.index, number), 0)
    end
  end
  table.sort(row, by_activation)
  if top then
    for i = #row, top + 1, -1 do row[i] = nil end
  end
  return row
end

---Dense features: [n_tok][d_sae].
---@return userdata
function Features:totensor() return job.await(self:_totensor()) end

---At how many positions each feature fires: [d_sae], f32.
---@return userdata
function Features:tally() return job.demand(self._tally, self) end

return M
