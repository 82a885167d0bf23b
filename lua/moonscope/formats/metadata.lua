-- SPDX-License-Identifier: MIT
---What the metadata beside a file (<name>_metadata.json) say of it, held against the tensors and against
---each other: which of two is wrong nobody can tell, so both are refused.
local places = require "moonscope.places"

local M = {}

local FORMAT_VERSION = 1

---The place in a field that names one, and the layer in a field that numbers one.
local function place_of(look, metadata, name, where)
  if name ~= "layer_idx" then return look:hook(metadata, name, where) end
  local index = look:field(metadata, name, "number", where)
  return index and look:place(index, "", where .. ": layer_idx")
end

---Whether both belong to a layer, and to another one.
local function differ(a, b)
  local layer, other = places.layer_of(a), places.layer_of(b)
  return layer and other and layer ~= other
end

---Where the metadata say that it reads; nil where they do not.
---@param look table
---@param metadata table
---@param where string  their file's name, for messages
---@return string?
function M.hook(look, metadata, where)
  local hook, first
  for _, name in ipairs { "hook", "layer", "layer_idx" } do
    local place = place_of(look, metadata, name, where)
    if hook and place and differ(hook, place) then
      look:refuse("EINVAL", "%s: %s is %s, but %s is %s", where, first, metadata[first], name, metadata[name])
    end
    if place and not hook then hook, first = place, name end
  end
  return hook
end

---Refuses metadata that are not those of the tensors.
---@param look table
---@param metadata table
---@param where string
---@param source moonscope.Source  with its sizes and tensors
function M.check(look, metadata, where, source)
  local version = look:field(metadata, "format_version", "count", where)
  if version and version > FORMAT_VERSION then
    look:refuse("EUNSUPPORTED", "%s: format_version: found %d, expected %d: written by a newer moonscope", where,
      version, FORMAT_VERSION)
  end
  look:agree(metadata, "input_dim", source.d_model, where)
  look:agree(metadata, "latent_dim", source.d_sae, where)
  local tied = source.tensors.w_dec == nil -- measured: where no version is told, the original converter said true always
  local said = look:flag(metadata, "tied_weights", tied, where)
  if version and said ~= tied then
    look:refuse("EINVAL", "%s: tied_weights is %s, but the file has %s decoder matrix", where, tostring(not tied),
      tied and "no" or "a")
  end
end

return M
