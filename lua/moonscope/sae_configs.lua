-- SPDX-License-Identifier: MIT
---The autoencoders that moonscope knows by name. Adding an entry to SAE_CONFIGS is all that a new
---one needs:
---
---  repo_id           the Hugging Face repository, "Goodfire/..."; left out where the file is not on the Hub
---  filename          its file there; a file of that name is recognised wherever it lies
---  layer             its layer, "model.layers.N": the residual stream after it, unless its format reads
---                    another place of the layer
---  format            optional: of the file (lua/moonscope/formats/), where its tensors fit several
---  expansion_factor  features per dimension of the stream
---  d_model           width of that stream; a file that has another one is refused
---  sha256            of the file, optional: another one gives a warning
---
---Optional too, for `moonscope doctor`, which warns where a file or a measurement differs:
---
---  keys              names of the file's tensors
---  dtype             of all of them
---  size_bytes        of the file
---  l0                features that fire per token, as published
local places = require "moonscope.places"

---@class moonscope.sae_configs
local M = {}

local GOODFIRE_KEYS = {
  "encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias",
}

---name -> entry; see above.
M.SAE_CONFIGS = {
  ["Llama-3.1-8B-Instruct-SAE-l19"] = {
    repo_id = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
    filename = "Llama-3.1-8B-Instruct-SAE-l19.pth",
    layer = "model.layers.19",
    expansion_factor = 16,
    d_model = 4096,
    sha256 = "bbdc6fad591d3d420e8859dcb6eefa4ec642026090f7f39a963b1c0f27290e4f",
    keys = GOODFIRE_KEYS,
    dtype = "f32",
    l0 = 91,
  },
  ["Llama-3.3-70B-Instruct-SAE-l50"] = {
    repo_id = "Goodfire/Llama-3.3-70B-Instruct-SAE-l50",
    filename = "Llama-3.3-70B-Instruct-SAE-l50.pt",
    layer = "model.layers.50",
    expansion_factor = 8,
    d_model = 8192,
    sha256 = "81cfce8ea035564cb585d6e0f04efbf0eb114cab412a30a013762fe11f6d8ea6",
    keys = GOODFIRE_KEYS,
    dtype = "f32",
    size_bytes = 4295264404,
    l0 = 121,
  },
  ["Llama-3.2-1B-Instruct-SAE-l9"] = {
    repo_id = "qresearch/Llama-3.2-1B-Instruct-SAE-l9",
    filename = "Llama-3.2-1B-Instruct-SAE-l9.pt",
    layer = "model.layers.9",
    format = "qresearch",
    expansion_factor = 16,
    d_model = 2048,
    l0 = 63,
  },
  ["DeepSeek-R1-Distill-Llama-8B-SAE-l19"] = {
    repo_id = "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
    filename = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
    layer = "model.layers.19",
    format = "qresearch",
    expansion_factor = 16,
    d_model = 4096,
  },
  ["Moonscope-Tiny-Llama-SAE-l3"] = { -- in examples/tiny, trained for this project
    filename = "Moonscope-Tiny-Llama-SAE-l3.pth",
    layer = "model.layers.3",
    expansion_factor = 16,
    d_model = 128,
    keys = GOODFIRE_KEYS,
    dtype = "bf16",
    l0 = 10.9,
  },
}

---The name that `moonscope convert` takes when it is given none.
M.DEFAULT = "Llama-3.1-8B-Instruct-SAE-l19"

---A layer as people give it, as a path.
---@param layer integer|string  19, "19" or "model.layers.19"
---@return string? path  "model.layers.19"
---@return string? message
---@return string? code
function M.parse_layer(layer)
  local number = tostring(layer):match "^%d+$" or tostring(layer):match "^model%.layers%.(%d+)$"
  if math.type(layer) == "float" or not number or not places.layer_number(number) then
    return nil, ("layer: found %s, expected a number from 0 or model.layers.N, at most %d"):format(tostring(layer),
      places.MAX_LAYER), "EINVAL"
  end
  return ("model.layers.%d"):format(number)
end

local function is_count(value)
  return math.type(value) == "integer" and value > 0
end

local function is_hash(value)
  return type(value) == "string" and #value == 64 and not value:find "[^0-9a-f]"
end

local function is_list_of_names(value)
  if type(value) ~= "table" or #value == 0 then return false end
  for _, name in ipairs(value) do
    if type(name) ~= "string" then return false end
  end
  return true
end

local SIZES = { f32 = 4, f16 = 2, bf16 = 2 }

-- Field, whether it must be there, test, what is expected.
local fields = {
  { "repo_id", false, function(v) return type(v) == "string" and v:find "^[%w._-]+/[%w._-]+$" end, "OWNER/NAME" },
  { "filename", true, function(v) return type(v) == "string" and v:find "^[^/]+$" and v ~= ".." end, "a file's name" },
  { "layer", true, function(v) return v == M.parse_layer(v) end, "model.layers.N" },
  { "format", false, function(v) return type(v) == "string" and v:find "^[%w_]+$" end, "the name of a format" },
  { "expansion_factor", true, function(v) return math.type(v) and v > 0 end, "a number above 0" },
  { "d_model", true, is_count, "a whole number above 0" },
  { "sha256", false, is_hash, "64 hex digits in lower case" },
  { "keys", false, is_list_of_names, "a list of names" },
  { "dtype", false, function(v) return SIZES[v] end, "f32, f16 or bf16" },
  { "size_bytes", false, is_count, "a whole number above 0" },
  { "l0", false, function(v) return math.type(v) and v > 0 end, "a number above 0" },
}

local function check_entry(name, entry)
  if type(name) ~= "string" or type(entry) ~= "table" then
    return nil, ("SAE_CONFIGS: entry %s is not a table under a name"):format(tostring(name))
  end
  local known = {}
  for _, field in ipairs(fields) do
    local key, required, test, expected = table.unpack(field)
    known[key] = true
    local value = entry[key]
    if (value ~= nil or required) and not test(value) then
      return nil, ("SAE_CONFIGS: %s: %s is %s, expected %s"):format(name, key, tostring(value), expected)
    end
  end
  for key in pairs(entry) do
    if not known[key] then return nil, ("SAE_CONFIGS: %s: unknown field %s"):format(name, tostring(key)) end
  end
  return true
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

---Names the first field that is wrong.
---@param configs table  like SAE_CONFIGS
---@return true?
---@return string? message
function M.check(configs)
  for _, name in ipairs(sorted_keys(configs)) do
    local ok, message = check_entry(name, configs[name])
    if not ok then return nil, message end
  end
  return true
end

---The entry whose file has this name, and its own name.
---@param path string  folders in front do not matter
---@return table? entry
---@return string? name
function M.of_file(path)
  local basename = path:match "[^/]*$"
  for _, name in ipairs(sorted_keys(M.SAE_CONFIGS)) do
    if M.SAE_CONFIGS[name].filename == basename then return M.SAE_CONFIGS[name], name end
  end
end

---Bytes of the tensors of an entry's file: two matrices and two biases; nil where its dtype is not told.
---@param entry table
---@return integer?
function M.payload_bytes(entry)
  if not entry.dtype then return nil end
  local d_sae = entry.expansion_factor * entry.d_model
  return SIZES[entry.dtype] * math.tointeger(2 * d_sae * entry.d_model + d_sae + entry.d_model)
end

return M
