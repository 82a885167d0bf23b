-- SPDX-License-Identifier: MIT
---Which format a file with an autoencoder has, told by its tensors' names and shapes and the config
---files beside it, and what it holds in canonical terms (src/sae/sae.h). Nothing is guessed: where two
---formats fit, or the file leaves something open, opening it fails with the question to be answered.
local checkpoint = require "moonscope.checkpoint"
local Look = require "moonscope.formats.look"
local numbers = require "moonscope.numbers"
local options = require "moonscope.options"
local places = require "moonscope.places"
local sae_configs = require "moonscope.sae_configs"
local uv = require "luv"
require "moonscope.tensor" -- what is computed from stored tensors

local M = {}

---@class moonscope.Part  of which stored tensors a canonical one is made
---@field [integer] string  their names
---@field map (fun(...): moonscope.Tensor)?  made from them; else the first is taken as it is
---@field transposed true?  the canonical one is the transpose
---@field dtype moonscope.Dtype?  of what `map` gives, where it must not be the first's

---@class moonscope.Source  a file with an autoencoder, open
---@field file moonscope.Checkpoint
---@field path string  of the weights
---@field format string
---@field d_sae integer
---@field d_model integer
---@field activation "relu"|"gelu"|"topk"|"batchtopk"|"jumprelu"|"gated"
---@field k integer?
---@field threshold number?  one for all features
---@field tensors table<string, moonscope.Part>  w_enc, b_enc, w_dec (tied without it), b_dec, threshold, ...
---@field subtract_b_dec boolean?
---@field input_scale number?
---@field output_scale number?
---@field decoder_norm "feature"|"gate"|nil
---@field normalisation "constant_norm_rescale"|"layer_norm"|nil
---@field hook string?  the place that it reads
---@field output string?  of a transcoder: the place that it predicts; "" where that is unknown
---@field layer integer?
---@field own_layer integer?  what the file or the list says, whatever the caller asked for

