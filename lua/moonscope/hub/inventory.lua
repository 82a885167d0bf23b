-- SPDX-License-Identifier: MIT
---What lies in the cache: listing, checking, removing.
local uv = require "luv"
local core = require "moonscope.core"
local job = require "moonscope.job"
local cache = require "moonscope.hub.cache"
local names = require "moonscope.hub.names"

local M = {}

local check_blob = job.wrap(core.check_blob)

---Names in a folder, sorted; {} where there is none.
local function names_in(folder)
  local list, scan = {}, uv.fs_scandir(folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

local function kind_of(path) return (uv.fs_lstat(path) or {}).type end

---The refs below a folder as { name = commit }, those in folders (refs/pr/1) too.
local function add_refs(refs, folder, prefix)
  for _, name in ipairs(names_in(folder)) do
    local path = folder .. "/" .. name
    if kind_of(path) == "directory" then
      add_refs(refs, path, prefix .. name .. "/")
    else
      local file = io.open(path, "rb")
      refs[prefix .. name] = file and file:read(64) or nil
      if file then file:close() end
    end
  end
  return refs
end

---@class moonscope.hub.Stored
---@field repo moonscope.hub.Repo
---@field path string
---@field bytes integer  on the disk
---@field blobs {path: string, hash: string, bytes: integer}[]
---@field incomplete {path: string, bytes: integer}[]
---@field commits {commit: string, refs: string[], files: {path: string, size: integer}[]}[]

local function describe(a_cache, repo)
  local storage = a_cache:storage(repo)
  local stored = { repo = repo, path = storage, bytes = 0, blobs = {}, incomplete = {}, commits = {} }
  for _, name in ipairs(names_in(storage .. "/blobs")) do
    local path = storage .. "/blobs/" .. name
    local stat = uv.fs_lstat(path)
    local entry = { path = path, hash = name, bytes = stat and stat.size or 0 }
    local list = name:find "%.incomplete$" and stored.incomplete or stored.blobs
    list[#list + 1] = entry
    stored.bytes = stored.bytes + entry.bytes
  end
  local refs = add_refs({}, storage .. "/refs", "")
  for _, commit in ipairs(names_in(storage .. "/snapshots")) do
    local its_refs = {}
    for name, target in pairs(refs) do
      if target == commit then its_refs[#its_refs + 1] = name end
    end
    table.sort(its_refs)
    table.insert(stored.commits, { commit = commit, refs = its_refs, files = a_cache:files(repo, commit) or {} })
  end
  return stored
end

---What the cache has of these repositories, or of all.
---@param settings moonscope.hub.Settings
---@param repos moonscope.hub.Repo[]?
---@return moonscope.hub.Stored[]?
---@return string? message
---@return string? code
function M.list(settings, repos)
  local a_cache, list = cache.open(settings), {}
  if not repos then
    repos = {}
    for _, folder in ipairs(names_in(settings.cache)) do repos[#repos + 1] = names.repo_of_folder(folder) end
  end
  for _, repo in ipairs(repos) do
    if not uv.fs_stat(a_cache:storage(repo)) then
      return nil, ("%s: not in the cache (%s)"):format(repo.name, settings.cache), "ENOENT"
    end
    list[#list + 1] = describe(a_cache, repo)
  end
  return list
end

---Files of a snapshot whose blob is gone.
local function add_broken(faults, folder)
  for _, name in ipairs(names_in(folder)) do
    local path = folder .. "/" .. name
    if kind_of(path) == "directory" then
      add_broken(faults, path)
    elseif kind_of(path) == "link" and not uv.fs_stat(path) then
      faults[#faults + 1] = { path = path, message = path .. ": its blob is not there" }
    end
  end
end

---Hashes every blob again. The number of those that are right, and what is wrong.
---@param stored moonscope.hub.Stored
---@param on_progress fun(bytes: integer)?  of this repository so far
---@return integer right
---@return {path: string, message: string}[] faults
function M.verify(stored, on_progress)
  local right, faults, before = 0, {}, 0
  for _, blob in ipairs(stored.blobs) do
    local function told(done) if on_progress then on_progress(before + done) end end
    local ok, message = job.watch(told, check_blob, blob.path)
    if ok then
      right = right + 1
    else
      faults[#faults + 1] = { path = blob.path, message = message }
    end
    before = before + blob.bytes
  end
  add_broken(faults, stored.path .. "/snapshots")
  return right, faults
end

-- Removing

---Removes a file, or a folder with all in it; links are removed, never followed.
local function remove(path)
  local kind = kind_of(path)
  if not kind then return true end
  if kind ~= "directory" then return uv.fs_unlink(path) end
  for _, name in ipairs(names_in(path)) do
    local ok, message = remove(path .. "/" .. name)
    if not ok then return nil, message end
  end
  return uv.fs_rmdir(path)
end

---The locks of a repository's blobs; nil and a message where another process has one.
local function lock_all(settings, stored)
  local folder = ("%s/.locks/%s"):format(settings.cache, stored.repo.folder)
  local locks = {}
  local guard = setmetatable({}, { __close = function()
    for _, lock in ipairs(locks) do lock:close() end
  end })
  for _, name in ipairs(names_in(folder)) do
    local lock = core.lock(folder .. "/" .. name)
    if lock == false then
      guard.busy = stored.repo.name .. ": another process is downloading it"
      return guard
    end
    locks[#locks + 1] = lock
  end
  return guard
end

---Blobs that a snapshot other than `commit` uses, as a set of hashes.
local function used_without(stored, commit)
  local used = {}
  for _, snapshot in ipairs(stored.commits) do
    for _, file in ipairs(snapshot.commit ~= commit and snapshot.files or {}) do
      local target = uv.fs_readlink(("%s/snapshots/%s/%s"):format(stored.path, snapshot.commit, file.path))
      if target then used[target:match "[^/]*$"] = true end
    end
  end
  return used
end

local function paths_of_revision(stored, snapshot)
  local paths = { ("%s/snapshots/%s"):format(stored.path, snapshot.commit),
    ("%s/.no_exist/%s"):format(stored.path, snapshot.commit) }
  for _, ref in ipairs(snapshot.refs) do paths[#paths + 1] = ("%s/refs/%s"):format(stored.path, ref) end
  local used = used_without(stored, snapshot.commit)
  for _, blob in ipairs(stored.blobs) do
    if not used[blob.hash] then paths[#paths + 1] = blob.path end
  end
  return paths
end

local function find_revision(stored, revision)
  for _, snapshot in ipairs(stored.commits) do
    if snapshot.commit == revision then return snapshot end
    for _, ref in ipairs(snapshot.refs) do
      if ref == revision then return snapshot end
    end
  end
end

---Removes a repository from the cache, or what only one revision of it uses.
---@param settings moonscope.hub.Settings
---@param stored moonscope.hub.Stored
---@param revision string?
---@return integer? bytes  that are free now
---@return string? message
---@return string? code
function M.remove(settings, stored, revision)
  local guard <close> = lock_all(settings, stored)
  if guard.busy then return nil, guard.busy, "EACCES" end
  local paths = { stored.path, ("%s/.locks/%s"):format(settings.cache, stored.repo.folder) }
  if revision then
    local snapshot = find_revision(stored, revision)
    if not snapshot then
      return nil, ("%s: revision '%s' is not in the cache"):format(stored.repo.name, revision), "ENOENT"
    end
    paths = paths_of_revision(stored, snapshot)
  end
  for _, path in ipairs(paths) do
    local ok, message = remove(path)
    if not ok then return nil, message, "EIO" end
  end
  local left = describe(cache.open(settings), stored.repo)
  return stored.bytes - left.bytes
end

return M
