-- SPDX-License-Identifier: MIT
---Autoencoders that requests name as SAE_CONFIGS does.
local uv = require "luv"
local places = require "moonscope.places"
local sae_configs = require "moonscope.sae_configs"
local errors = require "moonscope.server.errors"
local exports = require "moonscope.server.exports"

local M = {}

local FOLDER = "saes" -- below the first data folder: one folder for each name

---The entry that a name of SAE_CONFIGS, or its repository, stands for. Throws 400 and 404.
---@param name string
---@return table config
---@return string name
function M.find(name)
  if name == "" then errors.refuse(400, "EINVAL", "sae_name must not be empty", "sae_name") end
  local known = {}
  for key, config in pairs(sae_configs.SAE_CONFIGS) do
    if name == key or name == config.repo_id then return config, key end
    known[#known + 1] = key
  end
  table.sort(known)
  errors.refuse(404, "ENOENT", ("sae_name: %s: not in SAE_CONFIGS, which has %s"):format(name,
    table.concat(known, ", ")), "sae_name")
end

---Before two gigabytes come for nothing.
---@param d_model integer  the model's
---@param config table
---@param name string
function M.check_width(d_model, config, name)
  if config.d_model == d_model then return end
  errors.refuse(400, "ESHAPE", ("sae_name: the d_model of %s is %d, the model's %d: it was trained on another model")
    :format(name, config.d_model, d_model), "sae_name")
end

---Its file in a data folder, or beside the model.
---@param request moonscope.Request
---@param config table
---@param model_folder string
---@return string?
function M.local_file(request, config, model_folder)
  for _, folder in ipairs { model_folder, table.unpack(request.paths.roots) } do
    local path = uv.fs_realpath(folder .. "/" .. config.filename)
    local ok, found = pcall(request.paths.file, request.paths, path or "", "sae_name")
    if ok then return found end
  end
end

local function folder_of(name) return ("%s/%s"):format(FOLDER, name:gsub("[^%w._-]", "_")) end

---The folder that it is converted into, made where it is missing.
---@param request moonscope.Request
---@param name string
---@return string
function M.make_folder(request, name)
  request.paths:output_folder(FOLDER, "sae_name")
  return request.paths:output_folder(folder_of(name), "sae_name")
end

---What was converted before; nil where nothing was.
---@param request moonscope.Request
---@param config table
---@param name string
---@return string? safetensors
function M.converted(request, config, name)
  local ok, folder = pcall(request.paths.folder, request.paths, folder_of(name), "sae_name")
  return ok and exports.converted(folder, config, places.layer_of(config.layer)) or nil
end

return M
