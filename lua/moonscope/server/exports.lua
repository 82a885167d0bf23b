-- SPDX-License-Identifier: MIT
---Files that requests have written: whole or not at all, and never in place of a file that moonscope did
---not write.
local uv = require "luv"
local checkpoint = require "moonscope.checkpoint"
local convert = require "moonscope.convert"
local core = require "moonscope.core"
local job = require "moonscope.job"
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"

local M = {}

M.CREATED_BY = "moonscope " .. core.version

local BLOCK = 32 << 20 -- bytes that are hashed at a time
local add_file = job.wrap(core.types.Digest._add_file)

local function refuse_foreign(path, field)
  errors.refuse(409, "EEXIST", ("%s: %s is there already, and moonscope did not write it")
    :format(field, json.text(path:match "[^/]*$")), field)
end

local function is_made_here(value)
  if type(value) ~= "table" then return false end
  local by = value.created_by or type(value.metadata) == "table" and value.metadata.created_by
  return type(by) == "string" and by:find "^moonscope " ~= nil
end

---What is in a file that moonscope wrote; nil where there is none. Throws 409 for any other.
local function made_here(path, field)
  local stat = uv.fs_lstat(path)
  if not stat then return nil end
  local value = stat.type == "file" and json.read(path)
  if not is_made_here(value) then refuse_foreign(path, field) end
  return value
end

---Writes the parts as a JSON file that says who wrote it.
---@param path string  from request.paths
---@param parts string[]
---@param field string
function M.write_json(path, parts, field)
  local replaces = made_here(path, field) ~= nil
  local ok, message, code = job.await(core.write_file(path, table.concat(parts), replaces))
  if code == "EEXIST" then refuse_foreign(path, field) end -- one that came meanwhile
  if not ok then errors.refuse_failure(("%s: %s"):format(field, message), code, field) end
end

-- Autoencoders

---@param path string
---@return string? sha256  nil: not a checkpoint that can be read
local function sha256_of(path)
  local file = checkpoint.open(path)
  if not file then return nil end
  local guard <close> = file
  local digest <close> = assert(core.digest())
  for first = 0, file:size() - 1, BLOCK do
    if not add_file(digest, file, first, math.min(BLOCK, file:size() - first)) then return nil end
  end
  return digest:text()
end

---The pair that moonscope wrote there, by its metadata and the hash that they have; nil where neither file is
---there. Throws 409 for anything else.
local function check_pair(safetensors, metadata, field)
  if not uv.fs_lstat(safetensors) and not uv.fs_lstat(metadata) then return end
  local told = made_here(metadata, field) or refuse_foreign(safetensors, field)
  local stat = uv.fs_lstat(safetensors)
  if stat and (stat.type ~= "file" or sha256_of(safetensors) ~= told.sha256) then
    refuse_foreign(safetensors, field)
  end
end

---Converts the autoencoder in a file into the pair of a folder.
---@param running moonscope.ServerJob?  told how far it is
---@param source string
---@param folder string  from request.paths
---@param options {layer: integer, format: string?, activation: string?}
---@param field string
---@return table result  of convert.sae
function M.convert(running, source, folder, options, field)
  local stem = ("%s/sae_layer_%d"):format(folder, options.layer)
  check_pair(stem .. ".safetensors", stem .. "_metadata.json", field)
  local settings = {
    output = folder, on_progress = running and function(done, total) running:report(done, total, "bytes") end,
  }
  for name, value in pairs(options) do settings[name] = value end
  local function silent() end -- what single blocks tell would go back and forth
  local result, message, code = job.watch(silent, convert.sae, source, settings)
  if not result then errors.refuse_failure(message, code, field) end
  return result
end

---What moonscope converted into a folder before.
---@param folder string
---@param config table  of SAE_CONFIGS
---@param layer integer
---@return string? safetensors
function M.converted(folder, config, layer)
  local stem = ("%s/sae_layer_%d"):format(folder, layer)
  local metadata = json.read(stem .. "_metadata.json")
  local safetensors = stem .. ".safetensors"
  local fits = is_made_here(metadata) and metadata.source_file == config.filename and uv.fs_stat(safetensors)
    and (not config.sha256 or metadata.source_sha256 == config.sha256)
  return fits and safetensors or nil
end

return M