local formats = {}
for _, name in ipairs {
  "goodfire", "workbench", "goodfire_r1", "saelens", "llama_scope", "sparsify", "dictionary_learning", "qresearch",
  "circuit_tracer", "gemma_scope",
} do
  formats[#formats + 1] = require("moonscope.formats." .. name)
end

---Their names are what `format` may be.
M.formats = formats

local function names_of(list, separator)
  local names = {}
  for i, format in ipairs(list) do names[i] = format.name end
  return table.concat(names, separator)
end

-- Files

---The weights in the folder of a release.
local WEIGHTS = {
  "sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors",
  "checkpoints/final.safetensors",
}

---The file that a path means: itself, or the one in a folder that holds an autoencoder.
local function weights_of(path)
  local stat = uv.fs_stat(path)
  if not stat or stat.type ~= "directory" then return path end
  local folder, found = path:gsub("(.)/+$", "%1"), {}
  for _, name in ipairs(WEIGHTS) do
    if uv.fs_stat(folder .. "/" .. name) then found[#found + 1] = name end
  end
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(path)) do
    if name:find "^sae_layer_%d+%.safetensors$" then found[#found + 1] = name end
  end
  if #found == 1 then return folder .. "/" .. found[1] end
  table.sort(found)
  if #found == 0 then
    return nil, ("%s: a folder without an autoencoder's file: expected one of %s"):format(path,
      table.concat(WEIGHTS, ", ")), "EINVAL"
  end
  return nil, ("%s: several files: name one of %s"):format(path, table.concat(found, ", ")), "EINVAL"
end

-- Formats

local function refuse_unknown(look)
  if look:has "W_enc_0" or look.name:find "^W_enc_%d" then
    look:refuse("EUNSUPPORTED", "a cross-layer transcoder, whose features write to several layers: not supported")
  end
  local names = look.file:names()
  look:refuse("EFORMAT", "found tensors %s%s, expected those of a known format: %s",
    table.concat(names, ", ", 1, math.min(#names, 4)), #names > 4 and ", ..." or "", names_of(formats, ", "))
end

---Those of the list that answer true.
local function filter(list, test)
  local kept = {}
  for _, format in ipairs(list) do
    if test(format) then kept[#kept + 1] = format end
  end
  return kept
end

local function question(list)
  local parts = {}
  for i, format in ipairs(list) do
    parts[i] = format.what and ("%s (%s)"):format(format.name, format.what) or format.name
  end
  return ("the tensors fit %s: say which with --format %s"):format(table.concat(parts, ", "), names_of(list, " or "))
end

---The format of the file: the one asked for, where it fits; the only one that fits; or the only one of
---these whose config lies beside the file.
local function choose(look, asked)
  local known = filter(formats, function(format) return format.name == asked end)
  if asked and #known == 0 then
    look:refuse("EINVAL", "format: found %s, expected %s", asked, names_of(formats, ", "))
  end
  local fitting = filter(formats, function(format) return format.matches(look) end)
  if #fitting == 0 then refuse_unknown(look) end
  if asked then
    if known[1].matches(look) then return known[1] end
    look:refuse("EINVAL", "format: asked for %s, but the tensors are those of %s", asked, names_of(fitting, " or "))
  end
  if #fitting == 1 then return fitting[1] end
  local proven = filter(fitting, function(format) return format.evidence and format.evidence(look) end)
  if #proven == 1 then return proven[1] end
  return look:refuse("EINVAL", "%s", question(#proven > 0 and proven or fitting))
end

-- Places

---`place` in another layer.
local function moved(place, layer, suffix)
  return ("model.layers.%d%s"):format(layer, place and place ~= "" and places.suffix_of(place) or suffix or "")
end

---Where it reads and writes: what was asked for, else what the file says, else the list. A number of a
---layer keeps the kind of the place, "model.layers.N" is that place.
local function set_places(source, format, layer, entry)
  local suffix, output_suffix = source.suffix or format.suffix, source.output_suffix or format.output_suffix
  source.suffix, source.output_suffix = nil, nil
  if not source.hook and entry then
    source.hook = moved(nil, places.layer_of(entry.layer), suffix)
  end
  source.own_layer = source.hook and places.layer_of(source.hook)
  if layer ~= nil then
    local path, message, code = sae_configs.parse_layer(layer)
    if not path then error({ whole = message, code = code }, 0) end
    local number = places.layer_of(path)
    source.hook = layer == path and path or moved(source.hook, number, suffix)
    if source.output or output_suffix then source.output = moved(source.output, number, output_suffix) end
  end
  source.layer = source.hook and places.layer_of(source.hook)
  if not source.output and (output_suffix or source.transcodes) then source.output = "" end
end

local FLOATS = options.names("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2")

local function check_dtypes(look, source)
  for _, part in pairs(source.tensors) do
    for _, name in ipairs(part) do
      local dtype = look.file:info(name).dtype
      if not FLOATS[dtype] then look:refuse("EDTYPE", "%s: found dtype %s, expected a float", name, dtype) end
    end
  end
end

---An output must be known to be a place, or to be unknown.
local function check_output(look, output)
  if output and output ~= "" and not (output:find "^model%." or output:find "^blocks%.") then
    look:refuse("EFORMAT", "output: found %s, expected a place such as model.layers.3.mlp", output)
  end
end

---What a format may have computed from fields that are each in range.
local function check_factors(look, source)
  for _, name in ipairs { "input_scale", "output_scale", "threshold" } do
    local value = source[name]
    if value and not (numbers.is_normal_f32(value) or name == "threshold" and value == 0) then
      look:refuse("ERANGE", "%s: found %g, expected a number in f32's range", name, value)
    end
  end
end

---The vectors that features are compared with: a NaN there would silence them without a word.
local GATES = { "threshold", "gate_bias" }

local function check_gates(look, source)
  for _, name in ipairs(GATES) do
    local part = source.tensors[name]
    if part then
      local values <close> = M.tensor(look.file, part)
      look:finite(part, values)
    end
  end
end

local function describe(look, opts, entry)
  local format = choose(look, opts.format or entry and entry.format)
  local source = format.describe(look)
  check_dtypes(look, source)
  check_output(look, source.output)
  check_factors(look, source)
  check_gates(look, source)
  source.file, source.path, source.format = look.file, look.path, format.name
  if opts.input_scale and not look.scale_was_used then
    look:refuse("EINVAL", "--input-scale: of no use: the file says how its input is scaled")
  end
  set_places(source, format, opts.layer, entry)
  return source
end

---Opens a file (or the folder of a release) and says what is in it. Only headers, configs, single
---numbers and thresholds are read. The caller closes source.file.
---@param path string
---@param opts {format: string?, activation: string?, input_scale: number?, layer: integer|string|nil, entry: table?}
---  answers to what a file may leave open; entry: of SAE_CONFIGS, where the caller knows it
---@return moonscope.Source?
---@return string? message
---@return string? code
function M.open(path, opts)
  local weights, message, code = weights_of(path)
  if not weights then return nil, message, code end
  local file
  file, message, code = checkpoint.open(weights)
  if not file then return nil, message, code end
  local look = Look.new(file, weights, opts)
  local ok, result = pcall(describe, look, opts, opts.entry or sae_configs.of_file(weights))
  if ok then return result end
  file:close()
  if type(result) ~= "table" then error(result, 0) end
  return nil, result.whole or weights .. ": " .. result.message, result.code
end

---The stored tensors of a part, and the canonical one.
---@param file moonscope.Checkpoint
---@param part moonscope.Part
---@return moonscope.Tensor
function M.tensor(file, part)
  local stored = {}
  for i, name in ipairs(part) do stored[i] = file:tensor(name) end
  local t = part.map and part.map(table.unpack(stored)) or stored[1]
  return part.transposed and t:t() or t
end

return M
