-- SPDX-License-Identifier: MIT
---Loading a sparse autoencoder, and what it can do.
local core = require "moonscope.core"
local job = require "moonscope.job"
local loader = require "moonscope.loader"
local memory = require "moonscope.memory"
local numbers = require "moonscope.numbers"
local options = require "moonscope.options"
local places = require "moonscope.places"
local tensor = require "moonscope.tensor"

---@class moonscope.sae
local M = {}

---@class moonscope.Sae
local Sae = core.types.Sae
---@class moonscope.Features
local Features = core.types.Features

local OPTIONS = options.names("model", "layer", "device", "dtype", "format", "activation", "input_scale")

local DTYPES = options.names("f32", "f16", "bf16", "file")

local function dtype_of(opts, file_dtype)
  if opts.dtype == "file" then return file_dtype end
  return opts.dtype or opts.model and opts.model:dtype() or file_dtype
end

---The core's word for an activation: BatchTopK is a threshold where it is known, else the k largest of
---each position, so that a position does not depend on the others of its batch.
local function kind_of(source)
  if source.activation ~= "batchtopk" then return source.activation end
  return (source.threshold or source.tensors.threshold) and "jumprelu" or "topk"
end

local function build(source, opts)
  local parts = {
    activation = kind_of(source), k = source.k, subtract_b_dec = source.subtract_b_dec,
    input_scale = source.input_scale, output_scale = source.output_scale, decoder_norm = source.decoder_norm,
    normalisation = source.normalisation,
  }
  for name, part in pairs(source.tensors) do parts[name] = loader.tensor(source.file, part) end
  if source.threshold then parts.threshold = tensor.tensor { source.threshold } end
  parts.w_dec = parts.w_dec or parts.w_enc
  parts.device = opts.device or opts.model and opts.model:device() or "cpu"
  parts.dtype = dtype_of(opts, parts.w_enc:dtype())
  local fits, message, code = memory.check_sae(source, parts.device, parts.dtype)
  local sae
  if fits then sae, message, code = job.insist(core.sae, parts) end
  if not sae then return nil, source.path .. ": " .. message, code end
  return sae
end

---The options without the model, which an SAE does not keep alive: with them .path loads once more.
local function kept(opts)
  local copy = {}
  for name, value in pairs(opts) do copy[name] = value end
  copy.model = nil
  return copy
end

---What is known of it in Lua.
local function describe(sae, source, opts)
  local fields = core.fields(sae)
  for key, value in pairs(sae:_info()) do fields[key] = value end
  for _, name in ipairs { "format", "activation", "input_scale", "hook", "output", "layer", "own_layer", "path" } do
    fields[name] = source[name]
  end
  fields.options = kept(opts)
  fields.unit = source.normalisation and "normalised" or "raw"
  fields.exact = opts.model ~= nil and opts.model:precision() == "exact"
end

local function check_options(opts)
  if opts.model ~= nil and (type(opts.model) ~= "userdata" or not opts.model.config) then
    error("load_sae: model: expected a loaded model", 3)
  end
  for _, name in ipairs { "format", "activation" } do
    if opts[name] ~= nil then options.check_text("load_sae", name, opts[name]) end
  end
  local scale = opts.input_scale
  if scale ~= nil and not (type(scale) == "number" and scale > 0 and numbers.is_normal_f32(scale)) then
    error(("load_sae: input_scale: found %s, expected a number above 0 in f32's range"):format(tostring(scale)), 3)
  end
end

---Loads an autoencoder in any known format, found by its keys and the config beside it; a path may be
---the folder of a release. With {model = m} it follows the model's device and dtype; {dtype = "file"}
---keeps the file's. What a file leaves open is refused with a question, which format, activation
---("topk", "batchtopk:64") or input_scale answers.
---@param name string  a path, a name of SAE_CONFIGS, or "ns/name" of the Hub, downloaded on first use
---@param opts {model: moonscope.Llama?, layer: integer|string|nil, device: string?, dtype: string?, format: string?,
---  activation: string?, input_scale: number?}?
---@return moonscope.Sae? sae
---@return string? message
---@return string? code
function M.load_sae(name, opts)
  opts = options.check("load_sae", opts, OPTIONS)
  options.check_text("load_sae", "path", name)
  check_options(opts)
  if opts.dtype ~= nil and not DTYPES[opts.dtype] then
    return nil, ("dtype: found %s, expected f32, f16, bf16 or file"):format(tostring(opts.dtype)), "EDTYPE"
  end
  local path, source, message, code
  path, message, code = require("moonscope.hub.resolve").sae(name)
  if not path then return nil, message, code end
  source, message, code = loader.open(path, opts)
  if not source then return nil, message, code end
  local guard <close> = source.file
  local sae, fits
  sae, message, code = build(source, opts)
  if not sae then return nil, message, code end
  describe(sae, source, opts)
  if opts.model then
    fits, message, code = places.check_fit(sae, opts.model.config)
    if not fits then
      sae:close()
      return nil, path .. ": " .. message, code
    end
  end
  return sae
end

---The place that it reads; throws, naming the file, where that is unknown.
---@param who string  for the message
---@return string
function Sae:known_hook(who)
  if self.hook then return self.hook end
  error(("%s: %s: the SAE's layer is unknown: load it with layer = N (--layer N), the layer that it was trained on")
    :format(who, self.path), 0)
end

---Sparse features of x [n_tok][d_model], in the prefill arithmetic.
---@param x moonscope.Tensor
---@return moonscope.Features features
function Sae:encode(x) return job.demand(self._encode, self, x, self.exact) end

---What the features of some x stand for: [n_tok][d_model]; of a transcoder, the output that it predicts.
---@param features moonscope.Features
---@return moonscope.Tensor
function Sae:decode(features) return job.demand(self._decode, self, features) end

---A feature's direction in the residual stream (of unit "normalised": before the normalisation is
---undone): [d_model], f32.
---@param feature integer  from 0
---@return moonscope.Tensor
function Sae:direction(feature) return job.demand(self._direction, self, feature) end

local function by_activation(a, b)
  if a.activation ~= b.activation then return a.activation > b.activation end
  return a.index < b.index
end

---The features that fire at a position, by index. Throws where one is not finite: weights or stream are broken.
---@param number integer  position, from 1
---@return {index: integer, activation: number}[]
function Features:finite_row(number)
  local row = self:row(number)
  for _, feature in ipairs(row) do
    if feature.activation - feature.activation ~= 0 then
      error(("feature %d at position %d is %s: the weights or the stream are broken")
        :format(feature.index, number, feature.activation ~= feature.activation and "not a number (NaN)"
          or "infinite"), 0)
    end
  end
  return row
end

---The same, largest first.
---@param number integer  position, from 1
---@param top integer?  at most so many; default: all
---@return {index: integer, activation: number}[]
function Features:strongest(number, top)
  local row = self:finite_row(number)
  table.sort(row, by_activation)
  if top then
    for i = #row, math.min(top, #row) + 1, -1 do row[i] = nil end
  end
  return row
end

---Dense features: [n_tok][d_sae].
---@return moonscope.Tensor
function Features:totensor() return job.await(self:_totensor()) end

---At how many positions each feature fires: [d_sae], f32.
---@return moonscope.Tensor
function Features:tally() return job.demand(self._tally, self) end

return M
