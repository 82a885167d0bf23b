-- SPDX-License-Identifier: MIT
---What a name means on this disk: a path as it is, or a repository of the Hub, downloaded on first use.
local uv = require "luv"
local names = require "moonscope.hub.names"
local run = require "moonscope.hub.run"
local sae_configs = require "moonscope.sae_configs"
local snapshot = require "moonscope.hub.snapshot"

local M = {}

local DEFAULT_REVISION = "main"

---Whether it has the form "ns/name" or "ns/name@revision".
---@param name string
---@return boolean
function M.is_hub_name(name)
  return name:find "^[%w][%w._-]*/[%w._-]+%f[@\0]" ~= nil and not snapshot.is_checkpoint(name)
    and names.repo((names.split(name))) ~= nil
end

---The repository where it is such a name and nothing is on the disk under it.
---@return moonscope.hub.Repo?
---@return string? revision
---@return string? message
local function repo_of(name)
  if not M.is_hub_name(name) or uv.fs_stat(name) then return nil end
  local id, revision = names.split(name)
  return names.repo(id), names.revision(revision or DEFAULT_REVISION)
end

local function with_hub(name, message, code)
  return nil, ("%s: no such file or folder here, and from the hub: %s"):format(name, message), code
end

---The folder of a model.
---@param name string  a folder, "ns/name" or "ns/name@revision"
---@param opts table?  of run.with
---@return string? path
---@return string? message
---@return string? code
function M.model(name, opts)
  local repo, revision, message = repo_of(name)
  if not repo then return name end
  if not revision then return nil, message, "EINVAL" end
  local path, why, code = run.with(opts or {}, snapshot.model, repo, revision)
  if not path then return with_hub(name, why, code) end
  return path
end

---The folder of a model that is on this disk: nothing is downloaded.
---@param name string  as of `model`
---@return string? path
---@return string? message
---@return string? code
function M.local_model(name)
  local repo, revision, message = repo_of(name)
  if not repo then return name end
  if not revision then return nil, message, "EINVAL" end
  local path, why, code = run.with({}, snapshot.cached_model, repo, revision)
  if not path then return with_hub(name, why, code) end
  return path
end

---The folder of a tokenizer.
---@param name string  a folder, a tokenizer.json, "ns/name" or "ns/name@revision"
---@return string? path
---@return string? message
---@return string? code
function M.tokenizer(name)
  if name:find "%.json$" then return name end
  local repo, revision, message = repo_of(name)
  if not repo then return name end
  if not revision then return nil, message, "EINVAL" end
  local path, why, code = run.with({}, snapshot.tokenizer, repo, revision)
  if not path then return with_hub(name, why, code) end
  return path
end

---The folder of a model of the Hub in the cache, whatever else lies under its name on this disk.
---@param name string  by is_hub_name
---@return string? path
---@return string? message
---@return string? code
function M.hub_model(name)
  local id, revision = names.split(name)
  local message
  revision, message = names.revision(revision or DEFAULT_REVISION)
  if not revision then return nil, message, "EINVAL" end
  return run.with({}, snapshot.model, names.repo(id), revision)
end

---The entry of SAE_CONFIGS that a repository belongs to.
local function entry_of_repo(id)
  for _, entry in pairs(sae_configs.SAE_CONFIGS) do
    if entry.repo_id == id then return entry end
  end
end

local function only_path(a_run, repo, revision, file)
  local paths, failure = snapshot.named(a_run, repo, revision, { file })
  if not paths then return nil, failure end
  return paths[1]
end

---The file of an autoencoder.
---@param name string  a path, a name of SAE_CONFIGS, "ns/name" or "ns/name@revision"
---@param opts table?  of run.with
---@return string? path
---@return string? message
---@return string? code
function M.sae(name, opts)
  local entry = sae_configs.SAE_CONFIGS[name]
  if entry and (uv.fs_stat(entry.filename) or not entry.repo_id) then return entry.filename end
  local repo, revision, message = repo_of(entry and entry.repo_id or name)
  if not repo then return name end
  if not revision then return nil, message, "EINVAL" end
  entry = entry or entry_of_repo(repo.id)
  local path, why, code
  if entry then
    path, why, code = run.with(opts or {}, only_path, repo, revision, entry.filename)
  else
    path, why, code = run.with(opts or {}, snapshot.checkpoint, repo, revision)
  end
  if not path then return with_hub(name, why, code) end
  return path
end

---Which repository and commit a file of the cache is of; nil for any other file.
---@param path string
---@return string? repo_id
---@return string? commit
function M.origin(path)
  local folder, commit = path:match "([^/]+)/snapshots/(%x+)/"
  local repo = folder and names.is_commit(commit) and names.repo_of_folder(folder)
  if repo then return repo.name, commit end
end

return M
